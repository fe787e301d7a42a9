"""TCP streams that send all they can."""

from __future__ import annotations

import contextlib
import itertools
import string
from collections.abc import Iterator

from bench.peers.peer import Running
from bench.trials.throughput import WARM_MORE_S, WARM_S, Count, Throughput, count
from bench.trials.trial import GRACE_S, Begin, Figures, Trial
from bench.world import BenchWorld


class _Bulk(Throughput):
    def figures(self) -> Figures:
        rate, each = self.rate()
        figures = {"bits_per_s": 8 * rate, "machine_s_per_gb": 1e9 * each["machine"]}
        if "total" in each:
            figures["cpu_s_per_gb"] = 1e9 * each["total"]
        return figures


# What tells the streams of peers apart at the server.
_KEYS = itertools.cycle(string.ascii_letters)


def bulk(streams: int, ways: str) -> Begin:
    """TCP streams, `u`p, `d`own, or so many of both."""

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        key = next(_KEYS)
        try:
            with world.load_session(
                "bulk", GRACE_S, address=running.address, streams=streams, ways=ways, key=key
            ) as ours:

                def go() -> None:
                    world.bulk(f"go {key}")
                    ours.ask("go")

                def pause() -> None:
                    world.bulk("pause")
                    ours.ask("pause")

                def read() -> list[Count]:
                    found = [count(world.bulk())] if "u" in ways else []
                    return [*found, count(ours.ask("read"))] if "d" in ways else found

                trial = _Bulk(running, go, pause, read, streams)
                trial.warm_up(WARM_S + streams * len(ways) * WARM_MORE_S)
                yield trial
        finally:
            world.bulk(f"end {key}")

    return begin
