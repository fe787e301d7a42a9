"""A run as rows: every figure that was measured, with its ratios; and how numbers are written. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bench.results import Run
from bench.scenarios import FIGURES, SCENARIOS, Figure, Scenario
from bench.stats import Summary, is_noisy, ratios, summarize

BASE = "docker-proxy"
LIMIT = "direct"


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
