"""Exchanges, connections and pings, timed."""

from __future__ import annotations

import pytest

from bench.peers.unproxied import Direct
from bench.trials import timed
from bench.world import BenchWorld
from tests.support.bench import measure_once, scenario


def test_the_highest_percentile_rests_on_a_thousand_exchanges(
    world: BenchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = scenario("tcp-exchange-64-1")
    assert measure_once(world, wanted, Direct("direct"), 0.1)["p999_us"] > 0
    monkeypatch.setattr(timed, "_TAIL_SAMPLES", 10**6)
    assert "p999_us" not in measure_once(world, wanted, Direct("direct"), 0.001)
