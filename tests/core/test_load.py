"""When another process is needed, and whom to move there, by table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from pyproxy.core.load import Load, Policy, Sample, whom_to_move


@dataclass(frozen=True)
class Connection:
    name: str
    is_bulk: bool = False
    can_migrate: bool = True


A, B, C, D = (Connection(name) for name in "abcd")
BULK, BULK2 = Connection("bulk", is_bulk=True), Connection("bulk2", is_bulk=True)
LEAVING = Connection("leaving", can_migrate=False)

POLICY = Policy(window_s=1.0, saturated=0.75, to_spare=0.9, to_spare_for_new=0.25, cut_short_per_s=200, busy=0.3)


class Machine:
    """A process under a steady load, looked at once a second."""

    def __init__(
        self,
        share: float,
        idle: float,
        *,
        cut_short: int = 0,
        accepted: int = 0,
        spun: bool = False,
        connections: tuple[Connection, ...] = (A, B, C, D),
    ) -> None:
        self.share, self.idle, self.cut_short, self.accepted, self.spun = share, idle, cut_short, accepted, spun
        self.connections = connections
        self.seconds = 0
        self.load: Load[Connection] = Load(POLICY, 0.0, 0.0)

    def look(self, workers_left: int = 1) -> list[Connection] | None:
        self.seconds += 1
        seconds = self.seconds

        def moved() -> Mapping[Connection, int]:
            return dict.fromkeys(self.connections, seconds)

        sample = Sample(float(seconds), self.share * seconds, self.spun, self.accepted * seconds, len(self.connections),
                        self.cut_short * seconds, lambda: self.idle * seconds, moved)  # fmt: skip
        return self.load.look(sample, workers_left)

    def looks(self, count: int = 4) -> list[list[Connection] | None]:
        return [self.look() for _ in range(count)]


@pytest.mark.parametrize(
    ("machine", "moved"),
    [
        (Machine(1.0, 1.0), [None, None, [A, B]]),
        (Machine(0.5, 1.0), [None, None, None]),
        (Machine(1.0, 0.5), [None, None, None]),
        (Machine(1.0, 1.0, spun=True), [None, None, None]),
        (Machine(1.0, 1.0, connections=(A,)), [None, None, None]),
        (Machine(1.0, 0.5, accepted=10), [None, [], []]),
        (Machine(1.0, 0.2, accepted=10), [None, None, None]),
        (Machine(1.0, 0.5, accepted=3), [None, None, None]),
        (Machine(0.5, 0.0, cut_short=300, connections=(BULK, A, B)), [None, None, [A, B]]),
        (Machine(0.2, 0.0, cut_short=300, connections=(BULK, A, B)), [None, None, None]),
        (Machine(0.5, 0.0, cut_short=100, connections=(BULK, A, B)), [None, None, None]),
        (Machine(0.5, 0.0, cut_short=300), [None, None, None]),
    ],
    ids=[
        "saturated, and a processor to spare",
        "not saturated",
        "nothing to spare",
        "busy polling is no load",
        "one connection alone gains nothing",
        "more come than are live",
        "more come, but nothing is to spare",
        "fewer come than are live",
        "messages wait for bulk",
        "little to do",
        "few turns cut short",
        "messages, and no bulk here",
    ],
)
def test_the_table(machine: Machine, moved: list[list[Connection] | None]) -> None:
    assert machine.looks(3) == moved


def test_a_window_that_has_not_passed_decides_nothing() -> None:
    load: Load[Connection] = Load(POLICY, 0.0, 0.0)
    for number in range(1, 9):
        sample = Sample(number / 10, 1.0, False, 0, 0, 0, lambda: 0.0, dict[Connection, int])
        assert load.look(sample, 1) is None


def test_no_worker_begins_when_all_there_may_be_are_there() -> None:
    machine = Machine(1.0, 1.0)
    assert [machine.look(workers_left=0) for _ in range(5)] == [None] * 5


def test_an_idleness_that_cannot_be_read_is_none_to_spare() -> None:
    load: Load[Connection] = Load(POLICY, 0.0, 0.0)
    for number in range(1, 5):
        sample = Sample(float(number), float(number), False, 0, 4, 0, lambda: None, dict[Connection, int])
        assert load.look(sample, 1) is None


@pytest.mark.parametrize(
    ("busy", "half", "contended", "last", "moved"),
    [
        ([A, B, C, D], True, False, False, [A, B]),
        ([BULK, A, B, BULK2], True, False, False, [A, B]),
        ([BULK, BULK2, A], True, False, False, [A]),
        ([LEAVING, A, B], True, False, False, [A]),
        ([BULK, A, B, C], True, True, True, [A, B, C]),
        ([BULK, A, B, C], True, True, False, [A, B]),
        ([BULK, A, B, C], False, True, False, [A, B, C]),
        ([A, B], False, True, False, []),
        ([BULK], True, True, True, []),
        ([], True, True, True, []),
    ],
)
def test_whom_to_move(busy: list[Connection], half: bool, contended: bool, last: bool, moved: list[Connection]) -> None:
    now = dict.fromkeys(busy, 2)
    before = dict.fromkeys(busy, 1)
    assert whom_to_move(before, now, half=half, contended=contended, last_worker=last) == moved


def test_who_has_moved_nothing_stays() -> None:
    assert whom_to_move({A: 1, B: 1, C: 1}, {A: 1, B: 2, C: 2}, half=True, contended=False, last_worker=False) == [B]
