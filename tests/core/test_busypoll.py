"""Whether to spin or to sleep, by table."""

from __future__ import annotations

import pytest

from pyproxy.core.busypoll import LONG_TURN_S, SHORT_WAIT_S, SHORT_WAITS, BusyPoll


def event(fd: int) -> list[tuple[int, int]]:
    return [(fd, 1)]


def converse(busy: BusyPoll, turns: int) -> bool:
    """Two speak in turn, quickly; whether the last turn said that it pays."""
    pays = False
    for number in range(turns):
        pays = busy.pays(event(number % 2), 0.0, 0.0)
    return pays


@pytest.mark.parametrize(
    ("spoke", "expected"),
    [
        ([1, 2, 1, 2, 1], [False, False, True, True, True]),
        ([1, 1, 1, 1], [False] * 4),
        ([1, 2, 3, 1, 2, 3], [False] * 6),
        ([1, 2, 1, 3, 1, 3], [False, False, True, False, True, True]),
    ],
    ids=["two in turn", "one-way", "three", "another"],
)
def test_only_two_who_speak_in_turn_are_a_conversation(spoke: list[int], expected: list[bool]) -> None:
    busy = BusyPoll(60e-6)
    assert [busy._is_conversation(event(fd)) for fd in spoke] == expected
    assert not busy._is_conversation([*event(1), *event(3)])


def test_it_begins_after_some_short_waits_and_not_before() -> None:
    busy = BusyPoll(60e-6)
    # Two turns tell that it is a conversation.
    assert [busy.pays(event(number % 2), 0.0, 0.0) for number in range(SHORT_WAITS + 2)] == [False] * (
        SHORT_WAITS + 1
    ) + [True]


def test_nothing_in_between_ends_no_conversation() -> None:
    busy = BusyPoll(60e-6)
    assert converse(busy, SHORT_WAITS + 2)
    assert busy.pays([], 0.0, 0.0)


@pytest.mark.parametrize(
    ("waited_s", "took_s"), [(2 * SHORT_WAIT_S, 0.0), (0.0, 2 * LONG_TURN_S)], ids=["a long wait", "bulk"]
)
def test_a_long_wait_or_a_long_turn_ends_it(waited_s: float, took_s: float) -> None:
    busy = BusyPoll(60e-6)
    assert converse(busy, SHORT_WAITS + 2)
    assert not busy.pays(event(0), waited_s, took_s)
    assert not converse(busy, SHORT_WAITS - 1)
    assert converse(busy, SHORT_WAITS + 2)


def test_what_was_in_vain_begins_anew() -> None:
    busy = BusyPoll(60e-6)
    assert converse(busy, SHORT_WAITS + 2)
    busy.stop()
    assert not busy.pays([], 0.0, 0.0)
    assert not converse(busy, SHORT_WAITS - 1)
