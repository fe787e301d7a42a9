"""Medians, their certainty, ratios round by round, percentiles."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import comb, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import is_noisy, percentile, ratios, summarize


def test_a_summary_is_of_the_rounds_that_succeeded() -> None:
    assert summarize([3.0, None, 1.0, 2.0]) == (2.0, 1.0, 3.0, 3)
    assert summarize([None, None]) is None


# From tables of the sign test: how many of the sorted values are left out at each end, for 9 in 10 or a little less.
@pytest.mark.parametrize(("rounds", "left_out"), [(1, 0), (4, 0), (5, 0), (8, 1), (10, 2), (15, 3), (20, 5)])
def test_the_interval_of_a_median_by_hand(rounds: int, left_out: int) -> None:
    summary = summarize([float(value) for value in range(rounds)])
    assert summary is not None
    assert (summary.low, summary.high) == (left_out, rounds - 1 - left_out)


# From tables of Wilcoxon's signed-rank test: how many of the means of all pairs, sorted, are left out at each end.
@pytest.mark.parametrize(("rounds", "left_out"), [(1, 0), (4, 0), (5, 0), (6, 2), (8, 6), (10, 11)])
def test_the_interval_of_ratios_by_hand(rounds: int, left_out: int) -> None:
    given = [float(3**value) for value in range(rounds)]  # whose means all differ
    means = sorted(sqrt(one * other) for one, other in combinations_with_replacement(given, 2))
    summary = ratios(given, [1.0] * rounds)
    assert summary is not None
    assert (summary.low, summary.high) == (means[left_out], means[-1 - left_out])


@given(st.integers(5, 40))
def test_the_interval_holds_the_median_nine_times_in_ten(rounds: int) -> None:
    summary = summarize([float(value) for value in range(rounds)])
    assert summary is not None
    inside = sum(comb(rounds, below) for below in range(int(summary.low) + 1, int(summary.high) + 1)) / 2**rounds
    assert inside >= 0.89


@pytest.mark.parametrize(
    ("values", "certain"),
    [
        ([0.91, 0.98, 1.0, 1.05, 1.09], True),
        ([0.89, 0.98, 1.0, 1.05, 1.09], False),
        ([0.5, 0.98, 1.0, 1.0, 1.0, 1.0, 1.05, 2.0], True),  # of eight, lowest and highest are left out
        ([0.99, 1.0, 1.01], False),  # too few
        ([0.0, 0.0], True),
    ],
)
def test_a_ratio_is_certain_when_its_interval_is_narrow(values: list[float | None], certain: bool) -> None:
    summary = summarize(values)
    assert summary is not None
    assert summary.is_certain is certain


def test_ratios_are_of_the_same_round() -> None:
    # Both doubled in the second round: the machine was slow, the ratio is the same.
    found = ratios([10.0, 20.0, 12.0], [5.0, 10.0, 4.0])
    assert found is not None
    assert (found.low, found.high, found.rounds) == (2.0, 3.0, 3)
    assert ratios([1.0, None, 3.0], [None, 2.0, 2.0]) == (1.5, 1.5, 1.5, 1)
    assert ratios([1.0], [0.0]) is None


def test_the_median_of_ratios_is_of_the_means_of_all_pairs() -> None:
    # 1, 2, 2, 2.83, 4, 4, 5.66, 8, 8, 16: of four rounds the 5th and the 6th.
    found = ratios([1.0, 4.0, 4.0, 16.0], [1.0, 1.0, 1.0, 1.0])
    assert found is not None
    assert found.median == pytest.approx(4.0)
    # Of one wild round among eight next to nothing is left.
    found = ratios([1.0] * 7 + [100.0], [1.0] * 8)
    assert found is not None
    assert (found.median, found.low) == (1.0, 1.0)
    assert ratios([0.0, 0.0], [1.0, 2.0]) == (0.0, 0.0, 0.0, 2)


@pytest.mark.parametrize(
    ("values", "noisy"), [([100.0, 110.0, 125.0], False), ([100.0, 140.0, 105.0], True), ([], False)]
)
def test_a_run_is_noisy_when_direct_moved_by_more_than_30_percent(values: list[float | None], noisy: bool) -> None:
    assert is_noisy(values) == noisy


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_has_that_share_at_or_below_it(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered) - 1e-9


def test_percentiles_by_hand() -> None:
    assert [percentile([1, 2, 3, 4], share) for share in (0, 0.25, 0.5, 0.51, 0.99, 1)] == [1, 1, 2, 3, 4, 4]
