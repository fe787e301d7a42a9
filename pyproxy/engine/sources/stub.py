"""A stub, as the kernel shows it. What its request says is believed only as far as /proc says the same.

First a pidfd is opened, then /proc is read, then the pidfd says whether its process still lives. If so, all that was
read is of that one process, and not of a later one with the same number (pidfd_open(2)). Only a process that passes is
ever sent a signal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import NamedTuple

from pyproxy.errors import OUT_OF_RESOURCES, in_words
from pyproxy.relay.syscalls import pidfd_getfd

# The interpreter's own words before the script: `sh`, `busybox sh`, perhaps a flag.
_INTERPRETER_WORDS = (1, 2, 3)

# The signals that say yes and no, and the one that only wakes (`nudge.py`). They would end a process that does not
# catch them.
YES = signal.SIGUSR1
NO = signal.SIGUSR2
NUDGE = signal.SIGALRM


def _mask(*signals: int) -> int:
    """A set of signals as /proc has it."""
    return sum(1 << (number - 1) for number in signals)


_CAUGHT = _mask(YES, NO, NUDGE)
# What a stub ignores as soon as it stops, or has decided to serve its port itself: kept through exec (signal(7)).
_IGNORED_STOPPING = _mask(signal.SIGINT, signal.SIGTERM)
_IGNORED_SOLO = _mask(NO, NUDGE)


class StubError(Exception):
    """It cannot be served. The text says why, and what would help."""


class NotAStubError(StubError):
    """The process is gone, or not the one that was announced: leave it alone."""


class Stub:
    """A live process that passed `recognise`. Holds a pidfd, until `close`."""

    __slots__ = ("_pidfd", "arguments", "closed", "pid", "was_stoppable")

    def __init__(self, pid: int, pidfd: int, arguments: list[str], *, was_stoppable: bool = True) -> None:
        """`was_stoppable`: when it was recognised. A shell that was started with SIGINT or SIGTERM ignored is not."""
        self.pid = pid
        self.was_stoppable = was_stoppable
        self.arguments = arguments  # what follows the script's path
        self._pidfd = pidfd
        self.closed = False

    def fileno(self) -> int:
        """The pidfd; readable when the process has ended."""
        return self._pidfd

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._pidfd)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended, or is root's and we are not."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self._pidfd, number)

    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def stops(self) -> bool:
        """Whether it has been stopped: it then ignores certain signals."""
        return self._ignores(_IGNORED_STOPPING)

    @property
    def is_solo(self) -> bool:
        """Whether it has decided to serve its port itself."""
        return self._ignores(_IGNORED_SOLO)

    def _ignores(self, mask: int) -> bool:
        try:
            ignored = _status(_read(f"/proc/{self.pid}/status")).ignored
        except (FileNotFoundError, ProcessLookupError):
            return True
        return self.has_ended() or ignored & mask == mask

    def network(self) -> str:
        """Its network namespace, as /proc calls it. NotAStubError if it has ended."""
        try:
            return os.readlink(f"/proc/{self.pid}/ns/net")
        except PermissionError as exc:
            raise StubError(_no_right(self.pid)) from exc
        except OSError as exc:
            raise NotAStubError(f"process {self.pid} has ended") from exc

    def take(self, fd: int) -> int:
        """Return a duplicate of its descriptor, close-on-exec, for the caller to close. StubError."""
        try:
            return pidfd_getfd(self._pidfd, fd)
        except PermissionError as exc:
            raise StubError(_no_right(self.pid)) from exc
        except OSError as exc:
            raise StubError(f"descriptor {fd} of process {self.pid} cannot be had: {in_words(exc.errno)}") from exc


def recognise(pid: int, command: bytes) -> Stub:
    """Return the process `pid` as a stub that was started as `command`; the caller closes it.

    NotAStubError if it is none: of another user (root may be anybody's parent), started otherwise, or such that a
    signal would kill it. OSError if there is no descriptor left for a look.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as exc:
        if exc.errno in OUT_OF_RESOURCES:
            raise
        # ESRCH; EINVAL or ENOENT, by version, for the number of a thread.
        raise NotAStubError(f"there is no process {pid}") from exc
    try:
        arguments, ignored = _look(pid, command)
        stub = Stub(pid, pidfd, arguments, was_stoppable=not ignored & _IGNORED_STOPPING)
        if stub.has_ended():
            raise NotAStubError(f"process {pid} has ended")
    except BaseException:
        os.close(pidfd)
        raise
    return stub


def own_network() -> str:
    return os.readlink("/proc/self/ns/net")


def _look(pid: int, command: bytes) -> tuple[list[str], int]:
    """Its arguments, and the signals it ignores."""
    try:
        status = _read(f"/proc/{pid}/status")
        words = _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1]
    except OSError as exc:
        if exc.errno in OUT_OF_RESOURCES:
            raise
        raise NotAStubError(f"process {pid} has ended, or is not ours to look at") from exc
    uids, caught, ignored = _status(status)
    if not uids <= {0, os.geteuid()}:
        raise NotAStubError(f"process {pid} is another user's")
    if caught & _CAUGHT != _CAUGHT:
        raise NotAStubError(f"process {pid} does not wait for an answer")
    for start in _INTERPRETER_WORDS:
        if b" ".join(words[start:]) == command:
            return [os.fsdecode(word) for word in words[start + 1 :]], ignored
    raise NotAStubError(f"process {pid} was started with another command line than it announced")


class _Status(NamedTuple):
    """Real and effective user; the signals that are caught and ignored, as masks (proc_pid_status(5))."""

    uids: set[int]
    caught: int
    ignored: int


def _status(text: bytes) -> _Status:
    fields = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    uids = {int(word) for word in fields[b"Uid"].split()[:2]}
    return _Status(uids, int(fields[b"SigCgt"], 16), int(fields[b"SigIgn"], 16))


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        chunks = []
        while chunk := file.read(1 << 14):
            chunks.append(chunk)
        return b"".join(chunks)


def _no_right(pid: int) -> str:
    return (
        f"no right to take the socket of process {pid}: run the engine as root or as the user of dockerd, with"
        " CAP_SYS_PTRACE where kernel.yama.ptrace_scope is set"
    )
