"""What becomes of ports when their engine dies or hangs: connections are lost, and no port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.engine import (
    HANGS_S,
    LOCAL,
    NOWHERE,
    RECOVERS_S,
    accepted_within,
    command_of,
    free,
    is_stub,
    published,
    running_engine,
    start_stub,
    stub,
)
from tests.support.load import load_on
from tests.support.parent import exchange_tcp, passed_socket
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import address_of, echo, echo_process, serving


def test_without_an_engine_a_stub_is_pyproxy_at_once(run_dir: Path, shell: str) -> None:
    with serving(echo) as backend:
        for state in ("never one", "stopped", "killed"):
            if state != "never one":
                with running_engine(run_dir) as gone:
                    gone.stop() if state == "stopped" else gone.kill()
            address = free()
            began = time.monotonic()
            with stub(shell, address, backend) as child:
                assert child.first_answer() == b"0\n"
                assert time.monotonic() - began < 1.0
                assert child.rest() == ""
                words = command_of(child.pid)
                assert words[words.index(PROGRAM) + 1] == "-proto"
                assert exchange_tcp(address) == b"over and back"
                assert child.stop() == 0


@pytest.mark.parametrize("passed", [False, True], ids=["bound by the engine", "passed"])
def test_a_port_outlives_an_engine_that_is_killed_and_none_follows(run_dir: Path, shell: str, passed: bool) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        sock = stack.enter_context(passed_socket(LOCAL, socket.SOCK_STREAM)) if passed else None
        address = address_of(sock) if sock is not None else free()
        with running_engine(run_dir) as engine:
            child = stack.enter_context(stub(shell, address, backend, sock))
            assert child.first_answer() == b"0\n"
            assert child.rest() == ""
            assert exchange_tcp(address) == b"over and back"
            engine.kill()
        assert accepted_within(address, RECOVERS_S) > 0
        assert not is_stub(child.pid)
        # Of the stub, nothing is left in the process: descriptors, or a disposition that would make it deaf.
        links = []
        for path in Path(f"/proc/{child.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it imports its event loop, and closes files as they are read
                links.append(os.readlink(path))
        assert not [link for link in links if link.startswith(str(run_dir))]
        if sock is not None:
            sock.close()
        assert child.stop() == 0
        socket.create_server(address).close()


@pytest.mark.parametrize("passed", [False, True], ids=["bound by the engine", "passed"])
def test_a_new_engine_takes_the_ports_of_one_that_was_killed(run_dir: Path, shell: str, passed: bool) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        ports = []
        with running_engine(run_dir) as first:
            for _ in range(10):
                sock = stack.enter_context(passed_socket(LOCAL, socket.SOCK_STREAM)) if passed else None
                address = address_of(sock) if sock is not None else free()
                child = stack.enter_context(stub(shell, address, backend, sock))
                assert child.first_answer() == b"0\n"
                ports.append((child, address))
            first.kill()
            began = time.monotonic()
        with running_engine(run_dir) as second:
            for child, address in ports:
                accepted_within(address, RECOVERS_S - (time.monotonic() - began))
                assert is_stub(child.pid)
            for child, _ in ports:
                assert child.stop() == 0
            for _ in ports:
                second.await_line("unpublished, stopped")


def test_stopped_after_its_engine_has_died_a_stub_exits_0(run_dir: Path, shell: str) -> None:
    for _ in range(10):
        with running_engine(run_dir) as engine:
            child = start_stub(shell, free(), NOWHERE)
            assert child.first_answer() == b"0\n"
            engine.kill()
        began = time.monotonic()
        assert child.stop() == 0
        assert time.monotonic() - began < 1.0
        child.close()


def test_an_engine_that_hangs_holds_up_neither_start_nor_stop(run_dir: Path, shell: str) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        engine = stack.enter_context(running_engine(run_dir))
        old, kept, new = free(), free(), free()
        stopped = stack.enter_context(stub(shell, old, backend))
        other = stack.enter_context(stub(shell, kept, backend))
        assert stopped.first_answer() == other.first_answer() == b"0\n"
        assert exchange_tcp(kept) == b"over and back"
        os.kill(engine.pid, signal.SIGSTOP)
        began = time.monotonic()
        os.kill(stopped.pid, signal.SIGINT)
        started = stack.enter_context(stub(shell, new, backend))
        assert started.first_answer() == b"0\n"
        assert started.rest() == ""
        assert stopped.wait() == 0
        assert time.monotonic() - began < HANGS_S
        assert not is_stub(started.pid)
        assert exchange_tcp(new) == b"over and back"
        # Awake again, it lets go of what is no longer there, and leaves what went its own way.
        os.kill(engine.pid, signal.SIGCONT)
        engine.await_line(f"tcp {LOCAL}:{old[1]}: unpublished")
        socket.create_server(old).close()
        assert exchange_tcp(kept) == b"over and back"
        assert exchange_tcp(new) == b"over and back"
        assert not is_stub(started.pid)
        assert started.stop() == 0
        assert other.stop() == 0
        assert f":{new[1]}: published" not in engine.stop()


def test_a_stub_that_gave_up_on_an_engine_keeps_its_passed_socket_to_itself(run_dir: Path, shell: str) -> None:
    """The engine, awake again, must not accept from the socket that the stub's successor serves."""
    with serving(echo) as backend, passed_socket(LOCAL, socket.SOCK_STREAM) as sock:
        address = address_of(sock)
        with running_engine(run_dir) as engine:
            os.kill(engine.pid, signal.SIGSTOP)
            with stub(shell, address, backend, sock) as child:
                assert child.first_answer() == b"0\n"
                sock.close()
                before = engine.descriptors()
                os.kill(engine.pid, signal.SIGCONT)
                # A port after it shows that the engine has come past that request.
                with stub(shell, free(), NOWHERE) as later:
                    assert later.first_answer() == b"0\n"
                    assert later.stop() == 0
                for _ in range(5):
                    assert exchange_tcp(address) == b"over and back"
                assert engine.descriptors() <= before + 1
                assert child.stop() == 0
            socket.create_server(address).close()
            assert f":{address[1]}: published" not in engine.stop()


@pytest.mark.parametrize("follows", [True, False], ids=["a new engine", "no new engine"])
def test_an_engine_killed_under_load_costs_connections_and_no_port(run_dir: Path, follows: bool) -> None:
    with echo_process() as backend, running_engine(run_dir) as engine, published(backend, 6) as ports:
        with load_on([address for _, address in ports]) as load:
            load.await_more(100)
            engine.kill()
            killed = time.monotonic()
            with running_engine(run_dir) if follows else contextlib.nullcontext():
                for _, address in ports:
                    accepted_within(address, killed + RECOVERS_S - time.monotonic())
                load.await_more(100)
                load.stop()
                for child, address in ports:
                    assert is_stub(child.pid) == follows
                    assert child.stop() == 0
                    socket.create_server(address).close()
        assert load.troubles != []


def test_stubs_without_an_engine_do_not_become_pyproxy_all_at_once(run_dir: Path) -> None:
    with serving(echo) as backend, running_engine(run_dir) as engine, published(backend, 12) as ports:
        engine.kill()
        killed = time.monotonic()
        took: dict[int, float] = {}
        while len(took) < len(ports):
            for child, _ in ports:
                if child.pid not in took and not is_stub(child.pid):
                    took[child.pid] = time.monotonic() - killed
            assert time.monotonic() - killed < RECOVERS_S
        assert min(took.values()) > 1.0  # what a new engine has to come back
        assert max(took.values()) - min(took.values()) > 0.05
        for child, address in ports:
            accepted_within(address, PATIENCE_S)
            assert child.stop() == 0
