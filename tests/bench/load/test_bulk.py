"""Streams, at both ends."""

from __future__ import annotations

import contextlib
import itertools
import time

import pytest

from bench.world import BULK_PORT, CONTAINER_IP, BenchWorld, LoadError, LoadSession


def test_a_stream_that_ends_by_itself_is_a_failure(world: BenchWorld) -> None:
    load = world.load_session("bulk", address=[CONTAINER_IP, BULK_PORT], streams=2, ways="u", key="z")
    with load as streams:
        world.bulk("end z")
        with pytest.raises(LoadError, match="2 of 2 streams have ended"):
            all(streams.ask("read") for _ in itertools.count())


@pytest.mark.parametrize("way", ["u", "d"])
def test_streams_send_when_it_is_their_turn(world: BenchWorld, way: str) -> None:
    """Those of two peers, here of none, side by side."""
    with contextlib.ExitStack() as stack:

        def streams(key: str) -> LoadSession:
            stack.callback(world.bulk, f"end {key}")
            load = world.load_session("bulk", address=[CONTAINER_IP, BULK_PORT], streams=3, ways=way, key=key)
            return stack.enter_context(load)

        def amount(load: LoadSession) -> float:
            found: float = (load.ask("read") if way == "d" else world.bulk())["amount"]
            return found

        one, other = streams("x"), streams("y")

        def arrives(load: LoadSession) -> None:
            before = amount(load)
            deadline = time.monotonic() + 10
            while amount(load) - before < 10**7:
                assert time.monotonic() < deadline

        before = amount(other)
        for load, key in ((one, "x"), (other, "y")):
            world.bulk(f"go {key}")
            load.ask("go")
            arrives(load)
            world.bulk("pause")
            load.ask("pause")
            deadline = time.monotonic() + 10
            while (arrived := amount(load)) != amount(load):
                assert time.monotonic() < deadline
            if load is one and way == "d":
                assert amount(other) == before
        world.bulk("end x")  # is the end of those alone
        world.bulk("go y")
        other.ask("go")
        arrives(other)
        if way == "d":
            with pytest.raises(LoadError, match="3 of 3 streams have ended"):
                one.ask("read")
        assert arrived
