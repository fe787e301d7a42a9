"""Handing the sockets over to a new engine: `pyproxy engine --replace`, which SIGHUP starts too.

    new      hello
    present  one message per port: its arguments and counts, its listening socket (none if it is drained), its stub's
             pidfd
    present  what it had read of requests, in pieces
    present  the end: its counts, the lock, and the sockets to engines before it that drain still
    new      serving       both accept now, from the same sockets: nobody is refused
    present  yours         it has closed its copies, and drains its connections
    ...                    its reports of those: `draining.py`

Only after `yours` does the new engine take requests. A stub that is stopped before waits for that, and then nobody else
holds its port. Until `serving` the present engine can go on as if nothing had happened, and does, if the new one fails.
It serves clients meanwhile, however slowly the other reads; only commands that change ports are refused.

A port that the new engine cannot adopt is closed there. As soon as the present engine has closed its copy, the new one
tries to serve it anew, or tells its stub to serve it.
Messages are SOCK_SEQPACKET: each arrives whole, with its descriptors (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.core.counters import Counters
from pyproxy.engine.conversation import Conversation
from pyproxy.engine.draining import DrainingEngine, counted
from pyproxy.engine.port import Port
from pyproxy.engine.publisher import Engine
from pyproxy.engine.reporting import Reporter
from pyproxy.engine.rundir import RunDir, RunDirError
from pyproxy.engine.slices import sliced
from pyproxy.engine.sources.stub import Stub
from pyproxy.errors import StartError, in_words
from pyproxy.flags import parse
from pyproxy.log import Log

# How long either side waits for the other's next message. An engine that hangs cannot be replaced by --replace.
_PATIENCE_S = 5.0

# A port's message: its arguments, which dockerd keeps to some hundred bytes, and its counts.
_MESSAGE_BYTES = 1 << 16

# Bytes of requests in a message: twice that as JSON.
_UNREAD_BYTES = 1 << 14

# In a message; the kernel's own limit (include/net/scm.h, SCM_MAX_FD).
_MOST_DESCRIPTORS = 253

# When there is no descriptor for a new engine's connection, the next attempt comes after this. A guess.
_RETRY_S = 1.0


class HandoverError(RunDirError):
    """Nothing was taken over. The text says why and what to do."""


class _Taken(NamedTuple):
    """One port of the present engine, on its way."""

    about: dict[str, Any]
    fds: list[int]


def _path(run_dir: RunDir) -> Path:
    return run_dir.path / "handover"


class Takeover:
    """The new engine's side: `begin` gets everything, `serve_all` serves it, `finish` makes this engine the one."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._taken: list[_Taken] = []
        self._end: _Taken = _Taken({}, [])
        self._left: list[Stub] = []  # whose ports are to be served anew
        self.unread = b""

    def begin(self) -> None:
        """Ask the present engine. HandoverError if there is none, or it does not answer."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._sock.settimeout(_PATIENCE_S)
        try:
            self._sock.connect(str(_path(self._run_dir)))
            self._sock.send(b"hello")
            while not self._end.fds:
                self._take(*self._receive())
        except (OSError, ValueError, KeyError) as exc:
            self.give_up()
            raise HandoverError(
                f"the engine in {self._run_dir.path} does not hand over ({exc or 'no answer'}): if it hangs, end it"
                f" with `kill -KILL $(cat {self._run_dir.path}/pid)`; its ports live on, and a new engine takes them"
            ) from exc
        except HandoverError:
            self.give_up()
            raise

    def serve_all(self, engine: Engine, log: Log) -> None:
        """Serve what was taken over, and go on with its counts. What cannot be served is logged; `finish` retries."""
        end, pid = self._end.about, self._end.about.get("engine", 0)
        for about, fds in self._taken:
            stub = Stub(about["pid"], fds[-1], about["arguments"]) if about["pid"] is not None else None
            try:
                _adopt(engine, about, fds, stub, pid)
            except StartError as exc:
                log.error(f"not taken over: {' '.join(about['arguments'])}: {exc}")
                if stub is not None:
                    self._left.append(stub)
        self._taken.clear()
        engine.count_on(end["since"], end["refused"], end["garbage"])

    def finish(self, engine: Engine) -> None:
        """Wait until the present engine has closed its copies. HandoverError if it does not say so."""
        try:
            self._sock.send(b"serving")
            if self._sock.recv(100) != b"yours":
                raise ConnectionResetError("it ended in the middle")
        except OSError as exc:
            self._sock.close()
            raise HandoverError(f"the engine in {self._run_dir.path} did not hand over: {exc}: try again") from exc
        lock, *before = self._end.fds
        self._run_dir.lock(lock)
        end = self._end.about
        engine.follow(DrainingEngine(end["engine"], self._sock, counted(end["totals"])))
        for about, fd in zip(end["draining"], before, strict=True):
            engine.follow(DrainingEngine(about["pid"], socket.socket(fileno=fd), counted(about["totals"])))
        for stub in self._left:
            engine.serve_anew(stub)

    def give_up(self) -> None:
        """Close what was received: it all stays the present engine's."""
        self._sock.close()
        for _, fds in (*self._taken, self._end):
            for fd in fds:
                os.close(fd)

    def _take(self, about: dict[str, Any], fds: list[int]) -> None:
        if "end" in about:
            self._end = _Taken(about, fds)
        elif "unread" in about:
            self.unread += bytes.fromhex(about["unread"])
        else:
            self._taken.append(_Taken(about, fds))

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        data, fds, flags, _ = socket.recv_fds(self._sock, _MESSAGE_BYTES, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            raise HandoverError(
                f"this process may have {limit} descriptors, too few for the ports of the engine in"
                f" {self._run_dir.path}, which goes on: raise LimitNOFILE, ulimit -n"
            )
        if not data:
            raise ConnectionResetError("it ended the conversation")
        about: dict[str, Any] = json.loads(data)
        return about, fds


def _adopt(engine: Engine, about: dict[str, Any], fds: list[int], stub: Stub | None, pid: int) -> None:
    """Serve a port of the engine `pid`. StartError: its socket has been closed, its stub has not."""
    fd = None if about["draining"] else fds[0]
    try:
        settings = parse(about["arguments"])
    except StartError:
        if fd is not None:
            os.close(fd)
        raise
    # An address of port 0 says not which it has become.
    settings.port.host_ip, settings.port.host_port = about["host"]
    port = engine.adopt(settings, about["arguments"], fd, stub)
    port.since = about["since"]
    port.earlier = {int(earlier): counted(totals) for earlier, totals in about["earlier"].items()}
    port.earlier[pid] = counted(about["totals"])


class Handover:
    """The present engine's side. `let_go` has to free the addresses that both need; `over` is called when another
    engine has taken over and the last connection here has ended.
    """

    def __init__(
        self, engine: Engine, log: Log, let_go: Callable[[], Awaitable[None]], over: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._log = log
        self._let_go = let_go
        self._over = over
        self._task: asyncio.Task[None] | None = None
        path = _path(engine.run_dir)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # that of an engine that has gone, or that we have taken over from
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.setblocking(False)
        self._listen()

    def _on_new_engine(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as exc:
            # It waits in the backlog, where it would wake us up again and again.
            self._log.warn("handover", f"no descriptor to speak with another engine: {in_words(exc.errno)}")
            loop = self._engine.loop
            loop.remove_reader(self._listener)
            loop.call_later(_RETRY_S, self._listen)
            return
        if self._task is not None:
            sock.close()  # one at a time
            return
        self._task = self._engine.loop.create_task(self._converse(sock))

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._engine.loop.add_reader(self._listener, self._on_new_engine)

    async def _converse(self, sock: socket.socket) -> None:
        engine = self._engine
        with sock:
            other = Conversation(engine.loop, sock)
            if not await self._hand_over(other):
                self._task = None
                return
            await self._report(other)
        self._over()

    async def _hand_over(self, other: Conversation) -> bool:
        """Whether the other has taken over: then everything is its own."""
        engine = self._engine
        unread: bytes | None = None
        try:
            if await other.heard(_PATIENCE_S) != b"hello":
                return False
            unread = self._stand_still()
            await self._hand_out(other, unread)
            if await other.heard(_PATIENCE_S) != b"serving":
                raise ConnectionResetError("it ended in the middle")
        except OSError as exc:
            self._log.error(f"another engine failed to take over ({exc or 'no answer'}): this one goes on")
            if unread is not None:
                self._go_on(unread)
            return False
        engine.loop.remove_reader(self._listener)
        self._listener.close()
        return True

    def _stand_still(self) -> bytes:
        """Change no port by command, and take no requests; return those that wait."""
        self._engine.handing_over = True
        for earlier in self._engine.draining:
            earlier.pause()
        return self._engine.stop_reading()

    def _go_on(self, unread: bytes) -> None:
        self._engine.handing_over = False
        for earlier in self._engine.draining:
            earlier.resume()
        self._engine.open(unread)

    async def _report(self, other: Conversation) -> None:
        """Close our copies of everything, then report to the other what still drains, until nothing does."""
        engine = self._engine
        live = engine.ports.live
        drained = asyncio.Event()
        await self._let_go()
        await engine.hand_off(drained.set)
        with contextlib.suppress(OSError):
            await other.say(b"yours", _PATIENCE_S)
        self._log.info(f"another engine has taken over; {live} connections and flows go on until --drain is over")
        reporter = Reporter(engine, other)
        answering = engine.loop.create_task(reporter.answer())
        await drained.wait()
        answering.cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await answering
        with contextlib.suppress(OSError):
            await reporter.report()

    async def _hand_out(self, other: Conversation, unread: bytes) -> None:
        engine = self._engine
        earlier = engine.draining
        pids = {one.pid for one in earlier}
        totals = engine.ports.gone.plus(0, 0)
        for leaving in engine.ports.leaving:
            totals.add(leaving.own_totals().values())
        async for port in sliced(engine.ports):
            if engine.ports.named(port.name) is port:  # its stub may have ended just now
                await other.say(json.dumps(_about(port, pids)).encode(), _PATIENCE_S, _descriptors(port))
            totals.add(port.own_totals().values())
        for start in range(0, len(unread), _UNREAD_BYTES):
            piece = unread[start : start + _UNREAD_BYTES]
            await other.say(json.dumps({"unread": piece.hex()}).encode(), _PATIENCE_S)
        end = {
            "end": True,
            "engine": os.getpid(),
            "since": engine.counting_since,
            "totals": totals.as_dict(),
            "refused": engine.refused,
            "garbage": engine.garbage,
            "draining": [{"pid": one.pid, "totals": _named(one.totals)} for one in earlier],
        }
        fds = [engine.run_dir.lock_fd, *(one.fileno() for one in earlier)]
        await other.say(json.dumps(end).encode(), _PATIENCE_S, fds)


def _about(port: Port, draining: set[int]) -> dict[str, Any]:
    """What the new engine has to know of a port. The counts of engines in `draining` are theirs to report."""
    counts = port.own_totals().plus(0, 0)
    for pid, counted_there in port.earlier.items():
        if pid not in draining:
            counts.add(counted_there)
    port.told = (*counts.values(), port.live)
    return {
        "arguments": port.arguments,
        "pid": port.pid,
        "since": port.since,
        "host": [port.published.host_ip, port.published.host_port],
        "draining": port.draining,
        "totals": counts.as_dict(),
        "earlier": {pid: _named(there) for pid, there in port.earlier.items() if pid in draining},
    }


def _named(values: Sequence[int]) -> dict[str, int]:
    total = Counters()
    total.add(values)
    return total.as_dict()


def _descriptors(port: Port) -> list[int]:
    fds = [] if port.draining else [port.relay.fileno()]
    return [*fds, *([port.stub.fileno()] if port.stub is not None else [])]
