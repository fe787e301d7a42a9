"""Who is measured in which round and turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from bench.peers.known import known_peers
from bench.results import Run
from bench.rounds import least_certain, rounds_of_all, takes_part, turns_order
from tests.support.bench import new_run, scenario


def test_each_peer_follows_each_other_and_is_first_in_turn() -> None:
    orders = [turns_order(["A", "B", "C"], turn) for turn in range(6)]
    assert {order[0] for order in orders} == {"A", "B", "C"}
    pairs = [pair for order in orders for pair in itertools.pairwise(order)]
    assert {pairs.count(pair) for pair in itertools.permutations("ABC", 2)} == {2}


def adaptive(rates: Sequence[float]) -> Run:
    run = new_run(
        tcp_exchange_64_100={
            "pyproxy": [{"per_s": rate} for rate in rates],
            "docker-proxy": [{"per_s": 100.0}] * len(rates),
        }
    )
    run.rounds = None
    return run


def further(run: Run, *names: str, left_s: float = 60.0) -> str | None:
    """Which of the scenarios is to have a further round. Each takes two seconds."""
    run.took_s = {name: [2.0] for name in names}
    found = least_certain(run, [scenario(name) for name in names], left_s)
    return found.name if found is not None else None


@pytest.mark.parametrize(
    ("rates", "more"),
    [
        ([100.0] * 5, False),
        ([100.0, 150.0, 120.0, 100.0, 140.0], True),
        ([100.0, 150.0, 190.0] * 6, True),
        ([100.0, 150.0] * 10, False),  # it has had its share
    ],
)
def test_rounds_go_on_until_the_ratio_is_certain(rates: list[float], more: bool) -> None:
    found = further(adaptive(rates), "tcp-exchange-64-100")
    assert found == ("tcp-exchange-64-100" if more else None)


def test_the_least_certain_has_the_next_round_if_it_can_end_in_time() -> None:
    def rounds(rates: list[float], figure: str = "per_s") -> dict[str, list[dict[str, float] | None]]:
        return {"pyproxy": [{figure: rate} for rate in rates], "docker-proxy": [{figure: 100.0}] * len(rates)}

    some, more, most = [95.0, 98.0, 100.0, 102.0, 109.0], [95.0, 98.0, 100.0, 102.0, 111.0], [50.0, 80.0, 100.0] * 2
    names = ("tcp-connect", "tcp-exchange-64-100", "idle-10000")
    run = new_run(tcp_connect=rounds(some), tcp_exchange_64_100=rounds(more), idle_10000=rounds(most, "pss_each"))
    run.rounds = None
    assert further(run, *names) == "tcp-exchange-64-100"  # of ten thousand connections one round is all there is
    assert further(run, *names, left_s=1.0) is None
    run.cells["tcp-connect"] = rounds(some, "p50_us")  # is not what users look at first: may be told, and no more
    run.cells["tcp-exchange-64-100"] = rounds(some, "p50_us")
    assert further(run, *names) is None
    run.cells["tcp-connect"] = rounds(most, "p50_us")
    assert further(run, *names) == "tcp-connect"
    run.cells["tcp-exchange-64-100"] = rounds([100.0, 100.1])  # of two rounds nobody knows
    assert further(run, *names) == "tcp-exchange-64-100"


def test_rounds_are_as_many_as_asked_for() -> None:
    run = adaptive([100.0, 150.0, 120.0])
    assert rounds_of_all(run, scenario("tcp-exchange-64-100")) == 5
    run.rounds = 4
    assert rounds_of_all(run, scenario("tcp-exchange-64-100")) == 4
    assert rounds_of_all(run, scenario("idle-10000")) == 4
    assert further(run, "tcp-exchange-64-100") is None
    run.rounds = 12
    assert rounds_of_all(run, scenario("tcp-exchange-64-100")) == 12
    assert rounds_of_all(run, scenario("idle-10000")) == 5
    run.rounds = None
    assert rounds_of_all(run, scenario("idle-10000")) == 1  # whose rounds are long, and its memory the same in all
    run.quick = True
    assert rounds_of_all(run, scenario("tcp-exchange-64-100")) == 3


def test_what_is_quoted_most_is_measured_most() -> None:
    run = adaptive([])
    run.peers = {peer.name: "" for peer in known_peers()}

    def rounds(peer: str, name: str = "tcp-connect") -> list[bool]:
        return [takes_part(run, scenario(name), peer, number) for number in (0, 1, 2, 4, 5, 20)]

    assert rounds("docker-proxy") == [True] * 6
    assert rounds("direct") == [True, True, True, True, False, False]
    assert rounds("socat") == [True, True, False, False, False, False]
    assert rounds("socat", "tcp-bulk-both-8") == [True, False, False, False, False, False]
    run.rounds = 12
    assert rounds("socat", "tcp-bulk-both-8") == rounds("direct") == [True, True, True, True, False, False]
    run.rounds, run.quick = None, True
    assert rounds("direct") == [True, True, True, False, False, False]
    run.peers, run.quick = {"pyproxy": "", "docker-proxy": "", "direct": "", "socat": ""}, False
    assert rounds("socat", "tcp-bulk-both-8") == [True, True, True, True, False, False]
