"""A new engine takes over, under load."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import (
    LOCAL,
    Engine,
    ends_within,
    is_stub,
    publish,
    published,
    running_engine,
    stub,
)
from tests.support.load import load_on
from tests.support.parent import exchange_tcp, free_port
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import address_of, echo, echo_process, serving


@contextlib.contextmanager
def replaced(old: Engine, how: str) -> Iterator[int]:
    """The engine replaced, by a new one that is the test's own or the old one's child; the new one's process id."""
    if how == "--replace":
        with running_engine(old.run_dir, "--replace") as new:
            old.await_line("another engine has taken over")
            yield new.pid
        return
    os.kill(old.pid, signal.SIGHUP)
    old.await_line("taken over from another engine")  # its child speaks on the same standard error
    pid = int((old.run_dir / "pid").read_text())
    pidfd = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        assert select.select([pidfd], [], [], PATIENCE_S)[0]
        os.close(pidfd)


@pytest.mark.parametrize("how", ["--replace", "SIGHUP"])
def test_an_upgrade_under_load_refuses_and_breaks_nothing(run_dir: Path, how: str) -> None:
    with echo_process() as backend, running_engine(run_dir) as old, published(backend) as ports:
        with load_on([address for _, address in ports]) as load:
            load.await_more(200)
            with replaced(old, how) as pid:
                assert pid != old.pid
                load.await_more(200)
                # The long connections are the old engine's still.
                assert old.process.poll() is None
                load.stop()
                assert ends_within(old.pid, PATIENCE_S)
                assert old.process.wait() == 0
                for child, address in ports:
                    assert is_stub(child.pid)
                    assert exchange_tcp(address) == b"over and back"
                    assert child.stop() == 0
                    socket.create_server(address).close()
        assert load.troubles == []
        assert load.exchanges > 400


def test_upgrades_follow_one_another(run_dir: Path) -> None:
    with echo_process() as backend, contextlib.ExitStack() as stack:
        engine = stack.enter_context(running_engine(run_dir))
        with published(backend) as ports, load_on([address for _, address in ports]) as load:
            for _ in range(3):
                load.await_more(20)
                new = stack.enter_context(running_engine(run_dir, "--replace"))
                engine.await_line("another engine has taken over")
                engine = new
            load.await_more(20)
        assert load.troubles == []


def test_a_udp_flow_goes_on(run_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        backend, client = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        backend.bind((LOCAL, 0))
        address = LOCAL, free_port(LOCAL, socket.SOCK_DGRAM)
        for sock in (backend, client):
            sock.settimeout(PATIENCE_S)
        client.connect(address)
        old = stack.enter_context(running_engine(run_dir, "--drain", "30"))
        child = stack.enter_context(stub("sh", address, address_of(backend), proto="udp"))
        assert child.first_answer() == b"0\n"
        client.send(b"before")
        data, flow = backend.recvfrom(100)
        assert data == b"before"
        stack.enter_context(running_engine(run_dir, "--replace"))
        old.await_line("another engine has taken over")
        backend.sendto(b"answer to before", flow)
        assert client.recv(100) == b"answer to before"
        client.send(b"after")
        data, flow = backend.recvfrom(100)
        assert data == b"after"
        backend.sendto(b"answer to after", flow)
        assert client.recv(100) == b"answer to after"
        assert child.stop() == 0


def test_the_drain_has_an_end(run_dir: Path) -> None:
    with serving(echo) as backend, running_engine(run_dir, "--drain", "0.2") as old, published(backend, 1) as ports:
        [(child, address)] = ports
        with socket.create_connection(address, timeout=PATIENCE_S) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            with running_engine(run_dir, "--replace"):
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
                assert ends_within(old.pid, PATIENCE_S)
                assert old.process.wait() == 0
                assert exchange_tcp(address) == b"over and back"
                assert child.stop() == 0


def test_a_port_unpublished_while_the_old_engine_drains_it_is_cut_as_ever(run_dir: Path) -> None:
    with serving(echo) as backend, running_engine(run_dir) as old, published(backend, 2) as ports:
        (child, address), (other, kept) = ports
        with (
            socket.create_connection(address, timeout=PATIENCE_S) as client,
            socket.create_connection(kept, timeout=PATIENCE_S) as stays,
        ):
            for sock in (client, stays):
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            with running_engine(run_dir, "--replace"):
                old.await_line("another engine has taken over")
                assert child.stop() == 0
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
                stays.sendall(b"y")
                assert stays.recv(1) == b"y"
                assert other.stop() == 0


@pytest.mark.parametrize("words", [b"hello", b"something else", b""])
def test_a_take_over_that_fails_leaves_everything_as_it_was(run_dir: Path, words: bytes) -> None:
    with serving(echo) as backend, running_engine(run_dir) as engine, published(backend) as ports:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broken:
            broken.connect(str(run_dir / "handover"))
            if words:
                broken.send(words)
        if words == b"hello":
            engine.await_line("failed to take over")
        for child, address in ports:
            assert exchange_tcp(address) == b"over and back"
            assert child.stop() == 0
        with published(backend) as more:
            assert all(is_stub(child.pid) for child, _ in more)


def test_an_upgrade_to_something_that_does_not_start_is_said(run_dir: Path) -> None:
    with running_engine(run_dir) as engine, serving(echo) as backend, published(backend) as ports:
        handover = run_dir / "handover"
        handover.rename(run_dir / "elsewhere")
        os.kill(engine.pid, signal.SIGHUP)
        assert "does not hand over" in engine.await_line("kill -KILL")
        assert "this one goes on" in engine.await_line("no upgrade: ")
        assert all(exchange_tcp(address) == b"over and back" for _, address in ports)


def test_replace_without_an_engine_is_a_start(run_dir: Path) -> None:
    with running_engine(run_dir, "--replace") as engine:
        assert "serves 0 ports; requests" in engine.said


def test_an_engine_that_hangs_does_not_hand_over_and_the_mend_is_named(run_dir: Path) -> None:
    with running_engine(run_dir) as engine:
        os.kill(engine.pid, signal.SIGSTOP)
        done = subprocess.run(
            [PROGRAM, "engine", "--run-dir", str(run_dir), "--replace"],
            capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "kill -KILL" in done.stderr
        os.kill(engine.pid, signal.SIGCONT)


def test_a_take_over_waits_asleep_for_a_descriptor(run_dir: Path) -> None:
    with running_engine(run_dir, prefix=("prlimit", "--nofile=40:40")) as engine, contextlib.ExitStack() as stack:
        with contextlib.suppress(Exception):
            while True:
                publish(engine)
        for _ in range(2):  # descriptors that are left
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.connect(str(run_dir / "handover"))
        engine.await_line("no descriptor to speak with another engine")
        before = _processor_s(engine.pid)
        time.sleep(0.5)  # not a wait for an event: that it sleeps is what is measured
        assert _processor_s(engine.pid) - before < 0.1


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
