"""Load programs that time what they do, in turns.

Latencies are in microseconds, sorted out into percentiles here. The CPU of the proxy is read here too, at both ends of
what is timed, so that connecting and warming up are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil

from bench import usage
from bench.load.harness import Harness
from bench.stats import percentile

_PERCENTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}

# As long as everything goes, before a program's first turn: for caches, windows, and a proxy that adapts to its load.
WARM_S = 0.1
# And where it may take further processes to its help, which takes pyproxy 0.3 s from when its event loop is imported.
WARM_SHARING_S = 0.6
# At the beginning of a turn, uncounted: what slept through those of the others is awake, and no longer cold.
_SETTLE_S = 0.004


# A program's work for so many seconds: returns the latencies that it met, in seconds.
Work = Callable[[float], list[float]]


def in_turns(
    harness: Harness,
    work: Work,
    roots: Sequence[int],
    warm_s: float = WARM_S,
    drain: Callable[[], None] = lambda: None,
    sent: Callable[[], int] = lambda: 0,
) -> None:
    """A session: each order is how many seconds to run, or `figures`: of all turns together, rate, percentiles,
    of how many, the CPU of `roots` and theirs, and what has been `sent` alongside, in bytes so far. `drain`
    follows each run, and is not of its time.
    """
    processes = [psutil.Process(pid) for pid in roots]
    latencies: list[float] = []
    took = spent = 0.0
    bulk_bytes = 0
    work(warm_s)
    drain()
    harness.answer({})
    while (order := harness.next_order()) is not None:
        if order == "figures":
            found = _summary(latencies, took, spent if roots else None)
            harness.answer(found | ({"bulk_bits_per_s": 8 * bulk_bytes / took} if bulk_bytes else {}))
            continue
        work(_SETTLE_S)
        before = usage.cpu(usage.trees(processes))
        bulk_bytes -= sent()
        began = time.perf_counter()
        latencies += work(float(order))
        took += time.perf_counter() - began  # what was under way at the end of its time is counted, and waited for
        bulk_bytes += sent()
        # Who has been born meanwhile counts in full.
        spent += usage.cpu(usage.trees(processes)).since(before).total
        drain()
        harness.answer({})


def _summary(latencies: list[float], took: float, spent: float | None) -> dict[str, float]:
    if not latencies:
        raise AssertionError("not one exchange was completed")
    latencies.sort()
    found = {"per_s": len(latencies) / took, "samples": len(latencies)}
    found |= {name: percentile(latencies, share) * 1e6 for name, share in _PERCENTILES.items()}
    if spent is not None:
        found["cpu_us_each"] = 1e6 * spent / len(latencies)
    return found
