"""The list of scenarios."""

from __future__ import annotations

from bench.scenarios import FIGURES, SCENARIOS


def test_every_figure_of_a_scenario_can_be_shown() -> None:
    assert {name for each in SCENARIOS for name in each.figures} <= set(FIGURES)
    assert all(set(each.primary) <= set(each.figures) for each in SCENARIOS)
    assert len({each.name for each in SCENARIOS}) == len(SCENARIOS)
