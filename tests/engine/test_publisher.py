"""Ports are published, unpublished and drained; what each costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from pyproxy.cli.ask import ClientError, ask
from pyproxy.engine.engine import Engine as Core
from pyproxy.engine.sources.stub import Stub
from pyproxy.flags import parse
from tests.support.engine import (
    LOCAL,
    NOWHERE,
    NUDGED_S,
    Engine,
    free,
    is_stub,
    publish,
    running_engine,
    start_stub,
    stub,
    until,
)
from tests.support.parent import arguments_for, exchange_tcp
from tests.support.proxy import PATIENCE_S, pyproxy
from tests.support.sockets import echo, serving


def test_the_port_is_free_the_moment_the_stub_is_gone(engine: Engine, shell: str) -> None:
    with serving(echo) as backend:
        address = free()
        for _ in range(30):
            with stub(shell, address, backend) as child, socket.socket() as client:
                assert child.first_answer() == b"0\n"
                client.connect(address)
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                assert child.stop() == 0
                socket.create_server(address).close()


@pytest.mark.parametrize(("flags", "kept"), [([], False), (["--drain-unpublished", "30"], True)])
def test_unpublishing_resets_connections_unless_they_are_given_time(
    run_dir: Path, flags: list[str], kept: bool
) -> None:
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(running_engine(run_dir, *flags))
        backend = stack.enter_context(serving(echo))
        child = stack.enter_context(stub("sh", address := free(), backend))
        assert child.first_answer() == b"0\n"
        client = stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert child.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        if kept:
            client.sendall(b"y")
            assert client.recv(1) == b"y"
        else:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        engine.await_line("unpublished, stopped")


def test_a_killed_stub_takes_its_port_along(engine: Engine, shell: str) -> None:
    with serving(echo) as backend:
        address = free()
        with stub(shell, address, backend) as child:
            assert child.first_answer() == b"0\n"
            assert exchange_tcp(address) == b"over and back"
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            engine.await_line("unpublished, its process has ended")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
        # And again at once, before the engine may have heard of it.
        for _ in range(10):
            with stub(shell, address, backend) as child:
                assert child.first_answer() == b"0\n"
                assert is_stub(child.pid)
                os.kill(child.pid, signal.SIGKILL)
                child.wait()


def test_descriptors_per_port_and_none_left_over(engine: Engine) -> None:
    before = engine.descriptors()
    children = [start_stub("sh", free(), NOWHERE) for _ in range(50)]
    for child in children:
        assert child.first_answer() == b"0\n"
    assert engine.descriptors() == before + 2 * len(children)  # its socket, and the stub's pidfd
    for child in children:
        assert child.stop() == 0
        child.close()
    until(lambda: engine.descriptors() == before)


def test_an_idle_engine_sleeps(engine: Engine, run_dir: Path) -> None:
    """Ports with clients, a reader of the control API and of the figures have been there: none leaves a timer."""

    def wake_ups() -> int:
        tasks = Path(f"/proc/{engine.pid}/task").iterdir()
        lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    with serving(echo) as backend, stub("sh", address := free(), backend) as child, socket.socket() as client:
        assert child.first_answer() == b"0\n"
        client.settimeout(PATIENCE_S)
        client.connect(address)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert exchange_tcp(address) == b"over and back"
        ask(run_dir, "GET", "/connections")
        with pytest.raises(ClientError):  # it is no JSON, but it has been made
            ask(run_dir, "GET", "/metrics")
        # Not a wait for an event: that there is none is what is measured. The nudges come first, to their end.
        time.sleep(NUDGED_S)
        before = wake_ups()
        time.sleep(1.0)
        assert wake_ups() == before
        assert child.stop() == 0


def test_a_number_used_again_is_the_new_process_alone(core: Core) -> None:
    """Two stubs of one number, one of which has ended: the kernel gives a number again only after 32,768 others."""
    with subprocess.Popen(["true"]) as ended, subprocess.Popen(["sleep", "1000"]) as living:
        ports = []
        for process in (ended, living):
            arguments = arguments_for((LOCAL, 0), NOWHERE)
            with socket.create_server((LOCAL, 0)) as sock:
                held_stub = Stub(living.pid, os.pidfd_open(process.pid), arguments)
                fd, host = os.dup(sock.fileno()), sock.getsockname()
                ports.append(core.publisher.adopt(parse(arguments), arguments, fd, host, held_stub))
        first, second = ports
        assert ended.wait() == 0
        core.publisher.unpublish(first, "its process has ended")
        assert core.ports.held_by(living.pid) is second
        core.publisher.unpublish(second, "ended")
        assert core.ports.held_by(living.pid) is None
        core.loop.run_until_complete(asyncio.sleep(0.01))
        living.kill()


def test_ten_thousand_ports_and_each_costs_the_same(engine: Engine) -> None:
    def resident() -> int:
        with open(f"/proc/{engine.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    publish(engine)  # whatever is made once
    sizes = [resident()]
    descriptors = engine.descriptors()
    for _ in range(2):
        for _ in range(5_000):
            found = publish(engine)
        sizes.append(resident())
    # Either count may have met the end of a conversation with the engine that was not closed there yet.
    assert abs(engine.descriptors() - descriptors - 10_000) <= 1
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    # Within the grain in which dictionaries grow and memory is taken from the kernel.
    assert second < 1.3 * first + (1 << 20)
    assert second < 8_192 * 5_000
    with serving(echo) as backend:
        last = publish(engine, container_port=backend[1])
        assert exchange_tcp((LOCAL, last["host_port"])) == b"over and back"
    assert ask(engine.run_dir, "GET", "/health")["ports"] == 10_002
    assert found["name"] in pyproxy("ports", "--json").stdout
    assert found["name"] in pyproxy("ports").stdout
