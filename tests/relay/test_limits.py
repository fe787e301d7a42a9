"""Time limits of connections."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.support.proxy import before, connect
from tests.support.sockets import (
    accept,
    address_of,
    listening,
    receive_all,
)


def test_limits_end_connections_that_do_nothing(loop_flag: str) -> None:
    with (
        listening() as listener,
        before(address_of(listener), loop_flag, "-idle-timeout", "0.2") as proxy,
        connect(proxy) as client,
        accept(listener) as backend,
    ):
        for sock in (client, backend):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert "1 connection timed out" in proxy.totals()


def test_the_half_closed_limit_spares_open_connections(loop_flag: str) -> None:
    with (
        listening() as listener,
        before(address_of(listener), loop_flag, "-half-closed-timeout", "0.2") as proxy,
        connect(proxy) as open_client,
        accept(listener),
        connect(proxy) as half,
        accept(listener) as backend,
    ):
        half.shutdown(socket.SHUT_WR)
        assert receive_all(backend) == b""
        with pytest.raises(ConnectionResetError):
            half.recv(1)
        open_client.setblocking(False)
        with pytest.raises(BlockingIOError):
            open_client.recv(1)


def test_the_connect_limit_ends_a_dial_that_nobody_answers(loop_flag: str) -> None:
    # A backlog of one, filled: the kernel then ignores further connection requests.
    with socket.socket() as silent, contextlib.ExitStack() as stack:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        with before(address_of(silent), loop_flag, "-connect-timeout", "0.2") as proxy, connect(proxy) as client:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            assert "connection timed out" in proxy.line()
            assert "1 connection failed" in proxy.totals()
