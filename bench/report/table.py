"""The table for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.report.remarks import legend, remarks
from bench.report.rows import BASE, LIMIT, Row, number, ratio, rows
from bench.results import Run


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
            words = f"{row.figure.title} {'↑' if row.figure.more_is_better else '↓'}"
            table.add_row(
                words if words != last else "",
                Text(row.peer, "bold" if row.peer.startswith("pyproxy") else ""),
                f"{number(row.value.median * row.figure.scale)} {row.figure.unit}".strip(),
                ratio(row.to_base),
                f"{row.to_limit.median:.2f}" if row.to_limit is not None else "",
            )
            last = words
        noisy = " (noisy: direct itself moved by more than 30 %)" if any(row.noisy for row in found) else ""
        console.print(f"\n[bold]{found[0].scenario.title}[/bold]{noisy}")
        console.print(table)
    console.print("\n↑ more is better, ↓ less is better")
    for line in remarks(run):
        console.print(line, markup=False, emoji=False)
