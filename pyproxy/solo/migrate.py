"""Moving live connections to another process: everything that has to do with fork(2).

    first process    fork; the connections that are to move are suspended, the others go on
    worker           closes its copies of what stays, makes a poller, pipes and a listener of its own
    worker           READY
    first process    closes its copies of what moves; GO
    worker           goes on with what was suspended, and accepts new clients beside the first process

Neither waits for the other: until READY the first process goes on with the rest, and if it does not come (the worker
has ended, or hangs) it goes on with those it has suspended as well. A worker touches no connection before GO.
What the first process closes between fork and READY is closed for its peer when the worker has closed its copy too.
"""

from __future__ import annotations

import _socket
import asyncio
import gc
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from pyproxy.relay.connection import Connection
from pyproxy.relay.listener import Listener
from pyproxy.signals import Signals

READY = b"r"
GO = b"g"

# Makes a loop, and on it a listener for this socket, with everything of its own.
Build = Callable[[_socket.socket], tuple[asyncio.AbstractEventLoop, Listener]]


def fork() -> int:
    """As os.fork, of a process with much that is live. OSError."""
    gc.freeze()  # what the collector does not touch stays shared between the two
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:
            gc.unfreeze()  # else what has become garbage by then would never be freed
    return pid


def become_worker(
    parent: _socket.socket,
    kept: Sequence[Connection],
    listener: Listener,
    close_parents: Callable[[], None],
    signals: Signals,
    build: Build,
    started: Callable[[asyncio.AbstractEventLoop, Listener], None],
) -> NoReturn:
    """In the copy: serve the connections `kept`, once the first process says so at `parent`, and new clients of
    `listener`'s socket. `close_parents` closes what is only the first process's. `started` is called when all that it
    takes to serve is there.
    """
    try:
        signals.leave_to_parent()
        close_parents()
        sock = listener.leave_to_parent(kept)
        loop, own = build(sock)  # now that there are descriptors for it
        # Inside the running loop: all that it needs has been had by then. If it cannot be had, nothing has been lost.
        loop.call_soon(_take_over, parent, kept, loop, own, started)
        loop.run_forever()
    finally:
        # A defect: what is still live is reset by the exit.
        try:
            if (exc := sys.exc_info()[1]) is not None:
                sys.excepthook(type(exc), exc, exc.__traceback__)
        finally:
            os._exit(1)


def _take_over(
    parent: _socket.socket,
    kept: Sequence[Connection],
    loop: asyncio.AbstractEventLoop,
    listener: Listener,
    started: Callable[[asyncio.AbstractEventLoop, Listener], None],
) -> None:
    try:
        parent.send(READY)
        poll = select.poll()
        poll.register(parent, select.POLLIN)
        poll.poll()
        told = parent.recv(1)
    except OSError:
        told = b""
    if told != GO:
        os._exit(0)  # the first process is gone, or has given up on us
    started(loop, listener)
    listener.attach_connections(kept)
