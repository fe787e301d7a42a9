"""Stubs ask and are answered: real processes, from the request to the stop, whatever else is in the FIFO."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.engine.engine import Engine as Core
from tests.support.engine import (
    HANGS_S,
    LOCAL,
    NOWHERE,
    STUB,
    Engine,
    command_of,
    ends_within,
    free,
    is_stub,
    start_stub,
    stub,
    until,
)
from tests.support.parent import exchange_tcp, free_port, passed_socket
from tests.support.proxy import PATIENCE_S
from tests.support.sockets import address_of, echo, family_of, listening, serving


def test_a_port_bound_by_the_engine(engine: Engine, shell: str) -> None:
    address = free()
    with serving(echo) as backend, stub(shell, address, backend) as child:
        assert child.first_answer() == b"0\n"
        assert child.rest() == ""
        published = engine.await_line(f"tcp {LOCAL}:{address[1]}: published -> {LOCAL}:{backend[1]}")
        assert f"(process {child.pid})" in published
        assert exchange_tcp(address) == b"over and back"
        assert is_stub(child.pid)
        assert child.stop() == 0
        socket.create_server(address).close()
        assert "1 connection" in engine.await_line("unpublished, stopped")


@pytest.mark.parametrize("host", [LOCAL, "::1"])
def test_a_port_on_the_passed_socket(engine: Engine, shell: str, host: str) -> None:
    with serving(echo) as backend, passed_socket(host, socket.SOCK_STREAM) as sock:
        address = address_of(sock)
        with stub(shell, address, backend, sock) as child:
            assert child.first_answer() == b"0\n"
            assert child.rest() == ""
            assert exchange_tcp(address) == b"over and back"
            # dockerd closes its copy and gives the port to others before it signals.
            sock.close()
            assert child.stop(signal.SIGTERM) == 0
        socket.create_server(address, family=family_of(host), reuse_port=False).close()
        engine.await_line("unpublished, stopped")


@pytest.mark.parametrize("passed", [False, True], ids=["bound by the engine", "passed"])
def test_a_udp_port(engine: Engine, shell: str, passed: bool) -> None:
    with contextlib.ExitStack() as stack:
        backend, client = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        backend.bind((LOCAL, 0))
        backend.settimeout(PATIENCE_S)
        client.settimeout(PATIENCE_S)
        sock = stack.enter_context(passed_socket(LOCAL, socket.SOCK_DGRAM)) if passed else None
        address = address_of(sock) if sock is not None else (LOCAL, free_port(LOCAL, socket.SOCK_DGRAM))
        child = stack.enter_context(stub(shell, address, address_of(backend), sock, proto="udp"))
        assert child.first_answer() == b"0\n"
        client.connect(address)
        client.send(b"question")
        data, flow = backend.recvfrom(100)
        assert data == b"question"
        backend.sendto(b"answer", flow)
        assert client.recv(100) == b"answer"
        if sock is not None:
            sock.close()
        assert child.stop() == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(address)


def test_a_stub_shows_its_port_in_ps_also_through_a_link_named_docker_proxy(
    engine: Engine, tmp_path: Path, shell: str
) -> None:
    link = tmp_path / "docker-proxy"
    link.symlink_to(STUB)
    with stub(shell, free(), NOWHERE, stub=str(link)) as child:
        assert child.first_answer() == b"0\n"
        words = command_of(child.pid)
        assert words[words.index(str(link)) + 1 :][:4] == ["-proto", "tcp", "-host-ip", LOCAL]
        assert is_stub(child.pid)
        assert child.stop() == 0


def test_a_parked_stub_is_one_process_without_children(engine: Engine, shell: str) -> None:
    with stub(shell, free(), NOWHERE) as child:
        assert child.first_answer() == b"0\n"
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        until(lambda: children.read_text() == "")
        assert child.stop() == 0


def test_a_port_in_use_is_reported_by_pyproxy_itself(engine: Engine, shell: str) -> None:
    with listening() as taken, stub(shell, address_of(taken), NOWHERE) as child:
        assert child.first_answer() == b"1\n"
        assert "address already in use: choose another -host-port" in child.rest()
        assert child.wait() == 1
        engine.await_line("left to a process of its own")


@pytest.mark.parametrize("arguments", [("-new-flag",), ("-container-port", "0"), ("-idle-timeout", "x" * 5000)])
def test_bad_arguments_are_reported_by_pyproxy_itself(engine: Engine, shell: str, arguments: tuple[str, ...]) -> None:
    began = time.monotonic()
    with stub(shell, free(), NOWHERE, more=arguments) as child:
        assert child.first_answer() == b"1\n"
        assert arguments[0] in child.rest()
        assert child.wait() in (1, 2)
    assert time.monotonic() - began < HANGS_S / 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_at_any_moment_after_the_answer_it_exits_0(engine: Engine, shell: str, number: int) -> None:
    chance = random.Random(number)
    for _ in range(100):
        with stub(shell, free(), NOWHERE) as child:
            assert child.first_answer() == b"0\n"
            # Not a wait for anything: the moment is the point.
            moment = time.perf_counter() + chance.uniform(0, 0.002)
            while time.perf_counter() < moment:
                pass
            os.kill(child.pid, number)
            assert ends_within(child.pid, HANGS_S)
            assert child.wait() == 0


def test_half_a_line_that_never_ends_costs_one_request_and_no_more(engine: Engine, run_dir: Path) -> None:
    fifo = os.open(run_dir / "requests", os.O_WRONLY)
    os.write(fifo, b"serve 1 without an end ")
    os.close(fifo)
    with stub("sh", free(), NOWHERE) as unlucky:
        assert unlucky.first_answer() == b"0\n"
        with stub("sh", free(), NOWHERE) as child:
            assert child.first_answer() == b"0\n"
            assert is_stub(child.pid)
            assert child.stop() == 0
        assert unlucky.stop() == 0


@contextlib.contextmanager
def held(engine: Engine) -> Iterator[None]:
    """Stopped for the time of the block, so that all requests come in one go."""
    os.kill(engine.pid, signal.SIGSTOP)
    yield
    os.kill(engine.pid, signal.SIGCONT)


def a_thread_of_ours() -> int:
    """The number of a thread that is no process's."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, daemon=True)
    thread.start()
    assert thread.native_id is not None
    return thread.native_id


@pytest.mark.parametrize(
    "line",
    [
        b"serve 0 x",
        b"stop 0 x",
        b"solo 0 x",
        b"serve 9999999 x",
        b"serve %d x" % a_thread_of_ours(),
        b"stop %d x" % a_thread_of_ours(),
        b"serve 2 \xff\xfe\x00",
    ],
)
def test_a_line_that_is_no_request_holds_up_no_other(engine: Engine, run_dir: Path, line: bytes) -> None:
    fifo = os.open(run_dir / "requests", os.O_WRONLY)
    with held(engine):
        os.write(fifo, line + b"\n")
        child = start_stub("sh", free(), NOWHERE)
        # It has asked when its timer runs.
        until(lambda: Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text())
        os.write(fifo, line + b"\n")
    os.close(fifo)
    began = time.monotonic()
    assert child.first_answer() == b"0\n"
    assert time.monotonic() - began < HANGS_S / 2
    assert is_stub(child.pid)
    assert child.stop() == 0
    child.close()
    assert "internal error" not in engine.stop()


def test_arguments_that_are_no_text_hold_up_no_other(engine: Engine) -> None:
    odd = ["-host-ip", "\udcff\udcfe"]
    with stub("sh", free(), NOWHERE, more=odd) as strange, stub("sh", free(), NOWHERE) as child:
        assert child.first_answer() == b"0\n"
        assert is_stub(child.pid)
        assert strange.wait() == 2
        assert child.stop() == 0


def test_a_defect_in_one_request_is_reported_and_holds_up_no_other(core: Core) -> None:
    """The defect is made: there is none to be had that is known of."""
    seen: list[str] = []
    core.loop.set_exception_handler(lambda _loop, context: seen.append(str(context["exception"])))
    core.ports.held_by = {}.__getitem__  # type: ignore[assignment,method-assign]
    core.open(b"stop 7 x\nstop 8 x\n")
    assert seen == ["7", "8"]
