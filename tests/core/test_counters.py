"""What has gone through, in words."""

from __future__ import annotations

import pytest

from pyproxy.core.counters import Counters, counted
from pyproxy.ratelimit import RateLimit


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_501, "1 MB"),
        (12_345_678, "12.3 MB"),
        (10**15, "1e+03 TB"),
    ],
)
def test_bytes_are_told_in_powers_of_a_thousand(count: int, words: str) -> None:
    counters = Counters()
    counters.bytes_up = count
    assert counters.summary() == f"{words} up, 0 B down"


def test_the_summary_names_what_is_not_zero() -> None:
    counters = Counters()
    counters.connections, counters.connections_reset = 3, 1
    assert counters.plus(5, 7).summary() == "5 B up, 7 B down, 3 connections, 1 connection reset"
    assert counters.bytes_up == 0


def test_a_flood_of_one_kind_is_one_line_and_its_size_is_told_later() -> None:
    limit = RateLimit(10.0)
    assert limit.admit("refused", 0.0) == 0
    assert [limit.admit("refused", 0.01 * n) for n in range(1, 500)] == [None] * 499
    assert limit.admit("starved", 5.0) == 0
    assert limit.admit("refused", 10.0) == 499
    assert limit.admit("refused", 20.0) == 0


def test_one_of_a_thing_is_singular() -> None:
    counters = Counters()
    counters.connections = counters.connections_timed_out = counters.flows_evicted = counters.datagrams_up = 1
    counters.out_of_descriptors = 1
    assert counters.summary() == (
        "0 B up, 0 B down, 1 connection, 1 connection timed out, 1 datagram up, 1 flow evicted, 1 out of descriptors"
    )
    assert [counted(count, "port") for count in (0, 1, 2)] == ["0 ports", "1 port", "2 ports"]
