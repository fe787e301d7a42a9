"""Descriptors in reserve: looking at a process takes a pidfd and a file in /proc, and without that not even a no can be
said.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from pyproxy.engine.sources.stub import NotAStubError, StubError
from pyproxy.errors import OUT_OF_RESOURCES, in_words

# As many as a look takes.
_RESERVED = 2

T = TypeVar("T")


class Reserve:
    """Kept open until a look finds no other descriptor, or `close`."""

    def __init__(self) -> None:
        self._fds = _opened()

    def look(self, look: Callable[[], T]) -> T:
        """What `look` finds in /proc; where no descriptor is left for that, with those in reserve. NotAStubError."""
        try:
            return look()
        except OSError as exc:
            if exc.errno not in OUT_OF_RESOURCES:
                raise
        self.close()
        try:
            return look()
        except OSError as exc:
            raise NotAStubError(f"{in_words(exc.errno)}, so no process can be looked at") from exc

    def refill(self) -> None:
        """Get the reserve back, if it was used and there are descriptors again. StubError if not."""
        if self._fds:
            return
        try:
            self._fds = _opened()
        except OSError as exc:
            raise StubError(f"{in_words(exc.errno)}: raise LimitNOFILE, ulimit -n") from exc

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def _opened() -> list[int]:
    return [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(_RESERVED)]
