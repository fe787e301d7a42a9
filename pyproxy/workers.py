"""More processes for a port that keeps one busy.

When this process has used up a processor, several connections share it, and another processor is idle, it makes a copy
of itself by fork(2): a worker. Half of the busy connections go on in the worker, messages first, from the byte where
they are, and both accept new clients from the same socket. What is idle elsewhere decides, not how much there is to do:
both ends of the traffic may be on this machine and keep its processors busy, and a worker would take from those
(bench/NOTES.md).

Where messages wait for bulk to have its turn, they go on in a worker even if no processor is idle, and bulk stays: then
it is the kernel that shares the processors out, and it lets those who wake up for a moment go first.

A worker speaks with the first process over a socket: it says when it has let go of what is not its own, and is told to
go on with what is; and its totals whenever it is asked, and when it ends. It ends when it has had nothing to do for a
while, and when the first process has ended, however that came. TCP alone: there is one socket for all that come to a
UDP port.
Owns the workers' processes and the sockets to them.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import gc
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from pyproxy.connection import Connection
from pyproxy.counters import Counters
from pyproxy.errors import in_words
from pyproxy.listener import Listener
from pyproxy.log import Log
from pyproxy.pipes import Pipes
from pyproxy.signals import Signals, hold, release

# By default at most so many processes: what one port should take of a large machine unasked. A guess.
_MOST = 4

# How long a look at the load takes; three in a row must find it too high before connections move. /proc/stat counts in
# ticks of 10 ms.
_WINDOW_S = 0.1

# Of a processor: what this process uses when one is not enough, and what must be idle for a worker to be a gain. One
# that nobody uses is. On a machine of two, with client and container on it as well, a worker for 100 connections that
# exchange messages leaves 0.2 idle and costs an eighth of the rate, and one for bulk gains nothing (bench/NOTES.md).
_SATURATED = 0.75
_TO_SPARE = 0.9
# Where more come than are live, all wait for one another in turn: there a worker gains a tenth, and p99 as much. None
# of the live ones is worth moving then.
_TO_SPARE_FOR_NEW = 0.25

# Messages wait for bulk: so many turns of it a second are cut short for them (pyproxy/stream.py), and this process has
# such a share of a processor. Round trips beside a bulk stream then have a p50 of 0.5 times docker-proxy's, not 0.8 to
# 1.7, and there are 2.7 times as many, not as many, at the same rate of the stream (bench/NOTES.md).
_CUT_SHORT_PER_S = 200
_BUSY = 0.3

# A worker without connections ends after this to twice this long. A guess.
_IDLE_S = 5.0

# A worker that has not answered by then hangs. What it takes is a millisecond or two.
_ANSWER_S = 0.1
_START_S = 1.0

_READY = b"r"
_GO = b"g"
_ASK = b"t"

# Totals in the order of `Counters`, and the number of live connections.
_TOTALS = struct.Struct(f"={len(Counters.__slots__) + 1}q")


def default_most() -> int:
    """How many processes a port may have, if nobody says."""
    return min(_MOST, len(os.sched_getaffinity(0)))


class _Load(NamedTuple):
    """What a look at the load saw."""

    idle_s: float | None  # of the machine's processors, so far; only looked at where this process takes one
    accepted: int
    cut_short: int  # turns of bulk
    moved: dict[Connection, int] | None  # bytes; only looked at where it may matter, as it takes time


class _Worker:
    """A worker as the first process sees it."""

    __slots__ = ("pid", "said", "sock")

    def __init__(self, pid: int, sock: _socket.socket, moving: list[Connection]) -> None:
        self.pid = pid
        self.sock = sock
        # Its totals, when it last said them: until it has, what the connections it was given had moved.
        up = sum(connection.moved_up for connection in moving)
        down = sum(connection.moved_down for connection in moving)
        self.said = (*Counters().plus(up, down).values(), len(moving))


class Workers:
    """Begins and ends workers as the load asks for, from its construction on; a port's `summary` is of all of them."""

    def __init__(
        self,
        listener: Listener,
        pipes: Pipes,
        most: int,
        new_loop: Callable[[], asyncio.AbstractEventLoop],
        *,
        signals: Signals,
        log: Log,
    ) -> None:
        """`most`: processes, this one included. `new_loop` makes the loop of a worker."""
        self._listener = listener
        self._pipes = pipes
        self._most = most
        self._new_loop = new_loop
        self._signals = signals
        self._log = log
        self._workers: list[_Worker] = []
        self._gone = Counters()  # what workers did that have ended
        self._parent: _socket.socket | None = None  # in a worker
        self._accepted = 0  # in a worker, when it last looked
        self._since = time.perf_counter()
        self._used_s = time.process_time()
        self._spun = False
        self._before: _Load | None = None
        if most > 1:
            listener.poller.on_load = self._look
            # Whoever started us may have left it ignored: then children would be gone before anybody waits for them.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def summary(self) -> str:
        """What has gone through, and what is live: in all processes, as far as they answer in time."""
        totals, live = self._listener.totals(), self._listener.live
        totals.add(self._gone.values())
        for worker in list(self._workers):
            _hear(worker)  # an answer that came too late is no answer to this question
            with contextlib.suppress(OSError):  # EPIPE: it has just ended, and has said so
                worker.sock.send(_ASK)
            if _speaks(worker.sock, _ANSWER_S):
                _hear(worker)
            totals.add(worker.said)
            live += worker.said[-1]
        return f"{live} live, {totals.summary()}"

    def free_port(self) -> None:
        """End the workers and close the host socket, in a process that is about to exit."""
        for worker in self._workers:
            os.kill(worker.pid, signal.SIGKILL)
        for worker in self._workers:
            os.waitpid(worker.pid, 0)
        self._listener.free_port()

    def _look(self, spun: bool) -> None:
        """Now and then under load. `spun`: this process has been busy polling, which says nothing of its load."""
        now = time.perf_counter()
        self._spun = self._spun or spun
        if now - self._since < _WINDOW_S:
            return
        used_s, took_s = time.process_time(), now - self._since
        share = (used_s - self._used_s) / took_s
        saturated = not self._spun and share > _SATURATED
        self._spun = False
        self._since, self._used_s = now, used_s
        before, self._before = self._before, None
        if share <= _BUSY or len(self._workers) >= self._most - 1:
            return
        listener = self._listener
        idle_s = None
        if saturated:
            with contextlib.suppress(OSError):  # no descriptor left, or no /proc: nothing to spare, for all we know
                idle_s = _idle_s()
        load = self._before = _Load(idle_s, listener.accepted, self._pipes.cut_short, None)
        if before is None:
            return
        to_spare = (idle_s - before.idle_s) / took_s if idle_s is not None and before.idle_s is not None else 0.0
        if to_spare >= _TO_SPARE_FOR_NEW and load.accepted - before.accepted > listener.live:
            self._begin([])
            return
        contended = load.cut_short - before.cut_short > _CUT_SHORT_PER_S * took_s
        if contended or to_spare >= _TO_SPARE:
            moved = {connection: connection.moved for connection in listener.connections}
            if before.moved is None:
                self._before = load._replace(moved=moved)
                return
            # Those who would else wait for bulk go first.
            busy = [one for one, count in moved.items() if count != before.moved.get(one, 0) and one.movable]
            busy.sort(key=lambda one: one.is_bulk)
            some = len(busy) // 2 if to_spare >= _TO_SPARE else 0
            messages = sum(not one.is_bulk for one in busy)
            if contended and messages < len(busy) and (not some or len(self._workers) == self._most - 2):
                some = max(some, messages)  # the rest of them may have no further worker to wait for
            if 0 < some < len(busy):
                self._begin(busy[:some])

    def _begin(self, moving: list[Connection]) -> None:
        """Make a worker, and leave these connections to it."""
        try:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_NONBLOCK)
        except OSError as exc:
            self._log.warn("worker", f"no second process for this load: {in_words(exc.errno)}")
            return
        gc.freeze()  # what the collector does not touch stays shared
        hold()  # whoever stops us must know of the worker
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be_a_worker(theirs, moving)
            theirs.close()
            self._share_with(_Worker(pid, ours, moving), moving)
        except OSError as exc:
            ours.close()
            theirs.close()
            self._log.warn("worker", f"no second process for this load: {in_words(exc.errno)}")
        finally:
            gc.unfreeze()  # or what has become garbage by the next worker stays for ever
            release()

    def _share_with(self, worker: _Worker, moving: list[Connection]) -> None:
        poller = self._listener.poller
        # Until it has closed its copies of what stays here, what we close would not be closed.
        if _speaks(worker.sock, _START_S) and _hear(worker):
            try:
                poller.watch(worker.sock.fileno(), select.EPOLLIN, lambda _events: self._on_worker(worker))
            except OSError:
                pass  # no memory for one more watch: no worker
            else:
                self._workers.append(worker)
                self._listener.leave(moving)
                try:
                    worker.sock.send(_GO)
                except OSError:  # it has ended, or would wait for ever
                    os.kill(worker.pid, signal.SIGKILL)
                return
        # It has not touched a connection yet.
        os.kill(worker.pid, signal.SIGKILL)
        os.waitpid(worker.pid, 0)
        poller.close_socket(worker.sock)
        self._most = 0
        self._log.warn("worker", "a second process for this load did not start; there will be no more attempts")

    def _on_worker(self, worker: _Worker) -> None:
        """It has said its last, or has ended."""
        hold()  # totals that are half moved from one account to the other would be false
        try:
            if _hear(worker):
                return
            _, status = os.waitpid(worker.pid, 0)
            self._workers.remove(worker)
            self._gone.add(worker.said)
            if status:
                self._gone.connections_reset += worker.said[-1]
            self._listener.poller.close_socket(worker.sock)
        finally:
            release()
        if status:
            code = os.waitstatus_to_exitcode(status)
            self._log.warn("worker", f"a worker ended ({code}); its connections, about {worker.said[-1]}, were reset")

    def _be_a_worker(self, parent: _socket.socket, kept: list[Connection]) -> NoReturn:
        try:
            self._signals.leave_to_parent()
            for sibling in self._workers:
                sibling.sock.close()
            self._workers = []
            # Its free pipes are the parent's too: bytes of two connections would meet in one.
            self._pipes.close()
            self._listener.poller.on_load = None
            self._parent = parent
            loop = self._listener.restart(self._new_loop, kept)
            # In the loop that runs: what it takes to run has been got by then, so nothing is lost if it cannot be.
            loop.call_soon(self._take_over, loop, kept)
            loop.run_forever()
        finally:
            # A defect: what is still live is reset by the exit.
            try:
                if (exc := sys.exc_info()[1]) is not None:
                    sys.excepthook(type(exc), exc, exc.__traceback__)
            finally:
                os._exit(1)

    def _take_over(self, loop: asyncio.AbstractEventLoop, kept: list[Connection]) -> None:
        assert self._parent is not None
        try:
            self._parent.send(_READY)
            told = self._parent.recv(1) if _speaks(self._parent, None) else b""
        except OSError:
            told = b""
        if told != _GO:
            os._exit(0)  # the parent is gone, or has thought better of it
        loop.add_reader(self._parent.fileno(), self._on_parent)
        loop.call_later(_IDLE_S, self._end_if_idle, loop)
        for connection in kept:
            try:
                connection.resume()
            except Exception as exc:  # a defect, or no memory: it costs this one, as in the poller
                loop.call_exception_handler({"message": "in a worker that takes over", "exception": exc})

    def _on_parent(self) -> None:
        assert self._parent is not None
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
        assert self._parent is not None
        listener = self._listener
        with contextlib.suppress(OSError):  # nobody is there any more, which `_on_parent` will learn
            self._parent.send(_TOTALS.pack(*listener.totals().values(), listener.live))

    def _end_if_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        accepted = self._listener.accepted
        if not self._listener.live and accepted == self._accepted:
            self._say_totals()
            os._exit(0)
        self._accepted = accepted
        loop.call_later(_IDLE_S, self._end_if_idle, loop)


def _speaks(sock: _socket.socket, within_s: float | None) -> bool:
    """Wait until the other end says something, or ends, though not longer than that; whether it did."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(1e3 * within_s if within_s is not None else None))


def _hear(worker: _Worker) -> bool:
    """Take in all that a worker has said; whether it is still there."""
    while True:
        try:
            said = worker.sock.recv(_TOTALS.size)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            continue  # it ended with a question unread; what it said before that comes now (unix(7))
        if not said:
            return False
        if len(said) == _TOTALS.size:
            worker.said = _TOTALS.unpack(said)


def _idle_s() -> float:
    """Seconds that the processors we may run on have been idle, summed (proc(5), /proc/stat)."""
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    with open("/proc/stat") as stat:
        for line in stat:
            name, *values = line.split()
            if name in ours:
                ticks += int(values[3]) + int(values[4])  # idle, and idle with input or output pending
    return ticks / os.sysconf("SC_CLK_TCK")
