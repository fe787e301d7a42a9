"""How connections end, by table: the whole of `ending.decide`."""

from __future__ import annotations

from itertools import product

import pytest

from pyproxy.core.ending import (
    CLOSE,
    CUT,
    DRAIN,
    END,
    ENDED,
    FLUSH,
    FLUSH_BACK,
    OPEN,
    RESET,
    SHUT_DOWN,
    SINK_FAILED,
    SOURCE_FAILED,
    decide,
)


@pytest.mark.parametrize(
    ("event", "other", "stands", "action"),
    [
        (END, OPEN, ENDED, SHUT_DOWN),
        (END, ENDED, ENDED, CLOSE),
        (END, CUT, CUT, FLUSH),
        (SINK_FAILED, OPEN, CUT, DRAIN),
        (SINK_FAILED, ENDED, CUT, FLUSH_BACK),
        (SINK_FAILED, CUT, CUT, RESET),
        (SOURCE_FAILED, OPEN, CUT, FLUSH),
        (SOURCE_FAILED, ENDED, CUT, FLUSH),
        (SOURCE_FAILED, CUT, CUT, FLUSH),
    ],
)
def test_the_table(event: int, other: int, stands: int, action: int) -> None:
    assert decide(event, other) == (stands, action)


def test_a_connection_closes_politely_only_if_both_directions_came_to_their_end() -> None:
    for first, second in product((END, SINK_FAILED, SOURCE_FAILED), repeat=2):
        stands, action = decide(first, OPEN)
        if action in (CLOSE, RESET, FLUSH):
            continue
        _, last = decide(second, stands)
        assert (last == CLOSE) == (first == second == END)
