"""What an engine that drains reports of its ports to the one that has taken over (`draining.py` is the other end)."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from pyproxy.engine.conversation import Conversation
from pyproxy.engine.port import Port
from pyproxy.engine.publisher import Engine
from pyproxy.engine.slices import sliced

# A description is some 600 bytes as JSON: far below what the socket takes at once (net.core.wmem_default, 212,992).
_PORTS_A_MESSAGE = 50

# How long the other may leave a report unread. It has asked, so it reads.
_PATIENCE_S = 1.0


class Reporter:
    """Answers until the other engine has ended, or the task is cancelled."""

    def __init__(self, engine: Engine, other: Conversation) -> None:
        self._engine = engine
        self._other = other
        self._one_at_a_time = asyncio.Lock()

    async def answer(self) -> None:
        """OSError when there is nobody to answer any more."""
        while word := await self._other.heard(None):
            await self.report(everything=word == b"report all")

    async def report(self, *, everything: bool = False) -> None:
        """Say what is new of each port, or all that is live. OSError if the other has ended, or does not read."""
        async with self._one_at_a_time:
            engine = self._engine
            departed, engine.departed = engine.departed, []
            news: list[Port] = []
            async for port in sliced([*departed, *engine.ports.leaving]):
                if port.has_news or (everything and port.live):
                    news.append(port)
                if len(news) == _PORTS_A_MESSAGE:
                    await self._tell(news)
            await self._tell(news)
            totals = await engine.ports.totals_in_slices()
            await self._say({"end": True, "totals": totals.as_dict()})

    async def _tell(self, ports: list[Port]) -> None:
        descriptions = [port.describe() | {"draining": True, "engine": os.getpid()} for port in ports]
        for port in ports:
            port.tell()
        ports.clear()
        await self._say({"ports": descriptions})

    async def _say(self, what: dict[str, Any]) -> None:
        await self._other.say(json.dumps(what).encode(), _PATIENCE_S)
