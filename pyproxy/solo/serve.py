"""Solo: one process, one published port, from the first client to the stop.

Here the event loop is imported: a client is waiting for it in the kernel's backlog. The process ends in a signal
handler, at once: the kernel closes every descriptor faster than Python could, frees the port with them, and resets
the connections that are unfinished (`tune`).
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import resource
import traceback
from typing import Any, NoReturn

from pyproxy.core.load import Policy
from pyproxy.flags import Settings
from pyproxy.log import Log
from pyproxy.published import TCP
from pyproxy.relay.listener import Listener
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
        loop.set_exception_handler(lambda _loop, context: _report(log, context))
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
        signals.summary = lambda: f"{server.live} live, {server.totals().summary()}"
        signals.free_port = server.free_port
    poller.loop.add_reader(signals.wake_fd, signals.handle_pending)
    poller.loop.run_forever()
    raise AssertionError("only a signal ends the loop")


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """Return a new event loop: `uvloop`, `asyncio`, or `auto`, which is uvloop where it is installed."""
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one, as Go's runtime does: a connection takes two descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Refused where fs.nr_open has been lowered below the limit that was inherited: then the soft one has to do.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _report(log: Log, context: dict[str, Any]) -> None:
    """A defect of ours, in one connection's handler: say it whole, though not each time, and serve the others."""
    exc = context.get("exception")
    trace = "".join(traceback.format_exception(exc)) if isinstance(exc, BaseException) else ""
    text = f"internal error, please report it: {context.get('message')}\n{trace}".rstrip()
    log.warn(f"internal {type(exc)}", text)
