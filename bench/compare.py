"""Two runs: whether they agree on the ratios to docker-proxy. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.report import BASE, ratio, rows
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
    def agree(self) -> bool:
        low, high = sorted((self.first.median, self.second.median))
        return high <= low * (1 + AGREE)

    @property
    def meet(self) -> bool:
        """Whether the intervals do: if those of two runs often do not, they are narrower than they claim."""
        return self.first.low <= self.second.high and self.second.low <= self.first.high

    @property
    def is_certain(self) -> bool:
        """Whether neither run says itself that the other may differ by more."""
        return self.first.is_certain and self.second.is_certain


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
        change = f"{each.second.median / each.first.median:.2f}" if each.first.median else ""
        table.add_row(
            each.scenario,
            f"[bold]{each.figure}[/bold]" if each.is_primary else each.figure,
            *[each.peer] * several,
            _short(each.first),
            _short(each.second),
            change,
            "" if each.agree else "differ",
        )
    console.print(f"Ratios to {BASE}, medians of {first.started} and {second.started}; `?`: of a wide interval.")
    console.print(table)
    for words, some in (("primary figures (bold)", [each for each in found if each.is_primary]), ("all", found)):
        certain = [each for each in some if each.is_certain]
        console.print(
            f"{_agreeing(some)} {words} agree within {AGREE:.0%}; without those that either run marks `?`:"
            f" {_agreeing(certain)}; intervals that meet: {sum(each.meet for each in some)}"
        )


def _short(summary: Summary) -> str:
    """Without its interval, which would not leave room for two."""
    return ratio(summary).partition(" (")[0]


def _agreeing(some: list[Compared]) -> str:
    return f"{sum(each.agree for each in some)} of {len(some)}"
