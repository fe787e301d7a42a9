"""What is measured: the list. The first figure of a scenario is the one that plots show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bench.peers.peer import Peer
from bench.trials.bulk import bulk
from bench.trials.burst import burst
from bench.trials.connections import fill, idle
from bench.trials.datagrams import flood, saturated
from bench.trials.iperf import iperf
from bench.trials.publish import publish
from bench.trials.start import start
from bench.trials.timed import timed
from bench.trials.trial import Begin, BeginCommand, without_turns
from bench.world import BULK_PORT, DATAGRAM_PORT, ECHO_PORT, IPERF_PORT, MIXED_PORT


class Figure(NamedTuple):
    """How a figure is to be read."""

    title: str
    unit: str
    more_is_better: bool
    scale: float = 1.0  # from the stored value to the unit
    # Of a round it rests on a handful of events, the slowest: two runs' ratios may differ by any factor. None is told.
    is_extreme: bool = False


FIGURES = {
    "bits_per_s": Figure("throughput", "Gbit/s", True, 1e-9),
    "bulk_bits_per_s": Figure("throughput of that stream", "Gbit/s", True, 1e-9),
    "cpu_s_per_gb": Figure("CPU of the proxy", "s/GB", False),
    "machine_s_per_gb": Figure("CPU of the machine", "s/GB", False),
    "per_s": Figure("rate", "1/s", True),
    "p50_us": Figure("p50", "us", False),
    "p90_us": Figure("p90", "us", False),
    "p99_us": Figure("p99", "us", False),
    "p999_us": Figure("p99.9", "us", False, is_extreme=True),
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
    "answer_p99_ms": Figure("spawn to answer, p99", "ms", False, is_extreme=True),
}


class Scenario(NamedTuple):
    """Some rows of the table. `family` and `size` (streams, connections, ...) place it on a growth curve."""

    name: str
    title: str
    proto: str
    container_port: int
    figures: tuple[str, ...]
    begin: Begin | None
    family: str = ""
    size: int = 0
    quick: bool = False
    # Those that users ask for first, and that targets are set for.
    primary: tuple[str, ...] = ()
    # What does not vary from round to round as speed does, memory, needs fewer where a round takes long: up to five
    # if so many are asked for.
    most_rounds: int = 100
    # How many turns a peer has in a round, and how many times `--seconds` they last. Fewer and longer ones where one
    # takes long to begin; none is "all at once".
    turns: int = 10
    longer: int = 1
    # Client and container on processors of their own (`BenchWorld.pinned`).
    pinned: bool = False
    # These take no part.
    without: tuple[str, ...] = ()
    # For peers with docker-proxy's command line only; started by the scenario itself.
    begin_command: BeginCommand | None = None
    # What a quick run does instead.
    begin_quick: Begin | None = None

    def quick_version(self) -> Scenario:
        """As a quick run has it."""
        return self._replace(begin=self.begin_quick or self.begin)

    @property
    def rounds_of_others(self) -> int:
        """In how many others than pyproxy, docker-proxy and direct take part: two where users look first, one for the
        further points of curves, which so many peers would make long.
        """
        return 2 if self.quick else 1

    def fits(self, peer: Peer) -> bool:
        if self.proto not in peer.protocols or peer.name in self.without:
            return False
        return self.begin_command is None or (peer.command is not None and not peer.starts_as_another)


# How many turns, and how much longer ones, by streams: many take longer until they are steady.
_BULK_TURNS = {1: (10, 1), 8: (10, 2), 64: (4, 5)}

_PORTS_TURNS = {1: 20, 10: 30, 100: 10, 1000: 0}

# Where connections are many, and long to open. Ten thousand processes of socat take most of a minute.
_WITHOUT = ("dnat", "pyproxy-asyncio", "socat")


_BULK = ("bits_per_s", "cpu_s_per_gb", "machine_s_per_gb")
_LATENCY = ("p50_us", "p99_us", "p999_us", "per_s", "cpu_us_each")
_RATE = ("per_s", "p50_us", "p99_us", "cpu_us_each")
_DELIVERED = ("delivered_per_s", "cpu_s_per_million")
_MEMORY = ("pss_each", "uss_each", "rss_each")


def _bulk_streams() -> Iterator[Scenario]:
    for way, words, ways in (
        ("up", "client to container", "u"),
        ("down", "container to client", "d"),
        ("both", "both ways", "ud"),
    ):
        for streams in (1, 8, 64):
            turns, longer = _BULK_TURNS[streams]
            yield Scenario(
                f"tcp-bulk-{way}-{streams}",
                f"TCP bulk, {words}, {streams} stream{'s' * (streams > 1)}{' each' * (way == 'both')}",
                "tcp", BULK_PORT, _BULK, bulk(streams, ways), f"tcp-bulk-{way}", streams,
                quick=streams == 1 and way != "both", primary=("bits_per_s", "cpu_s_per_gb"),
                without=_WITHOUT if streams == 64 else (), turns=turns, longer=longer,
            )  # fmt: skip
    yield Scenario("tcp-bulk-iperf3", "TCP bulk, client to container, 1 stream, by iperf3", "tcp", IPERF_PORT,
                   ("bits_per_s",), without_turns(iperf), turns=0,
                   without=(*_WITHOUT, "pyproxy-engine", "nginx", "haproxy", "socket-proxyd"))  # fmt: skip


def _exchanges() -> Iterator[Scenario]:
    for size in (64, 4096):
        for connections in (1, 100):
            yield Scenario(
                f"tcp-exchange-{size}-{connections}",
                f"TCP request and response, {size} B, {connections} connection{'s' * (connections > 1)}",
                "tcp", ECHO_PORT, _LATENCY if connections == 1 else _RATE,
                timed("exchange", size, connections=connections),
                f"tcp-exchange-{size}", connections, quick=size == 64, pinned=connections == 1,
                primary=("p50_us", "p99_us") if connections == 1 else ("per_s",),
            )  # fmt: skip
    yield Scenario("tcp-exchange-paced", "TCP request and response, 64 B, 500 a second", "tcp", ECHO_PORT,
                   ("cpu_us_each", "p50_us", "p90_us"), timed("exchange", 64, connections=1, per_s=500),
                   turns=5, longer=2, pinned=True, primary=("cpu_us_each", "p50_us"))  # fmt: skip
    yield Scenario("tcp-exchange-beside", "TCP request and response, 64 B, beside a bulk stream", "tcp", MIXED_PORT,
                   ("p50_us", "bulk_bits_per_s", "p99_us", "per_s", "cpu_us_each"), timed("beside_bulk", 64),
                   longer=4, primary=("p50_us", "bulk_bits_per_s"))  # fmt: skip


def _connections() -> Iterator[Scenario]:
    yield Scenario("tcp-connect", "TCP connect, request, close; 16 at once", "tcp", ECHO_PORT, _RATE,
                   timed("connect", 64, connections=16), quick=True, primary=("per_s", "p99_us"))  # fmt: skip
    yield Scenario("tcp-descriptors", "TCP connections under a limit of 600 descriptors", "tcp", ECHO_PORT,
                   ("held", "serves_again"), fill(600), turns=0, most_rounds=2)  # fmt: skip


def _datagrams() -> Iterator[Scenario]:
    for size in (64, 1400):
        for flows in (1, 100):
            yield Scenario(
                f"udp-bulk-{size}-{flows}",
                f"UDP, {size} B, {flows} flow{'s' * (flows > 1)}",
                "udp", DATAGRAM_PORT, ("delivered_per_s", "lossless_per_s", "cpu_s_per_million"),
                saturated(size, flows, ladder=True), begin_quick=saturated(size, flows),
                family=f"udp-bulk-{size}", size=flows, quick=flows == 1,
                primary=_DELIVERED if flows == 1 else _DELIVERED[:1],
            )  # fmt: skip
    yield Scenario("udp-down-1400", "UDP, 1400 B, container to client", "udp", DATAGRAM_PORT, _DELIVERED,
                   flood(1400), quick=True, primary=_DELIVERED[:1])  # fmt: skip
    yield Scenario("udp-segmented-1200", "UDP, 1200 B, the sender segments itself", "udp", DATAGRAM_PORT, _DELIVERED,
                   saturated(1200, 1, segmented=True), quick=True, primary=_DELIVERED[:1])  # fmt: skip
    yield Scenario("udp-burst", "UDP, a burst of 400 times 1200 B", "udp", DATAGRAM_PORT, ("lost",),
                   burst(1200, 400), quick=True)  # fmt: skip
    yield Scenario("udp-ping", "UDP datagram and reply, 64 B", "udp", DATAGRAM_PORT, _LATENCY, timed("ping", 64),
                   quick=True, pinned=True, primary=("p50_us",))  # fmt: skip


def _idle_connections() -> Iterator[Scenario]:
    for connections in (1000, 10_000):
        yield Scenario(f"idle-{connections}", f"{connections} idle TCP connections", "tcp", ECHO_PORT,
                       (*_MEMORY, "held") if connections == 1000 else ("held", *_MEMORY), idle(connections), "idle",
                       connections, quick=connections == 1000, turns=0,
                       most_rounds=5 if connections == 1000 else 1,
                       without=() if connections == 1000 else _WITHOUT)  # fmt: skip


def _published_ports() -> Iterator[Scenario]:
    for ports in (1, 10, 100, 1000):
        yield Scenario(f"ports-{ports}", f"{ports} published port{'s' * (ports > 1)}", "tcp", 0,
                       ("publish_s", *_MEMORY, "processes"), None, "ports", ports, quick=ports == 10,
                       turns=_PORTS_TURNS[ports], most_rounds=5 if ports < 1000 else 1,
                       begin_command=publish(ports))  # fmt: skip


def _start() -> Iterator[Scenario]:
    yield Scenario("start", "Start of one proxy", "tcp", 0, ("answer_p50_ms", "answer_to_python", "answer_p99_ms"),
                   None, quick=True, primary=("answer_p50_ms",), begin_command=start)  # fmt: skip


SCENARIOS = [
    *_bulk_streams(),
    *_exchanges(),
    *_connections(),
    *_datagrams(),
    *_idle_connections(),
    *_published_ports(),
    *_start(),
]
