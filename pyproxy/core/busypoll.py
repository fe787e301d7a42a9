"""Busy polling: whether to ask again before going to sleep. Pure; `poller.py` obeys.

In a short round trip through a proxy, most of the time is spent on the proxy's going to sleep and being woken. So while
events follow one another closely, the poller asks again for a while before it sleeps. It does so only while two ends
talk in turn. With bulk to move, or many clients to serve, the processor is better left to others that wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

# It begins after so many waits in a row that were shorter than this: a round trip with its wake-ups.
SHORT_WAIT_S = 120e-6
SHORT_WAITS = 4

# What takes longer to handle is bulk.
LONG_TURN_S = 100e-6

Event = tuple[int, int]


class BusyPoll:
    """`spin_s`: how long to ask in vain before sleeping."""

    __slots__ = ("_last", "_last_but_one", "_short_waits", "spin_s")

    def __init__(self, spin_s: float) -> None:
        self.spin_s = spin_s
        self._short_waits = 0
        self._last = self._last_but_one = -1  # the descriptors that had events

    def pays(self, events: Sequence[Event], waited_s: float, took_s: float) -> bool:
        """After a turn: whether to spin now. `events`, as (descriptor, mask), came after `waited_s` of waiting and took
        `took_s` to handle.
        """
        if not self._is_conversation(events) or waited_s > SHORT_WAIT_S or took_s > LONG_TURN_S:
            self._short_waits = 0
            return False
        self._short_waits += 1
        return self._short_waits >= SHORT_WAITS

    def stop(self) -> None:
        """It was in vain, or there is other work: begin anew."""
        self._short_waits = 0

    def _is_conversation(self, events: Sequence[Event]) -> bool:
        """Whether two ends talk in turn, and nobody else. Other traffic gains nothing by busy polling."""
        if not events:
            return self._short_waits > 0  # nobody has said anything in between
        if len(events) > 1:
            self._last = self._last_but_one = -1
            return False
        fd = events[0][0]
        last, before, self._last, self._last_but_one = self._last, self._last_but_one, fd, self._last
        return fd == before != last
