"""An earlier engine whose connections have not ended yet, as the engine that has taken over sees it.

The socket of the hand-over stays open between the two, for as long as the earlier one drains:

    new      report
    earlier  {"ports": [...]}      those of which there is something new, some in a message
    earlier  {"end": true, ...}    its totals; nothing more comes until the next `report`

When the earlier engine ends, it reports once more, unasked. So every count goes on over an upgrade, and what still
drains is listed. At the next upgrade the newest engine is given this socket too. Reports are sent when asked for, not
at intervals: no process wakes up for figures that nobody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pyproxy.core.counters import Counters
from pyproxy.engine.ports import Ports

# An engine with news of thousands of ports takes tens of milliseconds. One that hangs is listed as it last was.
_PATIENCE_S = 1.0

# Engines say less at once: `reporting.py` cuts it into pieces.
_MESSAGE_BYTES = 1 << 17


class Key(NamedTuple):
    """Of a port: a name alone may have been published again meanwhile."""

    name: str
    since: float


class Predecessor:
    """An earlier engine, by process id. `on_port` is told what it has counted of a port, `on_end` that it is gone.

    Owns the socket, until `close`.
    """

    def __init__(self, pid: int, sock: socket.socket, counters: Counters) -> None:
        self.pid = pid
        self.counters = counters
        self.listed: dict[Key, dict[str, Any]] = {}  # ports with something live, as `Port.describe` has them
        self._sock = sock
        self._answer: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listens = False
        self._ask = b"report all"  # it has no news of what it told another engine, which we may not know

    @property
    def live(self) -> int:
        return sum(int(port["live"]) for port in self.listed.values())

    def fileno(self) -> int:
        return self._sock.fileno()

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_port: Callable[[Predecessor, Key, Counters], None],
        on_end: Callable[[Predecessor], None],
    ) -> None:
        """Listen to it from now on."""
        self._on_port, self._on_end = on_port, on_end
        self._sock.setblocking(False)
        self._loop = loop
        self.resume()

    def pause(self) -> None:
        """Leave what it says to somebody else, who is being given the socket."""
        if self._loop is not None and self._listens:
            self._listens = False
            self._loop.remove_reader(self._sock)
        self._settle()

    def resume(self) -> None:
        """After `pause`: it has not been given away."""
        if self._loop is not None and not self._listens:
            self._listens = True
            self._loop.add_reader(self._sock, self._on_said)

    def close(self) -> None:
        self.pause()
        self._sock.close()

    async def refresh(self) -> None:
        """Have it say what is new. If it does not, all stays as it last was."""
        if self._loop is None or not self._listens:
            return
        if self._answer is None:
            try:
                self._sock.send(self._ask)
            except OSError:  # it has ended, which `_on_said` will learn, or has not read for long
                return
            self._ask = b"report"
            self._answer = self._loop.create_future()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._answer), _PATIENCE_S)

    def _on_said(self) -> None:
        """One message: more of them wait for the next turn of the loop."""
        try:
            data = self._sock.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.listed.clear()
            self.close()
            self._on_end(self)
            return
        said = json.loads(data)
        for port in said.get("ports", ()):
            self._hear(port)
        if "end" in said:
            self.counters = Counters.of(said["totals"])
            self._settle()

    def _hear(self, port: dict[str, Any]) -> None:
        key = Key(port["name"], port["since"])
        if port["live"]:
            self.listed[key] = port
        else:
            self.listed.pop(key, None)
        self._on_port(self, key, Counters.of(port["totals"]))

    def _settle(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(None)


class Predecessors:
    """All of them. Of what they say, ports that are served here keep the counts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ports: Ports) -> None:
        self._loop = loop
        self._ports = ports
        self._draining: list[Predecessor] = []

    def __iter__(self) -> Iterator[Predecessor]:
        """Those whose connections have not ended yet. A copy: one may end meanwhile."""
        return iter(tuple(self._draining))

    @property
    def live(self) -> int:
        """Connections and flows that drain in them."""
        return sum(one.live for one in self._draining)

    def follow(self, one: Predecessor) -> None:
        """List what drains in it, and count it. It is ours from here on."""
        self._draining.append(one)
        one.attach(self._loop, self._on_port, self._on_end)

    async def refresh(self) -> None:
        """Have them say what is new."""
        for one in self:
            await one.refresh()

    def pause(self) -> None:
        """Leave what they say to another engine, which is being given the sockets."""
        for one in self._draining:
            one.pause()

    def resume(self) -> None:
        """After `pause`: the sockets have not been given away."""
        for one in self._draining:
            one.resume()

    def release(self) -> list[int]:
        """They are another engine's predecessors now. Return their process ids."""
        released, self._draining = self._draining, []
        for one in released:
            one.close()
        return [one.pid for one in released]

    def _on_port(self, one: Predecessor, key: Key, counted: Counters) -> None:
        port = self._ports.named(key.name)
        if port is not None and port.since == key.since:
            port.earlier[one.pid] = counted

    def _on_end(self, one: Predecessor) -> None:
        self._draining.remove(one)
        self._ports.gone.add(one.counters.values())
