"""CPU and memory of a process tree, and of the machine.

Nothing is sampled while a measurement runs: CPU time is a difference of two readings, one at each end of it, and
memory is read when nothing moves. What is not sampled cannot be disturbed by sampling (bench/NOTES.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil


class Cpu(NamedTuple):
    """CPU seconds used so far."""

    total: float  # to the nanosecond
    machine: float  # all processes and interrupts of the machine, in ticks
    at: float  # when that was so

    def since(self, before: Cpu) -> Cpu:
        """What was used from then to now, `at` being how long that is."""
        return Cpu(*(now - then for now, then in zip(self, before, strict=True)))


class Memory(NamedTuple):
    """Bytes, summed over the processes (/proc/PID/smaps_rollup)."""

    uss: int  # unique: what would be freed if they ended
    pss: int  # proportional: shared pages divided among those who share them
    rss: int  # resident: shared pages counted in full, each time
    processes: int


def trees(roots: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The processes and all their descendants. psutil.NoSuchProcess if one of `roots` has ended."""
    for root in roots:
        if not root.is_running():
            raise psutil.NoSuchProcess(root.pid)
    found = {root.pid: root for root in roots}
    waiting = list(found)
    while waiting:
        for pid in _children(waiting.pop()):
            if pid not in found:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                    found[pid] = psutil.Process(pid)
                    waiting.append(pid)
    return list(found.values())


def _children(pid: int) -> list[int]:
    """As the kernel lists them (proc(5), /proc/PID/task/TID/children): psutil looks at every process of the machine."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def cpu(processes: Sequence[psutil.Process]) -> Cpu:
    """What `processes` have used, and their children that have ended. Those that live are to be given: see `trees`."""
    machine = psutil.cpu_times()
    busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended: its parent is told its time
            times = process.cpu_times()
            # Of children that have ended, what their parent was told when it waited for them.
            total += _clock(process.pid) + times.children_user + times.children_system
    return Cpu(total, busy, time.perf_counter())


def _clock(pid: int) -> float:
    """CPU seconds of all threads of a process, ended ones too, where /proc has ticks of 10 ms. psutil.NoSuchProcess.

    The clock's number is what clock_getcpuclockid(3) makes of a process (include/linux/posix-timers_types.h).
    """
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError as exc:
        raise psutil.NoSuchProcess(pid) from exc


def memory(roots: Sequence[psutil.Process]) -> Memory:
    full = []
    for process in trees(roots):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            full.append(process.memory_full_info())
    return Memory(sum(m.uss for m in full), sum(m.pss for m in full), sum(m.rss for m in full), len(full))


# linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Whom a child leaves behind, as a socat does that has forked, becomes a child of this process and not of init's
    (prctl(2)), for whoever ended its parent to wait for.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def others_cpu() -> float:
    """CPU seconds, in ticks, used so far by other programs: by all that neither are nor descend from this
    process (see `adopt_orphans`).
    """
    found = _processes()
    return sum(process.ticks for pid, process in found.items() if _is_other(pid, found)) / _TICKS_PER_S


def is_other(pid: int) -> bool:
    """Whether a process is neither this one nor a descendant of it."""
    return _is_other(pid, _processes())


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# The parent of the kernel's threads, which carry packets, ours above all.
_KTHREADD = 2


class _Process(NamedTuple):
    """What /proc/PID/stat says (proc(5))."""

    parent: int
    ticks: int  # user and system, with those of children that have ended


def _processes() -> dict[int, _Process]:
    found: dict[int, _Process] = {}
    for pid in psutil.pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended: its parent is told its time
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = _Process(int(fields[1]), sum(map(int, fields[11:15])))
    return found


def _line(pid: int, processes: Mapping[int, _Process]) -> Iterator[int]:
    """A process and its ancestors."""
    while process := processes.get(pid):
        yield pid
        pid = process.parent


def _is_other(pid: int, processes: Mapping[int, _Process]) -> bool:
    return not any(each in (os.getpid(), _KTHREADD) for each in _line(pid, processes))
