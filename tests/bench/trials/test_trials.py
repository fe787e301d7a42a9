"""Trials of every kind, of no proxy at all."""

from __future__ import annotations

import pytest

from bench.peers.unproxied import Direct
from bench.world import BenchWorld
from tests.support.bench import measure_once, scenario


@pytest.mark.parametrize(
    "name",
    [
        "tcp-bulk-both-8",
        "udp-down-1400",
        "udp-segmented-1200",
        "udp-burst",
        "udp-bulk-64-100",
        "tcp-exchange-beside",
        "tcp-exchange-paced",
        "tcp-connect",
    ],
)
def test_the_limit_itself_can_be_measured(world: BenchWorld, name: str) -> None:
    found = measure_once(world, scenario(name), Direct("direct"), 0.01)
    if name == "udp-burst":
        assert found == {"lost": 0}
    elif name == "tcp-exchange-paced":
        assert 0 < found["per_s"] <= 520  # its first figure is the CPU of a proxy
    else:
        assert found[scenario(name).figures[0]] > 0
