"""What goes on by itself, streams or floods: counted where it arrives, between two instants while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench import usage
from bench.peers.peer import Running
from bench.trials.trial import GRACE_S
from bench.world import LoadError

# Windows, buffers and pipes have grown by then: 64 streams each way took 0.2 to 0.3 s, one is as fast at once as later.
WARM_S = 0.08
WARM_MORE_S = 0.002  # for each connection


class Count(NamedTuple):
    """Of what has come to an end since it began, and when that was true."""

    amount: float
    at: float


# A stream or flood goes on for so long before it is counted, until all buffers on its way are as full as they get:
# those of 64 streams after 0.1 s, be it one way or both. Until then what the proxy moves is not what arrives
# (bench/NOTES.md).
_RAMP_S = 0.01
_RAMP_MORE_S = 0.002  # for each stream

# Nothing has come for so long: none is on its way any more.
_QUIET_S = 0.004


class Throughput:
    """What goes on by itself from `go` to `pause`; counted where it arrives, while nothing begins or ends."""

    def __init__(
        self,
        running: Running,
        go: Callable[[], object],
        pause: Callable[[], object],
        read: Callable[[], Sequence[Count]],
        streams: int = 1,
    ) -> None:
        self._running = running
        self._go = go
        self._pause = pause
        self._read = read
        self._ramp_s = _RAMP_S + streams * _RAMP_MORE_S
        self._arrived = 0.0  # each end's own, by its own time
        self._took_s = 0.0
        self._spent = self._machine = 0.0

    def warm_up(self, seconds: float) -> None:
        self._go()
        try:
            time.sleep(seconds)
        finally:
            self._pause()
        self._wait_until_quiet()

    def turn(self, seconds: float) -> None:
        roots = self._running.processes
        self._go()
        try:
            time.sleep(self._ramp_s)
            cpu, first = usage.cpu(usage.trees(roots)), self._read()
            time.sleep(seconds)
            # Who has been born meanwhile counts in full.
            spent, last = usage.cpu(usage.trees(roots)).since(cpu), self._read()
        finally:
            self._pause()
        self._wait_until_quiet()
        # Counters and clocks are read one after the other, so each is taken by its own time.
        rate = sum((b.amount - a.amount) / (b.at - a.at) for a, b in zip(first, last, strict=True))
        if not rate:
            before, later = (sum(each.amount for each in some) for some in (first, self._read()))
            raise LoadError(f"nothing arrived for {seconds} s; {before:.0f} had, and {later - before:.0f} have since")
        self._arrived += seconds * rate
        self._spent += seconds * spent.total / spent.at
        self._machine += seconds * spent.machine / spent.at
        self._took_s += seconds

    def _wait_until_quiet(self) -> None:
        amounts = [count.amount for count in self._read()]
        until = time.perf_counter() + GRACE_S
        while time.perf_counter() < until:
            time.sleep(_QUIET_S)
            before, amounts = amounts, [count.amount for count in self._read()]
            if amounts == before:
                return
        raise LoadError("what was sent before the pause still arrives")

    def rate(self) -> tuple[float, dict[str, float]]:
        """What arrives a second; and the CPU seconds spent on each."""
        each = {"machine": self._machine / self._arrived}
        if self._running.processes:
            each["total"] = self._spent / self._arrived
        return self._arrived / self._took_s, each


def count(answer: dict[str, Any]) -> Count:
    return Count(answer["amount"], answer["at"])
