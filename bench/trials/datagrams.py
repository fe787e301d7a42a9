"""UDP: as many datagrams as go, each way, and the rate up to which hardly any are lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from bench.peers.peer import Running
from bench.trials.throughput import WARM_S, Count, Throughput, count
from bench.trials.trial import GRACE_S, Begin, Figures, Trial
from bench.world import CLIENT_IPS, BenchWorld, LoadError, LoadSession


class _Datagrams(Throughput):
    def figures(self) -> Figures:
        rate, each = self.rate()
        figures = {"delivered_per_s": rate}
        if "total" in each:
            figures["cpu_s_per_million"] = 1e6 * each["total"]
        return figures


def counted(world: BenchWorld, size: int, sent: float) -> int:
    """Datagrams that have arrived in the container, of those `sent`, when no more do.

    LoadError if they are not what was sent.
    """
    counted = world.datagrams()
    quiet_from = time.perf_counter()
    while counted["amount"] < sent and time.perf_counter() < quiet_from + _LOST_S:
        later = world.datagrams()
        if later["amount"] != counted["amount"]:
            quiet_from = time.perf_counter()
        counted = later
        time.sleep(0.002)  # asking costs the counter time
    return int(undamaged(counted, size).amount)


# What has not come by then, with nothing else on its way, does not come.
_LOST_S = 0.03


def undamaged(counted: dict[str, Any], size: int) -> Count:
    if counted["damaged"] or counted["bytes"] != size * counted["amount"]:
        raise LoadError(f"{counted['damaged']} datagrams damaged, {counted['bytes']} bytes in {counted['amount']}")
    return count(counted)


# The ladder: a rate that passes is followed by one so much higher, one that does not by one so much lower; the first
# steps are wide, to find the place, and are not counted. A search by halves believes every hiccup of the machine's.
_WIDE_STEPS = 3
_WIDE, _NARROW = 1.5, 1.15
_PASSES = 0.01  # lost
# What comes later than so long after the last has been sent had piled up in a buffer. A rate that only a buffer takes,
# for the time of a step, is not carried.
_LATE_S = 0.004
_STEP_S = 0.05


class _Saturated(_Datagrams):
    """As many datagrams as go; and besides, from turn to turn, the rate up to which 1 % is lost at most."""

    def __init__(self, world: BenchWorld, running: Running, ours: LoadSession, size: int, *, ladder: bool) -> None:
        super().__init__(
            running,
            lambda: ours.ask("go"),
            lambda: ours.ask("pause"),
            lambda: [undamaged(world.datagrams(), size)],
        )
        self._world = world
        self._ours = ours
        self._size = size
        self._ladder = ladder
        self._rung = 0.0
        self._steps = 0
        self._passed: list[float] = []

    def turn(self, seconds: float) -> None:
        self._world.datagrams("count")
        super().turn(seconds)
        if self._ladder:
            self._step(seconds)

    def _step(self, seconds: float) -> None:
        rate = self._rung = self._rung or self.rate()[0]
        seconds = max(seconds, _STEP_S)
        self._world.datagrams("count")
        sent = self._ours.ask(f"{rate} {seconds}")["sent"]
        time.sleep(_LATE_S)
        arrived = undamaged(self._world.datagrams(), self._size).amount
        counted(self._world, self._size, sent)
        self._steps += 1
        factor = _NARROW if self._steps > _WIDE_STEPS else _WIDE
        if arrived >= sent * (1 - _PASSES):
            self._rung = min(rate, sent / seconds) * factor  # no further ahead of what the sender can
            if self._steps > _WIDE_STEPS:
                self._passed.append(arrived / seconds)
        else:
            self._rung /= factor

    def figures(self) -> Figures:
        figures = super().figures()
        if self._passed:
            figures["lossless_per_s"] = sum(self._passed) / len(self._passed)
        return figures


def saturated(size: int, flows: int, *, segmented: bool = False, ladder: bool = False) -> Begin:
    """From the client to the container; several flows have a client's address each."""
    sources = CLIENT_IPS[:flows] if flows > 1 else []

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        with world.load_session(
            "datagrams", GRACE_S, address=running.address, size=size, sources=sources, segmented=segmented
        ) as ours:
            trial = _Saturated(world, running, ours, size, ladder=ladder)
            world.datagrams("count")
            trial.warm_up(WARM_S)
            yield trial

    return begin


def flood(size: int) -> Begin:
    """As many datagrams as go, from the container to the client."""

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        with world.load_session("sink", GRACE_S, address=running.address, size=size) as ours:

            def go() -> None:
                world.datagrams(f"flood {size}")
                ours.ask("go")

            trial = _Datagrams(
                running, go, lambda: world.datagrams("count"), lambda: [undamaged(ours.ask("read"), size)]
            )
            trial.warm_up(WARM_S)
            yield trial

    return begin
