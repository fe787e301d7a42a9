"""Messages between two engines, on a SOCK_SEQPACKET socket, for the engine that serves meanwhile.

Each message arrives whole, with its descriptors (unix(7), SCM_RIGHTS). While we wait for one, the data path goes on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

# How long either side waits for the other's next word. An engine that hangs is one that --replace cannot replace.
PATIENCE_S = 5.0


class Conversation:
    """One end. Does not close the socket, which is non-blocking from here on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        sock.setblocking(False)

    async def heard(self, within_s: float | None) -> bytes:
        """The other's next message; empty at its end. OSError; TimeoutError, which is one, if it takes too long."""
        await self._ready(self._loop.add_reader, self._loop.remove_reader, within_s)
        return self._sock.recv(100)

    async def say(self, word: bytes, within_s: float, fds: Sequence[int] = ()) -> None:
        """OSError; TimeoutError, which is one, if the other has not read for so long."""
        while True:
            try:
                socket.send_fds(self._sock, [word], list(fds)) if fds else self._sock.send(word)
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer, within_s)
            else:
                return

    async def _ready(self, add: Callable[..., Any], remove: Callable[..., Any], within_s: float | None) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        add(self._sock, _settle, ready)
        try:
            await asyncio.wait_for(ready, within_s)
        finally:
            remove(self._sock)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
