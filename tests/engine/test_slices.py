"""Work that takes long: others' traffic goes on meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from pyproxy.cli.ask import ClientError
from tests.support.engine import (
    LOCAL,
    Engine,
    publish,
    until,
)
from tests.support.parent import exchange_tcp
from tests.support.proxy import PATIENCE_S
from tests.support.sockets import echo, serving


class Exchanges:
    """One client that asks and is answered, as fast as that goes, for the time of the block; and how often so far."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.count = 0
        self.longest_s = 0.0
        self._address = address
        self._wanted = 0
        self._reached = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Exchanges:
        self._thread.start()
        self.await_more(10)
        self.longest_s = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()

    def await_more(self, count: int) -> None:
        """Asleep: a thread that looks again and again would keep this one from the interpreter."""
        self._reached.clear()
        self._wanted = self.count + count
        assert self._reached.wait(PATIENCE_S)

    def _run(self) -> None:
        with socket.create_connection(self._address, timeout=PATIENCE_S) as client:
            while not self._ended:
                began = time.perf_counter()
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                self.longest_s = max(self.longest_s, time.perf_counter() - began)
                self.count += 1
                if self.count >= self._wanted:
                    self._reached.set()


# Each takes tens of steps: in one go, one or two exchanges would be under way.
_MANY_PORTS = 2000


def _can_publish(engine: Engine) -> bool:
    try:
        publish(engine)
    except ClientError:
        return False
    return True


def test_a_peer_that_does_not_read_holds_up_no_traffic(engine: Engine, run_dir: Path) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        address = (LOCAL, publish(engine, container_port=backend[1])["host_port"])
        for _ in range(_MANY_PORTS):
            publish(engine)
        exchanges = stack.enter_context(Exchanges(address))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
            deaf.connect(str(run_dir / "handover"))
            deaf.send(b"hello")
            deaf.recv(1, socket.MSG_PEEK)  # it has begun
            began = time.monotonic()
            exchanges.await_more(500)
            assert time.monotonic() - began < 2.0  # it used to be 5 s before it gave up
        # Commands are refused for as long as it hands over. (Its log may be full of what was published.)
        until(lambda: _can_publish(engine))
        assert exchange_tcp(address) == b"over and back"


@pytest.mark.parametrize("path", ["/ports", "/metrics", "/totals"])
def test_thousands_of_ports_are_told_without_holding_up_traffic(engine: Engine, path: str) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        address = (LOCAL, publish(engine, container_port=backend[1])["host_port"])
        for _ in range(_MANY_PORTS):
            publish(engine)
        exchanges = stack.enter_context(Exchanges(address))
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(str(engine.run_dir / "control"))
        count = exchanges.count
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert sock.recv(1)
        # In one go: the one that is under way, and the next. How many a step is not for a busy machine to say.
        assert exchanges.count - count > 2
