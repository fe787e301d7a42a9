"""A run, shown: a table for the terminal, the same in Markdown, and plots."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.results import Run
from bench.scenarios import FIGURES, SCENARIOS, Figure, Scenario
from bench.stats import CERTAIN, Summary, is_noisy, ratios, summarize

BASE = "docker-proxy"
LIMIT = "direct"

SECTION_BEGIN = "<!-- figures: begin -->"
SECTION_END = "<!-- figures: end -->"

# The README's ten rows, as scenario and figure: what users ask for first, the worst of them included.
README_ROWS = (
    ("tcp-bulk-up-1", "bits_per_s"),
    ("tcp-bulk-up-1", "cpu_s_per_gb"),
    ("tcp-exchange-64-1", "p50_us"),
    ("tcp-exchange-64-100", "per_s"),
    ("tcp-connect", "per_s"),
    ("udp-bulk-64-1", "delivered_per_s"),
    ("udp-burst", "lost"),
    ("idle-1000", "pss_each"),
    ("ports-1000", "publish_s"),
    ("ports-1000", "pss_each"),
)
README_PEERS = ("pyproxy", "pyproxy-engine", "direct", "nginx", "haproxy")


class Row(NamedTuple):
    """A figure of a peer in a scenario."""

    scenario: Scenario
    name: str
    figure: Figure
    peer: str
    value: Summary
    to_base: Summary | None
    to_limit: Summary | None
    noisy: bool


def rows(run: Run, *, first_figures: bool = False) -> Iterator[Row]:
    """Every figure that was measured, in the order of the scenarios; only each scenario's first, if so asked."""
    for scenario in SCENARIOS:
        if scenario.name not in run.cells:
            continue
        for name in scenario.figures[:1] if first_figures else scenario.figures:
            base, limit = (run.values(scenario.name, peer, name) for peer in (BASE, LIMIT))
            figure = FIGURES[name]
            for peer in run.cells[scenario.name]:
                values = run.values(scenario.name, peer, name)
                value = summarize(values)
                if value is not None:
                    to_base, to_limit = (
                        (None, None) if figure.is_extreme else (ratios(values, base), ratios(values, limit))
                    )
                    yield Row(scenario, name, figure, peer, value, to_base, to_limit, is_noisy(limit))


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0:
        return "0"
    digits = 3
    magnitude = abs(value)
    while magnitude >= 10 and digits > 1:
        magnitude /= 10
        digits -= 1
    while magnitude < 1:
        magnitude *= 10
        digits += 1
    return f"{value:,.{digits - 1}f}"


def ratio(summary: Summary | None) -> str:
    """`1.23 (1.20-1.31)`; where it is not certain how far it may reach, `0.58-1.20?`; of one round, `1.23 (once)`."""
    if summary is None:
        return ""
    if summary.low == summary.high == 1:
        return "1"
    if summary.rounds == 1:
        return f"{summary.median:.2f} (once)"
    if not summary.is_certain:
        return f"{summary.low:.2f}-{summary.high:.2f}?"
    return f"{summary.median:.2f} ({summary.low:.2f}-{summary.high:.2f})"


def legend(run: Run) -> str:
    """What the numbers are."""
    rounds = sorted({len(by_peer) for cells in run.cells.values() for by_peer in cells.values()})
    span = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else f"{rounds[0] if rounds else 0}"
    return (
        f"medians of {span} rounds in one run, in brackets the interval that holds the true median about 9 times in 10;"
        f" only that, with a `?`, where it reaches further than {CERTAIN:.0%} from the median or rounds are fewer than"
        " five: another run may find another place within it"
    )


def print_table(run: Run, console: Console) -> None:
    """A small table for each scenario, to fit a terminal of 80 columns."""
    console.print(f"Ratios round by round: {legend(run)}.", markup=False)
    by_scenario: dict[str, list[Row]] = {}
    for row in rows(run):
        by_scenario.setdefault(row.scenario.name, []).append(row)
    for found in by_scenario.values():
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("figure", width=18)
        table.add_column("peer", no_wrap=True, width=15)
        for heading in ("median", f"to {BASE}", f"to {LIMIT}"):
            table.add_column(heading, justify="right", no_wrap=True)
        last = ""
        for row in found:
            words = f"{row.figure.words} {'↑' if row.figure.more_is_better else '↓'}"
            table.add_row(
                words if words != last else "",
                Text(row.peer, "bold" if row.peer.startswith("pyproxy") else ""),
                f"{number(row.value.median * row.figure.scale)} {row.figure.unit}".strip(),
                ratio(row.to_base),
                f"{row.to_limit.median:.2f}" if row.to_limit is not None else "",
            )
            last = words
        noisy = " (noisy: direct itself moved by more than 30 %)" if any(row.noisy for row in found) else ""
        console.print(f"\n[bold]{found[0].scenario.words}[/bold]{noisy}")
        console.print(table)
    console.print("\n↑ more is better, ↓ less is better")
    for line in remarks(run):
        console.print(line, markup=False, emoji=False)


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
    """Who failed where, in a line each."""
    found = [f"- {scenario}: {', '.join(peers)} failed." for scenario, peers in run.errors.items()]
    return [*found, ""] if found else []


def markdown(run: Run) -> str:
    """The whole table."""
    lines = [
        "| scenario | figure | peer | median | to docker-proxy | to direct |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows(run):
        unit = f" {row.figure.unit}" if row.figure.unit else ""
        value = number(row.value.median * row.figure.scale) + unit
        words = row.scenario.words + (" (noisy)" if row.noisy else "")
        better = "more" if row.figure.more_is_better else "less"
        cells = [
            words,
            f"{row.figure.words}, {better} is better",
            row.peer,
            value,
            ratio(row.to_base),
            ratio(row.to_limit),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in remarks(run)), ""])


def readme_section(run: Run) -> str:
    """The README's table: `README_ROWS` of `README_PEERS`, as ratios to docker-proxy's."""
    peers = [peer for peer in README_PEERS if peer in run.peers]
    base = run.peers.get(BASE, "")
    return "\n".join(
        [
            f"Ratios to docker-proxy{f' ({base})' if base else ''}:",
            "",
            *_ratio_table(run, peers, README_ROWS),
            "",
        ]
    )


def benchmark_section(run: Run, source: str) -> str:
    """The whole table, for docs/benchmark.md: the first two figures of each scenario, as ratios to docker-proxy's."""
    peers = [peer for peer in run.peers if peer not in (BASE, "pyproxy-asyncio")]
    wanted = [(scenario.name, name) for scenario in SCENARIOS for name in scenario.figures[:2]]
    return "\n".join(
        [
            f"Ratios to docker-proxy: {legend(run)}.",
            "",
            *_ratio_table(run, peers, wanted),
            "",
            *circumstances(run),
            "",
            *failures(run),
            f"All figures: `{source}`.",
            "",
        ]
    )


def _ratio_table(run: Run, peers: Sequence[str], wanted: Collection[tuple[str, str]]) -> list[str]:
    """A line for each figure that is wanted, as (scenario, figure); pyproxy's with its interval."""
    lines = [f"| | figure | {' | '.join(peers)} |", f"| --- | --- |{' ---: |' * len(peers)}"]
    by_key: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows(run):
        if (row.scenario.name, row.name) in wanted:
            by_key.setdefault((row.scenario.words, row.figure.words), {})[row.peer] = row
    for (words, figure), found in by_key.items():
        if not any(row.to_base for row in found.values()):
            continue  # docker-proxy failed there, which the remarks say
        any_row = next(iter(found.values()))
        better = "more" if any_row.figure.more_is_better else "less"
        cells = [
            (ratio(found[peer].to_base) if peer == "pyproxy" else f"{found[peer].to_base.median:.2f}")  # type: ignore[union-attr]
            if peer in found and found[peer].to_base is not None
            else ""
            for peer in peers
        ]
        lines.append(f"| {words} | {figure}, {better} is better | {' | '.join(cells)} |")
    return lines


def update_section(page: Path, section: str) -> None:
    """Replace what stands between the two marks. ValueError if they are not there."""
    text = page.read_text()
    begin, end = text.index(SECTION_BEGIN), text.index(SECTION_END)
    page.write_text(f"{text[:begin]}{SECTION_BEGIN}\n{section}{text[end:]}")
