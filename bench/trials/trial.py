"""A trial: a peer under measurement, by turns or all at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from bench.peers.peer import Peer, Running
from bench.world import BenchWorld

Figures = dict[str, float]


class Trial(Protocol):
    """A peer under measurement. LoadError, of both: it has failed, and takes no more turns."""

    def turn(self, seconds: float) -> None:
        """Measure for so long, and leave nothing on its way behind."""

    def figures(self) -> Figures:
        """Of all turns together."""


# Makes a peer's trial; what it needs is gone when the context ends.
Begin = Callable[[BenchWorld, Running], AbstractContextManager[Trial]]
# The same of what starts the peer's command itself.
BeginCommand = Callable[[Peer], AbstractContextManager[Trial]]


class _WithoutTurns(NamedTuple):
    """What takes no turns: all at once, while the other peers have nothing to do."""

    measure: Callable[[], Figures]

    def turn(self, seconds: float) -> None:
        pass

    def figures(self) -> Figures:
        return self.measure()


def without_turns(measure: Callable[[BenchWorld, Running], Figures]) -> Begin:
    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        yield _WithoutTurns(lambda: measure(world, running))

    return begin


# How much longer than it should a load program may take before the peer counts as hung.
GRACE_S = 10


def probe(world: BenchWorld, running: Running, proto: str) -> None:
    """Wait for an answer through a peer that has had no client yet: some load half of themselves only then, and a flood
    meanwhile would find nobody.
    """
    if proto == "udp":
        world.datagrams("echo")
    world.run_load("probe", GRACE_S, proto=proto, address=running.address)
