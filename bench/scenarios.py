"""What is measured. A scenario turns a running peer into figures; the first of them is the one that plots show."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil

from bench import usage
from bench.iperf import bits_per_second, received_bytes
from bench.peers import Peer, Running
from bench.stats import percentile
from bench.world import CLIENT, DATAGRAM_PORT, ECHO_PORT, IPERF_PORT, MIXED_PORT, BenchWorld, LoadError

Figures = dict[str, float]


class Figure(NamedTuple):
    """How a figure is to be read."""

    words: str
    unit: str
    more_is_better: bool
    scale: float = 1.0  # from the stored value to the unit


FIGURES = {
    "bits_per_s": Figure("throughput", "Gbit/s", True, 1e-9),
    "cpu_s_per_gb": Figure("CPU of the proxy", "s/GB", False),
    "cpu_user_s_per_gb": Figure("of that, user", "s/GB", False),
    "machine_s_per_gb": Figure("CPU of the machine", "s/GB", False),
    "per_s": Figure("rate", "1/s", True),
    "p50_us": Figure("p50", "us", False),
    "p90_us": Figure("p90", "us", False),
    "p99_us": Figure("p99", "us", False),
    "p999_us": Figure("p99.9", "us", False),
    "cpu_us_each": Figure("CPU of the proxy", "us each", False),
    "delivered_per_s": Figure("delivered at saturation", "1000/s", True, 1e-3),
    "lossless_per_s": Figure("delivered at 1 % loss at most", "1000/s", True, 1e-3),
    "cpu_s_per_million": Figure("CPU of the proxy", "s/million", False),
    "lost": Figure("lost", "%", False, 100),
    "pss_each": Figure("proportional memory", "kB each", False, 1e-3),
    "uss_each": Figure("unique memory", "kB each", False, 1e-3),
    "rss_each": Figure("resident memory", "kB each", False, 1e-3),
    "held": Figure("connections held", "", True),
    "serves_again": Figure("serves a client after that", "", True),
    "publish_s": Figure("to publish all, in series", "s", False),
    "processes": Figure("processes", "", False),
    "answer_p50_ms": Figure("spawn to answer, p50", "ms", False),
    "answer_to_python": Figure("that p50, in starts and ends of an empty Python", "", False),
    "answer_p99_ms": Figure("spawn to answer, p99", "ms", False),
}


class Scenario(NamedTuple):
    """Some rows of the table. `family` and `size` (streams, connections, ...) place it on a growth curve."""

    name: str
    words: str
    proto: str
    container_port: int
    figures: tuple[str, ...]
    measure: Callable[[BenchWorld, Running, float], Figures] | None
    family: str = ""
    size: int = 0
    quick: bool = False
    # Memory does not vary from round to round as speed does: the longest of those scenarios need fewer rounds.
    most_rounds: int = 100
    # For peers with docker-proxy's command line only; started by the scenario itself.
    measure_command: Callable[[Peer, float], Figures] | None = None

    def fits(self, peer: Peer) -> bool:
        return self.proto in peer.protocols and (self.measure_command is None or peer.command is not None)


# How much longer than its measurement a load program may take before the peer counts as hung.
_GRACE_S = 20


def _bulk(streams: int, flags: tuple[str, ...]) -> Callable[[BenchWorld, Running, float], Figures]:
    both_ways = "--bidir" in flags

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        ip, port = running.address
        client = ["iperf3", "-c", ip, "-p", str(port), "-J", "--connect-timeout", "3000"]
        world.run(*client, "-n", "1M", on=CLIENT, check=False)
        before = usage.cpu(running.processes)
        # An amount, as iperf3 knows whole seconds only: about as long at the rates seen here (10 to 20 Gbit/s), and
        # longer where what is still in so many buffers at the end would be a good part of it.
        amount = f"{round(2000 * seconds * (1 + streams / 32))}M"
        # With --bidir, client and server tell by the order of connections which way a stream goes. A proxy that dials
        # for several clients at a time may change it: both ends of a stream then send, and nobody reads, for ever.
        timeout_s = 8 + 10 * seconds
        output = world.run(
            *client, "-n", amount, "-P", str(streams), *flags, on=CLIENT, check=False, timeout_s=timeout_s
        )
        spent = usage.cpu(running.processes).since(before)
        gb = received_bytes(output, both_ways=both_ways) / 1e9
        figures = {"bits_per_s": bits_per_second(output, both_ways=both_ways), "machine_s_per_gb": spent.machine / gb}
        if running.processes:
            figures |= {"cpu_s_per_gb": spent.total / gb, "cpu_user_s_per_gb": spent.user / gb}
        return figures

    return measure


def _loaded(what: str, size: int, **more: int) -> Callable[[BenchWorld, Running, float], Figures]:
    """Exchanges, connections or pings, by a load program that reports rate and percentiles."""

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        arguments: dict[str, Any] = {"address": running.address, "size": size, **more}
        if what == "ping":
            world.datagrams("echo")
        world.run_load(what, **arguments, seconds=min(0.1, seconds))
        before = usage.cpu(running.processes)
        figures: Figures = world.run_load(what, seconds + _GRACE_S, **arguments, seconds=seconds)
        spent = usage.cpu(running.processes).since(before)
        if running.processes:
            figures["cpu_us_each"] = 1e6 * spent.total / (figures["per_s"] * seconds)
        return figures

    return measure


# After this long without a datagram, none is on its way any more.
_QUIET_S = 0.05


def counted(world: BenchWorld, size: int, sent: float) -> int:
    """Datagrams that have arrived in the container, of those `sent`, when no more do.

    LoadError if they are not what was sent.
    """
    counted = world.datagrams()
    quiet_from = time.perf_counter()
    while counted["datagrams"] < sent and time.perf_counter() < quiet_from + _QUIET_S:
        later = world.datagrams()
        if later["datagrams"] != counted["datagrams"]:
            quiet_from = time.perf_counter()
        counted = later
        time.sleep(0.005)  # asking costs the counter time
    return _undamaged(counted, size)


def _undamaged(counted: dict[str, int], size: int) -> int:
    if counted["damaged"] or counted["bytes"] != size * counted["datagrams"]:
        raise LoadError(f"{counted['damaged']} datagrams damaged, {counted['bytes']} bytes in {counted['datagrams']}")
    return counted["datagrams"]


def _datagrams(
    size: int, flows: int, *, ladder: bool, segmented: bool = False
) -> Callable[[BenchWorld, Running, float], Figures]:
    def once(world: BenchWorld, running: Running, seconds: float, per_s: float) -> tuple[float, float]:
        """Rate delivered, and the share lost."""
        world.datagrams("count")
        sent = world.run_load("datagrams", seconds + _GRACE_S, address=running.address, size=size, flows=flows,
                              seconds=seconds, per_s=per_s, segmented=segmented)  # fmt: skip
        arrived = counted(world, size, sent["sent"])
        return arrived / seconds, 1 - arrived / sent["sent"]

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        once(world, running, 0.1, 1000.0)
        before = usage.cpu(running.processes)
        delivered, _ = once(world, running, seconds, 0)
        spent = usage.cpu(running.processes).since(before)
        if not delivered:
            raise LoadError("not one datagram arrived")
        figures = {"delivered_per_s": delivered}
        if running.processes:
            figures["cpu_s_per_million"] = spent.total / (delivered * seconds / 1e6)
        if ladder:
            # Halve the interval between a rate that passes and one that does not, four times: to 6 % of the first.
            passes, fails, best = 0.0, 1.25 * delivered, 0.0
            for _ in range(4):
                rate = (passes + fails) / 2
                arrived, lost = once(world, running, seconds / 2, rate)
                if lost <= 0.01:
                    passes, best = rate, max(best, arrived)
                else:
                    fails = rate
            figures["lossless_per_s"] = best
        return figures

    return measure


def _flood(size: int) -> Callable[[BenchWorld, Running, float], Figures]:
    """From the container to the client."""

    def once(world: BenchWorld, running: Running, seconds: float) -> int:
        world.datagrams(f"flood {size} {seconds}")
        counted = world.run_load("sink", seconds + _GRACE_S, address=running.address, size=size, seconds=seconds)
        return _undamaged(counted, size)

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        once(world, running, 0.05)
        before = usage.cpu(running.processes)
        arrived = once(world, running, seconds)
        spent = usage.cpu(running.processes).since(before)
        if not arrived:
            raise LoadError("not one datagram arrived")
        figures = {"delivered_per_s": arrived / seconds}
        if running.processes:
            figures["cpu_s_per_million"] = spent.total / (arrived / 1e6)
        return figures

    return measure


def _burst(size: int, count: int) -> Callable[[BenchWorld, Running, float], Figures]:
    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        lost = []
        world.datagrams("echo")
        world.run_load("ping", address=running.address, size=size, seconds=0.05)  # processes started, modules imported
        for _ in range(3):
            world.datagrams("count")
            world.run_load("burst", address=running.address, size=size, count=count)
            lost.append(1 - counted(world, size, count) / count)
        return {"lost": sum(lost) / 3}

    return measure


def _fill(descriptors: int) -> Callable[[BenchWorld, Running, float], Figures]:
    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        world.run_load("exchange", address=running.address, size=1, connections=1, seconds=0.05)
        for process in usage.trees(running.processes):
            process.rlimit(psutil.RLIMIT_NOFILE, (descriptors, descriptors))
        # More than one connection for each descriptor nobody can hold, not even a process per connection.
        return world.run_load("fill", address=running.address, most=descriptors)

    return measure


def _idle(wanted: int) -> Callable[[BenchWorld, Running, float], Figures]:
    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        # A proxy of two descriptors a connection must be able to hold them all.
        connections = min(wanted, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) // 2)
        world.run_load("exchange", address=running.address, size=1, connections=1, seconds=0.05)
        before = usage.memory(running.processes)
        arguments = f'{{"address": ["{running.address[0]}", {running.address[1]}], "connections": {connections}}}'
        command = [sys.executable, "-m", "bench.load", "hold", arguments]
        holder = world.start(*command, on=CLIENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            if f'"held": {connections}' not in holder.stdout.readline():
                raise LoadError(f"not all {connections} connections: {holder.stderr.read().strip().splitlines()[-1:]}")
            after = usage.memory(running.processes)
        finally:
            holder.stdin.close()
            holder.wait()
            for stream in (holder.stdout, holder.stderr):
                stream.close()
            world.forget(holder)
        if not running.processes:
            return {"held": connections}
        return {
            "pss_each": (after.pss - before.pss) / connections,
            "uss_each": (after.uss - before.uss) / connections,
            "rss_each": (after.rss - before.rss) / connections,
            "held": connections,
        }

    return measure


def _spawn(command: tuple[str, ...]) -> int:
    """Start a proxy on a free port of loopback as dockerd does, and wait for its answer. Its process id."""
    read, write = os.pipe()
    ends = ["-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", "0"]
    pid = os.posix_spawn(
        command[0],
        [*command, *ends, "-container-ip", "127.0.0.1", "-container-port", "9"],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, write, 100),
            (os.POSIX_SPAWN_DUP2, 100, 3),
            (os.POSIX_SPAWN_CLOSE, 100),
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
        ],
    )
    os.close(write)
    answer = os.read(read, 2)
    os.close(read)
    if answer != b"0\n":
        _end([pid])
        raise LoadError(f"{command[0]} answered {answer!r}")
    return pid


def _end(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def _start(peer: Peer, seconds: float) -> Figures:
    assert peer.command is not None
    took: list[float] = []
    empty: list[float] = []
    with peer.beside():
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(took) < 20:
            before = time.perf_counter()
            pid = _spawn(peer.command)
            took.append(1e3 * (time.perf_counter() - before))
            _end([pid])
            before = time.perf_counter()
            # What any program in Python must spend, as a yardstick of the machine: nothing imported, nothing done.
            os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", "pass"], os.environ), 0)
            empty.append(1e3 * (time.perf_counter() - before))
    took.sort()
    empty.sort()
    return {
        "answer_p50_ms": percentile(took, 0.5),
        "answer_to_python": percentile(took, 0.5) / percentile(empty, 0.5),
        "answer_p99_ms": percentile(took, 0.99),
    }


def _publish(ports: int) -> Callable[[Peer, float], Figures]:
    def measure(peer: Peer, seconds: float) -> Figures:
        assert peer.command is not None
        pids: list[int] = []
        with peer.beside() as others:
            try:
                before = time.perf_counter()
                for _ in range(ports):
                    pids.append(_spawn(peer.command))
                took = time.perf_counter() - before
                used = usage.memory([*others, *(psutil.Process(pid) for pid in pids)])
            finally:
                _end(pids)
        return {
            "publish_s": took,
            "pss_each": used.pss / ports,
            "uss_each": used.uss / ports,
            "rss_each": used.rss / ports,
            "processes": used.processes,
        }

    return measure


def _all() -> list[Scenario]:
    bulk = ("bits_per_s", "cpu_s_per_gb", "cpu_user_s_per_gb", "machine_s_per_gb")
    latency = ("p50_us", "p99_us", "p999_us", "per_s", "cpu_us_each")
    rate = ("per_s", "p50_us", "p99_us", "cpu_us_each")
    memory = ("pss_each", "uss_each", "rss_each")
    held = (*memory, "held")
    found = []
    for way, words, flags in (
        ("up", "client to container", ()),
        ("down", "container to client", ("-R",)),
        ("both", "both ways", ("--bidir",)),
    ):
        for streams in (1, 8, 64):
            found.append(
                Scenario(
                    f"tcp-bulk-{way}-{streams}",
                    f"TCP bulk, {words}, {streams} stream{'s' * (streams > 1)}",
                    "tcp", IPERF_PORT, bulk, _bulk(streams, flags), f"tcp-bulk-{way}", streams,
                    quick=streams == 1 and way != "both",
                )
            )  # fmt: skip
    for size in (64, 4096):
        for connections in (1, 100):
            found.append(
                Scenario(
                    f"tcp-exchange-{size}-{connections}",
                    f"TCP request and response, {size} B, {connections} connection{'s' * (connections > 1)}",
                    "tcp", ECHO_PORT, latency if connections == 1 else rate,
                    _loaded("exchange", size, connections=connections),
                    f"tcp-exchange-{size}", connections, quick=size == 64,
                )
            )  # fmt: skip
    found.append(
        Scenario("tcp-exchange-paced", "TCP request and response, 64 B, 500 a second", "tcp", ECHO_PORT,
                 ("cpu_us_each", "p50_us", "p99_us"), _loaded("exchange", 64, connections=1, per_s=500))
    )  # fmt: skip
    found.append(
        Scenario("tcp-exchange-beside", "TCP request and response, 64 B, beside a bulk stream", "tcp", MIXED_PORT,
                 ("p50_us", "p99_us", "per_s"), _loaded("beside_bulk", 64))
    )  # fmt: skip
    found.append(
        Scenario("tcp-connect", "TCP connect, request, close; 16 at once", "tcp", ECHO_PORT, rate,
                 _loaded("connect", 64, connections=16), quick=True)
    )  # fmt: skip
    found.append(
        Scenario("tcp-descriptors", "TCP connections under a limit of 600 descriptors", "tcp", ECHO_PORT,
                 ("held", "serves_again"), _fill(600))
    )  # fmt: skip
    for size in (64, 1400):
        for flows in (1, 100):
            found.append(
                Scenario(
                    f"udp-bulk-{size}-{flows}",
                    f"UDP, {size} B, {flows} flow{'s' * (flows > 1)}",
                    "udp", DATAGRAM_PORT, ("delivered_per_s", "lossless_per_s", "cpu_s_per_million"),
                    _datagrams(size, flows, ladder=True), f"udp-bulk-{size}", flows, quick=flows == 1,
                )
            )  # fmt: skip
    found.append(
        Scenario("udp-down-1400", "UDP, 1400 B, container to client", "udp", DATAGRAM_PORT,
                 ("delivered_per_s", "cpu_s_per_million"), _flood(1400), quick=True)
    )  # fmt: skip
    found.append(
        Scenario("udp-segmented-1200", "UDP, 1200 B, the sender segments itself", "udp", DATAGRAM_PORT,
                 ("delivered_per_s", "cpu_s_per_million"), _datagrams(1200, 1, ladder=False, segmented=True),
                 quick=True)
    )  # fmt: skip
    found.append(
        Scenario("udp-burst", "UDP, a burst of 400 times 1200 B", "udp", DATAGRAM_PORT, ("lost",), _burst(1200, 400),
                 quick=True)
    )  # fmt: skip
    found.append(
        Scenario(
            "udp-ping", "UDP datagram and reply, 64 B", "udp", DATAGRAM_PORT, latency, _loaded("ping", 64), quick=True
        )
    )
    for connections in (1000, 10_000):
        found.append(
            Scenario(f"idle-{connections}", f"{connections} idle TCP connections", "tcp", ECHO_PORT, held,
                     _idle(connections), "idle", connections, quick=connections == 1000,
                     most_rounds=6 if connections == 1000 else 2)
        )  # fmt: skip
    for ports in (1, 10, 100, 1000):
        found.append(
            Scenario(f"ports-{ports}", f"{ports} published port{'s' * (ports > 1)}", "tcp", 0,
                     ("publish_s", *memory, "processes"), None, "ports", ports, quick=ports == 10,
                     most_rounds=6 if ports < 1000 else 2, measure_command=_publish(ports))
        )  # fmt: skip
    found.append(
        Scenario("start", "Start of one proxy", "tcp", 0, ("answer_p50_ms", "answer_to_python", "answer_p99_ms"), None,
                 quick=True, measure_command=_start)
    )  # fmt: skip
    return found


SCENARIOS = _all()
