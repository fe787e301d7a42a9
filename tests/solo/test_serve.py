"""Run by hand: what it says, how it stops, how it survives running out of descriptors."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.proxy import PATIENCE_S, before, connect, running
from tests.support.sockets import (
    accept,
    address_of,
    echo,
    echo_process,
    listening,
    receive_all,
    receive_exactly,
    serving,
)

ENDS = ["-host-ip", "127.0.0.1", "-host-port", "0", "-container-ip", "127.0.0.1", "-container-port", "9"]


def test_it_says_what_it_serves_and_why_it_stops() -> None:
    with running(*ENDS) as proxy:
        assert proxy.served == f"pyproxy: tcp 127.0.0.1:{proxy.port}: serving -> 127.0.0.1:9\n"
        ended = proxy.stop(signal.SIGTERM)
        assert ended == f"pyproxy: tcp 127.0.0.1:{proxy.port}: stopped by SIGTERM: 0 live, no client so far\n"


def test_a_proxy_without_clients_has_no_event_loop_yet() -> None:
    """Most published ports never see a client here: until then neither time nor memory goes into one."""

    def has_loop() -> bool:
        return "uvloop" in Path(f"/proc/{proxy.process.pid}/maps").read_text()

    with serving(echo) as backend, before(backend) as proxy:
        assert "no client so far" in proxy.totals()
        assert not has_loop()
        with connect(proxy) as client:
            client.sendall(b"x")
            assert receive_exactly(client, 1) == b"x"
        assert has_loop()
        assert "live, 1 B up, 1 B down, 1 connection" in proxy.totals()


_ASKED_IN_THE_MIDDLE = """
import os, select, signal
from pyproxy.log import Log
from pyproxy.signals import Signals

signals = Signals(Log("here"))
steps = []
signals.summary = lambda: f"after {len(steps)} steps"
for _ in range(3):
    os.kill(os.getpid(), signal.SIGUSR1)
    steps.append(None)
assert select.select([signals.wake_fd], [], [], 0)[0]
signals.handle_pending()
assert not select.select([signals.wake_fd], [], [], 0)[0]
"""


def test_totals_are_not_told_in_the_middle_of_something() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASKED_IN_THE_MIDDLE], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stderr.splitlines() == ["pyproxy: here: after 3 steps"] * 3


def test_a_stop_resets_what_is_unfinished_and_only_that(loop_flag: str) -> None:
    with (
        listening() as listener,
        before(address_of(listener), loop_flag) as proxy,
        connect(proxy) as cut,
        accept(listener) as cut_backend,
        connect(proxy) as told,
        accept(listener) as told_backend,
    ):
        cut_backend.sendall(b"half of it")
        assert receive_exactly(cut, 10) == b"half of it"
        told_backend.sendall(b"all of it")
        told_backend.shutdown(socket.SHUT_WR)
        # The end has been passed on once the client has seen it.
        assert receive_all(told) == b"all of it"
        assert "2 connections" in proxy.stop()
        with pytest.raises(ConnectionResetError):
            cut.recv(1)
        assert told.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_it_stops_with_a_thousand_connections_and_leaves_the_port_free(loop_flag: str) -> None:
    with echo_process() as backend, before(backend, loop_flag) as proxy, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(proxy)) for _ in range(1000)]
        for client in clients:
            client.sendall(b"x")
        for client in clients:
            assert receive_exactly(client, 1) == b"x"
        proxy.stop()
        with socket.create_server(("127.0.0.1", proxy.port)):
            pass
        # And again at once, by a proxy, with those connections in TIME_WAIT or reset.
        with running(*ENDS, "-host-port", str(proxy.port)):
            pass


def test_restart_at_once_with_connections_in_time_wait() -> None:
    with serving(echo) as backend:
        port = 0
        for _ in range(3):
            with before(backend, "-host-port", str(port)) as proxy:
                port = proxy.port
                for _ in range(5):
                    with connect(proxy) as client, contextlib.suppress(ConnectionResetError):
                        client.sendall(b"x")
                        receive_exactly(client, 1)
                proxy.stop()


def test_running_out_of_descriptors_is_survived_and_said_once(loop_flag: str) -> None:
    limited = ("prlimit", "--nofile=60:60")
    with (
        echo_process() as backend,
        running(*ENDS, "-container-port", str(backend[1]), loop_flag, prefix=limited) as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connect(proxy)) for _ in range(100)]
        for client in clients:
            client.sendall(b"x")
        assert "cannot accept more than the present" in (line := proxy.line())
        assert "too many open files" in line
        served = 0
        # Each client that leaves makes room for one that waits in the backlog: in the end all have been served.
        for client in clients:
            assert receive_exactly(client, 1) == b"x"
            client.close()
            served += 1
        assert served == 100
        assert "accepting again" in proxy.line()
        assert "100 connections, 1 out of descriptors" in proxy.totals()


def test_the_soft_descriptor_limit_is_raised_to_the_hard_one() -> None:
    with (
        serving(echo) as backend,
        running(*ENDS, "-container-port", str(backend[1]), prefix=("prlimit", "--nofile=64:512")) as proxy,
        connect(proxy) as client,
    ):
        client.sendall(b"x")
        assert receive_exactly(client, 1) == b"x"
        limits = Path(f"/proc/{proxy.process.pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert line.split()[3:5] == ["512", "512"]


def test_two_thousand_connections_take_flat_memory(loop_flag: str) -> None:
    with echo_process() as backend, before(backend, loop_flag) as proxy, contextlib.ExitStack() as stack:
        resident = [proxy.resident_bytes()]
        for _ in range(2):
            for _ in range(1000):
                client = stack.enter_context(connect(proxy))
                client.sendall(b"x")
                assert receive_exactly(client, 1) == b"x"
            resident.append(proxy.resident_bytes())
        first, second = resident[1] - resident[0], resident[2] - resident[1]
        # Per connection: a few Python objects. The second thousand must not cost more than the first, within the
        # grain in which memory is taken from the kernel.
        assert second < 8 * 1024 * 1000
        assert second < first + (1 << 20)
