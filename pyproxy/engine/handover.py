"""The sockets go to a new engine, which takes over: `pyproxy engine --replace`, and what SIGHUP starts.

    new      hello
    present  one message per port: its arguments, its listening socket and its stub's pidfd
    present  the end: the lock, and what it had read of a request
    new      serving       both accept now, from the same sockets: nobody is refused
    present  yours         it has closed its copies, and drains its connections

Only after that does the new engine take requests, so a stub that stops meanwhile waits for it, and finds its port held
by nobody. Until `serving` the present engine can go on as if nothing had happened, and does, if the new one fails.
Messages are SOCK_SEQPACKET: each arrives whole, with its descriptors (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from pyproxy.engine.core import Engine
from pyproxy.engine.port import Port
from pyproxy.engine.rundir import RunDir, RunDirError
from pyproxy.engine.stub import Stub
from pyproxy.errors import FlagError, StartError
from pyproxy.flags import parse
from pyproxy.log import Log

# How long either side waits for the other's next word. An engine that hangs is one that --replace cannot replace.
_PATIENCE_S = 5.0

# A port's message: its arguments, which dockerd keeps to some hundred bytes.
_MESSAGE_BYTES = 1 << 16


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
        self._lock = -1
        self.unread = b""

    def begin(self) -> None:
        """Ask the present engine. HandoverError if there is none, or it does not answer."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._sock.settimeout(_PATIENCE_S)
        try:
            self._sock.connect(str(_path(self._run_dir)))
            self._sock.send(b"hello")
            while True:
                about, fds = self._receive()
                if "end" in about:
                    self._lock, self.unread = fds[0], bytes.fromhex(about["unread"])
                    return
                self._taken.append(_Taken(about, fds))
        except (OSError, ValueError, IndexError) as exc:
            self.give_up()
            raise HandoverError(
                f"the engine in {self._run_dir.path} does not hand over ({exc or 'no answer'}): if it hangs, end it"
                f" with `kill -KILL $(cat {self._run_dir.path}/pid)`; its ports live on, and a new engine takes them"
            ) from exc

    def serve_all(self, engine: Engine, log: Log) -> None:
        """Serve what was taken over. What cannot be served is said; its stub then sees to it."""
        for about, fds in self._taken:
            try:
                settings = parse(about["arguments"])
                stub = Stub(about["pid"], fds[1], about["arguments"]) if about["pid"] is not None else None
                engine.adopt(settings, about["arguments"], fds[0], stub, about["since"])
            except (StartError, FlagError) as exc:
                log.error(f"not taken over: {' '.join(about['arguments'])}: {exc}")
        self._taken.clear()

    def finish(self) -> None:
        """Wait until the present engine has let go. HandoverError if it does not say so."""
        try:
            self._sock.send(b"serving")
            if self._sock.recv(100) != b"yours":
                raise ConnectionResetError("it ended in the middle")
        except OSError as exc:
            raise HandoverError(f"the engine in {self._run_dir.path} did not let go: {exc}: try again") from exc
        finally:
            self._sock.close()
        self._run_dir.lock(self._lock)

    def give_up(self) -> None:
        """Close what was received: it all stays the present engine's."""
        self._sock.close()
        for _, fds in self._taken:
            for fd in fds:
                os.close(fd)
        if self._lock >= 0:
            os.close(self._lock)

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        data, fds, _, _ = socket.recv_fds(self._sock, _MESSAGE_BYTES, 2)
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            raise ConnectionResetError("it ended the conversation")
        about: dict[str, Any] = json.loads(data)
        return about, fds


class Handover:
    """The present engine's side. `let_go` has to free the addresses that both need; `over` is called when another
    engine has taken over and the drain is done.
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
        engine.loop.add_reader(self._listener, self._on_new_engine)

    def _on_new_engine(self) -> None:
        sock, _ = self._listener.accept()
        if self._task is not None:
            sock.close()  # one at a time
            return
        self._task = self._engine.loop.create_task(self._converse(sock))

    async def _converse(self, sock: socket.socket) -> None:
        with sock:
            sock.setblocking(False)
            unread: bytes | None = None
            try:
                if await self._heard(sock) != b"hello":
                    return
                unread = self._engine.stop_reading()
                self._hand_out(sock, unread)
                if await self._heard(sock) != b"serving":
                    raise ConnectionResetError("it ended in the middle")
            except OSError as exc:
                self._log.error(f"another engine failed to take over ({exc or 'no answer'}): this one goes on")
                if unread is not None:
                    self._engine.open(unread)
                return
            finally:
                self._task = None
            self._engine.loop.remove_reader(self._listener)
            self._listener.close()
            live = self._engine.ports.live
            await self._let_go()
            self._engine.hand_off(self._over)
            with contextlib.suppress(OSError):
                sock.send(b"yours")
            self._log.info(f"another engine has taken over; {live} connections and flows get their time to end")

    async def _heard(self, sock: socket.socket) -> bytes:
        """The other's next word; empty at its end. TimeoutError, an OSError, if it takes too long."""
        loop = self._engine.loop
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(sock, _settle, readable)
        try:
            await asyncio.wait_for(readable, _PATIENCE_S)
        finally:
            loop.remove_reader(sock)
        return sock.recv(100)

    def _hand_out(self, sock: socket.socket, unread: bytes) -> None:
        # Without returning to the loop: the other reads while we write, and ports do not change meanwhile.
        sock.settimeout(_PATIENCE_S)
        for port in self._engine.ports:
            if not port.draining:
                socket.send_fds(sock, [_about(port)], _descriptors(port))
        end = json.dumps({"end": True, "unread": unread.hex()}).encode()
        socket.send_fds(sock, [end], [self._engine.run_dir.lock_fd])
        sock.setblocking(False)


def _about(port: Port) -> bytes:
    return json.dumps({"arguments": port.arguments, "pid": port.pid, "since": port.since}).encode()


def _descriptors(port: Port) -> list[int]:
    return [port.relay.fileno(), *([port.stub.fileno()] if port.stub is not None else [])]


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
