"""The pipes that splice moves bytes through: a few, shared by the connections that carry bulk traffic.

splice(2) needs a pipe between two sockets. Making one costs three system calls and two descriptors, so a relay
borrows one when its traffic turns out to be bulk and gives it back, empty, when it no longer is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

# F_SETPIPE_SZ. A pipe of 16 pages, the default, is full after one read of a fast sender; see bench/NOTES.md.
PIPE_BYTES = 1 << 18

# Kept for the next borrower. A guess: bulk transfers at the same time on one port are few; each pipe kept idle costs
# two descriptors and, being empty, no buffer memory.
_KEPT = 16


class Pipes:
    """A pool of empty pipes, each a (read, write) pair of descriptors. `close` closes those that are not lent."""

    def __init__(self) -> None:
        self._free: list[tuple[int, int]] = []

    def borrow(self) -> tuple[int, int] | None:
        """Return an empty, non-blocking pipe, or None when there are no descriptors for one: copying still works."""
        if self._free:
            return self._free.pop()
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        # EPERM: beyond this user's pipe-user-pages-soft (pipe(7)); the size it has will do.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def give_back(self, pipe: tuple[int, int], *, empty: bool) -> None:
        """Take a pipe back. One that still holds bytes is closed: they belong to nobody else."""
        if empty and len(self._free) < _KEPT:
            self._free.append(pipe)
            return
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        while self._free:
            for fd in self._free.pop():
                os.close(fd)
