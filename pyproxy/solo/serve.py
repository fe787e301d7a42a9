"""Solo: one process, one published port, from the first client to the stop.

Here the event loop is imported: a client is waiting for it in the kernel's backlog. The process ends in a signal
handler, at once: the kernel closes every descriptor faster than Python could, frees the port with them, and resets
the connections that are unfinished (`tune`).
"""

from __future__ import annotations

import _socket
import asyncio
from typing import NoReturn

from pyproxy.config import TCP, Settings
from pyproxy.core.load import Policy
from pyproxy.log import Log
from pyproxy.relay.listener import Listener
from pyproxy.relay.loop import new_loop, raise_descriptor_limit, report_defect
from pyproxy.relay.poller import Poller
from pyproxy.relay.server import make_listener, make_server
from pyproxy.relay.stream import Shared
from pyproxy.signals import Signals
from pyproxy.solo.workers import Pace, Workers, default_most


def serve(
    settings: Settings,
    sock: _socket.socket,
    log: Log,
    signals: Signals,
    policy: Policy | None = None,
    pace: Pace | None = None,
) -> NoReturn:
    """Serve the published port on `sock` until SIGINT or SIGTERM, then exit with status 0. `policy` and `pace` say when
    there are workers, if not as usual.
    """
    raise_descriptor_limit()

    def anew() -> Poller:
        loop = new_loop(settings.loop)
        loop.set_exception_handler(lambda _loop, context: report_defect(log, context))
        return Poller(loop, settings.busy_poll_s)

    def build(sock: _socket.socket) -> tuple[asyncio.AbstractEventLoop, Listener]:
        poller = anew()
        return poller.loop, make_listener(poller, settings, sock, log, Shared())

    poller, shared = anew(), Shared()
    if settings.port.proto == TCP:
        listener = make_listener(poller, settings, sock, log, shared)
        workers = Workers(
            listener,
            shared,
            settings.workers or default_most(),
            build,
            policy=policy or Policy(),
            pace=pace or Pace(),
            signals=signals,
            log=log,
        )
        signals.summary, signals.tell, signals.free_port = workers.summary, workers.tell, workers.free_port
    else:
        server = make_server(poller, settings, sock, log, shared)
        signals.summary = lambda: f"{server.live} live, {server.counters().summary()}"
        signals.free_port = server.free_port
    poller.loop.add_reader(signals.wake_fd, signals.handle_pending)
    poller.loop.run_forever()
    raise AssertionError("only a signal ends the loop")
