"""From the spawn of a proxy to its answer."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping

from bench.peers.peer import Peer
from bench.stats import percentile
from bench.trials.spawn import kill, spawn
from bench.trials.trial import Figures, Trial


class _Start:
    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._took: list[float] = []
        self._empty: list[float] = []

    def turn(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while True:
            before = time.perf_counter()
            pid = spawn(self._command, self._environment)
            self._took.append(1e3 * (time.perf_counter() - before))
            kill([pid])
            before = time.perf_counter()
            # What any program in Python must spend, as a yardstick of the machine: nothing imported, nothing done.
            os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", "pass"], os.environ), 0)
            self._empty.append(1e3 * (time.perf_counter() - before))
            if before > end:
                return

    def figures(self) -> Figures:
        took, empty = sorted(self._took), sorted(self._empty)
        return {
            "answer_p50_ms": percentile(took, 0.5),
            "answer_to_python": percentile(took, 0.5) / percentile(empty, 0.5),
            "answer_p99_ms": percentile(took, 0.99),
        }


@contextlib.contextmanager
def start(peer: Peer) -> Iterator[Trial]:
    """From spawn to answer."""
    assert peer.command is not None
    with peer.prerequisites() as needed:
        yield _Start(peer.command, needed.environment)
