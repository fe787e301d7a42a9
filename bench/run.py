"""A run: round by round, scenario by scenario, turn by turn.

A round takes all scenarios in turn. In each it starts all peers anew, and then they take short turns, A B C, C B A,
B C A and so on (`turns_order`; bench/trials/ says why). Turns take what the machine does out of the ratios; rounds
differ by what runs differ by, a process's own luck: where its memory lies, which processor it got. So the spread of
rounds says how far another run may be off. The time that is left after those that all have goes to the scenarios whose
ratios are least certain, one after the other.

The world is the same for all rounds. To take down namespaces keeps a processor busy for seconds after they have gone.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import results, usage
from bench.peers.peer import Peer
from bench.results import Run
from bench.rounds import PAIR, least_certain, one_in, rounds_of_all, rounds_so_far, takes_part, turns_order
from bench.scenarios import Scenario
from bench.trials.iperf import IperfError
from bench.trials.trial import Figures, Trial, probe
from bench.world import BenchWorld, LoadError
from tests.lab.namespaces import CommandError

# A peer that dies, hangs, refuses or cheats fails its cell, not the run.
CELL_ERRORS = (LoadError, IperfError, CommandError, subprocess.TimeoutExpired, psutil.Error, OSError)

# After this many failed rounds a peer is not asked again in that scenario.
_ENOUGH_FAILURES = 2

# Further rounds begin only if they can end by then.
_BUDGET_S = 11 * 60
_BUDGET_QUICK_S = 105

_FIRST_PORT = 9000

# A scenario's round during which other programs took more than this share of a processor is made again, so many times
# at most. Ticks are of 10 ms, and one or two must not look like a disturbance.
_DISTURBED = 0.15
_TRIES = 3


def measure_all(run: Run, scenarios: Sequence[Scenario], peers: Sequence[Peer], path: Path) -> None:
    """Fill `run`, and write it to `path` after each round. Ctrl-C ends it with what is done so far."""
    bar = Progress(
        TextColumn("{task.description:48}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    for scenario in scenarios:
        run.cells[scenario.name] = {peer.name: [] for peer in peers if scenario.fits(peer)}
    until = time.perf_counter() + (_BUDGET_QUICK_S if run.quick else _BUDGET_S)
    with BenchWorld() as world, bar:
        task = bar.add_task("", total=sum(_cells(run, each, peers) for each in scenarios))

        def measure(scenario: Scenario, number: int) -> None:
            taking_part = _begin_round(run, scenario, peers, number)
            bar.update(task, description=scenario.name)
            began = time.perf_counter()
            for name, figures in _undisturbed(run, world, scenario, taking_part).items():
                run.cells[scenario.name][name][-1] = figures
            run.took_s.setdefault(scenario.name, []).append(round(time.perf_counter() - began, 1))
            bar.advance(task, len(taking_part))

        try:
            for number in itertools.count():
                wanted = [each for each in scenarios if number < rounds_of_all(run, each)]
                if not wanted:
                    break
                for scenario in wanted:
                    measure(scenario, number)
                results.write(run, path)
            while (scenario_or_none := least_certain(run, scenarios, until - time.perf_counter())) is not None:
                # The bar counts them as they come.
                bar.update(task, total=(bar.tasks[0].total or 0) + len(PAIR))
                measure(scenario_or_none, rounds_so_far(run, scenario_or_none))
                results.write(run, path)
        except KeyboardInterrupt:
            run.interrupted = True
            results.write(run, path)


def _cells(run: Run, scenario: Scenario, peers: Sequence[Peer]) -> int:
    return sum(
        takes_part(run, scenario, peer.name, number)
        for peer in peers
        if scenario.fits(peer)
        for number in range(rounds_of_all(run, scenario))
    )


def _begin_round(run: Run, scenario: Scenario, peers: Sequence[Peer], number: int) -> list[Peer]:
    """Those that take part, in their order. In the results all have a place for it, so that rounds correspond."""
    taking_part = [
        peer
        for peer in peers
        if scenario.fits(peer)
        and takes_part(run, scenario, peer.name, number)
        and run.cells[scenario.name][peer.name].count(None) < _ENOUGH_FAILURES
    ]
    for cells in run.cells[scenario.name].values():
        cells.append(None)
    first = number % max(1, len(taking_part))
    return [*taking_part[first:], *taking_part[:first]]


def _undisturbed(run: Run, world: BenchWorld, scenario: Scenario, peers: Sequence[Peer]) -> dict[str, Figures | None]:
    """A scenario's round; made again if other programs were busy meanwhile. None for a peer that failed."""
    for _ in range(_TRIES):
        began, used = time.perf_counter(), usage.others_cpu()
        found, errors = measure_round(world, scenario, peers, run.seconds)
        if usage.others_cpu() - used <= _DISTURBED * (time.perf_counter() - began):
            break
    else:
        run.disturbed += 1
    for name, exc in errors.items():
        run.errors.setdefault(scenario.name, {})[name] = f"{type(exc).__name__}: {exc}"
    return {peer.name: found.get(peer.name) for peer in peers}


def measure_round(
    world: BenchWorld, scenario: Scenario, peers: Sequence[Peer], seconds: float
) -> tuple[dict[str, Figures], dict[str, Exception]]:
    """All peers started, measured in turns, ended: their figures, and one of CELL_ERRORS of each that failed."""
    found: dict[str, Figures] = {}
    with contextlib.ExitStack() as stack:
        if scenario.pinned:
            stack.enter_context(world.pinned())
        runners = {peer.name: stack.enter_context(_Runner()) for peer in peers}
        for number, peer in enumerate(peers):
            runners[peer.name].begin(world, scenario, peer, _FIRST_PORT + number)
        for turn in range(scenario.turns):
            for name in turns_order(list(runners), turn):
                if turn % one_in(name) == 0:
                    runners[name].turn(seconds * scenario.longer)
        for name, runner in runners.items():
            if (figures := runner.figures()) is not None:
                found[name] = figures
    errors = {name: runner.error for name, runner in runners.items() if runner.error is not None}
    return {name: figures for name, figures in found.items() if name not in errors}, errors


class _Runner:
    """A peer's part in a round, from its start to its end, which is at once if it fails. Use as a context manager."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._stack = contextlib.ExitStack()
        self._trial: Trial | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._failing():  # what goes wrong when it is ended is its own fault too
            self._stack.close()

    def begin(self, world: BenchWorld, scenario: Scenario, peer: Peer, port: int) -> None:
        with self._failing():
            self._trial = _begin(self._stack, world, scenario, peer, port)

    def turn(self, seconds: float) -> None:
        if self.error is None and self._trial is not None:
            with self._failing():
                self._trial.turn(seconds)

    def figures(self) -> Figures | None:
        if self.error is None and self._trial is not None:
            with self._failing():
                return self._trial.figures()
        return None

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except CELL_ERRORS as exc:
            if (interrupt := _interrupt_behind(exc)) is not None:
                raise interrupt from None
            first = self.error is None
            self.error = self.error or exc
            if first:  # it must not go on beside the others
                with self._failing():
                    self._stack.close()


def _interrupt_behind(exc: BaseException | None) -> KeyboardInterrupt | None:
    """Ctrl-C, if what is raised now came up while it was on its way."""
    while exc is not None:
        if isinstance(exc, KeyboardInterrupt):
            return exc
        exc = exc.__context__
    return None


def _begin(stack: contextlib.ExitStack, world: BenchWorld, scenario: Scenario, peer: Peer, port: int) -> Trial:
    if scenario.begin_command is not None:
        return stack.enter_context(scenario.begin_command(peer))
    assert scenario.begin is not None
    running = stack.enter_context(peer.serving(world, scenario.proto, port, scenario.container_port))
    if scenario.proto == "udp":
        probe(world, running, scenario.proto)
    return stack.enter_context(scenario.begin(world, running))
