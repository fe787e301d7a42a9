"""Load programs, run and asked."""

from __future__ import annotations

import pytest

from bench.world import CLIENT, CONTAINER_IP, DATAGRAM_PORT, ECHO_PORT, BenchWorld, LoadError

DATAGRAMS = (CONTAINER_IP, DATAGRAM_PORT)


def test_what_fails_in_a_load_program_is_told(world: BenchWorld) -> None:
    with pytest.raises(LoadError, match=r"probe: ConnectionRefusedError: .*refused"):
        world.run_load("probe", proto="tcp", address=[CONTAINER_IP, 1])


def test_a_load_program_that_hangs_is_ended_and_the_next_one_runs(world: BenchWorld) -> None:
    world.datagrams("count")  # so that nothing ever comes back
    with pytest.raises(LoadError, match="probe: timed out after 0 s"):
        world.run_load("probe", within_s=0.1, proto="udp", address=DATAGRAMS)
    world.datagrams("echo")
    assert world.run_load("probe", proto="udp", address=DATAGRAMS) == {}


def test_sessions_wait_for_their_turn_side_by_side(world: BenchWorld) -> None:
    address = [CONTAINER_IP, ECHO_PORT]
    with (
        world.load_session("exchange", address=address, size=64, connections=1) as one,
        world.load_session("exchange", address=address, size=64, connections=2) as other,
    ):
        for load in (one, other, one):
            load.ask("0.02")
        assert one.ask("figures")["samples"] > 0
        found = other.ask("figures")
        # Of its turn, which is as long as what was under way at its end took, and not of the time between turns.
        assert 0.02 <= found["samples"] / found["per_s"] < 0.04


def test_a_load_program_that_failed_is_not_asked_again(world: BenchWorld) -> None:
    world.datagrams("echo")
    with world.load_session("ping", address=DATAGRAMS, size=64, within_s=0.5) as load:
        world.datagrams("count")
        with pytest.raises(LoadError, match="ping: timed out"):
            load.ask("0.02")
        with pytest.raises(LoadError, match="ping: has failed before"):
            load.ask("figures")
    world.datagrams("echo")


def test_a_session_lasts_until_it_is_ended(world: BenchWorld) -> None:
    with world.load_session("hold", address=[CONTAINER_IP, ECHO_PORT], most=7) as held:
        assert held.found == {"held": 7}
        assert connections(world) == 7
    assert connections(world) == 0


def connections(world: BenchWorld) -> int:
    return len(world.run("ss", "-tnH", "state", "established", f"dport = :{ECHO_PORT}", on=CLIENT).splitlines())
