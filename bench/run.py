"""A run: scenario by scenario, round by round, peer by peer, so that what disturbs the machine disturbs all alike.

The peers of a scenario are started before its first round and ended after its last. Between its turns a peer only
waits. Each round begins with another of them, as who comes first may find the machine in another state than who comes
third.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import results, usage
from bench.iperf import IperfError
from bench.peers import Peer, Running
from bench.results import Run
from bench.scenarios import Figures, Scenario, knock
from bench.stats import ratios
from bench.world import BenchWorld, LoadError
from tests.lab.namespaces import CommandError

# A peer that dies, hangs, refuses or cheats fails its cell, not the run.
CELL_ERRORS = (LoadError, IperfError, CommandError, subprocess.TimeoutExpired, psutil.Error, OSError)

# After this many failed rounds a peer is not asked again in that scenario.
_ENOUGH_FAILURES = 2

# Rounds in which every peer is measured. In further ones it is pyproxy and docker-proxy: the ratio between them is what
# is quoted most, and what the rounds are for.
ROUNDS_OF_ALL = 5
_PAIR = ("pyproxy", "docker-proxy")

# And those in which a scenario's further figures are measured, which take longest of all.
_ROUNDS_OF_FURTHER = 3

# By then the ratios are certain, or the machine does not let them be.
_MOST_ROUNDS = 14
_MOST_ROUNDS_QUICK = 10

_FIRST_PORT = 9000

# A measurement during which other programs took more than this share of a processor is made again, so many times at
# most. Ticks are of 10 ms, and one or two in a measurement must not look like a disturbance.
_DISTURBED = 0.15
_TRIES = 3


def takes_part(peer: str, number: int) -> bool:
    """Whether a peer is measured in round `number`, from 0."""
    return number < ROUNDS_OF_ALL or peer in _PAIR


def goes_on(run: Run, scenario: Scenario, number: int) -> bool:
    """Whether there is to be a round `number`, from 0, after what has been measured so far.

    With no fixed number of rounds, until pyproxy's ratios to docker-proxy are certain. That looks at what it waits for,
    and so finds some certain a little too early; bench/NOTES.md says how often two runs agree.
    """
    if number >= scenario.most_rounds:
        return False
    if run.rounds is not None:
        return number < run.rounds
    if number < ROUNDS_OF_ALL:
        return True
    if number >= (_MOST_ROUNDS_QUICK if run.quick else _MOST_ROUNDS):
        return False
    ours, base = _PAIR
    found = [
        ratios(run.values(scenario.name, ours, figure), run.values(scenario.name, base, figure))
        for figure in scenario.primary
    ]
    return any(summary is not None and not summary.is_certain for summary in found)


def measure_all(run: Run, scenarios: Sequence[Scenario], peers: Sequence[Peer], path: Path) -> None:
    """Fill `run`, and write it to `path` after each scenario. Ctrl-C ends it with what is done so far."""
    bar = Progress(
        TextColumn("{task.description:48}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with BenchWorld() as world, bar:
        # Counted as if each scenario needed the least rounds: more of them lengthen it when they come.
        task = bar.add_task("", total=sum(_least_rounds(run, s) * _fitting(s, peers) for s in scenarios))
        try:
            for scenario in scenarios:
                fitting = [peer for peer in peers if scenario.fits(peer)]
                run.cells[scenario.name] = {peer.name: [] for peer in fitting}
                with Field(world, scenario, fitting, run.seconds) as field:
                    field.start(fitting)
                    number = 0
                    while goes_on(run, scenario, number):
                        taking_part = [peer for peer in fitting if takes_part(peer.name, number)]
                        if number >= _least_rounds(run, scenario):
                            bar.update(task, total=(bar.tasks[0].total or 0) + len(taking_part))
                        cells = run.cells[scenario.name]
                        for rounds in cells.values():
                            rounds.append(None)
                        for peer in _rotated(taking_part, number):
                            bar.update(task, description=f"{scenario.name} {peer.name}")
                            cells[peer.name][-1] = _cell(run, field, scenario, peer, number)
                            bar.advance(task)
                        number += 1
                results.write(run, path)
        except KeyboardInterrupt:
            run.interrupted = True
            results.write(run, path)


def _least_rounds(run: Run, scenario: Scenario) -> int:
    return min(run.rounds or ROUNDS_OF_ALL, scenario.most_rounds)


def _fitting(scenario: Scenario, peers: Sequence[Peer]) -> int:
    return sum(scenario.fits(peer) for peer in peers)


def _rotated(peers: Sequence[Peer], number: int) -> list[Peer]:
    first = number % max(1, len(peers))
    return [*peers[first:], *peers[:first]]


def _cell(run: Run, field: Field, scenario: Scenario, peer: Peer, number: int) -> Figures | None:
    """None if it failed, or has failed often enough."""
    failed = sum(cell is None for cell in run.cells[scenario.name][peer.name][:number])
    if failed >= _ENOUGH_FAILURES:
        return None
    try:
        for _ in range(_TRIES):
            began, used = time.perf_counter(), usage.strangers()
            found = field.measure(peer, besides=number < _ROUNDS_OF_FURTHER and not run.quick)
            if usage.strangers() - used <= _DISTURBED * (time.perf_counter() - began):
                return found
        run.disturbed += 1
        return found
    except CELL_ERRORS as exc:
        run.errors.setdefault(scenario.name, {})[peer.name] = f"{type(exc).__name__}: {exc}"
        return None


class Field:
    """The peers of a scenario, those that run. Use as a context manager; leaving it ends them all."""

    def __init__(self, world: BenchWorld, scenario: Scenario, peers: Sequence[Peer], seconds: float) -> None:
        self._world = world
        self._scenario = scenario
        self._seconds = seconds
        self._ports = {peer.name: _FIRST_PORT + index for index, peer in enumerate(peers)}
        self._running: dict[str, tuple[Running, contextlib.ExitStack]] = {}
        self._stays = scenario.measure is not None and not scenario.fresh

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _running, stack in self._running.values():
            stack.close()

    def start(self, peers: Sequence[Peer]) -> None:
        """Those that stay for all rounds. One that does not start is tried again when it is its turn."""
        for peer in peers if self._stays else ():
            with contextlib.suppress(*CELL_ERRORS):
                self._start(peer)

    def measure(self, peer: Peer, *, besides: bool) -> Figures:
        """One cell. Raises one of CELL_ERRORS, and has then ended the peer, which is started again for the next."""
        if self._scenario.measure_command is not None:
            return self._scenario.measure_command(peer, self._seconds)
        if peer.name not in self._running:
            self._start(peer)
        running, _ = self._running[peer.name]
        try:
            found = self._measured(running, besides=besides)
        except CELL_ERRORS:
            self._end(peer)
            raise
        if not self._stays:
            self._end(peer)
        return found

    def _measured(self, running: Running, *, besides: bool) -> Figures:
        assert self._scenario.measure is not None
        found = self._scenario.measure(self._world, running, self._seconds)
        if besides and self._scenario.besides is not None:
            found |= self._scenario.besides(self._world, running, self._seconds, found)
        return found

    def _start(self, peer: Peer) -> None:
        """And warm up: processes started, modules imported, code and tables in caches."""
        stack = contextlib.ExitStack()
        port = self._ports[peer.name]
        before = peer.before(self._world, self._scenario.proto, port, self._scenario.container_port)
        self._running[peer.name] = stack.enter_context(before), stack
        if self._stays:
            assert self._scenario.measure is not None
            running = self._running[peer.name][0]
            try:
                if self._scenario.proto == "udp":
                    knock(self._world, running)
                self._scenario.measure(self._world, running, min(self._seconds, _WARM_UP_S))
            except CELL_ERRORS:
                self._end(peer)
                raise

    def _end(self, peer: Peer) -> None:
        self._running.pop(peer.name)[1].close()


_WARM_UP_S = 0.05


def measure_once(world: BenchWorld, scenario: Scenario, peer: Peer, seconds: float) -> Figures:
    """One cell by itself. Raises one of CELL_ERRORS."""
    with Field(world, scenario, [peer], seconds) as field:
        return field.measure(peer, besides=True)
