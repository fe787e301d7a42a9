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
from bench.peers import QUICK, Peer
from bench.results import Run
from bench.scenarios import FIGURES, Scenario
from bench.stats import ratios
from bench.trials.iperf import IperfError
from bench.trials.trial import Figures, Trial, knock
from bench.world import BenchWorld, LoadError
from tests.lab.namespaces import CommandError

# A peer that dies, hangs, refuses or cheats fails its cell, not the run.
CELL_ERRORS = (LoadError, IperfError, CommandError, subprocess.TimeoutExpired, psutil.Error, OSError)

# After this many failed rounds a peer is not asked again in that scenario.
_ENOUGH_FAILURES = 2

# Rounds in which all are measured, if it is said how many (`--rounds`) or peers are few; else others than pyproxy,
# docker-proxy and direct in fewer (`Scenario.rounds_of_others`), for all to end in the time there is. In further ones
# it is pyproxy and docker-proxy alone: the ratio between them is what is quoted most.
LEAST_ROUNDS = 5
_FEW_PEERS = 5
# A quick run is to end within two minutes.
_LEAST_ROUNDS_QUICK = 3
_PAIR = ("pyproxy", "docker-proxy")

# By then the ratios are certain, or the machine does not let them be.
_MOST_ROUNDS = 20

# Further rounds go on until the interval of each primary ratio reaches this far at most, which is less than it takes to
# be told (`stats.CERTAIN`): it may look narrow by chance. That of the others a quarter further.
_AIM = 0.08
_PRIMARY_COUNTS = 1.25

# They begin only if they can end by then.
_BUDGET_S = 11 * 60
_BUDGET_QUICK_S = 105

# Of a scenario's turns direct has one in so many, and other peers, of whom there are many.
_ONE_IN_OF_DIRECT = 2
_ONE_IN = 4

_FIRST_PORT = 9000

# A scenario's round during which other programs took more than this share of a processor is made again, so many times
# at most. Ticks are of 10 ms, and one or two must not look like a disturbance.
_DISTURBED = 0.15
_TRIES = 3


def takes_part(run: Run, scenario: Scenario, peer: str, number: int) -> bool:
    """Whether a peer is measured in round `number`, from 0."""
    if peer in _PAIR:
        return True
    in_all = peer in QUICK or run.rounds is not None or len(run.peers) <= _FEW_PEERS
    return number < (_least(run) if in_all else min(_least(run), scenario.rounds_of_others))


def rounds_of_all(run: Run, scenario: Scenario) -> int:
    """How many rounds a scenario has with all others, in turn."""
    if run.rounds is None:
        return min(_least(run), scenario.most_rounds)
    return min(run.rounds, max(LEAST_ROUNDS, scenario.most_rounds))


def least_certain(run: Run, scenarios: Sequence[Scenario], left_s: float) -> Scenario | None:
    """Which scenario is to have a further round, of those that take no longer than is left; None: none needs one.

    That looks at what it waits for, and so finds some certain a little too early; bench/NOTES.md says how often two
    runs agree.
    """
    if run.rounds is not None:
        return None
    found = [
        (_doubt(run, scenario), -_rounds_so_far(run, scenario), scenario)
        for scenario in scenarios
        if _rounds_so_far(run, scenario) < min(_MOST_ROUNDS, scenario.most_rounds)
        and run.took_s[scenario.name][-1] <= left_s
    ]
    doubt, _, scenario = max(found, key=lambda each: each[:2], default=(0.0, 0, None))
    return scenario if doubt > _AIM else None


def _doubt(run: Run, scenario: Scenario) -> float:
    """How far the least certain of pyproxy's ratios to docker-proxy reaches."""
    ours, base = _PAIR
    doubts = [0.0]
    for figure in scenario.figures:
        summary = ratios(run.values(scenario.name, ours, figure), run.values(scenario.name, base, figure))
        if summary is not None and not FIGURES[figure].is_extreme:
            doubts.append(summary.reach / (1 if figure in scenario.primary else _PRIMARY_COUNTS))
    return max(doubts)


def _rounds_so_far(run: Run, scenario: Scenario) -> int:
    return len(next(iter(run.cells[scenario.name].values()), ()))


def _least(run: Run) -> int:
    return _LEAST_ROUNDS_QUICK if run.quick else LEAST_ROUNDS


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
                bar.update(task, total=(bar.tasks[0].total or 0) + len(_PAIR))
                measure(scenario_or_none, _rounds_so_far(run, scenario_or_none))
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
        began, used = time.perf_counter(), usage.strangers()
        found, errors = measure_round(world, scenario, peers, run.seconds)
        if usage.strangers() - used <= _DISTURBED * (time.perf_counter() - began):
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
        if scenario.apart:
            stack.enter_context(world.apart())
        runners = {peer.name: stack.enter_context(_Runner()) for peer in peers}
        for number, peer in enumerate(peers):
            runners[peer.name].begin(world, scenario, peer, _FIRST_PORT + number)
        for turn in range(scenario.turns):
            for name in turns_order(list(runners), turn):
                if turn % _one_in(name) == 0:
                    runners[name].turn(seconds * scenario.longer)
        for name, runner in runners.items():
            if (figures := runner.figures()) is not None:
                found[name] = figures
    errors = {name: runner.error for name, runner in runners.items() if runner.error is not None}
    return {name: figures for name, figures in found.items() if name not in errors}, errors


def _one_in(peer: str) -> int:
    if peer in _PAIR:
        return 1
    return _ONE_IN_OF_DIRECT if peer in QUICK else _ONE_IN


def turns_order(names: Sequence[str], turn: int) -> list[str]:
    """Each is first in turn; and every second turn goes backwards, so that who follows whom is not always the same: to
    the next one goes what one leaves behind.
    """
    first = turn // 2 % len(names)
    order = [*names[first:], *names[:first]]
    return order[::-1] if turn % 2 else order


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
    running = stack.enter_context(peer.before(world, scenario.proto, port, scenario.container_port))
    if scenario.proto == "udp":
        knock(world, running, scenario.proto)
    return stack.enter_context(scenario.begin(world, running))
