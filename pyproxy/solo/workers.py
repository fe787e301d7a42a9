"""More processes for a port that keeps one busy.

When `load.py` says so, this process makes a copy of itself: a worker. Some of the busy connections go on in the worker,
from the byte where they are (`migrate.py`), and both accept new clients from the same socket.

A worker speaks with the first process over a socket: its totals, whenever it is asked, and when it ends. It ends when
it has had nothing to do for a while, and when the first process has ended, however that came. TCP alone: there is one
socket for all that come to a UDP port.
Owns the workers' processes, and the sockets and pidfds to them.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import os
import select
import signal
import struct
import time
from typing import NamedTuple, NoReturn

from pyproxy.core.counters import Counters
from pyproxy.core.load import Load, Policy, Sample
from pyproxy.errors import in_words
from pyproxy.log import Log
from pyproxy.relay.connection import Connection
from pyproxy.relay.listener import Listener
from pyproxy.relay.poller import LOAD_ROUNDS, LoadHook
from pyproxy.relay.stream import Shared
from pyproxy.signals import Signals, signals_blocked
from pyproxy.solo.migrate import GO, READY, Build, become_worker, fork

# By default at most so many processes: what one port should take of a large machine unasked. A guess.
_MOST = 4

# A worker that has not answered by then hangs. What it takes is a millisecond or two.
_ANSWER_S = 0.1
# The same for its start, which takes some tens of milliseconds of processor time on a machine that is busy by then.
_START_S = 5.0

_ASK = b"t"

# Totals in the order of `Counters`, and the number of live connections.
_TOTALS = struct.Struct(f"={len(Counters.__slots__) + 1}q")


class Pace(NamedTuple):
    """How often the load is looked at, and when a worker ends: it has no connections, and accepts none, for once to
    twice `idle_s`.
    """

    rounds: int = LOAD_ROUNDS  # of the poller between two looks
    idle_s: float = 5.0  # a guess


def default_most() -> int:
    """How many processes a port may have by default."""
    return min(_MOST, len(os.sched_getaffinity(0)))


class _Pidfd:
    """A descriptor that becomes readable when a process has ended."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class _Worker:
    """A worker as the first process sees it. `moving`: what it is to go on with, until it is ready."""

    __slots__ = ("end", "moving", "pid", "said", "sock", "timer")

    def __init__(self, pid: int, sock: _socket.socket, moving: list[Connection]) -> None:
        self.pid = pid
        self.sock = sock
        self.end = _Pidfd(pid)
        self.moving = moving
        self.timer: asyncio.TimerHandle | None = None  # until it is ready
        self.said = (*Counters().values(), 0)  # its totals, when it last said them

    def took_over(self) -> None:
        """Until it says its totals, they are what the connections that it was given had moved."""
        up = sum(connection.moved_up for connection in self.moving)
        down = sum(connection.moved_down for connection in self.moving)
        self.said = (*Counters().plus(up, down).values(), len(self.moving))
        self.moving = []


class Workers:
    """Begins and ends workers as the load asks for, from its construction on; a port's `summary` is of all of them."""

    def __init__(
        self,
        listener: Listener,
        shared: Shared,
        most: int,
        build: Build,
        *,
        policy: Policy,
        pace: Pace,
        signals: Signals,
        log: Log,
    ) -> None:
        """`most`: processes, this one included. `build` makes what a worker serves with."""
        self._listener = listener
        self._poller = listener.poller
        self._shared = shared
        self._most = most
        self._build = build
        self._pace = pace
        self._signals = signals
        self._log = log
        self._workers: list[_Worker] = []
        self._gone = Counters()  # what workers did that have ended
        self._unanswered: set[_Worker | None] = set()
        self._deadline: asyncio.TimerHandle | None = None  # for an answer to `tell`
        self._load: Load[Connection] = Load(policy, time.perf_counter(), time.process_time())
        if most > 1:
            self._poller.load_hook = LoadHook(self._look, pace.rounds)
            # Whoever started us may have left it ignored: then children would be gone before anybody waits for them.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def summary(self) -> str:
        """What has gone through, and what is live: in all processes, as far as they answer in time. Waits for them."""
        for worker in list(self._workers):
            _ask(worker)
            if _speaks(worker.sock, _ANSWER_S):
                self._hear(worker)
        return self._summary()

    def tell(self) -> None:
        """Log the `summary` as soon as all workers have answered, or their time to answer is over."""
        if self._deadline is not None:
            return  # the answer to an earlier question is on its way, and answers this one too
        self._unanswered = set(self._workers)
        ready = [worker for worker in self._workers if not worker.moving]  # the others are asked when they are
        for worker in ready:
            _ask(worker)
        within_s = _ANSWER_S if len(ready) == len(self._workers) else _START_S
        self._deadline = self._poller.loop.call_later(within_s, self._answer)
        self._answered(None)

    def free_port(self) -> None:
        """End the workers and close the host socket, in a process that is about to exit."""
        for worker in self._workers:
            os.kill(worker.pid, signal.SIGKILL)
        for worker in self._workers:
            os.waitpid(worker.pid, 0)
        self._listener.free_port()

    def _summary(self) -> str:
        totals, live = self._listener.counters(), self._listener.live
        totals.add(self._gone.values())
        for worker in self._workers:
            totals.add(worker.said)
            live += worker.said[-1]
        return f"{live} live, {totals.summary()}"

    def _answered(self, worker: _Worker | None) -> None:
        self._unanswered.discard(worker)
        if self._deadline is not None and not self._unanswered:
            self._answer()

    def _answer(self) -> None:
        assert self._deadline is not None
        self._deadline.cancel()
        self._deadline = None
        self._unanswered.clear()
        self._log.info(self._summary())

    def _look(self, spun: bool) -> None:
        listener = self._listener
        sample = Sample(
            time.perf_counter(),
            time.process_time(),
            spun,
            listener.accepted,
            listener.live,
            self._shared.fairness.turns_cut_short,
            _idle_s,
            lambda: {connection: connection.moved for connection in listener.connections},
        )
        moving = self._load.look(sample, self._most - 1 - len(self._workers))
        if moving is not None:
            self._begin(moving)

    def _begin(self, moving: list[Connection]) -> None:
        """Make a worker, and leave these connections to it."""
        try:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK)
        except OSError as exc:
            self._no_worker(exc)
            return
        with signals_blocked():  # whoever stops us must know of the worker
            try:
                pid = fork()
            except OSError as exc:
                ours.close()
                theirs.close()
                self._no_worker(exc)
                return
            if pid == 0:
                ours.close()
                self._become_worker(theirs, moving)
            theirs.close()
            self._await(pid, ours, moving)

    def _no_worker(self, exc: OSError) -> None:
        self._log.warn("worker", f"no second process for this load: {in_words(exc.errno)}")

    def _become_worker(self, parent: _socket.socket, kept: list[Connection]) -> NoReturn:
        def close_parents() -> None:
            for sibling in self._workers:
                sibling.sock.close()
                sibling.end.close()
            # Its free pipes are the first process's too: bytes of two connections would meet in one.
            self._shared.close()

        def begin(loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
            _Life(parent, loop, listener, self._pace.idle_s).begin()

        become_worker(parent, kept, self._listener, close_parents, self._signals, self._build, begin)

    def _await(self, pid: int, sock: _socket.socket, moving: list[Connection]) -> None:
        worker = _Worker(pid, sock, moving)
        poller = self._poller
        poller.watch(sock.fileno(), select.EPOLLIN, lambda _events: self._on_worker(worker))
        poller.watch(worker.end.fileno(), select.EPOLLIN, lambda _events: self._on_end(worker))
        self._workers.append(worker)
        for connection in moving:
            connection.suspend()
        worker.timer = poller.loop.call_later(_START_S, os.kill, pid, signal.SIGKILL)

    def _on_worker(self, worker: _Worker) -> None:
        if not self._hear(worker):
            self._poller.unwatch(worker.sock.fileno())  # it ends, which its pidfd will tell

    def _hear(self, worker: _Worker) -> bool:
        """Read all that a worker has sent; return whether it is still there."""
        while True:
            try:
                said = worker.sock.recv(_TOTALS.size)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue  # it ended with a question unread; what it said before that comes now (unix(7))
            if not said:
                return False
            if said == READY:
                self._detach(worker)
            elif len(said) == _TOTALS.size:
                worker.said = _TOTALS.unpack(said)
                self._answered(worker)

    def _detach(self, worker: _Worker) -> None:
        """The worker has closed its copies of what stays here; what moves is the worker's from now on."""
        assert worker.timer is not None
        worker.timer.cancel()
        with signals_blocked():  # totals that are half moved from one account to the other would be false
            moving = worker.moving
            worker.took_over()
            self._listener.detach_connections(moving)
        with contextlib.suppress(OSError):  # it has ended, and has reset them
            worker.sock.send(GO)
            if worker in self._unanswered:
                worker.sock.send(_ASK)

    def _on_end(self, worker: _Worker) -> None:
        with signals_blocked():
            self._hear(worker)
            _, status = os.waitpid(worker.pid, 0)  # its pidfd says that this does not wait
            self._workers.remove(worker)
            self._gone.add(worker.said)
            if status:
                self._gone.connections_reset += worker.said[-1]
            assert worker.timer is not None
            worker.timer.cancel()
            for sock in (worker.sock, worker.end):
                self._poller.unwatch(sock.fileno())  # siblings that have just begun hold it too
                self._poller.close_socket(sock)
        self._answered(worker)
        if worker.moving:
            # It has not touched a connection.
            self._most = 0
            self._log.warn("worker", "a second process for this load did not start; there will be no more attempts")
            self._listener.attach_connections(worker.moving)
        elif status:
            code = os.waitstatus_to_exitcode(status)
            self._log.warn("worker", f"a worker ended ({code}); its connections, about {worker.said[-1]}, were reset")


class _Life:
    """A worker's own side, from the moment at which it serves."""

    def __init__(
        self, parent: _socket.socket, loop: asyncio.AbstractEventLoop, listener: Listener, idle_s: float
    ) -> None:
        self._parent = parent
        self._idle_s = idle_s
        self._loop = loop
        self._listener = listener
        self._accepted = 0  # when it last looked

    def begin(self) -> None:
        self._loop.add_reader(self._parent.fileno(), self._on_parent)
        self._loop.call_later(self._idle_s, self._end_if_idle)

    def _on_parent(self) -> None:
        try:
            asked = self._parent.recv(1)
        except BlockingIOError:
            return
        except OSError:
            asked = b""
        if not asked:
            os._exit(0)  # the parent is gone, and its exit has reset what was its own
        self._say_totals()

    def _say_totals(self) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more, which `_on_parent` will learn
            self._parent.send(_TOTALS.pack(*self._listener.counters().values(), self._listener.live))

    def _end_if_idle(self) -> None:
        accepted = self._listener.accepted
        if not self._listener.live and accepted == self._accepted:
            self._say_totals()
            os._exit(0)
        self._accepted = accepted
        self._loop.call_later(self._idle_s, self._end_if_idle)


def _ask(worker: _Worker) -> None:
    with contextlib.suppress(OSError):  # EPIPE: it has just ended, and has said so
        worker.sock.send(_ASK)


def _speaks(sock: _socket.socket, within_s: float) -> bool:
    """Wait until the other end says something, or ends, though not longer than that; whether it did."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(1e3 * within_s))


def _idle_s() -> float | None:
    """Seconds that the processors we may run on have been idle, summed (proc(5), /proc/stat). None if that cannot be
    read: there may be no descriptor left, or no /proc.
    """
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    with contextlib.suppress(OSError), open("/proc/stat") as stat:
        for line in stat:
            name, *values = line.split()
            if name in ours:
                ticks += int(values[3]) + int(values[4])  # idle, and idle with input or output pending
        return ticks / os.sysconf("SC_CLK_TCK")
    return None
