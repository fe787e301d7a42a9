"""The engine itself: reads requests, publishes, watches stubs, unpublishes.

Everything here happens in the event loop's thread, in short steps that wait for nothing. Owns the two FIFOs, every port
and every stub. What it can do nothing about (a port in use, flags that cannot be read, another network namespace) it
leaves to the stub: told no, that becomes pyproxy, which meets the same trouble and reports it to dockerd itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from pyproxy.bind import LISTEN_FD, host_socket
from pyproxy.engine.nudge import Nudges
from pyproxy.engine.port import Port, name_of
from pyproxy.engine.ports import Ports
from pyproxy.engine.requests import SERVE, STOP, Reader, Request, line_of, settle
from pyproxy.engine.rundir import RunDir
from pyproxy.engine.stub import NO, YES, NotAStubError, Stub, StubError, own_network, recognise
from pyproxy.errors import OUT_OF_RESOURCES, StartError, in_words
from pyproxy.flags import Settings, parse
from pyproxy.log import Log
from pyproxy.relay.loop import report_defect
from pyproxy.relay.poller import Poller
from pyproxy.relay.server import make_server
from pyproxy.relay.stream import Shared

# Read at once from the FIFO: what a pipe holds by default.
_READ_BYTES = 1 << 16

# Requests dealt with before clients get their turn: about 10 ms.
_TURN = 32

# Kept open to be closed when no descriptor is left: recognising a stub takes a pidfd and a file in /proc, and without
# that not even a no can be said.
_RESERVED = 2


class Options(NamedTuple):
    """Seconds. `drain_s`: what established connections get when another engine takes over. `drain_unpublished_s`: what
    they get when their port is unpublished; 0 resets them at once, as docker-proxy does. `busy_poll_s` is
    the poller's.
    """

    drain_s: float = 30.0
    drain_unpublished_s: float = 0.0
    busy_poll_s: float = 0.0


class Engine:
    """Serves from `open` on, until `stop_reading` or the end of the process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_dir: RunDir, options: Options, log: Log) -> None:
        self.loop = loop
        self.run_dir = run_dir
        self.options = options
        self.log = log
        self.poller = Poller(loop, options.busy_poll_s)
        self.ports = Ports()
        self.started = time.time()
        self.handed_off = False  # another engine has everything; this one drains
        self.refused = 0  # requests that were answered no
        self._shared = Shared()
        self._nudges = Nudges(loop)
        self._reader = Reader()
        self._waiting: deque[Request] = deque()  # read, and not yet dealt with
        self._turn: asyncio.Handle | None = None  # that will deal with them
        self._network = own_network()
        self._reserve = [_anything() for _ in range(_RESERVED)]
        self._alive = run_dir.open_alive()
        self._requests = run_dir.open_requests()

    @property
    def garbage(self) -> int:
        """Lines in the FIFO that were no requests."""
        return self._reader.garbage

    def open(self, unread: bytes = b"") -> None:
        """Take requests from now on, after those in `unread` (`stop_reading`).

        Stubs learn of this engine first: those that start from now on ask it.
        """
        self.run_dir.announce()
        self._waiting.extend(self._reader.feed(unread))
        self.loop.add_reader(self._requests, self._on_requests)
        self._work()

    def stop_reading(self) -> bytes:
        """Take no more requests; return those that have not been dealt with, and a line whose end has yet to come."""
        self.loop.remove_reader(self._requests)
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        waiting, self._waiting = self._waiting, deque()
        return b"".join(line_of(request) for request in waiting) + self._reader.take_rest()

    def leave(self) -> None:
        """This engine ends: stubs look after their ports from here on (`os._exit` does the rest)."""
        if not self.handed_off:
            self.run_dir.withdraw()

    def publish(self, settings: Settings, arguments: list[str]) -> Port:
        """Serve a port that no stub holds, and that ends with `unpublish` or the engine. StartError."""
        if settings.use_listen_fd:
            raise StartError("-use-listen-fd is for dockerd: the engine has no parent that passes a socket")
        return self._begin(settings, arguments, None)

    def unpublish(self, port: Port, why: str, drain_s: float | None = None) -> None:
        """Free the port now, and say so to a stub that waits for it. Its connections get `drain_s` seconds to end by
        themselves (default: the option).
        """
        self.ports.remove(port)
        self.ports.leaving.add(port)
        relay = port.relay
        if drain_s is None:
            drain_s = self.options.drain_unpublished_s
        if not relay.can_drain or not drain_s:
            drain_s = 0.0
            text = f"unpublished, {why}: {port.live} live, {port.totals().summary()}"
        else:
            text = f"unpublished, {why}: {port.live} connections get {drain_s:g} s to end"
        timer = self.loop.call_later(drain_s, relay.close)
        if not relay.can_drain:
            timer.cancel()
            relay.close()
        else:
            relay.stop_accepting(lambda: self._drained(port, timer))
        # Resetting thousands of connections takes tens of milliseconds, so that comes after this.
        if port.stub is not None and port.stub.stops:
            port.stub.signal(YES)
        port.log.info(text)
        if not relay.can_drain:
            self._forget(port)

    def drain(self, port: Port) -> None:
        """Refuse new clients of the port from now on, for good; those that are served stay. StubError for UDP."""
        if not port.relay.can_drain:
            raise StubError(f"{port.name}: UDP has no connections that could end: stop the container instead")
        if not port.draining:
            port.draining = True
            port.relay.refuse_new()
            port.log.info(f"draining: new clients are refused, {port.live} connections stay")

    def adopt(self, settings: Settings, arguments: list[str], fd: int, stub: Stub | None, since: float) -> Port:
        """Go on with a port of the engine before: its listening socket `fd` and its stub are ours from here on."""
        try:
            sock = host_socket(settings.port, adopt=True, listen_fd=fd)
        except StartError:
            if stub is not None:
                stub.close()
            raise
        port = self._serve_on(settings, arguments, sock, stub)
        port.since = since
        if stub is not None:
            self._nudges.plan(stub)  # the other may not have come to it
        return port

    def hand_off(self, on_drained: Callable[[], None]) -> None:
        """Another engine serves all ports now, and is the one that stubs ask: let go of everything but the established
        connections. `on_drained` is called once they have ended, or had `drain_s`.
        """
        self.handed_off = True
        for fd in (self._alive, self._requests, *self._reserve):
            os.close(fd)
        self.run_dir.close()
        timer = self.loop.call_later(self.options.drain_s, on_drained)
        waiting: set[Port | None] = {None, *self.ports}  # None: this method itself

        def one_less(port: Port | None) -> None:
            waiting.discard(port)
            if not waiting:
                timer.cancel()
                self.loop.call_soon(on_drained)

        for port in self.ports:
            self.ports.remove(port)
            self.ports.leaving.add(port)
            port.relay.stop_accepting(functools.partial(one_less, port))
        one_less(None)

    def report(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler: a defect of ours. Say it whole, though not each time, and serve the others."""
        report_defect(self.log, context)

    def _on_requests(self) -> None:
        # All that waits, before anything is done: some of it may have been taken back since (`requests.settle`).
        requests = []
        while True:
            try:
                data = os.read(self._requests, _READ_BYTES)
            except BlockingIOError:
                break
            requests += self._reader.feed(data)
        if requests:
            self._waiting = deque(settle([*self._waiting, *requests]))
            if self._turn is None:
                self._work()

    def _work(self) -> None:
        """Deal with some requests. After another engine's death all ports' come at once, and clients are waiting."""
        self._turn = None
        for _ in range(min(_TURN, len(self._waiting))):
            request = self._waiting.popleft()
            if request.verb == SERVE:
                self._serve(request)
            elif request.verb == STOP:
                self._stop(request)
            else:
                self._solo(request)
        if self._waiting:
            self._turn = self.loop.call_soon(self._work)

    def _serve(self, request: Request) -> None:
        if (port := self.ports.of(request.pid)) is not None and port.stub is not None and not port.stub.has_ended():
            if not port.stub.stops:
                port.stub.signal(YES)  # it has missed our answer
            return
        try:
            stub = self._recognise(request)
        except NotAStubError as exc:
            self.log.warn("stranger", f"a request to serve is ignored: {exc}")
            return
        try:
            self._begin_for(stub)
        except (StubError, StartError) as exc:
            self.refused += 1
            self.log.warn("refused", f"left to a process of its own (process {stub.pid}): {exc}")
            stub.signal(NO)
            stub.close()
            return
        stub.signal(YES)
        self._nudges.plan(stub)

    def _stop(self, request: Request) -> None:
        port = self.ports.of(request.pid)
        if port is None or port.stub is None:
            with contextlib.suppress(NotAStubError):
                stub = self._recognise(request)
                if stub.stops:
                    stub.signal(YES)
                stub.close()
        elif port.stub.stops:
            self.unpublish(port, "stopped")

    def _solo(self, request: Request) -> None:
        port = self.ports.of(request.pid)
        if port is not None and port.stub is not None and port.stub.is_solo:
            self.unpublish(port, f"process {request.pid} serves it itself now", self.options.drain_s)

    def _recognise(self, request: Request) -> Stub:
        try:
            return recognise(request.pid, request.command)
        except OSError as exc:
            if exc.errno not in OUT_OF_RESOURCES:
                raise
        while self._reserve:
            os.close(self._reserve.pop())
        try:
            return recognise(request.pid, request.command)
        except OSError as exc:
            raise NotAStubError(f"{in_words(exc.errno)}, so process {request.pid} cannot be looked at") from exc

    def _begin_for(self, stub: Stub) -> None:
        if not self._reserve:
            self._refill()
        if stub.network() != self._network:
            raise StubError("it is in another network namespace than the engine")
        settings = parse(stub.arguments)
        if settings.wants != "serve":
            raise StubError("it asks for no port")
        self._begin(settings, stub.arguments, stub)

    def _refill(self) -> None:
        """Get the reserve back, if there are descriptors again. StubError if not."""
        try:
            self._reserve = [_anything() for _ in range(_RESERVED)]
        except OSError as exc:
            raise StubError(f"{in_words(exc.errno)}: raise LimitNOFILE, ulimit -n") from exc

    def _begin(self, settings: Settings, arguments: list[str], stub: Stub | None) -> Port:
        try:
            sock = self._host_socket(settings, stub)
        except StartError:
            # Ports whose stubs have been killed, of which we have yet to hear, may be in the way.
            if not self._reap():
                raise
            sock = self._host_socket(settings, stub)
        if self.ports.named(name_of(settings.port)) is not None:
            self._reap()
        if self.ports.named(name_of(settings.port)) is not None:
            sock.close()
            raise StartError(f"{settings.port.host} is served already, for another process")
        port = self._serve_on(settings, arguments, sock, stub)
        port.log.info(f"published -> {settings.port.container}" + (f" (process {stub.pid})" if stub else ""))
        return port

    def _host_socket(self, settings: Settings, stub: Stub | None) -> Any:
        if stub is not None and settings.use_listen_fd:
            return host_socket(settings.port, adopt=True, listen_fd=stub.take(LISTEN_FD))
        return host_socket(settings.port, adopt=False)

    def _serve_on(self, settings: Settings, arguments: list[str], sock: Any, stub: Stub | None) -> Port:
        log = Log(settings.port.host)
        try:
            relay = make_server(self.poller, settings, sock, log, self._shared)
        except OSError as exc:  # epoll_ctl: no memory, or its limit on watches
            sock.close()
            raise StartError(f"{settings.port.host} cannot be watched: {in_words(exc.errno)}") from exc
        port = Port(settings, arguments, relay, log, stub)
        if stub is not None:
            try:
                self.poller.watch(stub.fileno(), select.EPOLLIN, lambda _events: self._on_stub_exit(port))
            except OSError as exc:
                relay.close()
                raise StartError(f"process {stub.pid} cannot be watched: {in_words(exc.errno)}") from exc
        self.ports.add(port)
        return port

    def _on_stub_exit(self, port: Port) -> None:
        if self.ports.named(port.name) is port:
            self.unpublish(port, "its process has ended")
        elif port.stub is not None:
            self._release(port)
            if not self.options.drain_unpublished_s:
                port.relay.close()  # unpublished while it drained for another engine

    def _reap(self) -> bool:
        """Unpublish what stubs have left that ended without a word. Whether there was any."""
        dead = [port for port in self.ports if port.stub is not None and port.stub.has_ended()]
        for port in dead:
            self.unpublish(port, "its process has ended")
        return bool(dead)

    def _drained(self, port: Port, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self.loop.call_soon(self._forget, port)  # not before its stub has been told

    def _forget(self, port: Port) -> None:
        port.relay.close()
        self.ports.leaving.discard(port)
        self.ports.count_gone(port)
        self._release(port)

    def _release(self, port: Port) -> None:
        if port.stub is not None:
            self.poller.unwatch(port.stub.fileno())  # another engine may hold the same pidfd
            self.poller.close_socket(port.stub)
            port.stub = None


def _anything() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
