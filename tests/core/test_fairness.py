"""Whose turn is short, by table."""

from __future__ import annotations

from pyproxy.core.fairness import SHORT_TURN_BYTES, SHORT_TURNS, TURN_BYTES, Fairness


def turns(fairness: Fairness, count: int) -> list[int]:
    taken = [fairness.turn_bytes() for _ in range(count)]
    for turn in taken:
        fairness.turn_used_up(turn)
    return taken


def test_bulk_by_itself_takes_whole_turns() -> None:
    fairness = Fairness()
    assert turns(fairness, 10) == [TURN_BYTES] * 10
    assert fairness.turns_cut_short == 0


def test_a_message_makes_the_next_turns_short() -> None:
    fairness = Fairness()
    fairness.message_read("client")
    assert turns(fairness, SHORT_TURNS + 1) == [SHORT_TURN_BYTES] * SHORT_TURNS + [TURN_BYTES]
    assert fairness.turns_cut_short == SHORT_TURNS


def test_messages_do_not_add_up() -> None:
    fairness = Fairness()
    for _ in range(10):
        fairness.message_read("client")
    assert turns(fairness, SHORT_TURNS + 1)[-1] == TURN_BYTES


def test_what_bulk_is_answered_is_no_message() -> None:
    fairness = Fairness()
    fairness.bulk_sinks.add("container")
    fairness.message_read("container")
    assert turns(fairness, 1) == [TURN_BYTES]


def test_a_short_turn_that_had_less_to_move_was_not_cut_short() -> None:
    fairness = Fairness()
    fairness.message_read("client")
    fairness.turn_bytes()
    assert fairness.turns_cut_short == 0
