"""UDP: many datagrams at once, of which some are lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.peers.peer import Running
from bench.trials.datagrams import counted
from bench.trials.trial import Begin, Figures, Trial
from bench.world import BenchWorld


class _Burst:
    def __init__(self, world: BenchWorld, running: Running, size: int, count: int) -> None:
        self._world = world
        self._running = running
        self._size = size
        self._count = count
        self._lost: list[float] = []

    def turn(self, seconds: float) -> None:
        self._world.datagrams("count")
        self._world.run_load("burst", address=self._running.address, size=self._size, count=self._count)
        self._lost.append(1 - counted(self._world, self._size, self._count) / self._count)

    def figures(self) -> Figures:
        return {"lost": sum(self._lost) / len(self._lost)}


def burst(size: int, count: int) -> Begin:
    """So many datagrams at once, each turn."""

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        yield _Burst(world, running, size, count)

    return begin
