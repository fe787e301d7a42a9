"""How many connections a peer holds, and what each costs in memory."""

from __future__ import annotations

import contextlib
import resource

import psutil

from bench import usage
from bench.peers.peer import Running
from bench.trials.trial import Begin, Figures, probe, without_turns
from bench.world import BenchWorld


def fill(descriptors: int) -> Begin:
    """How many connections a process may have that may have so many descriptors."""

    def measure(world: BenchWorld, running: Running) -> Figures:
        probe(world, running, "tcp")
        for process in usage.trees(running.processes):
            with contextlib.suppress(psutil.NoSuchProcess):  # that of the probe has ended
                process.rlimit(psutil.RLIMIT_NOFILE, (descriptors, descriptors))
        # More than one connection for each descriptor nobody can hold, not even a process per connection.
        return world.run_load("fill", address=running.address, most=descriptors)

    return without_turns(measure)


def idle(wanted: int) -> Begin:
    """Of a peer that cannot hold them all the figure is how many it holds, and no memory."""

    def measure(world: BenchWorld, running: Running) -> Figures:
        # A proxy of two descriptors a connection must be able to hold them all.
        connections = min(wanted, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) // 2)
        probe(world, running, "tcp")
        before = usage.memory(running.processes)
        with world.load_session("hold", address=running.address, most=connections) as ours:
            held = ours.found["held"]
            figures = {"held": held}
            if held == connections and running.processes:
                after = usage.memory(running.processes)
                figures |= {
                    "pss_each": (after.pss - before.pss) / held,
                    "uss_each": (after.uss - before.uss) / held,
                    "rss_each": (after.rss - before.rss) / held,
                }
        return figures

    return without_turns(measure)
