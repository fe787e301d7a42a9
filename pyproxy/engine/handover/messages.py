"""What the present engine says: a message for each port, what it has read of requests, and the end. Each is JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from pyproxy.core.counters import Counters
from pyproxy.engine.engine import Engine
from pyproxy.engine.port import Port

# The longest. A port's arguments, which dockerd keeps to some hundred bytes, and its counts.
MESSAGE_BYTES = 1 << 16

# Bytes of requests in a message: twice that as JSON.
_UNREAD_BYTES = 1 << 14


def of_port(port: Port, draining: set[int]) -> bytes:
    """What the new engine has to know of it. What engines in `draining` count of it, they will say themselves."""
    counts = port.own_counters()
    for pid, counted_there in port.earlier.items():
        if pid not in draining:
            counts.add(counted_there.values())
    port.told = (*counts.values(), port.live)
    return _message(
        {
            "arguments": port.arguments,
            "pid": port.pid,
            "since": port.since,
            "host": [port.published.host_ip, port.published.host_port],
            "draining": port.draining,
            "totals": counts.as_dict(),
            "earlier": {pid: there.as_dict() for pid, there in port.earlier.items() if pid in draining},
        }
    )


def descriptors_of(port: Port) -> list[int]:
    """What goes with it."""
    fds = [] if port.draining else [port.server.fileno()]
    return [*fds, *([port.holder.fileno()] if port.holder is not None else [])]


def of_unread(requests: bytes) -> Iterator[bytes]:
    """Requests that have not been dealt with, in pieces."""
    for start in range(0, len(requests), _UNREAD_BYTES):
        yield _message({"unread": requests[start : start + _UNREAD_BYTES].hex()})


def of_end(engine: Engine, totals: Counters) -> bytes:
    """What the engine has counted, `totals` among it; and the engines that drain still."""
    return _message(
        {
            "end": True,
            "engine": os.getpid(),
            "since": engine.counting_since,
            "totals": totals.as_dict(),
            "refused": engine.stubs.refused,
            "garbage": engine.stubs.garbage,
            "draining": [{"pid": one.pid, "totals": one.counters.as_dict()} for one in engine.predecessors],
        }
    )


def _message(said: dict[str, Any]) -> bytes:
    return json.dumps(said).encode()
