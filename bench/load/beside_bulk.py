"""Request and response on one connection, while another sends all it can."""

from __future__ import annotations

import fcntl
import sys
import termios
import threading
import time
from collections.abc import Sequence
from typing import Any

from bench.load.batch import payload
from bench.load.exchange import one_by_one
from bench.load.harness import Harness
from bench.load.sockets import open_stream
from bench.load.timed import WARM_SHARING_S, in_turns


def beside_bulk(harness: Harness, address: list[Any], size: int, roots: Sequence[int] = ()) -> None:
    """Request and response on one connection, while another sends all it can."""
    bulk = open_stream(address)
    client = open_stream(address)
    data = payload(size)
    sent = 0

    def run(seconds: float) -> list[float]:
        stop = threading.Event()
        failed: list[OSError] = []

        def send() -> None:
            nonlocal sent
            chunk = b"s" * (1 << 18)
            try:
                while not stop.is_set():
                    bulk.sendall(chunk)
                    sent += len(chunk)
            except OSError as exc:
                failed.append(exc)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            found = one_by_one(client, data, 0, seconds)
        finally:
            stop.set()
            sender.join()
        if failed:
            raise failed[0]
        return found

    def drain() -> None:
        """What is still to be sent would fall into the next peer's turn."""
        while int.from_bytes(fcntl.ioctl(bulk, termios.TIOCOUTQ, bytes(4)), sys.byteorder):  # tcp(7), SIOCOUTQ
            time.sleep(1e-3)

    in_turns(harness, run, roots, WARM_SHARING_S, drain=drain, sent=lambda: sent)
