"""Turns that were cut short go on, each once, and none keeps others from theirs."""

from __future__ import annotations

import time

from pyproxy.relay.runqueue import RunQueue


def test_what_comes_meanwhile_waits_for_the_next_time() -> None:
    queue, called = RunQueue(), []

    def again() -> None:
        called.append("again")
        queue.append(again)

    queue.append(again)
    queue.run(_never, 1.0)
    assert called == ["again"]
    assert len(queue) == 1


def test_one_that_fails_is_reported_and_the_others_are_called() -> None:
    queue, called = RunQueue(), []
    reports: list[Exception] = []

    def fail() -> None:
        raise ZeroDivisionError

    queue.extend([fail, lambda: called.append("next")])
    queue.run(reports.append, 1.0)
    assert called == ["next"]
    assert [type(report) for report in reports] == [ZeroDivisionError]
    assert not queue


def test_the_rest_stays_when_time_is_up() -> None:
    queue, called = RunQueue(), []

    def busy() -> None:
        called.append("busy")
        end = time.perf_counter() + 0.01
        while time.perf_counter() < end:
            pass

    queue.extend([busy, busy, busy])
    queue.run(_never, 0.001)
    assert called == ["busy"]
    assert len(queue) == 2


def _never(exc: Exception) -> None:
    raise exc
