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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pyproxy.core.counters import Counters

# An engine with news of thousands of ports takes tens of milliseconds. One that hangs is listed as it last was.
_PATIENCE_S = 1.0

# Engines say less at once: `handover.py` and `reporting.py` cut it into pieces.
MESSAGE_BYTES = 1 << 17


class Key(NamedTuple):
    """Of a port: a name alone may have been published again meanwhile."""

    name: str
    since: float


class DrainingEngine:
    """An earlier engine, by process id. `on_port` is called with its counts of a port, `on_end` when it has ended.

    Owns the socket, until `close`.
    """

    def __init__(self, pid: int, sock: socket.socket, totals: Sequence[int]) -> None:
        self.pid = pid
        self.totals = totals
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
        on_port: Callable[[DrainingEngine, Key, Sequence[int]], None],
        on_end: Callable[[DrainingEngine], None],
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
            data = self._sock.recv(MESSAGE_BYTES)
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
            self.totals = counted(said["totals"])
            self._settle()

    def _hear(self, port: dict[str, Any]) -> None:
        key = Key(port["name"], port["since"])
        if port["live"]:
            self.listed[key] = port
        else:
            self.listed.pop(key, None)
        self._on_port(self, key, counted(port["totals"]))

    def _settle(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(None)


def counted(said: dict[str, int]) -> tuple[int, ...]:
    """Totals in the order of `Counters`, as an engine of any version says them."""
    return tuple(said.get(name, 0) for name in Counters.__slots__)
