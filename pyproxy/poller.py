"""The data path's epoll: one descriptor that the asyncio loop watches as a single reader.

Why not `loop.add_reader` for each socket: an edge-triggered registration is made once in a socket's life (one
epoll_ctl, where back-pressure through add_reader and remove_reader costs two each time it toggles), a half-closed
socket can still report that its peer reset it, and the same code runs alike on uvloop and on asyncio's own loop.
asyncio keeps signals and timers.

Edge-triggered means that a handler reads until the kernel says there is no more, or asks for `again`.

Busy polling: most of a short round trip through a proxy is its going to sleep and being woken. So while events follow
one another closely, it asks again for a while before it sleeps. Only a conversation of few takes part: where there is
bulk to move, or many to serve, the processor is better left to those who wait for it.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
WRITABLE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR

# For a connected stream socket's whole life. PRI: urgent data makes a read stop short of what is there.
BOTH_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET

# Events taken in one go: enough to share the call's cost, few enough that the loop's timers get their turn. A guess.
_BATCH = 256


# Busy polling begins after so many waits in a row that were shorter than this: a round trip with its wake-ups.
_SHORT_WAIT_S = 120e-6
_SHORT_WAITS = 4

# What takes longer to handle is bulk.
_LONG_TURN_S = 100e-6

# How often the load is looked at: rarely enough to cost nothing, often enough where each round takes milliseconds.
_ROUNDS = 64

# The loop's timers and other readers get their turn after this long: of busy polling, and of turns asked for.
_BUSY_S = 2e-3


class Closable(Protocol):
    """What the poller can watch and close: a socket."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


class Poller:
    """Calls a handler with the event mask of its descriptor. Owned by whoever runs the loop, who calls `close`.

    A handler's exception goes to the loop's exception handler, and the other handlers get their events all the same.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, busy_poll_s: float = 0) -> None:
        """`busy_poll_s`: how long to ask in vain before sleeping; 0: not at all, as on a single processor."""
        self.loop = loop
        self._busy_poll_s = busy_poll_s if len(os.sched_getaffinity(0)) > 1 else 0
        self._short_waits = 0
        self._idle_from = 0.0
        self._spoke = (-1, -1)  # the last two descriptors with events
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._again: deque[Callable[[], None]] = deque()
        self._stale: set[int] = set()  # closed since the events in hand were taken
        self._dispatching = False
        self._scheduled = False
        self._starved: list[Callable[[], None]] = []
        # Called now and then while there is something to do, with whether there was busy polling since the last time.
        self.on_load: Callable[[bool], None] | None = None
        self._rounds = 0
        self._spun = False
        self._attach()

    def restart(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a copy of the process, which has a loop of its own: begin anew, with nothing to watch."""
        self.loop = loop
        self._epoll.close()  # the other process's goes on
        self._epoll = select.epoll()
        self._handlers.clear()
        self._again.clear()
        self._stale.clear()
        self._starved.clear()
        self._dispatching = self._scheduled = False
        self._short_waits = 0
        self._attach()

    def _attach(self) -> None:
        self.loop.add_reader(self._epoll.fileno(), self._on_ready if self._busy_poll_s else self._dispatch)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler` on `events` of `fd` until `close_socket`. OSError: ENOMEM, ENOSPC."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        """Watch for other events; 0 leaves only errors and hang-ups."""
        self._epoll.modify(fd, events)

    def hand_over(self, fd: int, handler: Callable[[int], None]) -> None:
        """Call another handler from now on."""
        self._handlers[fd] = handler

    def again(self, turn: Callable[[], None]) -> None:
        """Call `turn` once, after the events that wait now: for work cut short in favour of others."""
        self._again.append(turn)
        if not self._dispatching:
            self._schedule()

    def when_descriptors_free(self, retry: Callable[[], None]) -> None:
        """Call `retry` once, after the next socket is closed here."""
        if retry not in self._starved:
            self._starved.append(retry)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor that others hold too: closing ours would not end its registration (epoll(7)).
        Nothing happens if it is not watched.
        """
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close_socket(self, sock: Closable) -> None:
        """Stop watching `sock` and close it.

        Its number may be given to a new socket at once. What the events in hand say of that number is not the new
        one's, which began to be watched after they were taken.
        """
        fd = sock.fileno()
        self._handlers.pop(fd, None)
        sock.close()
        if self._dispatching:
            self._stale.add(fd)
        else:
            self._retry_starved()

    def close(self) -> None:
        """Stop for good. The sockets are their owners' to close."""
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _on_ready(self) -> None:
        """As `_dispatch`, and busy polling where it pays."""
        now = time.perf_counter
        began = now()
        waited = began - self._idle_from
        end = began + _BUSY_S
        events = self._dispatch()
        while True:
            after = now()
            self._idle_from = after
            converses = self._is_conversation(events)
            if not converses or waited > _SHORT_WAIT_S or after - began > _LONG_TURN_S or self._again:
                self._short_waits = 0
                return
            self._short_waits += 1
            if self._short_waits < _SHORT_WAITS:
                return
            if after > end:
                self._schedule()
                return
            self._spun = True
            began, until = after, after + self._busy_poll_s
            while not (events := self._dispatch()):
                looked = now()
                if looked > until:
                    self._short_waits = 0
                    self._idle_from = looked
                    return
                # Whoever waits for this processor goes first: it may be the one we wait for. Else it costs 0.4 us.
                os.sched_yield()
                began = now()  # the time of others is none of our turn's
            waited = 0.0

    def _is_conversation(self, events: list[tuple[int, int]]) -> bool:
        """Whether two speak in turn, and nobody else: what is one-way, or of many, gains nothing by busy polling."""
        if not events:
            return self._short_waits > 0  # nobody has said anything in between
        if len(events) > 1:
            self._spoke = (-1, -1)
            return False
        fd = events[0][0]
        last, before = self._spoke
        self._spoke = (fd, last)
        return fd == before != last

    def _dispatch(self) -> list[tuple[int, int]]:
        """Handle the events that wait now; return them."""
        handlers, stale = self._handlers, self._stale
        self._dispatching = True
        events = self._epoll.poll(0, _BATCH)
        for fd, mask in events:
            if fd not in stale and (handler := handlers.get(fd)) is not None:
                try:
                    handler(mask)
                except Exception as exc:  # a defect of ours; the other edges are told only now, so go on
                    self._report(exc)
        if self._again:
            self._take_turns_asked_for()
        self._dispatching = False
        if stale:
            stale.clear()
            self._retry_starved()
        if self._again:
            self._schedule()
        self._rounds += 1
        if self._rounds >= _ROUNDS:
            self._rounds = 0
            if self.on_load is not None:
                spun, self._spun = self._spun, False
                self.on_load(spun)
        return events

    def _take_turns_asked_for(self) -> None:
        end = time.perf_counter() + _BUSY_S
        for _ in range(len(self._again)):
            try:
                self._again.popleft()()
            except Exception as exc:  # as above
                self._report(exc)
            if time.perf_counter() > end:
                return

    def _report(self, exc: Exception) -> None:
        self.loop.call_exception_handler({"message": "in a handler of the data path", "exception": exc})

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._scheduled = False
        if not self._epoll.closed:
            if self._busy_poll_s:
                self._on_ready()
            else:
                self._dispatch()

    def _retry_starved(self) -> None:
        if self._starved:
            starved, self._starved = self._starved, []
            for retry in starved:
                try:
                    retry()
                except OSError as exc:  # epoll_ctl: no memory; the others may have better luck
                    self._report(exc)
