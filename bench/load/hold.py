"""Connections that stay open, as many as are served."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

from bench.load.harness import Harness


def fill(address: list[Any], most: int) -> dict[str, float]:
    """Open connections until one is not served; then whether a new one is, when they have ended."""
    held: deque[socket.socket] = deque()
    while len(held) < most and (client := served(address)) is not None:
        held.append(client)
    count = len(held)
    while held:
        held.popleft().close()
    return {"held": count, "serves_again": float(any(served(address) is not None for _ in range(5)))}


def hold(harness: Harness, address: list[Any], most: int) -> None:
    """Open connections, use each once, up to `most` or until one is not served; say how many, and hold them."""
    held: deque[socket.socket] = deque()
    while len(held) < most and (client := served(address)) is not None:
        held.append(client)
    harness.answer({"held": len(held)})
    harness.next_order()


# A connection that is not served within this is not held.
_SERVED_S = 1


def served(address: list[Any]) -> socket.socket | None:
    client = socket.socket()
    client.settimeout(_SERVED_S)
    try:
        client.connect(tuple(address))
        client.send(b"x")
        if client.recv(1) == b"x":
            return client
    except OSError:
        pass
    client.close()
    return None
