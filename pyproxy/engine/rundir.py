"""The run directory: who may use it, and what lies in it.

    requests   FIFO, written by stubs, read by the engine
    alive      FIFO, held open for writing by engines alone
    pid        the engine's process id; locked (flock(2)) for as long as that engine is the one
    control    UNIX socket of the control API
    handover   UNIX socket on which a new engine asks the present one for its sockets

Whoever can write here can have ports served and stopped, so it belongs to the engine's user alone (mode 0700). It is
kept when an engine ends: stubs hold the FIFOs open and wait for the next one on them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

# The most that a user without special rights may ask for (fs.pipe-max-size, pipe(7)). About 8,000 requests fit, for an
# engine that hangs or has yet to start.
_REQUESTS_BYTES = 1 << 20


# What an engine is called in /proc/PID/comm, which holds 15 bytes (proc_pid_comm(5)); bin/pyproxy-stub knows it too.
PROCESS_NAME = "pyproxy-engine"


class RunDirError(Exception):
    """The run directory cannot be used. The text says why and what to do."""


class EngineRunsError(RunDirError):
    """Another engine has it."""


def default_path() -> Path:
    """Where engine, stubs and `pyproxy ports` look by default: the same as in bin/pyproxy-stub."""
    named = os.environ.get("PYPROXY_RUN_DIR")
    if named:
        return Path(named)
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own) / "pyproxy" if own and os.geteuid() != 0 and _is_ours(own) else Path("/run/pyproxy")


def _is_ours(path: str) -> bool:
    """Whether the directory is the user's, as it must be (XDG Base Directory Specification). `su` and `sudo` may leave
    the value of another user's session.
    """
    with contextlib.suppress(OSError):
        return os.stat(path).st_uid == os.geteuid()
    return False


class RunDir:
    """The directory, made if missing. RunDirError if it is not ours alone. `close` gives up the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            found = path.lstat()
        except OSError as exc:
            raise RunDirError(
                f"{path}: {os.strerror(exc.errno or 0).lower()}: give a directory of your own with --run-dir, or set"
                " XDG_RUNTIME_DIR"
            ) from exc
        if not stat.S_ISDIR(found.st_mode):
            raise RunDirError(f"{path} is not a directory: remove it, or give another with --run-dir")
        if found.st_uid != os.geteuid():
            raise RunDirError(f"{path} belongs to user {found.st_uid}: give a directory of your own with --run-dir")
        if found.st_mode & 0o077:
            raise RunDirError(f"{path} is open to other users: chmod 700 {path}")

    def lock(self, present: int | None = None) -> None:
        """Become the engine of this directory; `present` is a lock handed over by the one before.

        EngineRunsError names the process that has it.
        """
        lock = present
        if lock is None:
            lock = os.open(self.path / "pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                pid = os.pread(lock, 20, 0).decode(errors="replace").strip()
                os.close(lock)
                raise EngineRunsError(
                    f"an engine runs already in {self.path} (process {pid or 'unknown'}): stop it first, or take over"
                    " from it with --replace"
                ) from exc
        self._lock = lock

    @property
    def control(self) -> Path:
        """Of the control API's socket."""
        return self.path / "control"

    @property
    def handover(self) -> Path:
        """Of the socket for a new engine."""
        return self.path / "handover"

    @property
    def lock_fd(self) -> int:
        assert self._lock is not None
        return self._lock

    def announce(self) -> None:
        """Tell stubs and people who the engine is. In one write, over the number before: a stub may read just now.
        Stubs ask only a process of this name, as the number of one that has crashed may be somebody else's.
        """
        Path("/proc/self/comm").write_text(PROCESS_NAME)
        os.pwrite(self.lock_fd, b"%-20d\n" % os.getpid(), 0)

    def withdraw(self) -> None:
        """Say that there is no engine: stubs that start from now on ask none."""
        os.ftruncate(self.lock_fd, 0)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def open_requests(self) -> int:
        """The FIFO of requests, for reading without waiting. Open for writing too, so that it never ends."""
        fd = self._open_fifo("requests")
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _REQUESTS_BYTES)
        return fd

    def open_alive(self) -> int:
        """The descriptor whose end tells the stubs that this engine is gone."""
        return self._open_fifo("alive")

    def _open_fifo(self, name: str) -> int:
        path = self.path / name
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.close(fd)
            raise RunDirError(f"{path} is not a FIFO: remove it")
        return fd
