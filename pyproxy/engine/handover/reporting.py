"""What an engine that drains says of its ports to the one that has taken over (`predecessor.py` is the other end)."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from pyproxy.engine.handover.conversation import Conversation
from pyproxy.engine.port import Port
from pyproxy.engine.ports import Ports
from pyproxy.engine.publisher import Observer, Publisher
from pyproxy.engine.slices import sliced

# A description is some 600 bytes as JSON: far below what the socket takes at once (net.core.wmem_default, 212,992).
_PORTS_A_MESSAGE = 50

# How long the other may leave a report unread. It has asked, so it reads.
_PATIENCE_S = 1.0


class Drain(Observer):
    """The ports that another engine serves now, as their connections end here."""

    def __init__(self, publisher: Publisher) -> None:
        self.departed: list[Port] = []  # those that have drained, if the other has yet to hear how
        self.ended = asyncio.Event()
        self._ports = publisher.ports
        self._complete = False
        publisher.observe(self)

    def expect_no_more(self) -> None:
        """All ports drain now: `ended` is set when all have."""
        self._complete = True
        self._end_when_drained()

    def closed(self, port: Port) -> None:
        if port.has_news:
            self.departed.append(port)
        self._end_when_drained()

    def _end_when_drained(self) -> None:
        if self._complete and not self._ports.leaving:
            self.ended.set()


class Reporter:
    """Answers until the other engine has ended, or the task is cancelled."""

    def __init__(self, ports: Ports, drain: Drain, other: Conversation) -> None:
        self._ports = ports
        self._drain = drain
        self._other = other
        self._one_at_a_time = asyncio.Lock()

    async def answer(self) -> None:
        """OSError when there is nobody to answer any more."""
        while word := await self._other.heard(None):
            await self.report(everything=word == b"report all")

    async def report(self, *, everything: bool = False) -> None:
        """Say what is new of each port, or all that is live. OSError if the other has ended, or does not read."""
        async with self._one_at_a_time:
            departed, self._drain.departed = self._drain.departed, []
            news: list[Port] = []
            async for port in sliced([*departed, *self._ports.leaving]):
                if port.has_news or (everything and port.live):
                    news.append(port)
                if len(news) == _PORTS_A_MESSAGE:
                    await self._tell(news)
            await self._tell(news)
            counters = await self._ports.counters_in_slices()
            await self._say({"end": True, "totals": counters.as_dict()})

    async def _tell(self, ports: list[Port]) -> None:
        descriptions = [port.describe() | {"draining": True, "engine": os.getpid()} for port in ports]
        for port in ports:
            port.tell()
        ports.clear()
        await self._say({"ports": descriptions})

    async def _say(self, what: dict[str, Any]) -> None:
        await self._other.say(json.dumps(what).encode(), _PATIENCE_S)
