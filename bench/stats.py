"""Medians, how certain they are, ratios round by round, percentiles. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import median
from typing import NamedTuple

# A run whose direct figure moved by more than this between rounds says little: the report marks it.
NOISE = 0.30

# How far from the median its interval may reach, for two runs to agree within 15 %.
CERTAIN = 0.075

# "About 9 in 10": ten rounds give 0.89 from the 3rd to the 8th, and 0.98 from the 2nd to the 9th.
_CONFIDENCE = 0.89


class Summary(NamedTuple):
    """A figure over the rounds of one run: the median, and the interval that holds the true one in 9 runs of 10."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def is_certain(self) -> bool:
        """Whether the interval is within 7.5 % of the median. Not of fewer than five rounds, unless all agree."""
        return max(self.high - self.median, self.median - self.low) <= CERTAIN * abs(self.median) and (
            self.rounds >= 5 or self.low == self.high
        )


def median_interval(rounds: int) -> tuple[int, int]:
    """Which of so many sorted values, counted from 0, are the ends of the median's interval: a sign test.

    A value is below the true median as often as a coin falls on one side, so the k-th lowest is above it as seldom as
    k coins of all, or fewer, do. Below five rounds lowest and highest are less certain, and all there is.
    """
    left_out = 0
    while 1 - 2 * sum(comb(rounds, n) for n in range(left_out + 2)) / 2**rounds >= _CONFIDENCE:
        left_out += 1
    return left_out, rounds - 1 - left_out


def summarize(values: Sequence[float | None]) -> Summary | None:
    """Over the rounds that gave a value; None if none did."""
    given = sorted(value for value in values if value is not None)
    if not given:
        return None
    low, high = median_interval(len(given))
    return Summary(median(given), given[low], given[high], len(given))


def ratios(values: Sequence[float | None], base: Sequence[float | None]) -> Summary | None:
    """value / base, round by round: what moved both between rounds moves neither here."""
    return summarize(
        [value / other if value is not None and other else None for value, other in zip(values, base, strict=False)]
    )


def is_noisy(direct: Sequence[float | None]) -> bool:
    given = [value for value in direct if value is not None]
    return bool(given) and max(given) - min(given) > NOISE * median(given)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of a sorted, non-empty sequence does not exceed (nearest rank)."""
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
