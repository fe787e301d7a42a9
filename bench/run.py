"""A run: round by round, scenario by scenario, peer by peer.

A round takes all scenarios in turn and starts each peer anew for each measurement. So rounds differ by what runs differ
by: a process's own luck (where its memory lies, which processor it got), and what the machine does meanwhile; and the
spread of rounds says how far another run may be off. Peers alternate within a scenario, and each round begins with
another of them.

The world is the same for all rounds. To take down namespaces keeps a processor busy for seconds after they have gone.
"""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import results, usage
from bench.iperf import IperfError
from bench.peers import QUICK, Peer
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
_MOST_ROUNDS = 20

# Further rounds than those of all peers begin only if they can end by then.
_BUDGET_S = 12 * 60
_BUDGET_QUICK_S = 105

_FIRST_PORT = 9000

# A measurement during which other programs took more than this share of a processor is made again, so many times at
# most. Ticks are of 10 ms, and one or two in a measurement must not look like a disturbance.
_DISTURBED = 0.15
_TRIES = 3


def takes_part(scenario: Scenario, peer: str, number: int) -> bool:
    """Whether a peer is measured in round `number`, from 0."""
    if peer in _PAIR:
        return True
    return number < (ROUNDS_OF_ALL if peer in QUICK else min(ROUNDS_OF_ALL, scenario.rounds_of_others))


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
    if number >= _MOST_ROUNDS:
        return False
    ours, base = _PAIR
    found = [
        ratios(run.values(scenario.name, ours, figure), run.values(scenario.name, base, figure))
        for figure in scenario.primary
    ]
    return any(summary is not None and not summary.is_certain for summary in found)


def is_time_left(run: Run, number: int, elapsed_s: float, last_s: float) -> bool:
    """Whether round `number`, from 0, may begin, if it takes as long as the last one of its kind."""
    if run.rounds is not None or number < ROUNDS_OF_ALL:
        return True
    return elapsed_s + last_s <= (_BUDGET_QUICK_S if run.quick else _BUDGET_S)


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
    began = time.perf_counter()
    with BenchWorld() as world, bar:
        # Counted as if each scenario needed the least rounds: more of them lengthen it when they come.
        task = bar.add_task("", total=sum(_cells(run, each, peers) for each in scenarios))
        try:
            lasted = 0.0
            for number in itertools.count():
                round_began = time.perf_counter()
                wanted = [each for each in scenarios if goes_on(run, each, number)]
                if not wanted or not is_time_left(run, number, round_began - began, lasted):
                    break
                if number >= ROUNDS_OF_ALL:
                    bar.update(task, total=(bar.tasks[0].total or 0) + len(wanted) * len(_PAIR))
                for scenario in wanted:
                    for peer in _begin_round(run, scenario, peers, number):
                        bar.update(task, description=f"{scenario.name} {peer.name}")
                        port = _FIRST_PORT + peers.index(peer)
                        run.cells[scenario.name][peer.name][-1] = _cell(run, world, scenario, peer, port)
                        bar.advance(task)
                results.write(run, path)
                if number >= ROUNDS_OF_ALL:  # earlier ones are longer
                    lasted = time.perf_counter() - round_began
        except KeyboardInterrupt:
            run.interrupted = True
            results.write(run, path)


def _cells(run: Run, scenario: Scenario, peers: Sequence[Peer]) -> int:
    rounds = min(run.rounds or ROUNDS_OF_ALL, scenario.most_rounds)
    return sum(
        takes_part(scenario, peer.name, number) for peer in peers if scenario.fits(peer) for number in range(rounds)
    )


def _begin_round(run: Run, scenario: Scenario, peers: Sequence[Peer], number: int) -> list[Peer]:
    """Those that take part, in their order. In the results all have a place for it, so that rounds correspond."""
    for cells in run.cells[scenario.name].values():
        cells.append(None)
    taking_part = [peer for peer in peers if scenario.fits(peer) and takes_part(scenario, peer.name, number)]
    first = number % max(1, len(taking_part))
    return [*taking_part[first:], *taking_part[:first]]


def _cell(run: Run, world: BenchWorld, scenario: Scenario, peer: Peer, port: int) -> Figures | None:
    """None if it failed, or has failed often enough."""
    *before, _ = run.cells[scenario.name][peer.name]
    if before.count(None) >= _ENOUGH_FAILURES:
        return None
    besides = len(before) < _ROUNDS_OF_FURTHER and not run.quick
    try:
        for _ in range(_TRIES):
            began, used = time.perf_counter(), usage.strangers()
            found = measure_once(world, scenario, peer, run.seconds, port=port, besides=besides)
            if usage.strangers() - used <= _DISTURBED * (time.perf_counter() - began):
                return found
        run.disturbed += 1
        return found
    except CELL_ERRORS as exc:
        run.errors.setdefault(scenario.name, {})[peer.name] = f"{type(exc).__name__}: {exc}"
        return None


def measure_once(
    world: BenchWorld, scenario: Scenario, peer: Peer, seconds: float, *, port: int = _FIRST_PORT, besides: bool = True
) -> Figures:
    """One cell: the peer started, measured, ended. Raises one of CELL_ERRORS."""
    if scenario.measure_command is not None:
        return scenario.measure_command(peer, seconds)
    assert scenario.measure is not None
    with peer.before(world, scenario.proto, port, scenario.container_port) as running:
        if scenario.proto == "udp":
            knock(world, running)
        found = scenario.measure(world, running, seconds)
        if besides and scenario.besides is not None:
            found |= scenario.besides(world, running, seconds, found)
        return found
