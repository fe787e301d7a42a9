"""What is measured. A scenario turns a running peer into figures; the first of them is the one that plots show."""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import psutil

from bench import usage
from bench.iperf import bits_per_second
from bench.peers import QUICK, Peer, Running
from bench.stats import percentile
from bench.world import BULK_PORT, CLIENT, DATAGRAM_PORT, ECHO_PORT, IPERF_PORT, MIXED_PORT, BenchWorld, LoadError

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


Measure = Callable[[BenchWorld, Running, float], Figures]


class Scenario(NamedTuple):
    """Some rows of the table. `family` and `size` (streams, connections, ...) place it on a growth curve."""

    name: str
    words: str
    proto: str
    container_port: int
    figures: tuple[str, ...]
    measure: Measure | None
    family: str = ""
    size: int = 0
    quick: bool = False
    # Those whose ratio to docker-proxy decides whether more rounds are needed: what issue and README promise.
    primary: tuple[str, ...] = ()
    # What does not vary from round to round as speed does, memory, needs fewer where a round takes long.
    most_rounds: int = 100
    # Further figures from those of `measure`, in the first rounds only: they take long.
    besides: Callable[[BenchWorld, Running, float, Figures], Figures] | None = None
    # No others take part, if there are any.
    peers: tuple[str, ...] = ()
    # For peers with docker-proxy's command line only; started by the scenario itself.
    measure_command: Callable[[Peer, float], Figures] | None = None

    @property
    def rounds_of_others(self) -> int:
        """In how many others than pyproxy, docker-proxy and direct take part: five where users look first, two for the
        further points of curves, which so many peers would make long.
        """
        return 5 if self.quick else 2

    def fits(self, peer: Peer) -> bool:
        if self.proto not in peer.protocols or (self.peers and peer.name not in self.peers):
            return False
        return self.measure_command is None or (peer.command is not None and not peer.starts_as_another)


# How much longer than its measurement a load program may take before the peer counts as hung.
_GRACE_S = 10

# Streams and floods go on for so long before they are counted: windows, buffers and pipes have grown, queues are full.
# One stream is as fast after 0.1 s as it gets; 64 each way took until 0.2 to 0.3 s (bench/NOTES.md).
_RAMP_S = 0.08
_RAMP_MORE_S = 0.002  # for each connection


class _Count(NamedTuple):
    """Of what has come to an end since it began, and when that was true."""

    amount: float
    at: float


def _steady(
    running: Running, seconds: float, read: Callable[[], Sequence[_Count]], connections: int = 1
) -> tuple[float, dict[str, float]]:
    """What arrives a second, while it goes on and nothing begins or ends; and the CPU seconds spent on each."""
    time.sleep(_RAMP_S + connections * _RAMP_MORE_S)
    cpu, first = usage.cpu(running.processes), read()
    time.sleep(seconds)
    spent, last = usage.cpu(running.processes).since(cpu), read()
    rate = sum((b.amount - a.amount) / (b.at - a.at) for a, b in zip(first, last, strict=True))
    if not rate:
        raise LoadError("nothing arrived")
    # Counters and clocks are read one after the other, so each is taken by its own time.
    each = {"machine": spent.machine / spent.at / rate}
    if running.processes:
        each["total"] = spent.total / spent.at / rate
    return rate, each


def _bulk(streams: int, ways: str) -> Measure:
    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        try:
            with world.staying_load("bulk", _GRACE_S, address=running.address, streams=streams, ways=ways) as ours:
                receivers = [ask for way, ask in (("u", world.bulk), ("d", ours.ask)) if way in ways]
                rate, each = _steady(
                    running, seconds, lambda: [_count(receiver()) for receiver in receivers], streams * len(ways)
                )
        finally:
            world.bulk("end")
        figures = {"bits_per_s": 8 * rate, "machine_s_per_gb": 1e9 * each["machine"]}
        if running.processes:
            figures["cpu_s_per_gb"] = 1e9 * each["total"]
        return figures

    return measure


def _count(answer: dict[str, Any]) -> _Count:
    return _Count(answer["amount"], answer["at"])


def _iperf(streams: int, *flags: str) -> Measure:
    """The same by a program that others know, to check our own against it. Whole seconds are all it knows."""

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        ip, port = running.address
        client = ["iperf3", "-c", ip, "-p", str(port), "-J", "--connect-timeout", "3000"]
        words = [*client, "-t", str(max(1, round(seconds))), "-P", str(streams), *flags]
        return {"bits_per_s": bits_per_second(world.run(*words, on=CLIENT, check=False, timeout_s=seconds + _GRACE_S))}

    return measure


def _loaded(what: str, size: int, **more: int) -> Measure:
    """Exchanges, connections or pings, by a load program that reports rate and percentiles."""

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        found = _load(world, running, seconds, what, size, more)
        return {name: value for name, value in found.items() if name not in ("samples", "p999_us")}

    return measure


def _tail(what: str, size: int, **more: int) -> Callable[[BenchWorld, Running, float, Figures], Figures]:
    """The p99.9 of the same. It takes a longer measurement, and is left out if that was too short as well."""

    def measure(world: BenchWorld, running: Running, seconds: float, figures: Figures) -> Figures:
        found = _load(world, running, max(seconds, _TAIL_S), what, size, more)
        return {"p999_us": found["p999_us"]} if found["samples"] >= _TAIL_SAMPLES else {}

    return measure


# One in a thousand must be one at least; at 3,000 exchanges a second that takes a third of a second.
_TAIL_SAMPLES = 1000
_TAIL_S = 0.5


def _load(
    world: BenchWorld, running: Running, seconds: float, what: str, size: int, more: Mapping[str, int]
) -> Figures:
    if what == "ping":
        world.datagrams("echo")
    roots = [process.pid for process in running.processes]
    return world.run_load(
        what, seconds + _GRACE_S, address=running.address, size=size, **more, seconds=seconds, roots=roots
    )


# After this long without a datagram, none is on its way any more.
_QUIET_S = 0.05


def counted(world: BenchWorld, size: int, sent: float) -> int:
    """Datagrams that have arrived in the container, of those `sent`, when no more do.

    LoadError if they are not what was sent.
    """
    counted = world.datagrams()
    quiet_from = time.perf_counter()
    while counted["amount"] < sent and time.perf_counter() < quiet_from + _QUIET_S:
        later = world.datagrams()
        if later["amount"] != counted["amount"]:
            quiet_from = time.perf_counter()
        counted = later
        time.sleep(0.005)  # asking costs the counter time
    return int(_undamaged(counted, size).amount)


def _undamaged(counted: dict[str, Any], size: int) -> _Count:
    if counted["damaged"] or counted["bytes"] != size * counted["amount"]:
        raise LoadError(f"{counted['damaged']} datagrams damaged, {counted['bytes']} bytes in {counted['amount']}")
    return _count(counted)


def _delivered(rate: float, each: dict[str, float]) -> Figures:
    figures = {"delivered_per_s": rate}
    if "total" in each:
        figures["cpu_s_per_million"] = 1e6 * each["total"]
    return figures


def _saturated(size: int, flows: int, *, segmented: bool = False) -> Measure:
    """As many datagrams as go, from the client to the container."""

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        world.datagrams("count")
        with world.staying_load(
            "saturate", _GRACE_S, address=running.address, size=size, flows=flows, segmented=segmented
        ):
            found = _delivered(*_steady(running, seconds, lambda: [_undamaged(world.datagrams(), size)]))
        counted(world, size, math.inf)  # what is on its way belongs to nobody else
        return found

    return measure


def _lossless(size: int, flows: int) -> Callable[[BenchWorld, Running, float, Figures], Figures]:
    """The rate up to which 1 % is lost at most: a ladder."""

    def once(world: BenchWorld, running: Running, seconds: float, per_s: float) -> tuple[float, float]:
        """Rate delivered, and the share lost."""
        world.datagrams("count")
        sent = world.run_load("datagrams", seconds + _GRACE_S, address=running.address, size=size, flows=flows,
                              seconds=seconds, per_s=per_s)  # fmt: skip
        arrived = counted(world, size, sent["sent"])
        return arrived / seconds, 1 - arrived / sent["sent"]

    def measure(world: BenchWorld, running: Running, seconds: float, figures: Figures) -> Figures:
        # Halve the interval between a rate that passes and one that does not, five times: to 4 % of the first.
        passes, fails, best = 0.0, 1.25 * figures["delivered_per_s"], 0.0
        for _ in range(5):
            rate = (passes + fails) / 2
            arrived, lost = once(world, running, seconds / 2, rate)
            if lost <= 0.01:
                passes, best = rate, max(best, arrived)
            else:
                fails = rate
        return {"lossless_per_s": best}

    return measure


def _flood(size: int) -> Measure:
    """As many datagrams as go, from the container to the client."""

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        world.datagrams(f"flood {size}")
        try:
            with world.staying_load("sink", _GRACE_S, address=running.address, size=size) as ours:
                return _delivered(*_steady(running, seconds, lambda: [_undamaged(ours.ask(), size)]))
        finally:
            world.datagrams("count")

    return measure


def knock(world: BenchWorld, running: Running) -> None:
    """Wait for an answer through a peer that has had no client yet: some load half of themselves only then, and a flood
    meanwhile would find nobody.
    """
    world.datagrams("echo")
    world.run_load("ping", address=running.address, size=64, seconds=0.01)


def _burst(size: int, count: int) -> Measure:
    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        lost = []
        for _ in range(3):
            world.datagrams("count")
            world.run_load("burst", address=running.address, size=size, count=count)
            lost.append(1 - counted(world, size, count) / count)
        return {"lost": sum(lost) / 3}

    return measure


def _fill(descriptors: int) -> Measure:
    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        world.run_load("exchange", address=running.address, size=1, connections=1, seconds=0.02)
        for process in usage.trees(running.processes):
            process.rlimit(psutil.RLIMIT_NOFILE, (descriptors, descriptors))
        # More than one connection for each descriptor nobody can hold, not even a process per connection.
        return world.run_load("fill", address=running.address, most=descriptors)

    return measure


def _idle(wanted: int) -> Measure:
    """Of a peer that cannot hold them all the figure is how many it holds, and no memory."""

    def measure(world: BenchWorld, running: Running, seconds: float) -> Figures:
        # A proxy of two descriptors a connection must be able to hold them all.
        connections = min(wanted, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) // 2)
        world.run_load("exchange", address=running.address, size=1, connections=1, seconds=0.02)
        before = usage.memory(running.processes)
        with world.staying_load("hold", address=running.address, most=connections) as ours:
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

    return measure


# Where connections are many, and long to open. Ten thousand processes of socat take most of a minute.
_HOLDERS = ("pyproxy", "docker-proxy", "direct", "pyproxy-engine", "nginx", "haproxy", "socket-proxyd")


def _spawn(command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Start a proxy on a free port of loopback as dockerd does, and wait for its answer. Its process id."""
    read, write = os.pipe()
    ends = ["-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", "0"]
    pid = os.posix_spawn(
        command[0],
        [*command, *ends, "-container-ip", "127.0.0.1", "-container-port", "9"],
        environment,
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
    with peer.beside() as beside:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(took) < 20:
            before = time.perf_counter()
            pid = _spawn(peer.command, beside.environment)
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
        with peer.beside() as beside:
            try:
                before = time.perf_counter()
                for _ in range(ports):
                    pids.append(_spawn(peer.command, beside.environment))
                took = time.perf_counter() - before
                used = usage.memory([*beside.processes, *(psutil.Process(pid) for pid in pids)])
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
    bulk = ("bits_per_s", "cpu_s_per_gb", "machine_s_per_gb")
    latency = ("p50_us", "p99_us", "p999_us", "per_s", "cpu_us_each")
    rate = ("per_s", "p50_us", "p99_us", "cpu_us_each")
    delivered = ("delivered_per_s", "cpu_s_per_million")
    memory = ("pss_each", "uss_each", "rss_each")
    found = []
    for way, words, ways in (
        ("up", "client to container", "u"),
        ("down", "container to client", "d"),
        ("both", "both ways", "ud"),
    ):
        for streams in (1, 8, 64):
            found.append(
                Scenario(
                    f"tcp-bulk-{way}-{streams}",
                    f"TCP bulk, {words}, {streams} stream{'s' * (streams > 1)}{' each' * (way == 'both')}",
                    "tcp", BULK_PORT, bulk, _bulk(streams, ways), f"tcp-bulk-{way}", streams,
                    quick=streams == 1 and way != "both", primary=("bits_per_s", "cpu_s_per_gb"),
                    peers=_HOLDERS if streams == 64 else (),
                )
            )  # fmt: skip
    found.append(
        Scenario("tcp-bulk-iperf3", "TCP bulk, client to container, 1 stream, by iperf3", "tcp", IPERF_PORT,
                 ("bits_per_s",), _iperf(1), most_rounds=5, peers=QUICK)
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
                    besides=_tail("exchange", size, connections=1) if connections == 1 else None,
                    primary=("p50_us", "p99_us") if connections == 1 else ("per_s",),
                )
            )  # fmt: skip
    found.append(
        Scenario("tcp-exchange-paced", "TCP request and response, 64 B, 500 a second", "tcp", ECHO_PORT,
                 ("cpu_us_each", "p50_us", "p99_us"), _loaded("exchange", 64, connections=1, per_s=500),
                 primary=("cpu_us_each", "p50_us"))
    )  # fmt: skip
    found.append(
        Scenario("tcp-exchange-beside", "TCP request and response, 64 B, beside a bulk stream", "tcp", MIXED_PORT,
                 ("p50_us", "p99_us", "per_s"), _loaded("beside_bulk", 64), primary=("p50_us", "p99_us"))
    )  # fmt: skip
    found.append(
        Scenario("tcp-connect", "TCP connect, request, close; 16 at once", "tcp", ECHO_PORT, rate,
                 _loaded("connect", 64, connections=16), quick=True, primary=("per_s", "p99_us"))
    )  # fmt: skip
    found.append(
        Scenario("tcp-descriptors", "TCP connections under a limit of 600 descriptors", "tcp", ECHO_PORT,
                 ("held", "serves_again"), _fill(600), most_rounds=2)
    )  # fmt: skip
    for size in (64, 1400):
        for flows in (1, 100):
            found.append(
                Scenario(
                    f"udp-bulk-{size}-{flows}",
                    f"UDP, {size} B, {flows} flow{'s' * (flows > 1)}",
                    "udp", DATAGRAM_PORT, ("delivered_per_s", "lossless_per_s", "cpu_s_per_million"),
                    _saturated(size, flows), f"udp-bulk-{size}", flows, quick=flows == 1,
                    primary=delivered if flows == 1 else delivered[:1], besides=_lossless(size, flows),
                )
            )  # fmt: skip
    found.append(
        Scenario("udp-down-1400", "UDP, 1400 B, container to client", "udp", DATAGRAM_PORT, delivered, _flood(1400),
                 quick=True, primary=delivered[:1])
    )  # fmt: skip
    found.append(
        Scenario("udp-segmented-1200", "UDP, 1200 B, the sender segments itself", "udp", DATAGRAM_PORT, delivered,
                 _saturated(1200, 1, segmented=True), quick=True, primary=delivered[:1])
    )  # fmt: skip
    found.append(
        Scenario("udp-burst", "UDP, a burst of 400 times 1200 B", "udp", DATAGRAM_PORT, ("lost",), _burst(1200, 400),
                 quick=True)
    )  # fmt: skip
    found.append(
        Scenario("udp-ping", "UDP datagram and reply, 64 B", "udp", DATAGRAM_PORT, latency, _loaded("ping", 64),
                 besides=_tail("ping", 64),
                 quick=True, primary=("p50_us",))
    )  # fmt: skip
    for connections in (1000, 10_000):
        found.append(
            Scenario(f"idle-{connections}", f"{connections} idle TCP connections", "tcp", ECHO_PORT,
                     (*memory, "held") if connections == 1000 else ("held", *memory), _idle(connections), "idle",
                     connections, quick=connections == 1000,
                     most_rounds=5 if connections == 1000 else 2, peers=() if connections == 1000 else _HOLDERS)
        )  # fmt: skip
    for ports in (1, 10, 100, 1000):
        found.append(
            Scenario(f"ports-{ports}", f"{ports} published port{'s' * (ports > 1)}", "tcp", 0,
                     ("publish_s", *memory, "processes"), None, "ports", ports, quick=ports == 10,
                     most_rounds=5 if ports < 1000 else 2, measure_command=_publish(ports))
        )  # fmt: skip
    found.append(
        Scenario("start", "Start of one proxy", "tcp", 0, ("answer_p50_ms", "answer_to_python", "answer_p99_ms"), None,
                 quick=True, primary=("answer_p50_ms",), measure_command=_start)
    )  # fmt: skip
    return found


SCENARIOS = _all()
