"""Datagrams one way, as many as go or so many a second."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.load.batch import FlowsSender, Receiver, SegmentingSender, Sender, enlarge_receive_buffer, payload
from bench.load.harness import Harness
from bench.load.sockets import open_datagrams


def datagrams(harness: Harness, address: list[Any], size: int, sources: Sequence[str], segmented: bool = False) -> None:
    """Send datagrams, as one flow, or from each of the `sources` in turn: from `go` to `pause` as many as go; told
    `RATE SECONDS`, so many a second for that long, which is answered by how many they were. Delivery is counted
    elsewhere.
    """
    sock = open_datagrams(address)
    if sources:
        send = FlowsSender(sock, size, sources).send
    elif segmented:
        send = SegmentingSender(sock, size).send
    else:
        send = partial(Sender(sock, size).send, 32)
    poll = select.poll()
    poll.register(harness.fileno(), select.POLLIN)
    harness.answer({})
    while (order := harness.next_order()) is not None:
        if order[0].isdigit():
            per_s, seconds = map(float, order.split())
            harness.answer({"sent": _paced(send, per_s, seconds)})
            continue
        harness.answer({})
        while order == "go" and not poll.poll(0):
            _sent(send)


def _paced(send: Callable[[], int], per_s: float, seconds: float) -> int:
    now = time.perf_counter
    began = now()
    end = began + seconds
    sent = 0
    while (at := now()) < end:
        if sent < (at - began) * per_s:  # else spin, as a sleep is longer than the gap
            sent += _sent(send)
    return sent


def _sent(send: Callable[[], int]) -> int:
    try:
        return send()
    except ConnectionRefusedError:
        return 0  # nobody there yet, or a peer that lets errors through


def burst(address: list[Any], size: int, count: int) -> dict[str, float]:
    """Send so many datagrams at once, from one socket."""
    sender = Sender(open_datagrams(address), size)
    sent = 0
    while sent < count:
        sent += sender.send(count - sent)
    return {"sent": sent}


def sink(harness: Harness, address: list[Any], size: int) -> None:
    """Count what comes back: `go` sends one datagram. Each order is answered by how much has come."""
    sock = enlarge_receive_buffer(open_datagrams(address))
    receiver = Receiver(sock)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(harness.fileno(), select.POLLIN)
    counted = [0, 0, 0]
    harness.answer({})
    while True:
        for fd, _ in poll.poll():
            if fd == harness.fileno():
                if (order := harness.next_order()) is None:
                    return
                if order == "go":
                    sock.send(payload(size))
                found = dict(zip(("amount", "bytes", "damaged"), counted, strict=True))
                harness.answer({**found, "at": time.perf_counter()})
                continue
            for each, value in enumerate(receiver.count()):
                counted[each] += value
