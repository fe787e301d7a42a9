"""CPU and memory of a process tree, and of the machine.

Nothing is sampled while a measurement runs: CPU time is a difference of two readings, one before and one after, and
memory is read when nothing moves. What is not sampled cannot be disturbed by sampling (bench/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import psutil


class Cpu(NamedTuple):
    """CPU seconds used so far."""

    user: float
    system: float
    machine: float  # all processes and interrupts of the machine

    def since(self, before: Cpu) -> Cpu:
        return Cpu(self.user - before.user, self.system - before.system, self.machine - before.machine)

    @property
    def total(self) -> float:
        return self.user + self.system


class Memory(NamedTuple):
    """Bytes, summed over the processes (/proc/PID/smaps_rollup)."""

    uss: int  # unique: what would be freed if they ended
    pss: int  # proportional: shared pages divided among those who share them
    rss: int  # resident: shared pages counted in full, each time
    processes: int


def trees(roots: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The processes and all their descendants."""
    found: dict[int, psutil.Process] = {}
    for root in roots:
        for process in (root, *root.children(recursive=True)):
            found[process.pid] = process
    return list(found.values())


def cpu(roots: Sequence[psutil.Process]) -> Cpu:
    times = [process.cpu_times() for process in trees(roots)]
    machine = psutil.cpu_times()
    busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
    # Of children that have ended, what their parent was told when it waited for them.
    user = sum(t.user + t.children_user for t in times)
    return Cpu(user, sum(t.system + t.children_system for t in times), busy)


def memory(roots: Sequence[psutil.Process]) -> Memory:
    full = [process.memory_full_info() for process in trees(roots)]
    return Memory(sum(m.uss for m in full), sum(m.pss for m in full), sum(m.rss for m in full), len(full))
