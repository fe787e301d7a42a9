"""What a reader must know besides the figures: what they are, on what machine, what failed. Pure."""

from __future__ import annotations

from bench.report.rows import LIMIT
from bench.results import Run
from bench.scenarios import SCENARIOS
from bench.stats import CERTAIN, summarize


def legend(run: Run) -> str:
    """What the numbers are."""
    rounds = sorted({len(by_peer) for cells in run.cells.values() for by_peer in cells.values()})
    span = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else f"{rounds[0] if rounds else 0}"
    return (
        f"medians of {span} rounds in one run, in brackets the interval that holds the true median about 9 times in 10;"
        f" only that, with a `?`, where it reaches further than {CERTAIN:.0%} from the median or rounds are fewer than"
        " five: another run may find another place within it"
    )


def circumstances(run: Run) -> list[str]:
    """On what machine it was, and by which versions."""
    m = run.machine
    lines = [
        f"{m['cpu']}, {m['cores']} cores, Linux {m['kernel']}, TCP {m['congestion_control']}, Python {m['python']},"
        f" uvloop {m['uvloop']}; commit {m['commit']}{' with changes' if m['changed'] else ''}; `{run.command}`."
    ]
    if versions := [f"{peer}: {version}" for peer, version in run.peers.items() if version]:
        lines.append(f"Versions: {'; '.join(versions)}.")
    return lines


def remarks(run: Run) -> list[str]:
    """What a reader must know besides: the circumstances, what failed, what was left out."""
    lines = circumstances(run)
    if run.disturbed:
        lines.append(f"Disturbed by other programs: {run.disturbed} measurements, each made three times.")
    if run.interrupted:
        lines.append("Interrupted: what is missing was not measured.")
    lines += [f"Skipped: {peer}: {why}." for peer, why in run.skipped.items()]
    for scenario in SCENARIOS:
        if "held" in scenario.figures and scenario.family == "idle":
            for peer in run.cells.get(scenario.name, ()):
                held = summarize(run.values(scenario.name, peer, "held"))
                most = summarize(run.values(scenario.name, LIMIT, "held"))
                if held is not None and most is not None and held.median < most.median:
                    lines.append(
                        f"Fewer: {scenario.name}: {peer} holds {held.median:,.0f}; a process may open"
                        f" {run.machine['descriptors']:,} files here."
                    )
    for name, peers in run.errors.items():
        lines += [f"Failed: {name}: {peer}: {why}" for peer, why in peers.items()]
    return lines


def failures(run: Run) -> list[str]:
    """Who failed where, in a line each for the README."""
    found = [f"- {scenario}: {', '.join(peers)} failed." for scenario, peers in run.errors.items()]
    return [*found, ""] if found else []
