"""How many connections a peer holds."""

from __future__ import annotations

from bench.world import BenchWorld
from tests.support.bench import known, measure_once, scenario


def test_who_holds_no_more_is_found_by_filling(world: BenchWorld) -> None:
    found = measure_once(world, scenario("tcp-descriptors"), known("pyproxy"), 0.05)
    assert 280 < found["held"] < 300
    assert found["serves_again"]
