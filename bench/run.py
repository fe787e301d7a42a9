"""A run: scenario by scenario, round by round, peer by peer, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import results
from bench.iperf import IperfError
from bench.peers import QUICK, Peer
from bench.results import Run
from bench.scenarios import Figures, Scenario
from bench.world import BenchWorld, LoadError
from tests.lab.namespaces import CommandError

# A peer that dies, hangs, refuses or cheats fails its cell, not the run.
CELL_ERRORS = (LoadError, IperfError, CommandError, subprocess.TimeoutExpired, psutil.Error, OSError)

# After this many failed rounds a peer is not asked again in that scenario.
_ENOUGH_FAILURES = 2


# Rounds in which every peer is measured. In further ones, and in the scenarios of a quick run only, it is pyproxy,
# docker-proxy and direct: what is quoted most are the ratios between them, and a median of twice as many is steadier.
_ROUNDS_OF_ALL = 5


def takes_part(peer: str, scenario: Scenario, number: int) -> bool:
    """Whether a peer is measured in round `number`, from 0."""
    return number < min(_ROUNDS_OF_ALL, scenario.most_rounds) or (
        peer in QUICK and scenario.quick and number < scenario.most_rounds
    )


def measure_all(run: Run, scenarios: Sequence[Scenario], peers: Sequence[Peer], path: Path) -> None:
    """Fill `run`, and write it to `path` after each scenario. Ctrl-C ends it with what is done so far."""
    bar = Progress(
        TextColumn("{task.description:48}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    cells = sum(
        scenario.fits(peer) and takes_part(peer.name, scenario, number)
        for scenario in scenarios
        for peer in peers
        for number in range(run.rounds)
    )
    with BenchWorld() as world, bar:
        task = bar.add_task("", total=cells)
        try:
            for scenario in scenarios:
                fitting = [peer for peer in peers if scenario.fits(peer)]
                run.cells[scenario.name] = {peer.name: [] for peer in fitting}
                for number in range(run.rounds):
                    for peer in fitting:
                        if not takes_part(peer.name, scenario, number):
                            run.cells[scenario.name][peer.name].append(None)
                            continue
                        bar.update(task, description=f"{scenario.name} {peer.name}")
                        _measure_cell(run, world, scenario, peer)
                        bar.advance(task)
                results.write(run, path)
        except KeyboardInterrupt:
            run.interrupted = True
            results.write(run, path)


def _measure_cell(run: Run, world: BenchWorld, scenario: Scenario, peer: Peer) -> None:
    rounds = run.cells[scenario.name][peer.name]
    failures = sum(cell is None and takes_part(peer.name, scenario, number) for number, cell in enumerate(rounds))
    if failures >= _ENOUGH_FAILURES:
        rounds.append(None)
        return
    try:
        rounds.append(measure_once(world, scenario, peer, run.seconds))
    except CELL_ERRORS as exc:
        rounds.append(None)
        run.errors.setdefault(scenario.name, {})[peer.name] = f"{type(exc).__name__}: {exc}"


def measure_once(world: BenchWorld, scenario: Scenario, peer: Peer, seconds: float) -> Figures:
    """One cell. Raises one of CELL_ERRORS."""
    if scenario.measure_command is not None:
        return scenario.measure_command(peer, seconds)
    assert scenario.measure is not None
    with peer.before(world, scenario.proto, scenario.container_port) as running:
        return scenario.measure(world, running, seconds)
