"""What signals do: SIGINT and SIGTERM end the process at once with status 0, SIGUSR1 has it say what went through.

Python runs a handler between two of its own instructions. A signal that arrives just before a blocking call would
therefore wait until that call ends. So whoever blocks also watches `wake_fd`, which each signal makes readable. The
totals for SIGUSR1 are logged then too, and not in the handler, which may run between the sending of a byte and its
being counted.
Light, as it is imported before the event loop is (see `__main__`); hence `_signal`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from pyproxy.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would cost a start-up 8 ms
    from collections.abc import Callable

STOPPING = (_signal.SIGINT, _signal.SIGTERM)
_HANDLED = (*STOPPING, _signal.SIGUSR1)


def exit_on_stop() -> None:
    """SIGINT and SIGTERM exit with status 0 and without a message, until `Signals` handles them. Unblocks both."""
    for number in STOPPING:
        _signal.signal(number, lambda _number, _frame: os._exit(0))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, STOPPING)


def hold_stop() -> None:
    """Block SIGINT and SIGTERM until the next `exit_on_stop`, perhaps that of a program this process becomes."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, STOPPING)


class signals_blocked:  # noqa: N801 # used as `with signals_blocked():`; contextlib would cost a start-up 1 ms
    """No handler of ours runs in the block; what has come meanwhile is handled after it."""

    def __enter__(self) -> None:
        self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _HANDLED)

    def __exit__(self, *_: object) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)


class Signals:
    """Installed by its construction, for the rest of the process's life. `summary` says what has gone through, in
    words, `tell` logs it, and `free_port` closes the host socket: all are set by whoever serves clients.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._asked = 0
        self.summary: Callable[[], str] = lambda: "0 live, no client so far"
        self.tell: Callable[[], None] = lambda: log.info(self.summary())
        self.free_port: Callable[[], None] | None = None
        self.wake_fd, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in STOPPING:
            _signal.signal(number, self._stop)
        _signal.signal(_signal.SIGUSR1, self._tell)

    def handle_pending(self) -> None:
        """Empty `wake_fd`, and log the totals for each SIGUSR1. The handlers have run by then."""
        os.read(self.wake_fd, 4096)
        while self._asked:
            self._asked -= 1
            self.tell()

    def leave_to_parent(self) -> None:
        """In a copy of the process: handle no signal. The parent does, for both, and ends the copy."""
        _signal.set_wakeup_fd(-1)  # the pipe is the parent's
        for number in _HANDLED:
            _signal.signal(number, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _HANDLED)

    def _stop(self, number: int, _frame: object) -> None:
        hold_stop()  # once is enough
        try:
            self._log.info(f"stopped by {'SIGINT' if number == _signal.SIGINT else 'SIGTERM'}: {self.summary()}")
            if self.free_port is not None:
                # Workers hold the port too. The kernel resets the connections as we exit, in some 25 us each. A child
                # that did it after us would be an orphan, and a zombie for ever where process 1 reaps nothing (dockerd
                # in a container).
                self.free_port()
        finally:
            os._exit(0)  # whatever else may be wrong: dockerd waits for it without limit

    def _tell(self, _number: int, _frame: object) -> None:
        self._asked += 1
        try:
            os.write(self._wake, b"\0")  # uvloop has taken Python's own wake-up descriptor for itself
        except BlockingIOError:
            return  # full, and so readable
