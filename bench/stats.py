"""Medians, how certain they are, ratios round by round, percentiles. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import comb, inf, sqrt
from statistics import median
from typing import NamedTuple

# A run whose direct figure moved by more than this between rounds says little: the report marks it.
NOISE = 0.30

# How far from the median its interval may reach, for a figure to be told. Then two runs agree within 15 %, but for one
# ratio in some 250; with 0.15 for one in 30 (bench/NOTES.md).
CERTAIN = 0.10

# "About 9 in 10": of ten rounds it is 0.89 from the 3rd to the 8th, and 0.98 from the 2nd to the 9th.
_CONFIDENCE = 0.89


class Summary(NamedTuple):
    """A figure, or a ratio, over the rounds of one run; with the interval that holds the true one in 9 runs of 10."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def reach(self) -> float:
        """How far the interval reaches from the median, as a share of it. Of fewer than five rounds nobody knows; none
        if all agree.
        """
        if self.low == self.high:
            return 0.0
        if self.rounds < 5 or not self.median:
            return inf
        return max(self.high - self.median, self.median - self.low) / abs(self.median)

    @property
    def is_certain(self) -> bool:
        return self.reach <= CERTAIN


def summarize(values: Sequence[float | None]) -> Summary | None:
    """The median of the rounds that gave a value; None if none did.

    The interval is that of the sign test: a round is below the true median as often as a coin falls on one side.
    """
    given = sorted(value for value in values if value is not None)
    if not given:
        return None
    at = _left_out([comb(len(given), below) for below in range(len(given) + 1)])
    return Summary(median(given), given[at], given[-1 - at], len(given))


def ratios(values: Sequence[float | None], base: Sequence[float | None]) -> Summary | None:
    """value / base, round by round: what moved both between rounds moves neither here.

    The median is Hodges and Lehmann's: of the (geometric) means of all pairs of rounds, each with itself too. It is as
    deaf to a few wild rounds as the plain one, and wanders less between runs: 0.070 instead of 0.092, on average over
    22 ratios of 13 rounds (bench/NOTES.md). The interval is that of Wilcoxon's test.
    """
    given = [value / other for value, other in zip(values, base, strict=False) if value is not None and other]
    if not given:
        return None
    means = sorted(sqrt(one * other) for one, other in combinations_with_replacement(given, 2))
    at = _left_out(_rank_sums(len(given)))
    return Summary(median(means), means[at], means[-1 - at], len(given))


def _rank_sums(rounds: int) -> list[int]:
    """How many of all ways to choose from the ranks 1 to `rounds` have the sum 0, 1, 2, ..."""
    ways = [1]
    for rank in range(1, rounds + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    return ways


def _left_out(ways: Sequence[int]) -> int:
    """How many values at each end of a sorted sequence its interval leaves out: with one more than those it would be
    less certain than asked for. `ways` is the distribution of how many values lie below the true median. Of fewer than
    five rounds the whole range is less certain already, and all there is.
    """
    left_out = 0
    while 1 - 2 * sum(ways[: left_out + 2]) / sum(ways) >= _CONFIDENCE:
        left_out += 1
    return left_out


def is_noisy(direct: Sequence[float | None]) -> bool:
    given = [value for value in direct if value is not None]
    return bool(given) and max(given) - min(given) > NOISE * median(given)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of a sorted, non-empty sequence does not exceed (nearest rank)."""
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
