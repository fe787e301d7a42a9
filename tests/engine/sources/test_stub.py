"""Which process is a stub, and what can be had of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.engine import (
    HANGS_S,
    LOCAL,
    NOWHERE,
    STUB,
    Engine,
    command_of,
    free,
    is_stub,
    running_engine,
    stub,
)
from tests.support.parent import Child, exchange_tcp
from tests.support.sockets import echo, serving


def test_garbage_in_the_fifo_harms_no_port(engine: Engine, run_dir: Path) -> None:
    with serving(echo) as backend, subprocess.Popen(["sleep", "1000"]) as bystander:
        address = free()
        with stub("sh", address, backend) as child:
            assert child.first_answer() == b"0\n"
            command = " ".join(command_of(child.pid)[1:])
            fifo = os.open(run_dir / "requests", os.O_WRONLY)
            sent = [
                b"\n\n\0\xff\n",
                b"serve\nserve 1\nserve x y\nserve 99999999999 y\nserve -1 y\n",
                b"serve 1 /sbin/init\n",  # somebody else's
                f"serve {bystander.pid} 1000\n".encode(),  # one that a signal would kill
                f"stop {bystander.pid} 1000\n".encode(),
                f"serve {os.getpid()} {' '.join(command_of(os.getpid())[1:])}\n".encode(),
                f"serve {child.pid} /bin/other -proto tcp\n".encode(),
                f"serve {child.pid} {command}\n".encode(),  # served already
                f"stop {child.pid} {command}\nsolo {child.pid} {command}\n".encode(),  # which it did not ask for
                b"x" * 4096,
                b"\n",
                b"y" * 65_536 + b"\n",
                b"serve 1 half a line",
            ]
            for data in sent:
                os.write(fifo, data)
            os.write(fifo, b"\n")
            os.close(fifo)
            # A port after it shows that the engine has come past all of it.
            with stub("sh", free(), NOWHERE) as later:
                assert later.first_answer() == b"0\n"
                assert is_stub(later.pid)
                assert later.stop() == 0
            assert bystander.poll() is None
            assert exchange_tcp(address) == b"over and back"
            assert is_stub(child.pid)
            assert child.stop() == 0
        bystander.kill()
        engine.await_line("a request to serve is ignored")


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace takes root")
def test_a_stub_in_another_network_namespace_serves_its_port_itself(engine: Engine) -> None:
    with contextlib.closing(
        Child(
            ["--net", STUB, "-host-ip", "0.0.0.0", "-host-port", "0", "-container-ip", LOCAL, "-container-port", "9"],
            program="/usr/bin/unshare",
        )
    ) as child:
        assert child.first_answer() == b"0\n"
        assert not is_stub(child.pid)
        assert "in another network namespace" in engine.await_line("left to a process of its own")
        assert child.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up a right of root's, which takes root")
def test_an_engine_without_the_right_to_take_the_socket_says_so(run_dir: Path) -> None:
    without = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    with running_engine(run_dir, prefix=without) as engine, stub("sh", free(), NOWHERE) as child:
        began = time.monotonic()
        assert child.first_answer() == b"0\n"
        assert time.monotonic() - began < HANGS_S / 2
        assert not is_stub(child.pid)
        assert "CAP_SYS_PTRACE" in engine.await_line("left to a process of its own")
        assert child.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which takes root")
def test_another_users_process_is_left_alone(engine: Engine, run_dir: Path) -> None:
    """It announces itself with its own command line, which is a stub's in every other way."""
    run_dir.parent.chmod(0o755)
    script = run_dir.parent / "stub"
    script.write_text('trap : USR1 USR2 ALRM; echo "serve $$ $0 $*"; read _\n')
    fifo = os.open(run_dir / "requests", os.O_WRONLY)
    with subprocess.Popen(
        ["setpriv", "--reuid=65534", "--clear-groups", "sh", str(script), "-host-port", "0", "-container-port", "9"],
        stdout=fifo,
        stdin=subprocess.PIPE,
    ) as stranger:
        assert "another user's" in engine.await_line("is ignored")
        assert stranger.poll() is None
    os.close(fifo)


def test_a_stub_whose_descriptor_4_is_no_socket_costs_no_descriptor(engine: Engine) -> None:
    with open(os.devnull) as file:
        for number in range(6):
            # A pipe's end, passed as dockerd passes the socket.
            with stub("sh", free(), NOWHERE, file) as child:  # type: ignore[arg-type]
                assert child.first_answer() == b"1\n"
                assert "is not a socket" in child.rest()
                child.wait()
            if not number:
                before = engine.descriptors()
    assert engine.descriptors() == before
    engine.await_line("left to a process of its own")
