"""The first message through a peer."""

from __future__ import annotations

from typing import Any

from bench.load.sockets import HANG_S, open_datagrams, open_stream


def probe(proto: str, address: list[Any]) -> dict[str, float]:
    """One message and its answer, through a peer that has had no client yet: some load half of themselves then."""
    client = open_stream(address) if proto == "tcp" else open_datagrams(address)
    client.settimeout(HANG_S)
    client.send(b"x")
    if client.recv(1) != b"x":
        raise AssertionError("the first message was not answered")
    return {}
