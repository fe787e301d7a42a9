"""The new engine's side of a hand-over: everything is taken before anything is served."""

from __future__ import annotations

import json
import os
import resource
import socket
from typing import Any, NamedTuple

from pyproxy.core.counters import Counters
from pyproxy.engine.engine import Engine
from pyproxy.engine.handover.conversation import PATIENCE_S
from pyproxy.engine.handover.messages import MESSAGE_BYTES
from pyproxy.engine.handover.predecessor import Predecessor
from pyproxy.engine.rundir import RunDir, RunDirError
from pyproxy.engine.sources.stub import Stub
from pyproxy.errors import StartError
from pyproxy.flags import parse
from pyproxy.log import Log

# In a message; the kernel's own limit (include/net/scm.h, SCM_MAX_FD).
_MOST_DESCRIPTORS = 253


class HandoverError(RunDirError):
    """Nothing was taken over. The text says why and what to do."""


class _Taken(NamedTuple):
    """One port of the present engine, on its way."""

    about: dict[str, Any]
    fds: list[int]


class Takeover:
    """`begin` gets everything, `serve_all` serves it, `finish` makes this engine the one."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._taken: list[_Taken] = []
        self._end: _Taken = _Taken({}, [])
        self._left: list[Stub] = []  # whose ports are to be served anew
        self.unread = b""

    def begin(self) -> None:
        """Ask the present engine. HandoverError if there is none, or it does not answer."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._sock.settimeout(PATIENCE_S)
        try:
            self._sock.connect(str(self._run_dir.handover))
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
        """Serve what was taken over, and go on with what it has counted. What cannot be served is said; `finish` sees
        to it.
        """
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
        """Wait until the present engine has let go. HandoverError if it does not say so."""
        try:
            self._sock.send(b"serving")
            if self._sock.recv(100) != b"yours":
                raise ConnectionResetError("it ended in the middle")
        except OSError as exc:
            self._sock.close()
            raise HandoverError(f"the engine in {self._run_dir.path} did not let go: {exc}: try again") from exc
        lock, *before = self._end.fds
        self._run_dir.lock(lock)
        end = self._end.about
        engine.predecessors.follow(Predecessor(end["engine"], self._sock, Counters.of(end["totals"])))
        for about, fd in zip(end["draining"], before, strict=True):
            sock = socket.socket(fileno=fd)
            engine.predecessors.follow(Predecessor(about["pid"], sock, Counters.of(about["totals"])))
        for stub in self._left:
            engine.stubs.serve_anew(stub)

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
        data, fds, flags, _ = socket.recv_fds(self._sock, MESSAGE_BYTES, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
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
    port = engine.publisher.adopt(settings, about["arguments"], fd, tuple(about["host"]), stub)
    port.since = about["since"]
    port.earlier = {int(earlier): Counters.of(totals) for earlier, totals in about["earlier"].items()}
    port.earlier[pid] = Counters.of(about["totals"])
