"""Many published ports: how long they take, and what memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psutil

from bench import usage
from bench.peers.peer import Peer, Prerequisites
from bench.trials.spawn import kill, spawn
from bench.trials.trial import BeginCommand, Figures, Trial

# A part of the ports in each turn; so many turns make them all.
_PARTS = 10


class _Publish:
    """So many ports, one after the other, some in each turn; when all are there they end, and it begins anew. Without
    turns all at once, and nobody else's are there: a thousand processes more make each start take longer.
    """

    def __init__(self, command: tuple[str, ...], needed: Prerequisites, ports: int) -> None:
        self._command = command
        self._needed = needed
        self._ports = ports
        self._took_s = 0.0
        self._published = 0
        self.pids: list[int] = []

    def turn(self, seconds: float) -> None:
        if len(self.pids) == self._ports:
            self.end()
        self._publish(max(1, self._ports // _PARTS))

    def figures(self) -> Figures:
        self._publish(self._ports - len(self.pids))  # of who has fewer turns
        used = usage.memory([*self._needed.processes, *(psutil.Process(pid) for pid in self.pids)])
        self.end()
        return {
            "publish_s": self._ports * self._took_s / self._published,
            "pss_each": used.pss / self._ports,
            "uss_each": used.uss / self._ports,
            "rss_each": used.rss / self._ports,
            "processes": used.processes,
        }

    def end(self) -> None:
        kill(self.pids)
        self.pids.clear()

    def _publish(self, some: int) -> None:
        before = time.perf_counter()
        for _ in range(some):
            self.pids.append(spawn(self._command, self._needed.environment))
        self._took_s += time.perf_counter() - before
        self._published += some


def publish(ports: int) -> BeginCommand:
    """So many ports, 1 or a multiple of 10."""

    @contextlib.contextmanager
    def begin(peer: Peer) -> Iterator[Trial]:
        assert peer.command is not None
        with peer.prerequisites() as needed:
            trial = _Publish(peer.command, needed, ports)
            try:
                yield trial
            finally:
                trial.end()

    return begin
