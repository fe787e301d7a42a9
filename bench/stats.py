"""Medians, spread, and ratios round by round. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

# A run whose direct figure moved by more than this between rounds says little: the report marks it.
NOISE = 0.30


class Summary(NamedTuple):
    """A figure over the rounds of one run."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def spread(self) -> float:
        """(high - low) / median; 0 for a median of 0."""
        return (self.high - self.low) / self.median if self.median else 0.0


def summarize(values: Sequence[float | None]) -> Summary | None:
    """Over the rounds that gave a value; None if none did."""
    given = [value for value in values if value is not None]
    return Summary(median(given), min(given), max(given), len(given)) if given else None


def ratios(values: Sequence[float | None], base: Sequence[float | None]) -> Summary | None:
    """value / base, round by round: what moved both between rounds moves neither here."""
    return summarize(
        [value / other if value is not None and other else None for value, other in zip(values, base, strict=False)]
    )


def is_noisy(direct: Sequence[float | None]) -> bool:
    summary = summarize(direct)
    return summary is not None and summary.spread > NOISE


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of a sorted, non-empty sequence does not exceed (nearest rank)."""
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
