"""The data path's epoll: one descriptor that the asyncio loop watches as a single reader.

Why not `loop.add_reader` for each socket: an edge-triggered registration is made once in a socket's life (one
epoll_ctl, where back-pressure through add_reader and remove_reader costs two each time it toggles), a half-closed
socket can still report that its peer reset it, and the same code runs alike on uvloop and on asyncio's own loop.
asyncio keeps signals and timers.

Edge-triggered means that a handler reads until the kernel says there is no more, or asks for another turn
(`call_soon`). Whether it pays to ask again before sleeping, `busypoll.py` says.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable
from typing import Protocol

from pyproxy.core.busypoll import BusyPoll
from pyproxy.relay.runqueue import RunQueue

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR

# For a connected stream socket's whole life. PRI: urgent data makes a read stop short of what is there.
BOTH_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET

# Events taken in one go: enough to share the call's cost, few enough that the loop's timers get their turn. A guess.
_BATCH = 256

# After this long, of busy polling or of work from the run queue, the loop's timers and other readers get their turn.
_BUSY_S = 2e-3

# How often the load is looked at: rarely enough to cost nothing, often enough where each round takes milliseconds.
LOAD_ROUNDS = 64


class Closable(Protocol):
    """What the poller can watch and close: a socket."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class LoadHook:
    """Calls `look` now and then while there is something to do, with whether there was busy polling since the last
    time.
    """

    __slots__ = ("_look", "_rounds", "_rounds_left", "spun")

    def __init__(self, look: Callable[[bool], None], rounds: int = LOAD_ROUNDS) -> None:
        self._look = look
        self._rounds = self._rounds_left = rounds
        self.spun = False

    def round(self) -> None:
        self._rounds_left -= 1
        if not self._rounds_left:
            self._rounds_left = self._rounds
            spun, self.spun = self.spun, False
            self._look(spun)


class Shortage:
    """What is to be called again when a descriptor has been freed."""

    def __init__(self, report: Callable[[Exception], None]) -> None:
        self._report = report
        self._waiting: list[Callable[[], None]] = []

    def when_over(self, retry: Callable[[], None]) -> None:
        """Call `retry` once, after the next socket is closed."""
        if retry not in self._waiting:
            self._waiting.append(retry)

    def descriptors_freed(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for retry in waiting:
                try:
                    retry()
                except OSError as exc:  # epoll_ctl: no memory; the others may have better luck
                    self._report(exc)


class Poller:
    """Calls a handler with the event mask of its descriptor. Owned by whoever runs the loop, who calls `close`.

    A handler's exception goes to the loop's exception handler, and the other handlers get their events all the same.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, busy_poll_s: float = 0) -> None:
        """`busy_poll_s`: how long to ask in vain before sleeping; 0: not at all, as on a single processor."""
        self.loop = loop
        self.shortage = Shortage(self._report)
        self.load_hook: LoadHook | None = None
        self._busy = BusyPoll(busy_poll_s) if busy_poll_s and len(os.sched_getaffinity(0)) > 1 else None
        self._idle_from = 0.0
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._queue = RunQueue()
        self._stale: set[int] = set()  # closed since the events in hand were taken
        self._dispatching = False
        self._scheduled = False
        self._on_ready = self._dispatch if self._busy is None else self._dispatch_and_spin
        loop.add_reader(self._epoll.fileno(), self._on_ready)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler` on `events` of `fd` until `close_socket`. OSError: ENOMEM, ENOSPC."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        """Watch for other events; 0 leaves only errors and hang-ups."""
        self._epoll.modify(fd, events)

    def set_handler(self, fd: int, handler: Callable[[int], None]) -> None:
        """Call another handler from now on."""
        self._handlers[fd] = handler

    def call_soon(self, turn: Callable[[], None]) -> None:
        """Call `turn` once, after the events that wait now: for work cut short in favour of others."""
        self._queue.append(turn)
        if not self._dispatching:
            self._schedule()

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor that others hold too: closing ours would not end its registration (epoll(7)).
        Nothing happens if it is not watched.
        """
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close_socket(self, sock: Closable) -> None:
        """Stop watching `sock` and close it.

        A new socket may get its number at once. Events in hand with that number are not the new socket's, which was not
        watched yet when they were taken.
        """
        fd = sock.fileno()
        self._handlers.pop(fd, None)
        sock.close()
        if self._dispatching:
            self._stale.add(fd)
        else:
            self.shortage.descriptors_freed()

    def close(self) -> None:
        """Stop for good. The sockets are their owners' to close."""
        self.loop.remove_reader(self._epoll.fileno())
        self.discard()

    def discard(self) -> None:
        """In a copy of the process: close our copy. The other process's goes on, and so does its loop."""
        self._epoll.close()

    def _dispatch_and_spin(self) -> None:
        """As `_dispatch`, and busy polling where it pays."""
        busy = self._busy
        assert busy is not None
        now = time.perf_counter
        began = now()
        waited = began - self._idle_from
        end = began + _BUSY_S
        events = self._dispatch()
        while True:
            self._idle_from = after = now()
            if self._queue:
                busy.stop()
                return
            if not busy.pays(events, waited, after - began):
                return
            if after > end:
                self._schedule()
                return
            if self.load_hook is not None:
                self.load_hook.spun = True
            began, until = after, after + busy.spin_s
            while not (events := self._dispatch()):
                self._idle_from = looked = now()
                if looked > until:
                    busy.stop()
                    return
                # Let others that wait for this processor go first: we may be waiting for one of them. It costs 0.4 us.
                os.sched_yield()
                began = now()  # the time that others took is not part of our turn
            waited = 0.0

    def _dispatch(self) -> list[tuple[int, int]]:
        """Handle the events that wait now; return them."""
        handlers, stale = self._handlers, self._stale
        self._dispatching = True
        events = self._epoll.poll(0, _BATCH)
        for fd, mask in events:
            if fd not in stale and (handler := handlers.get(fd)) is not None:
                try:
                    handler(mask)
                except Exception as exc:  # a defect of ours; the other events are reported only once, so go on
                    self._report(exc)
        if self._queue:
            self._queue.run(self._report, _BUSY_S)
        self._dispatching = False
        if stale:
            stale.clear()
            self.shortage.descriptors_freed()
        if self._queue:
            self._schedule()
        if self.load_hook is not None:
            self.load_hook.round()
        return events

    def _report(self, exc: Exception) -> None:
        self.loop.call_exception_handler({"message": "in a handler of the data path", "exception": exc})

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._scheduled = False
        if not self._epoll.closed:
            self._on_ready()
