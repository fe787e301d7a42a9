"""Exchanges, connections and pings, timed by their load program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from bench.peers.peer import Running
from bench.trials.trial import GRACE_S, Begin, Figures, Trial
from bench.world import BenchWorld, LoadSession

# One in a thousand must be one at least.
_TAIL_SAMPLES = 1000


class _Timed(NamedTuple):
    """Exchanges, connections or pings, by a load program that times them."""

    load: LoadSession

    def turn(self, seconds: float) -> None:
        self.load.ask(f"{seconds}")

    def figures(self) -> Figures:
        found: Figures = self.load.ask("figures")
        if found.pop("samples") < _TAIL_SAMPLES:
            del found["p999_us"]
        return found


def timed(what: str, size: int, **more: int) -> Begin:
    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        if what == "ping":
            world.datagrams("echo")
        roots = [process.pid for process in running.processes]
        with world.load_session(what, GRACE_S, address=running.address, size=size, **more, roots=roots) as load:
            yield _Timed(load)

    return begin
