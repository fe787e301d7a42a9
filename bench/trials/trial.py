"""How a peer is measured: a trial stands ready before it, takes turns with those of the other peers, and adds up.

What a virtual machine's processor does in a second wanders within tenths of one, and by more than peers differ. So
peers are measured in turns of some hundredths of a second, one after the other and again, with all of them running and
their connections open: what moves one moves its neighbours in time as well, and a ratio is what it was not moved by.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import string
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import psutil

from bench import usage
from bench.peers import Beside, Peer, Running
from bench.stats import percentile
from bench.trials.iperf import bits_per_second
from bench.world import CLIENT, CLIENT_IPS, BenchWorld, LoadError, StayingLoad

Figures = dict[str, float]


class Trial(Protocol):
    """A peer under measurement. LoadError, of both: it has failed, and takes no more turns."""

    def turn(self, seconds: float) -> None:
        """Measure for so long, and leave nothing on its way behind."""

    def figures(self) -> Figures:
        """Of all turns together."""


# Makes a peer's trial; what it needs is gone when the context ends.
Begin = Callable[[BenchWorld, Running], AbstractContextManager[Trial]]
# The same of what starts the peer's command itself.
BeginCommand = Callable[[Peer], AbstractContextManager[Trial]]


class _Alone(NamedTuple):
    """What takes no turns: all at once, while the other peers have nothing to do."""

    measure: Callable[[], Figures]

    def turn(self, seconds: float) -> None:
        pass

    def figures(self) -> Figures:
        return self.measure()


def alone(measure: Callable[[BenchWorld, Running], Figures]) -> Begin:
    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        yield _Alone(lambda: measure(world, running))

    return begin


# How much longer than it should a load program may take before the peer counts as hung.
_GRACE_S = 10


def knock(world: BenchWorld, running: Running, proto: str) -> None:
    """Wait for an answer through a peer that has had no client yet: some load half of themselves only then, and a flood
    meanwhile would find nobody.
    """
    if proto == "udp":
        world.datagrams("echo")
    world.run_load("knock", _GRACE_S, proto=proto, address=running.address)


# One in a thousand must be one at least.
_TAIL_SAMPLES = 1000


class _Talk(NamedTuple):
    """Exchanges, connections or pings, by a load program that times them."""

    load: StayingLoad

    def turn(self, seconds: float) -> None:
        self.load.ask(f"{seconds}")

    def figures(self) -> Figures:
        found: Figures = self.load.ask("figures")
        if found.pop("samples") < _TAIL_SAMPLES:
            del found["p999_us"]
        return found


def talk(what: str, size: int, **more: int) -> Begin:
    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        if what == "ping":
            world.datagrams("echo")
        roots = [process.pid for process in running.processes]
        with world.staying_load(what, _GRACE_S, address=running.address, size=size, **more, roots=roots) as load:
            yield _Talk(load)

    return begin


class _Count(NamedTuple):
    """Of what has come to an end since it began, and when that was true."""

    amount: float
    at: float


# A stream or flood goes on for so long before it is counted, until all buffers on its way are as full as they get:
# those of 64 streams after 0.1 s, be it one way or both. Until then what the proxy moves is not what arrives
# (bench/NOTES.md).
_RAMP_S = 0.01
_RAMP_MORE_S = 0.002  # for each stream

# Nothing has come for so long: none is on its way any more.
_QUIET_S = 0.004


class _Flow:
    """What goes on by itself from `go` to `pause`; counted where it arrives, while nothing begins or ends."""

    def __init__(
        self,
        running: Running,
        go: Callable[[], object],
        pause: Callable[[], object],
        read: Callable[[], Sequence[_Count]],
        streams: int = 1,
    ) -> None:
        self._running = running
        self._go = go
        self._pause = pause
        self._read = read
        self._ramp_s = _RAMP_S + streams * _RAMP_MORE_S
        self._arrived = 0.0  # each end's own, by its own time
        self._took_s = 0.0
        self._spent = self._machine = 0.0

    def warm_up(self, seconds: float) -> None:
        self._go()
        try:
            time.sleep(seconds)
        finally:
            self._pause()
        self._wait_until_quiet()

    def turn(self, seconds: float) -> None:
        roots = self._running.processes
        self._go()
        try:
            time.sleep(self._ramp_s)
            cpu, first = usage.cpu(usage.trees(roots)), self._read()
            time.sleep(seconds)
            # Who has been born meanwhile counts in full.
            spent, last = usage.cpu(usage.trees(roots)).since(cpu), self._read()
        finally:
            self._pause()
        self._wait_until_quiet()
        # Counters and clocks are read one after the other, so each is taken by its own time.
        rate = sum((b.amount - a.amount) / (b.at - a.at) for a, b in zip(first, last, strict=True))
        if not rate:
            before, later = (sum(each.amount for each in some) for some in (first, self._read()))
            raise LoadError(f"nothing arrived for {seconds} s; {before:.0f} had, and {later - before:.0f} have since")
        self._arrived += seconds * rate
        self._spent += seconds * spent.total / spent.at
        self._machine += seconds * spent.machine / spent.at
        self._took_s += seconds

    def _wait_until_quiet(self) -> None:
        amounts = [count.amount for count in self._read()]
        until = time.perf_counter() + _GRACE_S
        while time.perf_counter() < until:
            time.sleep(_QUIET_S)
            before, amounts = amounts, [count.amount for count in self._read()]
            if amounts == before:
                return
        raise LoadError("what was sent before the pause still arrives")

    def rate(self) -> tuple[float, dict[str, float]]:
        """What arrives a second; and the CPU seconds spent on each."""
        each = {"machine": self._machine / self._arrived}
        if self._running.processes:
            each["total"] = self._spent / self._arrived
        return self._arrived / self._took_s, each


class _Bulk(_Flow):
    def figures(self) -> Figures:
        rate, each = self.rate()
        figures = {"bits_per_s": 8 * rate, "machine_s_per_gb": 1e9 * each["machine"]}
        if "total" in each:
            figures["cpu_s_per_gb"] = 1e9 * each["total"]
        return figures


class _Datagrams(_Flow):
    def figures(self) -> Figures:
        rate, each = self.rate()
        figures = {"delivered_per_s": rate}
        if "total" in each:
            figures["cpu_s_per_million"] = 1e6 * each["total"]
        return figures


# What tells the streams of peers apart at the server.
_KEYS = itertools.cycle(string.ascii_letters)

# Windows, buffers and pipes have grown by then: 64 streams each way took 0.2 to 0.3 s, one is as fast at once as later.
_WARM_S = 0.08
_WARM_MORE_S = 0.002  # for each connection


def bulk(streams: int, ways: str) -> Begin:
    """TCP streams, `u`p, `d`own, or so many of both."""

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        key = next(_KEYS)
        try:
            with world.staying_load(
                "bulk", _GRACE_S, address=running.address, streams=streams, ways=ways, key=key
            ) as ours:

                def go() -> None:
                    world.bulk(f"go {key}")
                    ours.ask("go")

                def pause() -> None:
                    world.bulk("pause")
                    ours.ask("pause")

                def read() -> list[_Count]:
                    found = [_count(world.bulk())] if "u" in ways else []
                    return [*found, _count(ours.ask("read"))] if "d" in ways else found

                trial = _Bulk(running, go, pause, read, streams)
                trial.warm_up(_WARM_S + streams * len(ways) * _WARM_MORE_S)
                yield trial
        finally:
            world.bulk(f"end {key}")

    return begin


def _count(answer: dict[str, Any]) -> _Count:
    return _Count(answer["amount"], answer["at"])


def iperf(world: BenchWorld, running: Running) -> Figures:
    """One stream by a program that others know, to check our own against it. Whole seconds are all it knows."""
    ip, port = running.address
    client = ["iperf3", "-c", ip, "-p", str(port), "-J", "--connect-timeout", "3000", "-t", "1"]
    return {"bits_per_s": bits_per_second(world.run(*client, on=CLIENT, check=False, timeout_s=1 + _GRACE_S))}


def counted(world: BenchWorld, size: int, sent: float) -> int:
    """Datagrams that have arrived in the container, of those `sent`, when no more do.

    LoadError if they are not what was sent.
    """
    counted = world.datagrams()
    quiet_from = time.perf_counter()
    while counted["amount"] < sent and time.perf_counter() < quiet_from + _LOST_S:
        later = world.datagrams()
        if later["amount"] != counted["amount"]:
            quiet_from = time.perf_counter()
        counted = later
        time.sleep(0.002)  # asking costs the counter time
    return int(_undamaged(counted, size).amount)


# What has not come by then, with nothing else on its way, does not come.
_LOST_S = 0.03


def _undamaged(counted: dict[str, Any], size: int) -> _Count:
    if counted["damaged"] or counted["bytes"] != size * counted["amount"]:
        raise LoadError(f"{counted['damaged']} datagrams damaged, {counted['bytes']} bytes in {counted['amount']}")
    return _count(counted)


# The ladder: a rate that passes is followed by one so much higher, one that does not by one so much lower; the first
# steps are wide, to find the place, and are not counted. A search by halves believes every hiccup of the machine's.
_WIDE_STEPS = 3
_WIDE, _NARROW = 1.5, 1.15
_PASSES = 0.01  # lost
# What comes later than so long after the last has been sent had piled up in a buffer. A rate that only a buffer takes,
# for the time of a step, is not carried.
_LATE_S = 0.004
_STEP_S = 0.05


class _Saturated(_Datagrams):
    """As many datagrams as go; and besides, from turn to turn, the rate up to which 1 % is lost at most."""

    def __init__(self, world: BenchWorld, running: Running, ours: StayingLoad, size: int, *, ladder: bool) -> None:
        super().__init__(
            running,
            lambda: ours.ask("go"),
            lambda: ours.ask("pause"),
            lambda: [_undamaged(world.datagrams(), size)],
        )
        self._world = world
        self._ours = ours
        self._size = size
        self._ladder = ladder
        self._rung = 0.0
        self._steps = 0
        self._passed: list[float] = []

    def turn(self, seconds: float) -> None:
        self._world.datagrams("count")
        super().turn(seconds)
        if self._ladder:
            self._step(seconds)

    def _step(self, seconds: float) -> None:
        rate = self._rung = self._rung or self.rate()[0]
        seconds = max(seconds, _STEP_S)
        self._world.datagrams("count")
        sent = self._ours.ask(f"{rate} {seconds}")["sent"]
        time.sleep(_LATE_S)
        arrived = _undamaged(self._world.datagrams(), self._size).amount
        counted(self._world, self._size, sent)
        self._steps += 1
        factor = _NARROW if self._steps > _WIDE_STEPS else _WIDE
        if arrived >= sent * (1 - _PASSES):
            self._rung = min(rate, sent / seconds) * factor  # no further ahead of what the sender can
            if self._steps > _WIDE_STEPS:
                self._passed.append(arrived / seconds)
        else:
            self._rung /= factor

    def figures(self) -> Figures:
        figures = super().figures()
        if self._passed:
            figures["lossless_per_s"] = sum(self._passed) / len(self._passed)
        return figures


def saturated(size: int, flows: int, *, segmented: bool = False, ladder: bool = False) -> Begin:
    """From the client to the container; several flows have a client's address each."""
    sources = CLIENT_IPS[:flows] if flows > 1 else []

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        with world.staying_load(
            "datagrams", _GRACE_S, address=running.address, size=size, sources=sources, segmented=segmented
        ) as ours:
            trial = _Saturated(world, running, ours, size, ladder=ladder)
            world.datagrams("count")
            trial.warm_up(_WARM_S)
            yield trial

    return begin


def flood(size: int) -> Begin:
    """As many datagrams as go, from the container to the client."""

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        with world.staying_load("sink", _GRACE_S, address=running.address, size=size) as ours:

            def go() -> None:
                world.datagrams(f"flood {size}")
                ours.ask("go")

            trial = _Datagrams(
                running, go, lambda: world.datagrams("count"), lambda: [_undamaged(ours.ask("read"), size)]
            )
            trial.warm_up(_WARM_S)
            yield trial

    return begin


class _Burst:
    def __init__(self, world: BenchWorld, running: Running, size: int, count: int) -> None:
        self._world = world
        self._running = running
        self._size = size
        self._count = count
        self._lost: list[float] = []

    def turn(self, seconds: float) -> None:
        self._world.datagrams("count")
        self._world.run_load("burst", address=self._running.address, size=self._size, count=self._count)
        self._lost.append(1 - counted(self._world, self._size, self._count) / self._count)

    def figures(self) -> Figures:
        return {"lost": sum(self._lost) / len(self._lost)}


def burst(size: int, count: int) -> Begin:
    """So many datagrams at once, each turn."""

    @contextlib.contextmanager
    def begin(world: BenchWorld, running: Running) -> Iterator[Trial]:
        yield _Burst(world, running, size, count)

    return begin


def fill(descriptors: int) -> Begin:
    """How many connections a process may have that may have so many descriptors."""

    def measure(world: BenchWorld, running: Running) -> Figures:
        knock(world, running, "tcp")
        for process in usage.trees(running.processes):
            with contextlib.suppress(psutil.NoSuchProcess):  # that of the one who knocked has ended
                process.rlimit(psutil.RLIMIT_NOFILE, (descriptors, descriptors))
        # More than one connection for each descriptor nobody can hold, not even a process per connection.
        return world.run_load("fill", address=running.address, most=descriptors)

    return alone(measure)


def idle(wanted: int) -> Begin:
    """Of a peer that cannot hold them all the figure is how many it holds, and no memory."""

    def measure(world: BenchWorld, running: Running) -> Figures:
        # A proxy of two descriptors a connection must be able to hold them all.
        connections = min(wanted, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) // 2)
        knock(world, running, "tcp")
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

    return alone(measure)


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
            pid = _spawn(self._command, self._environment)
            self._took.append(1e3 * (time.perf_counter() - before))
            _end([pid])
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
    with peer.beside() as beside:
        yield _Start(peer.command, beside.environment)


# A part of the ports in each turn; so many turns make them all.
_PARTS = 10


class _Publish:
    """So many ports, one after the other, some in each turn; when all are there they end, and it begins anew. Without
    turns all at once, and nobody else's are there: a thousand processes more make each start take longer.
    """

    def __init__(self, command: tuple[str, ...], beside: Beside, ports: int) -> None:
        self._command = command
        self._beside = beside
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
        used = usage.memory([*self._beside.processes, *(psutil.Process(pid) for pid in self.pids)])
        self.end()
        return {
            "publish_s": self._ports * self._took_s / self._published,
            "pss_each": used.pss / self._ports,
            "uss_each": used.uss / self._ports,
            "rss_each": used.rss / self._ports,
            "processes": used.processes,
        }

    def end(self) -> None:
        _end(self.pids)
        self.pids.clear()

    def _publish(self, some: int) -> None:
        before = time.perf_counter()
        for _ in range(some):
            self.pids.append(_spawn(self._command, self._beside.environment))
        self._took_s += time.perf_counter() - before
        self._published += some


def publish(ports: int) -> BeginCommand:
    """So many ports, 1 or a multiple of 10."""

    @contextlib.contextmanager
    def begin(peer: Peer) -> Iterator[Trial]:
        assert peer.command is not None
        with peer.beside() as beside:
            trial = _Publish(peer.command, beside, ports)
            try:
                yield trial
            finally:
                trial.end()

    return begin
