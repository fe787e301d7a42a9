"""The engine as a process, and stubs as dockerd starts them."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyproxy.cli.ask import ask
from tests.support.parent import Child, arguments_for, free_port, passed_socket
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import address_of

STUB = str(Path(PROGRAM).with_name("pyproxy-stub"))

# Each shell that has to be able to run the stub, as the words that go before the script. None: by its first line.
SHELLS: dict[str, tuple[str, ...]] = {
    "sh": (),
    "dash": ("/usr/bin/dash",),
    "busybox": ("/usr/bin/busybox", "sh"),
    "bash": ("/usr/bin/bash",),
}


LOCAL = "127.0.0.1"
NOWHERE = (LOCAL, 9)  # a container that is never spoken to

# The promises of how long a stub waits for an engine: what it does without an answer, and when one has died.
HANGS_S = 5.0
RECOVERS_S = 2.0

# After the last of a new stub's nudges (`nudge.py`).
NUDGED_S = 3.3


class Engine:
    """A running engine; ended by `running_engine`."""

    def __init__(self, run_dir: Path, *arguments: str, prefix: Sequence[str] = ()) -> None:
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            [*prefix, PROGRAM, "engine", "--run-dir", str(run_dir), *arguments], stderr=subprocess.PIPE, text=True
        )
        self.said = ""
        self.await_line("; requests come by ")

    @property
    def pid(self) -> int:
        return self.process.pid

    def await_line(self, words: str) -> str:
        """Read what it says up to a line with `words` in it."""
        assert self.process.stderr is not None
        before = len(self.said)
        while True:
            line = self.process.stderr.readline()
            self.said += line
            assert line, f"the engine never said {words!r}: {self.said[before:]}"
            if words in line:
                return line

    def rest(self) -> str:
        """All that it says up to its end."""
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        assert self.process.wait(PATIENCE_S) is not None
        return self.said

    def stop(self) -> str:
        """Stop it; it must end well and report no defect of its own."""
        self.process.send_signal(signal.SIGTERM)
        said = self.rest()
        assert self.process.returncode == 0, said
        assert "internal error" not in said, said
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextlib.contextmanager
def running_engine(run_dir: Path, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[Engine]:
    """An engine for the time of the block; if the test has not ended it by then, it must stop well."""
    engine = Engine(run_dir, *arguments, prefix=prefix)
    try:
        yield engine
        if engine.process.poll() is None:
            engine.stop()
    finally:
        engine.close()


def start_stub(
    shell: str,
    host: tuple[str, int],
    container: tuple[str, int],
    passed: socket.socket | None = None,
    *,
    proto: str = "tcp",
    more: Sequence[str] = (),
    stub: str = STUB,
) -> Child:
    """A stub, run by `shell`; the caller closes it."""
    flags = [*arguments_for(host, container, proto), *(["-use-listen-fd"] if passed is not None else []), *more]
    program, *words = [*SHELLS[shell], stub]
    return Child([*words, *flags], passed, program=program)


@contextlib.contextmanager
def stub(
    shell: str,
    host: tuple[str, int],
    container: tuple[str, int],
    passed: socket.socket | None = None,
    *,
    proto: str = "tcp",
    more: Sequence[str] = (),
    stub: str = STUB,
) -> Iterator[Child]:
    """A stub for the time of the block; killed afterwards, if it has not ended."""
    child = start_stub(shell, host, container, passed, proto=proto, more=more, stub=stub)
    try:
        yield child
    finally:
        child.close()


def command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def is_stub(pid: int) -> bool:
    """Whether the process is a stub still; pyproxy itself, if not."""
    return not any(re.search(r"(^|/)python", word) for word in command_of(pid)[:1])


def ends_within(pid: int, seconds: float) -> bool:
    """Whether a child of ours ends so soon."""
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def accepted_within(address: tuple[str, int], seconds: float) -> float:
    """How long it took until an exchange with an echo server succeeded; AssertionError if it never did."""
    started = time.monotonic()
    while (took := time.monotonic() - started) < seconds:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=seconds - took) as client:
            client.sendall(b"x")
            if client.recv(1) == b"x":
                return time.monotonic() - started
    raise AssertionError(f"{address} does not answer within {seconds} s")


def free() -> tuple[str, int]:
    return LOCAL, free_port(LOCAL, socket.SOCK_STREAM)


def until(holds: Callable[[], object]) -> None:
    """Wait for what no event announces: looked at again and again, without sleeping, as long as patience lasts."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end


def publish(engine: Engine, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = ask(
        engine.run_dir, "POST", "/ports",
        {"host_ip": LOCAL, "host_port": 0, "container_ip": LOCAL, "container_port": 9} | fields,
    )  # fmt: skip
    return found


@contextlib.contextmanager
def client_of(address: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection over which an exchange has gone."""
    with socket.create_connection(address, timeout=PATIENCE_S) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        yield client


Ports = list[tuple[Child, tuple[str, int]]]


@contextlib.contextmanager
def published(backend: tuple[str, int], count: int = 3) -> Iterator[Ports]:
    """Ports of each kind: bound by the engine, and passed by dockerd."""
    with contextlib.ExitStack() as stack:
        ports = []
        for number in range(count):
            sock = passed_socket(LOCAL, socket.SOCK_STREAM) if number % 2 else None
            address = address_of(sock) if sock is not None else free()
            child = stack.enter_context(stub("sh", address, backend, sock))
            assert child.first_answer() == b"0\n"
            if sock is not None:
                sock.close()  # the stub has it
            ports.append((child, address))
        yield ports
