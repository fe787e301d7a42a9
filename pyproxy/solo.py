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
import socket
import traceback
from typing import Any, NoReturn

from pyproxy.bind import backend_address
from pyproxy.counters import Counters
from pyproxy.datagrams import DatagramRelay
from pyproxy.flags import Settings
from pyproxy.listener import Listener, Transport
from pyproxy.log import Log
from pyproxy.messages import MessageRelay
from pyproxy.pipes import Pipes
from pyproxy.poller import Poller
from pyproxy.published import SCTP, TCP, UDP
from pyproxy.signals import Signals
from pyproxy.stream import StreamRelay
from pyproxy.tune import is_established
from pyproxy.workers import Workers, default_most


def serve(settings: Settings, sock: _socket.socket, log: Log, signals: Signals) -> NoReturn:
    """Serve the published port on `sock` until SIGINT or SIGTERM, then exit with status 0."""
    raise_descriptor_limit()

    def anew() -> asyncio.AbstractEventLoop:
        loop = new_loop(settings.loop)
        loop.set_exception_handler(lambda _loop, context: _report(log, context))
        return loop

    loop = anew()
    pipes = Pipes()
    relay = start(Poller(loop, settings.busy_poll_s), settings, sock, log, pipes)
    if isinstance(relay, Listener) and settings.port.proto == TCP:
        workers = Workers(relay, pipes, settings.workers or default_most(), anew, signals=signals, log=log)
        signals.summary, signals.free_port = workers.summary, workers.free_port
    else:
        signals.summary = lambda: f"{relay.live} live, {relay.totals().summary()}"
        signals.free_port = relay.free_port
    loop.add_reader(signals.wake_fd, signals.heed)
    loop.run_forever()
    raise AssertionError("only a signal ends the loop")


def start(poller: Poller, settings: Settings, sock: _socket.socket, log: Log, pipes: Pipes) -> Listener | DatagramRelay:
    """Begin to serve; the result owns `sock` and is closed by the caller. Ports may share `pipes`."""
    port = settings.port
    backend = backend_address(port)
    if port.proto == UDP:
        return DatagramRelay(
            poller,
            socket.socket(fileno=sock.detach()),
            backend,
            max_flows=settings.udp_max_flows,
            counters=Counters(),
            log=log,
        )
    if port.proto == TCP:
        transport = Transport(
            TCP, lambda source, sink: StreamRelay(source, sink, pipes), half_close=True, established=is_established
        )
    else:
        # RFC 9260 section 9.2: SCTP has no half-closed state.
        transport = Transport(SCTP, MessageRelay, half_close=False, established=lambda _: False)
    return Listener(poller, sock, transport, backend, limits=settings.limits, counters=Counters(), log=log)


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
