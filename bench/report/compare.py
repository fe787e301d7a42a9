"""Two runs: whether they agree on the ratios to docker-proxy. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.report.rows import BASE, ratio, rows
from bench.results import Run
from bench.stats import Summary

# Two runs in a row are to agree as well as this.
AGREE = 0.15


class Compared(NamedTuple):
    """A peer's ratio to docker-proxy in two runs."""

    scenario: str
    figure: str
    peer: str
    first: Summary
    second: Summary
    is_primary: bool

    @property
    def both_certain(self) -> bool:
        """Whether both runs give the ratio, and not only how far it may reach."""
        return self.first.is_certain and self.second.is_certain

    @property
    def agree(self) -> bool:
        """Within 15 %; or, where either run tells no ratio, the intervals meet."""
        if not self.both_certain:
            return self.overlap
        low, high = sorted((self.first.median, self.second.median))
        return high <= low * (1 + AGREE)

    @property
    def overlap(self) -> bool:
        """Whether the intervals do: if those of two runs often do not, they are narrower than they claim."""
        return self.first.low <= self.second.high and self.second.low <= self.first.high


def compare(first: Run, second: Run, peers: Collection[str]) -> Iterator[Compared]:
    """Every ratio that both runs have."""
    seconds = {(row.scenario.name, row.name, row.peer): row.to_base for row in rows(second)}
    for row in rows(first):
        other = seconds.get((row.scenario.name, row.name, row.peer))
        if row.peer in peers and row.peer != BASE and row.to_base is not None and other is not None:
            primary = row.name in row.scenario.primary
            yield Compared(row.scenario.name, row.name, row.peer, row.to_base, other, primary)


def print_comparison(first: Run, second: Run, peers: Collection[str], console: Console) -> None:
    found = list(compare(first, second, peers))
    several = len({each.peer for each in found}) > 1
    table = Table(box=None, padding=(0, 1, 0, 0))  # with one peer it fits a terminal of 80 columns
    for heading in ("scenario", "figure", *["peer"] * several):
        table.add_column(heading, no_wrap=True)
    for heading in ("first", "second", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in found:
        change = f"{each.second.median / each.first.median:.2f}" if each.first.median and each.both_certain else ""
        table.add_row(
            each.scenario,
            f"[bold]{each.figure}[/bold]" if each.is_primary else each.figure,
            *[Text(each.peer)] * several,
            _short(each.first),
            _short(each.second),
            change,
            "" if each.agree else "differ",
        )
    console.print(f"Ratios to {BASE}, of {first.started} and {second.started}; `?`: how far it may reach, no more.")
    console.print(table)
    for words, some in (("primary figures (bold)", [each for each in found if each.is_primary]), ("all", found)):
        told = [each for each in some if each.both_certain]
        ranges = [each for each in some if not each.both_certain]
        console.print(
            f"{words}: {_agreeing(told)} that both tell agree within {AGREE:.0%}; {_agreeing(ranges)} others meet"
        )


def _short(summary: Summary) -> str:
    """Without its interval, which would not leave room for two."""
    return ratio(summary).partition(" (")[0]


def _agreeing(some: list[Compared]) -> str:
    return f"{sum(each.agree for each in some)} of {len(some)}"
