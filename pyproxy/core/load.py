"""When a port needs another process, and whom to move there. Pure; `workers.py` obeys.

When this process has used up a processor, several connections share it, and another processor is idle, half of the busy
connections are to move, messages first. What is idle elsewhere decides, not how much there is to do: both ends of the
traffic may be on this machine and keep its processors busy, and a worker would take from those (bench/NOTES.md).

Where messages wait for bulk to have its turn, they move even if no processor is idle, and bulk stays. The kernel then
shares the processors out, and it prefers processes that wake up for a moment only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar


@dataclass
class Policy:
    """The limits. Shares are of one processor."""

    # How long a look at the load takes; three in a row must find it too high before connections move. /proc/stat counts
    # in ticks of 10 ms.
    window_s: float = 0.1
    # What this process uses when one processor is not enough, and what must be idle for a worker to be a gain: a whole
    # processor, nearly. Where client and container share two processors with it, 100 connections that exchange messages
    # leave 0.2 idle with a worker, and their rate falls by an eighth; bulk gains nothing (bench/NOTES.md).
    saturated: float = 0.75
    to_spare: float = 0.9
    # If connections arrive faster than they end, a worker adds 10 % throughput, and p99 falls by as much. None of the
    # live ones is worth moving then.
    to_spare_for_new: float = 0.25
    # Messages wait for bulk if more turns of bulk than this are cut short for them each second (`fairness`), and this
    # process uses a larger share of a processor than this. A worker then brings the p50 of round trips beside a bulk
    # stream to 0.5 times docker-proxy's, from 0.8 to 1.7, and makes them 2.7 times as many; the stream stays as fast
    # (bench/NOTES.md).
    cut_short_per_s: float = 200
    busy: float = 0.3


class Movable(Protocol):
    """A connection, as far as it matters here."""

    @property
    def is_bulk(self) -> bool: ...

    @property
    def can_migrate(self) -> bool: ...


C = TypeVar("C", bound=Movable)


class Sample(NamedTuple, Generic[C]):
    """What a look at the load sees. Counts and times only ever grow."""

    now_s: float
    used_s: float  # processor time of this process
    spun: bool  # whether it has been busy polling since the last look: its processor time is then no load
    accepted: int
    live: int
    cut_short: int  # turns of bulk
    # Taken only where it may matter, as each takes time. How long the machine's processors have been idle, summed, or
    # None where that cannot be known; the bytes that each live connection has moved.
    idle_s: Callable[[], float | None]
    moved: Callable[[], Mapping[C, int]]


class _Before(NamedTuple, Generic[C]):
    """What is remembered of a look."""

    idle_s: float | None
    accepted: int
    cut_short: int
    moved: Mapping[C, int] | None


class Load(Generic[C]):
    """Looks at the load of one process, from `now_s` and `used_s` on, and says when another is needed."""

    def __init__(self, policy: Policy, now_s: float, used_s: float) -> None:
        self._policy = policy
        self._since_s = now_s
        self._used_s = used_s
        self._spun = False
        self._before: _Before[C] | None = None

    def look(self, sample: Sample[C], workers_left: int) -> list[C] | None:
        """Return the connections to move to a new worker, perhaps none, where one is needed; None where not.

        `workers_left`: how many more there may be.
        """
        policy = self._policy
        self._spun = self._spun or sample.spun
        took_s = sample.now_s - self._since_s
        if took_s < policy.window_s:
            return None
        share = (sample.used_s - self._used_s) / took_s
        saturated = share > policy.saturated and not self._spun
        self._since_s, self._used_s, self._spun = sample.now_s, sample.used_s, False
        before, self._before = self._before, None
        if share <= policy.busy or workers_left < 1:
            return None
        now = self._before = _Before(sample.idle_s() if saturated else None, sample.accepted, sample.cut_short, None)
        if before is None:
            return None
        spare = _spare(before.idle_s, now.idle_s, took_s)
        if spare >= policy.to_spare_for_new and now.accepted - before.accepted > sample.live:
            return []
        contended = now.cut_short - before.cut_short > policy.cut_short_per_s * took_s
        if not contended and spare < policy.to_spare:
            return None
        moved = sample.moved()
        if before.moved is None:
            self._before = now._replace(moved=moved)
            return None
        return whom_to_move(before.moved, moved, half=spare >= policy.to_spare, contended=contended,
                            last_worker=workers_left == 1) or None  # fmt: skip


def whom_to_move(
    before: Mapping[C, int], now: Mapping[C, int], *, half: bool, contended: bool, last_worker: bool
) -> list[C]:
    """Of the connections that have moved bytes between two looks, those that go to a worker; none if that leaves
    nothing here, or moves nothing.

    `half`: half of them, messages first. `contended`: all messages, if there is bulk that they wait for.
    """
    busy = [one for one, count in now.items() if count != before.get(one, 0) and one.can_migrate]
    busy.sort(key=lambda one: one.is_bulk)
    some = len(busy) // 2 if half else 0
    messages = sum(not one.is_bulk for one in busy)
    if contended and messages < len(busy) and (not some or last_worker):
        some = max(some, messages)  # there may be no further worker for the rest of them
    return busy[:some] if some < len(busy) else []


def _spare(before_s: float | None, now_s: float | None, took_s: float) -> float:
    """How many processors were idle; none for all that is known, if nothing is."""
    return (now_s - before_s) / took_s if now_s is not None and before_s is not None else 0.0
