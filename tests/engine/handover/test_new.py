"""The new engine takes over what it can: ports that it cannot serve, and too few descriptors."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyproxy.cli.ask import ask
from tests.support.engine import (
    LOCAL,
    Engine,
    accepted_within,
    ends_within,
    free,
    is_stub,
    publish,
    running_engine,
    stub,
    until,
)
from tests.support.parent import exchange_tcp
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import echo, serving


def test_a_hundred_ports_go_over_though_the_soft_limit_is_low(run_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(running_engine(run_dir))
        backend = stack.enter_context(serving(echo))
        ports = [publish(old, container_port=backend[1])["host_port"] for _ in range(100)]
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        new = stack.enter_context(running_engine(run_dir, "--replace", prefix=("prlimit", f"--nofile=64:{hard}")))
        old.await_line("another engine has taken over")
        assert ask(run_dir, "GET", "/health")["pid"] == new.pid
        assert all(exchange_tcp((LOCAL, port)) == b"over and back" for port in ports)


def test_too_few_descriptors_for_a_take_over_are_named_and_the_engine_goes_on(run_dir: Path) -> None:
    with running_engine(run_dir) as old, serving(echo) as backend:
        ports = [publish(old, container_port=backend[1])["host_port"] for _ in range(100)]
        done = subprocess.run(
            ["prlimit", "--nofile=64:64", PROGRAM, "engine", "--run-dir", str(run_dir), "--replace"],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "may have 64 descriptors" in done.stderr
        assert "kill" not in done.stderr
        old.await_line("failed to take over")
        assert all(exchange_tcp((LOCAL, port)) == b"over and back" for port in ports[:3])


@contextlib.contextmanager
def changed_on_the_way(run_dir: Path, change: Callable[[dict[str, Any], list[int]], int]) -> Iterator[None]:
    """Between the engine and the next one: `change` may alter each port's message, and says how often it is sent."""
    handover = run_dir / "handover"
    handover.rename(run_dir / "real")
    with contextlib.ExitStack() as stack:

        def made() -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.settimeout(PATIENCE_S)
            return sock

        listener, present = made(), made()
        listener.bind(str(handover))
        listener.listen()
        present.connect(str(run_dir / "real"))

        def relay() -> None:
            new = stack.enter_context(listener.accept()[0])
            new.settimeout(PATIENCE_S)
            present.send(new.recv(100))
            while True:
                data, fds, _, _ = socket.recv_fds(present, 1 << 17, 250)
                said = json.loads(data)
                times = change(said, fds) if "arguments" in said else 1
                for _ in range(times):
                    socket.send_fds(new, [json.dumps(said).encode()], fds)
                for fd in fds:
                    os.close(fd)
                if "end" in said:
                    break
            present.send(new.recv(100))
            new.send(present.recv(100))

        thread = threading.Thread(target=relay)
        thread.start()
        yield
        thread.join()


def a_flag_of_another_version(about: dict[str, Any], _fds: list[int]) -> int:
    about["arguments"].append("-new-flag")
    return 1


def no_socket(_about: dict[str, Any], fds: list[int]) -> int:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, fds[0])
    os.close(null)
    return 1


def twice(_about: dict[str, Any], _fds: list[int]) -> int:
    return 2


@pytest.mark.parametrize("change", [a_flag_of_another_version, no_socket, twice])
def test_a_port_that_cannot_be_taken_over_goes_on_and_ends_as_ever(
    run_dir: Path, shell: str, change: Callable[[dict[str, Any], list[int]], int]
) -> None:
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(running_engine(run_dir))
        backend = stack.enter_context(serving(echo))
        child = stack.enter_context(stub(shell, address := free(), backend))
        assert child.first_answer() == b"0\n"
        assert exchange_tcp(address) == b"over and back"
        with changed_on_the_way(run_dir, change):
            new = stack.enter_context(running_engine(run_dir, "--replace"))
        assert "not taken over: " in new.said
        if change is a_flag_of_another_version:
            until(lambda: not is_stub(child.pid))  # it can read its own flags
        accepted_within(address, PATIENCE_S)
        assert child.stop() == 0
        socket.create_server(address).close()
        assert ends_within(old.pid, PATIENCE_S)
        assert "internal error" not in new.stop()


def test_a_port_of_the_api_that_cannot_be_taken_over_is_free(run_dir: Path) -> None:
    with running_engine(run_dir) as old:
        address = (LOCAL, publish(old)["host_port"])
        with changed_on_the_way(run_dir, a_flag_of_another_version):
            new = Engine(run_dir, "--replace")
        old.await_line("another engine has taken over")
        assert f"not taken over: -host-ip={LOCAL}" in new.said
        socket.create_server(address).close()
        new.stop()
        new.close()
