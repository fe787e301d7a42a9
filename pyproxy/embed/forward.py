"""`pyproxy.forward`: serve a published port for the time of an `async with` block.

Owns the host socket, a poller in the running loop, and all connections and flows, and closes them at the block's end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pyproxy.bind import host_socket
from pyproxy.config import DEFAULT_UDP_MAX_FLOWS, PublishedPort, Settings
from pyproxy.core.counters import Counters
from pyproxy.embed.logger import Logger
from pyproxy.errors import StartError, in_words
from pyproxy.flags import parse
from pyproxy.relay.poller import Poller
from pyproxy.relay.server import Server, make_server
from pyproxy.relay.stream import Shared


@contextlib.asynccontextmanager
async def forward(
    *,
    host: tuple[str, int],
    container: tuple[str, int],
    proto: str = "tcp",
    connect_timeout_s: float = 0.0,
    idle_timeout_s: float = 0.0,
    half_closed_timeout_s: float = 0.0,
    udp_max_flows: int = DEFAULT_UDP_MAX_FLOWS,
    drain_s: float = 0.0,
) -> AsyncIterator[ForwardedPort]:
    """Serve `host` in the running event loop, asyncio's or uvloop's, and relay to `container`, until the block ends.

    Both addresses are an IP address, IPv4 or IPv6, and a port. Host port 0 takes any free port: `ForwardedPort.host`
    says which. `proto` is tcp, udp or sctp. Time limits are off where they are 0; all options mean what the flags of
    `pyproxy` do that have their names. Messages go to the logger `pyproxy`, defects of pyproxy's to the loop's
    exception handler.

    At the block's end the port is closed. Connections then get `drain_s` seconds to end by themselves; 0, and the
    cancellation of this task meanwhile, resets them at once. UDP flows end at once.

    Raises `pyproxy.StartError` where the port cannot be served: its text is one line that says why and what to do, in
    terms of those flags. Raises RuntimeError while another event loop of the process serves a port: they would share
    buffers. No signal, limit or other setting of the process is touched. A connection takes two descriptors; when none
    are left, new clients wait, so a program that serves many raises RLIMIT_NOFILE first.
    """
    settings = parse(
        [
            f"-proto={proto}",
            f"-host-ip={host[0]}",
            f"-host-port={host[1]}",
            f"-container-ip={container[0]}",
            f"-container-port={container[1]}",
            f"-connect-timeout={connect_timeout_s}",
            f"-idle-timeout={idle_timeout_s}",
            f"-half-closed-timeout={half_closed_timeout_s}",
            f"-udp-max-flows={udp_max_flows}",
        ]
    )
    loop = asyncio.get_running_loop()
    _refuse_a_second_loop(loop)
    port = _open(loop, settings)
    _served.add(port)
    try:
        yield port
    finally:
        try:
            await port.drain(drain_s)
        finally:
            _served.discard(port)
            port.close()


class ForwardedPort:
    """A published port that is being served; made and closed by `forward`."""

    def __init__(self, published: PublishedPort, poller: Poller, server: Server, shared: Shared) -> None:
        self.proto = published.proto
        self.host = published.host_ip, published.host_port
        self.container = published.container_ip, published.container_port
        self.loop = poller.loop
        self._poller = poller
        self._server = server
        self._shared = shared
        self._closed = False

    @property
    def live(self) -> int:
        """Connections or flows now."""
        return self._server.live

    def counters(self) -> Counters:
        """A snapshot of what has gone through so far: bytes, connections, datagrams and what became of them."""
        return self._server.counters()

    async def drain(self, seconds: float) -> bool:
        """Close the port to new clients, for good, and give the connections at most so long to end by themselves.
        Returns whether they all have. UDP: nothing ends by itself, so the port stays open.
        """
        server = self._server
        if self._closed or not server.can_drain:
            return not server.live
        drained = asyncio.Event()
        server.refuse_new()
        server.stop_accepting(drained.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(drained.wait(), seconds)
        return drained.is_set()

    def close(self) -> None:
        """Free the port, and end what is live. May be called again; the counters can still be read."""
        if self._closed:
            return
        self._closed = True
        self._server.close()
        for connection in self._server.connections:
            connection.abort()  # a slow reader's: this program need not wait for it, as a process of our own would
        self._poller.close()
        self._shared.close()


_served: set[ForwardedPort] = set()


def _open(loop: asyncio.AbstractEventLoop, settings: Settings) -> ForwardedPort:
    shared = Shared()
    with contextlib.ExitStack() as undo:
        sock, port = host_socket(settings.port, adopt=False)
        undo.callback(sock.close)
        try:
            poller = Poller(loop)
            undo.callback(poller.close)
            server = make_server(poller, settings, sock, Logger(port.host), shared)
        except OSError as exc:  # no descriptor for epoll, or no memory for a watch
            raise StartError(f"cannot serve {port.host}: {in_words(exc.errno)}") from exc
        undo.pop_all()
    return ForwardedPort(port, poller, server, shared)


def _refuse_a_second_loop(loop: asyncio.AbstractEventLoop) -> None:
    """All that a process serves shares its buffers (`relay.stream`, `relay.datagrams`): one thread at a time."""
    if any(port.loop is not loop and not port.loop.is_closed() for port in _served):
        raise RuntimeError("pyproxy.forward serves in one event loop of a process only, and another has ports already")
