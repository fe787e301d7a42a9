"""pyproxy as a process, started as a person or as dockerd starts it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# The installed program, beside the interpreter that runs the tests.
PROGRAM = str(Path(sys.executable).with_name("pyproxy"))

# The one unit of time that tests wait in: how long something may take that should take no time at all.
PATIENCE_S = float(os.environ.get("PYPROXY_TEST_PATIENCE_S", "10"))


_SYS_PIDFD_GETFD = 438  # the same on every architecture (include/uapi/asm-generic/unistd.h)


class Proxy:
    """A running pyproxy. `port` is the host port it serves, `served` its first line. Closed by `running`."""

    def __init__(self, arguments: Sequence[str], prefix: Sequence[str] = (), program: str = PROGRAM) -> None:
        self.process = subprocess.Popen([*prefix, program, *arguments], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self._stderr = self.process.stderr
        self.served = self.line()
        found = re.search(r"^pyproxy: \w+ (.*):(\d+): serving", self.served)
        if found is None:
            said = self.served + self._stderr.read()
            self.process.wait()
            self._stderr.close()
            raise AssertionError(f"pyproxy did not start: {said}")
        self.port = int(found[2])

    def line(self) -> str:
        """The next line it says."""
        return self._stderr.readline()

    def totals(self) -> str:
        """What it says of itself on SIGUSR1."""
        self.process.send_signal(signal.SIGUSR1)
        said = ""
        while " live, " not in (line := self.line()):
            said += line
            assert line, f"pyproxy ended: {self.process.wait(PATIENCE_S)}: {said}"
        return line.split(": ", 2)[2].strip()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stopped for the time of the block, so that what is sent to it waits and comes all at once."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        yield
        self.process.send_signal(signal.SIGCONT)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_bytes(self) -> int:
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: int = signal.SIGINT) -> str:
        """Stop it and return what it had left to say. It must exit 0, and report no defect of its own."""
        self.process.send_signal(number)
        rest = self._stderr.read()
        assert self.process.wait(PATIENCE_S) == 0, rest
        assert "internal error" not in rest, rest
        assert "Warning" not in rest, rest
        return rest


@contextlib.contextmanager
def running(*arguments: str, prefix: Sequence[str] = (), program: str = PROGRAM) -> Iterator[Proxy]:
    """A proxy for the time of the block; the test may stop it earlier, and if not, it must stop well."""
    proxy = Proxy(arguments, prefix, program)
    try:
        yield proxy
        if proxy.process.poll() is None:
            proxy.stop()
    finally:
        if proxy.process.poll() is None:
            proxy.process.kill()
            proxy.process.wait()
        proxy.process.stderr.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def before(
    backend: tuple[str, int],
    *arguments: str,
    host: str = "127.0.0.1",
    proto: str = "tcp",
    program: str = PROGRAM,
) -> Iterator[Proxy]:
    """A proxy on a free port of `host`, before a backend."""
    ends = ["-proto", proto, "-host-ip", host, "-host-port", "0"]
    container = ["-container-ip", backend[0], "-container-port", str(backend[1])]
    with running(*ends, *container, *arguments, program=program) as proxy:
        yield proxy


def borrow_sockets(proxy: Proxy) -> Iterator[socket.socket]:
    """The process's sockets, as duplicates that the caller closes (pidfd_getfd(2), not in the standard library)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(proxy.process.pid)
    try:
        for name in os.listdir(f"/proc/{proxy.process.pid}/fd"):
            if os.readlink(f"/proc/{proxy.process.pid}/fd/{name}").startswith("socket:"):
                fd = libc.syscall(_SYS_PIDFD_GETFD, pidfd, int(name), 0)
                assert fd >= 0, os.strerror(ctypes.get_errno())
                yield socket.socket(fileno=fd)
    finally:
        os.close(pidfd)


def connect(proxy: Proxy, host: str = "127.0.0.1") -> socket.socket:
    """A client of the proxy; its calls fail after `PATIENCE_S` rather than hang."""
    return socket.create_connection((host, proxy.port), timeout=PATIENCE_S)


def pyproxy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A subcommand, run to its end."""
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
