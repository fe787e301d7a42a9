"""Publishes ports, unpublishes and drains them. Who asks for that, and why, is the sources' business (`sources/`).

Everything here happens in the event loop's thread, in short steps that wait for nothing. Owns every port. A port ends
when somebody unpublishes it, or when its holder does; its connections may be given time beyond that.
"""

from __future__ import annotations

import asyncio
import functools
import select
from collections.abc import Callable
from typing import Any

from pyproxy.bind import host_socket
from pyproxy.config import Settings
from pyproxy.engine.port import Drained, Holder, Port, name_of
from pyproxy.engine.ports import Ports
from pyproxy.engine.slices import Slice
from pyproxy.errors import StartError, in_words
from pyproxy.log import Log
from pyproxy.relay.poller import Poller
from pyproxy.relay.server import make_server
from pyproxy.relay.stream import Shared


class RefusedError(Exception):
    """The port must not be changed so. The text says why, and what would do."""


class Observer:
    """Hears of each port, in the middle of it: waits for nothing."""

    def published(self, port: Port) -> None:
        """It is served from now on, here; another engine may have done so before."""

    def unpublished(self, port: Port) -> None:
        """Its host address is free. Connections may be live still."""

    def closed(self, port: Port) -> None:
        """Nothing is left of it, wherever it is served now."""


class Publisher:
    """`drain_unpublished_s`: what connections get when their port is unpublished; 0 resets them at once, as
    docker-proxy does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, poller: Poller, *, drain_unpublished_s: float) -> None:
        self.ports = Ports()
        self._loop = loop
        self._poller = poller
        self._drain_unpublished_s = drain_unpublished_s
        self._shared = Shared()
        self._observers: list[Observer] = []

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of all that happens from now on."""
        self._observers.append(observer)

    def publish(
        self,
        settings: Settings,
        arguments: list[str],
        holder: Holder | None = None,
        passed: Callable[[], int] | None = None,
    ) -> Port:
        """Serve a port. `passed` gets the descriptor of the socket to serve; none: it is bound here. `holder` is the
        port's from here on. StartError, and what `passed` raises: then it is the caller's still.
        """
        try:
            sock, settings = _host_socket(settings, passed)
        except StartError:
            # Ports whose holders have been killed, of which we have yet to hear, may be in the way.
            if not self._reap(settings):
                raise
            sock, settings = _host_socket(settings, passed)
        if self.ports.named(name_of(settings.port)) is not None:
            self._reap(settings)
        port = self._serve_on(settings, arguments, sock, holder)
        port.log.info(f"published -> {settings.port.container}" + (f" (process {holder.pid})" if holder else ""))
        return port

    def adopt(
        self, settings: Settings, arguments: list[str], fd: int | None, host: tuple[str, int], holder: Holder | None
    ) -> Port:
        """Go on with a port of the engine before: its listening socket `fd` and its holder are ours from here on.
        `host` is its address: port 0 in `settings` does not say which it has become. No `fd`: the port is drained.
        StartError: then the socket has been closed, and the holder is the caller's again.
        """
        settings = settings.on(settings.port.at(*host))
        if fd is not None:
            sock, settings = _adopted(settings, fd)
            return self._serve_on(settings, arguments, sock, holder)
        port = self._add(Port(settings, arguments, Drained(), Log(settings.port.host), holder))
        port.draining = True
        return port

    def unpublish(self, port: Port, why: str, drain_s: float | None = None) -> None:
        """Free the port now. Its connections get `drain_s` seconds to end by themselves (default: the publisher's)."""
        if drain_s is None:
            drain_s = self._drain_unpublished_s
        if port.server.can_drain and drain_s:
            text = f"{port.live} connections get {drain_s:g} s to end"
        else:
            text = f"{port.live} live, {port.counters().summary()}"
        if port.server.can_drain:
            self.detach(port, drain_s)
        else:
            self.ports.retire(port)
            port.server.close()
        # Resetting thousands of connections takes tens of milliseconds, so that comes after this.
        for observer in self._observers:
            observer.unpublished(port)
        port.log.info(f"unpublished, {why}: {text}")
        if not port.server.can_drain:
            self._close(port)

    def detach(self, port: Port, drain_s: float) -> None:
        """Leave the host address to whoever shares its socket; what is live gets `drain_s` seconds to end."""
        self.ports.retire(port)
        timer = self._loop.call_later(drain_s, self._cut, port)
        port.server.stop_accepting(lambda: self._drained(port, timer))

    def drain(self, port: Port) -> None:
        """Refuse new clients of the port from now on, for good; those that are served stay. Not for UDP."""
        if not port.draining:
            port.draining = True
            port.server.refuse_new()
            port.log.info(f"draining: new clients are refused, {port.live} connections stay")

    def _serve_on(self, settings: Settings, arguments: list[str], sock: Any, holder: Holder | None) -> Port:
        log = Log(settings.port.host)
        if self.ports.named(name_of(settings.port)) is not None:
            sock.close()
            raise StartError(f"{settings.port.host} is served already, for another process")
        try:
            server = make_server(self._poller, settings, sock, log, self._shared)
        except OSError as exc:  # epoll_ctl: no memory, or its limit on watches
            sock.close()
            raise StartError(f"{settings.port.host} cannot be watched: {in_words(exc.errno)}") from exc
        except StartError:  # the container's zone is no interface any more
            sock.close()
            raise
        return self._add(Port(settings, arguments, server, log, holder))

    def _add(self, port: Port) -> Port:
        """Serve a port from now on, for as long as its holder lives. StartError: it has been closed."""
        try:
            if self.ports.named(port.name) is not None:
                raise StartError(f"{port.published.host} is served already, for another process")
            if (holder := port.holder) is not None:
                self._poller.watch(holder.fileno(), select.EPOLLIN, lambda _events: self._on_holder_exit(port))
        except OSError as exc:
            port.server.close()
            raise StartError(f"the process of {port.name} cannot be watched: {in_words(exc.errno)}") from exc
        except StartError:
            port.server.close()
            raise
        self.ports.add(port)
        for observer in self._observers:
            observer.published(port)
        return port

    def _on_holder_exit(self, port: Port) -> None:
        # In turns: all containers may end at once.
        self._unwatch_holder(port)
        self._poller.call_soon(functools.partial(self._after_holder, port))

    def _after_holder(self, port: Port) -> None:
        if self.ports.named(port.name) is port:
            self.unpublish(port, "its process has ended")
        elif port.holder is not None:
            self._release(port)
            if not self._drain_unpublished_s:
                self._cut(port)  # unpublished while it drained for another engine

    def _reap(self, wanted: Settings) -> bool:
        """Unpublish ports that are in the way of another, whose holder has ended. Whether any was."""
        dead = [
            port
            for port in self.ports
            if port.published.host_port == wanted.port.host_port
            and port.published.proto == wanted.port.proto
            and port.holder is not None
            and port.holder.has_ended()
        ]
        for port in dead:
            self.unpublish(port, "its process has ended")
        return bool(dead)

    def _cut(self, port: Port) -> None:
        """Reset what is left of a port, some at a time; `_drained` follows when the last connection has ended. Where
        one side has gone already, its last words go on their way, as `Listener.close` has it.
        """
        if not port.server.can_drain:
            self._close(port)
            return
        step = Slice()
        for connection in port.connections():
            if not connection.draining:
                connection.abort()
            if step.over:
                self._poller.call_soon(functools.partial(self._cut, port))
                return
        port.server.close()

    def _drained(self, port: Port, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._loop.call_soon(self._close, port)  # not before its holder has been told

    def _close(self, port: Port) -> None:
        if port not in self.ports.leaving:
            return
        port.server.close()
        self.ports.forget(port)
        self._release(port)
        for observer in self._observers:
            observer.closed(port)

    def _unwatch_holder(self, port: Port) -> None:
        """Another engine may hold the same pidfd: closing ours would not end the watch."""
        if port.holder is not None and port.holder_watched:
            port.holder_watched = False
            self._poller.unwatch(port.holder.fileno())

    def _release(self, port: Port) -> None:
        self._unwatch_holder(port)
        if port.holder is not None:
            self._poller.close_socket(port.holder)
            port.holder = None


def _host_socket(settings: Settings, passed: Callable[[], int] | None) -> tuple[Any, Settings]:
    """The socket that was passed, or one that is bound here, and the settings with its address. StartError."""
    if passed is not None:
        return _adopted(settings, passed())
    try:
        sock, port = host_socket(settings.port, adopt=False)
    except OSError as exc:
        raise StartError(f"{settings.port.host} cannot be bound: {in_words(exc.errno)}") from exc
    return sock, settings.on(port)


def _adopted(settings: Settings, fd: int) -> tuple[Any, Settings]:
    """The socket with this descriptor, which is closed if it cannot be served, and the settings with its address.
    StartError.
    """
    try:
        sock, port = host_socket(settings.port, adopt=True, listen_fd=fd)
    except OSError as exc:
        raise StartError(f"{settings.port.host} cannot be adopted: {in_words(exc.errno)}") from exc
    return sock, settings.on(port)
