"""Which datagrams leave together."""

from __future__ import annotations

import random

import pytest

from pyproxy.core.gso import MAX_BYTES, MAX_SEGMENTS, Aggregate, coalesce

LARGEST = 1472


def cut(aggregates: list[Aggregate], sizes: list[int], segments: list[int]) -> list[int]:
    """What the kernel makes of the aggregates: the sizes of the datagrams on the wire (udp(7), UDP_SEGMENT)."""
    wire = []
    for first, end, segment in aggregates:
        total = sum(sizes[first:end])
        if not segment:
            assert end - first == 1
            wire.append(total)
            continue
        assert total <= MAX_BYTES or segments[first]
        wire += [min(segment, total - at) for at in range(0, total, segment)]
    return wire


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([100], [(0, 1, 0)]),
        ([100, 100], [(0, 2, 100)]),
        ([100, 100, 50], [(0, 3, 100)]),
        ([100, 100, 50, 50], [(0, 3, 100), (3, 4, 0)]),
        ([100, 200], [(0, 1, 0), (1, 2, 0)]),
        ([0, 0], [(0, 1, 0), (1, 2, 0)]),
        ([100, 0, 100], [(0, 1, 0), (1, 2, 0), (2, 3, 0)]),
        ([1473, 1473], [(0, 1, 0), (1, 2, 0)]),
        ([1472] * 45, [(0, 44, 1472), (44, 45, 0)]),
        ([1] * 130, [(0, 64, 1), (64, 128, 1), (128, 130, 1)]),
    ],
)
def test_neighbours_alike_are_joined(sizes: list[int], expected: list[tuple[int, int, int]]) -> None:
    assert coalesce(sizes, None, LARGEST) == expected


def test_an_aggregate_that_came_as_one_goes_on_by_itself() -> None:
    assert coalesce([100, 3000, 1000, 1000], [0, 1000, 0, 0], LARGEST) == [(0, 1, 0), (1, 2, 1000), (2, 4, 1000)]


@pytest.mark.parametrize("seed", range(50))
def test_boundaries_and_order_stay(seed: int) -> None:
    chance = random.Random(seed)
    sizes, segments, wire = [], [], []
    for _ in range(chance.randrange(1, 300)):
        size = chance.choice([0, 1, 64, 64, 64, 1200, 1200, 1472, 1473, 9000, 65_507])
        if chance.random() < 0.1:
            count = chance.randrange(2, 50)
            datagrams = [1200] * (count - 1) + [chance.randrange(1, 1201)]
            sizes.append(sum(datagrams))
            segments.append(1200)
        else:
            datagrams = [size]
            sizes.append(size)
            segments.append(0)
        wire += datagrams
    aggregates = coalesce(sizes, segments if any(segments) else None, LARGEST)
    assert [one.first for one in aggregates] == [0, *(one.end for one in aggregates[:-1])]
    assert aggregates[-1].end == len(sizes)
    assert cut(aggregates, sizes, segments) == wire
    assert all(-(-sum(sizes[first:end]) // segment) <= MAX_SEGMENTS for first, end, segment in aggregates if segment)
