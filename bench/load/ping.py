"""Datagram and reply, one in flight."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.load.batch import payload
from bench.load.harness import Harness
from bench.load.sockets import HANG_S
from bench.load.timed import in_turns


def ping(harness: Harness, address: list[Any], size: int, roots: Sequence[int] = ()) -> None:
    """Datagram and reply, one in flight."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(address))
    sock.settimeout(HANG_S)
    in_turns(harness, partial(_pings, sock, payload(size)), roots)


def _pings(sock: socket.socket, data: bytes, seconds: float) -> list[float]:
    latencies: list[float] = []
    now = time.perf_counter
    end = now() + seconds
    then = now()
    while then < end:
        sock.send(data)
        if sock.recv(1 << 16) != data:
            raise AssertionError("a reply differs from what was sent")
        after = now()
        latencies.append(after - then)
        then = after
    return latencies
