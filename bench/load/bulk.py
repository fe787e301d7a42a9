"""Streams that send all they can, to the container and from it."""

from __future__ import annotations

import socket
from typing import Any

from bench.load.harness import Harness
from bench.load.pump import DOWN, OPEN, UP, Pump
from bench.load.sockets import open_stream


def bulk(harness: Harness, address: list[Any], streams: int, ways: str, key: str) -> None:
    """So many streams for each of the `ways` (`u`, `d`, `ud`), with their key for the server (bench/load/pump.py).

    Says when all are open. `go` has those that send begin, `pause` end; each order, `read` too, is answered by how much
    has come.
    """
    pump = Pump()
    opened: list[tuple[bytes, socket.socket]] = []
    for way in (UP, DOWN):
        for _ in range(streams if way.decode() in ways else 0):
            stream = open_stream(address)
            stream.send(way + key.encode())
            opened.append((way, stream))
    for way, stream in opened:
        # The way is open as far as the container when something comes from there.
        if stream.recv(1) != OPEN:
            raise AssertionError("a stream was closed at once")
        if way == UP:
            pump.send_on(stream, key.encode())
        else:
            pump.receive_on(stream, key.encode())
    pump.watch(harness.fileno())
    harness.answer(pump.count())
    while True:
        if pump.turn():
            if (order := harness.next_order()) is None:
                return pump.end(key.encode())
            if pump.lost:
                raise AssertionError(f"{pump.lost} of {len(opened)} streams have ended by themselves")
            if order == "go":
                pump.go(key.encode())
            elif order == "pause":
                pump.pause()
            harness.answer(pump.count())
