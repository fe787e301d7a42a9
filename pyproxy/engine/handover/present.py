"""The present engine's side of a hand-over: it serves while it speaks, and goes on if the new engine fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from pyproxy.engine.engine import Engine
from pyproxy.engine.handover import messages
from pyproxy.engine.handover.conversation import PATIENCE_S, Conversation
from pyproxy.engine.handover.reporting import Drain, Reporter
from pyproxy.engine.slices import sliced
from pyproxy.errors import in_words
from pyproxy.log import Log

# When there is no descriptor for a new engine's connection, the next attempt comes after this. A guess.
_RETRY_S = 1.0


class Handover:
    """Waits for a new engine from now on. `free_addresses` has to free those that both need; `on_done` is called when
    another engine has taken over and the drain is done.
    """

    def __init__(
        self,
        engine: Engine,
        log: Log,
        *,
        free_addresses: Callable[[], Awaitable[None]],
        on_done: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._log = log
        self._free_addresses = free_addresses
        self._on_done = on_done
        self._task: asyncio.Task[None] | None = None
        path = engine.run_dir.handover
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
        self._on_done()

    async def _hand_over(self, other: Conversation) -> bool:
        """Whether the other has taken over: then everything is its own."""
        engine = self._engine
        unread: bytes | None = None
        try:
            if await other.heard(PATIENCE_S) != b"hello":
                return False
            unread = self._stand_still()
            await self._hand_out(other, unread)
            if await other.heard(PATIENCE_S) != b"serving":
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
        self._engine.commands.pause()
        self._engine.predecessors.pause()
        return self._engine.stubs.stop_reading()

    def _go_on(self, unread: bytes) -> None:
        self._engine.commands.resume()
        self._engine.predecessors.resume()
        self._engine.open(unread)

    async def _report(self, other: Conversation) -> None:
        """Let go of everything, then tell the other of what drains, until it has."""
        engine = self._engine
        live = engine.ports.live
        await self._free_addresses()
        drain = Drain(engine.publisher)
        await engine.hand_off()
        drain.expect_no_more()
        with contextlib.suppress(OSError):
            await other.say(b"yours", PATIENCE_S)
        self._log.info(f"another engine has taken over; {live} connections and flows get their time to end")
        reporter = Reporter(engine.ports, drain, other)
        answering = engine.loop.create_task(reporter.answer())
        await drain.ended.wait()
        answering.cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await answering
        with contextlib.suppress(OSError):
            await reporter.report()

    async def _hand_out(self, other: Conversation, unread: bytes) -> None:
        engine = self._engine
        earlier = tuple(engine.predecessors)
        pids = {one.pid for one in earlier}
        totals = engine.ports.gone.plus(0, 0)
        for leaving in engine.ports.leaving:
            totals.add(leaving.own_counters().values())
        async for port in sliced(engine.ports):
            if engine.ports.named(port.name) is port:  # its stub may have ended just now
                await other.say(messages.of_port(port, pids), PATIENCE_S, messages.descriptors_of(port))
            totals.add(port.own_counters().values())
        for message in messages.of_unread(unread):
            await other.say(message, PATIENCE_S)
        fds = [engine.run_dir.lock_fd, *(one.fileno() for one in earlier)]
        await other.say(messages.of_end(engine, totals), PATIENCE_S, fds)
