"""The engine itself: reads requests, publishes, watches stubs, unpublishes.

Everything here happens in the event loop's thread, in short steps that wait for nothing. Owns the two FIFOs, every port
and every stub. What it can do nothing about (a port in use, flags that cannot be read, another network namespace) it
leaves to the stub. Told no, the stub becomes pyproxy, which meets the same trouble and reports it to dockerd itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from pyproxy.bind import LISTEN_FD, host_socket
from pyproxy.engine.draining import DrainingEngine, Key
from pyproxy.engine.port import Drained, Port, name_of
from pyproxy.engine.ports import Ports
from pyproxy.engine.rundir import RunDir
from pyproxy.engine.slices import Slice, sliced
from pyproxy.engine.sources.nudge import Nudges
from pyproxy.engine.sources.requests import SERVE, STOP, Reader, Request, line_of, settle
from pyproxy.engine.sources.stub import NO, NUDGE, YES, NotAStubError, Stub, StubError, own_network, recognise
from pyproxy.errors import OUT_OF_RESOURCES, StartError, in_words
from pyproxy.flags import Settings, parse
from pyproxy.log import Log
from pyproxy.relay.loop import report_defect
from pyproxy.relay.poller import Poller
from pyproxy.relay.server import make_server
from pyproxy.relay.stream import Shared

# Read at once from the FIFO: what a pipe holds by default.
_READ_BYTES = 1 << 16

# Descriptors kept in reserve, to be closed when no other is left: recognising a stub takes a pidfd and a file in /proc,
# and without that it cannot even be told no.
_RESERVED = 2

T = TypeVar("T")


class Options(NamedTuple):
    """Seconds. `drain_s`: how long established connections may go on when another engine takes over.
    `drain_unpublished_s`: the same when their port is unpublished; 0 resets them at once, as docker-proxy does.
    `busy_poll_s` is the poller's.
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
        self.counting_since = self.started  # the first of the engines that took over from one another
        self.handing_over = False  # another engine is being given everything: ports must not change by command
        self.handed_off = False  # another engine has everything; this one drains
        self.refused = 0  # requests that were answered no
        self._shared = Shared()
        self.draining: list[DrainingEngine] = []  # earlier engines, whose connections have not ended yet
        self.departed: list[Port] = []  # ports that have drained here since they are another engine's
        self._on_drained: Callable[[], None] | None = None
        self._garbage_before = 0
        self._nudges = Nudges(loop)
        self._reader = Reader()
        self._unsettled: list[Request] = []  # read, while there may be more in the FIFO
        self._waiting: deque[Request] = deque()  # read, and not yet dealt with
        self._turn: asyncio.Handle | None = None  # that will deal with them
        self._network = own_network()
        self._reserve = [_anything() for _ in range(_RESERVED)]
        self._alive = run_dir.open_alive()
        self._requests = run_dir.open_requests()

    @property
    def garbage(self) -> int:
        """Lines in the FIFO that were no requests."""
        return self._garbage_before + self._reader.garbage

    def count_on(self, since: float, refused: int, garbage: int) -> None:
        """Go on with what earlier engines have counted."""
        self.counting_since = since
        self.refused, self._garbage_before = refused, garbage

    def follow(self, earlier: DrainingEngine) -> None:
        """List what drains in an earlier engine, and count it. It is ours from here on."""
        self.draining.append(earlier)
        earlier.attach(self.loop, self._on_earlier_port, self._on_earlier_end)

    async def refresh(self) -> None:
        """Have earlier engines say what is new."""
        for earlier in list(self.draining):
            await earlier.refresh()

    def _on_earlier_port(self, earlier: DrainingEngine, key: Key, counted: Sequence[int]) -> None:
        port = self.ports.named(key.name)
        if port is not None and port.since == key.since:
            port.earlier[earlier.pid] = counted

    def _on_earlier_end(self, earlier: DrainingEngine) -> None:
        self.draining.remove(earlier)
        self.ports.gone.add(earlier.totals)

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
        waiting, self._waiting, self._unsettled = [*self._waiting, *self._unsettled], deque(), []
        return b"".join(line_of(request) for request in waiting) + self._reader.take_rest()

    def leave(self) -> None:
        """This engine ends: stubs serve their ports themselves from here on (`os._exit` does the rest)."""
        if not self.handed_off:
            self.run_dir.withdraw()

    def publish(self, settings: Settings, arguments: list[str]) -> Port:
        """Serve a port that no stub holds, and that ends with `unpublish` or the engine. StartError."""
        self._refuse_while_handing_over()
        if settings.use_listen_fd:
            raise StartError("-use-listen-fd is for dockerd: the engine has no parent that passes a socket")
        return self._begin(settings, arguments, None)

    def unpublish(self, port: Port, why: str, drain_s: float | None = None) -> None:
        """Free the port now, and say so to a stub that waits for it. Its connections get `drain_s` seconds to end by
        themselves (default: the option).
        """
        self.ports.remove(port)
        self.ports.leaving.add(port)
        if drain_s is None:
            drain_s = self.options.drain_unpublished_s
        relay = port.relay
        if not relay.can_drain:
            text = f"unpublished, {why}: {port.live} live, {port.totals().summary()}"
            relay.close()
        else:
            if drain_s:
                text = f"unpublished, {why}: {port.live} connections get {drain_s:g} s to end"
            else:
                text = f"unpublished, {why}: {port.live} live, {port.totals().summary()}"
            self._drain_for(port, drain_s)
        # Resetting thousands of connections takes tens of milliseconds, so that comes after this.
        if port.stub is not None and self._looked(lambda: port.stub is not None and port.stub.stops):
            port.stub.signal(YES)
        port.log.info(text)
        if not relay.can_drain:
            self._forget(port)

    def unpublish_by_command(self, port: Port) -> None:
        """Unpublish a port that no stub holds. StubError."""
        if port.pid is not None:
            raise StubError(f"{port.name} is held by process {port.pid}: stop the container instead")
        self._refuse_while_handing_over()
        self.unpublish(port, "by the control API")

    def drain(self, port: Port) -> None:
        """Refuse new clients of the port from now on, for good; those that are served stay. StubError for UDP."""
        if not port.relay.can_drain:
            raise StubError(f"{port.name}: UDP has no connections that could end: stop the container instead")
        self._refuse_while_handing_over()
        if not port.draining:
            port.draining = True
            port.relay.refuse_new()
            port.log.info(f"draining: new clients are refused, {port.live} connections stay")

    def adopt(self, settings: Settings, arguments: list[str], fd: int | None, stub: Stub | None) -> Port:
        """Go on with a port of the engine before: its listening socket `fd` and its stub are ours from here on. No
        `fd`: the port is drained. StartError: then the socket has been closed, and the stub is the caller's again.
        """
        if fd is None:
            port = self._add(Port(settings, arguments, Drained(), Log(settings.port.host), stub))
            port.draining = True
        else:
            port = self._serve_on(settings, arguments, _adopted(settings, fd), stub)
        if stub is not None:
            self._nudges.plan(stub)  # the other may not have come to it
        return port

    def serve_anew(self, stub: Stub) -> None:
        """Serve the port of a stub that was not to be adopted, as if it asked now, or have it serve the port itself.
        The socket of the engine before must have been closed.
        """
        if self.ports.of(stub.pid) is not None:
            stub.close()  # it was handed over twice, and is served
        else:
            self._answer(stub)

    async def hand_off(self, on_drained: Callable[[], None]) -> None:
        """Another engine serves all ports now, and is the one that stubs ask: close everything but the established
        connections. `on_drained` is called once, when the last of them has ended or been reset: after `drain_s`, and
        those of ports that were unpublished before when their own time is over.
        """
        self.handed_off = True
        for fd in (self._alive, self._requests, *self._reserve):
            os.close(fd)
        self._reserve.clear()
        self.run_dir.close()
        given, self.draining = self.draining, []
        for earlier in given:
            earlier.close()
        async for port in sliced(self.ports):
            if self.ports.named(port.name) is port:  # its stub may have ended just now
                for earlier in given:
                    port.earlier.pop(earlier.pid, None)
                self.ports.remove(port)
                self.ports.leaving.add(port)
                self._drain_for(port, self.options.drain_s)
        self._on_drained = on_drained
        self._end_when_drained()

    def report(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler: a defect of ours. Log it whole, though not each time, and serve the others."""
        report_defect(self.log, context)

    def _on_requests(self) -> None:
        # All that waits, before anything is done: some of it may have been taken back since (`requests.settle`).
        try:
            data = os.read(self._requests, _READ_BYTES)
        except BlockingIOError:
            return
        self._unsettled += self._reader.feed(data)
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if len(data) < _READ_BYTES:
            self._waiting = deque(settle([*self._waiting, *self._unsettled]))
            self._unsettled = []
            self._work()

    def _work(self) -> None:
        """Deal with some requests. When an engine has died, all stubs ask at once, and clients are waiting."""
        self._turn = None
        step = Slice()
        while self._waiting and not step.over:
            request = self._waiting.popleft()
            try:
                self._deal_with(request)
            except Exception as exc:  # a defect of ours; the other requests' stubs wait, and not for long
                context = {"message": f"in a request to {request.verb} process {request.pid}", "exception": exc}
                self.loop.call_exception_handler(context)
        if self._waiting:
            self._turn = self.loop.call_soon(self._work)

    def _deal_with(self, request: Request) -> None:
        port = self._port_of(request.pid)
        if request.verb == SERVE:
            self._serve(request, port)
        elif request.verb == STOP:
            self._stop(request, port)
        elif port is not None and self._looked(lambda: port.stub is not None and port.stub.is_solo):
            self.unpublish(port, f"process {request.pid} serves it itself now", self.options.drain_s)

    def _port_of(self, pid: int) -> Port | None:
        """The port that this very process holds: not one before it that had the same number."""
        port = self.ports.of(pid)
        if port is not None and port.stub is not None and port.stub.has_ended():
            self.unpublish(port, "its process has ended")
            return None
        return port

    def _serve(self, request: Request, port: Port | None) -> None:
        if port is not None and port.stub is not None:
            stub = port.stub
            if not self._looked(lambda: stub.stops):
                stub.signal(YES)  # it has missed our answer
            return
        try:
            stub = self._looked(lambda: recognise(request.pid, request.command))
        except NotAStubError as exc:
            self.log.warn("stranger", f"a request to serve is ignored: {exc}")
            return
        self._answer(stub)

    def _answer(self, stub: Stub) -> None:
        if not stub.was_stoppable:
            # It will start again without ignored signals, or become pyproxy; or it is being stopped just now.
            stub.signal(NUDGE)
            self._refuse(stub)
            return
        try:
            self._begin_for(stub)
        except (StubError, StartError) as exc:
            self.log.warn("refused", f"left to a process of its own (process {stub.pid}): {exc}")
            self._refuse(stub)
        except BaseException:
            self._refuse(stub)
            raise
        else:
            stub.signal(YES)
            self._nudges.plan(stub)

    def _refuse(self, stub: Stub) -> None:
        self.refused += 1
        stub.signal(NO)
        stub.close()

    def _stop(self, request: Request, port: Port | None) -> None:
        if port is None or port.stub is None:
            with contextlib.suppress(NotAStubError):
                stub = self._looked(lambda: recognise(request.pid, request.command))
                if self._looked(lambda: stub.stops):
                    stub.signal(YES)
                stub.close()
        elif self._looked(lambda: port.stub is not None and port.stub.stops):
            self.unpublish(port, "stopped")

    def _looked(self, look: Callable[[], T]) -> T:
        """What `look` finds in /proc; where no descriptor is left for that, with those in reserve. NotAStubError."""
        try:
            return look()
        except OSError as exc:
            if exc.errno not in OUT_OF_RESOURCES:
                raise
        while self._reserve:
            os.close(self._reserve.pop())
        try:
            return look()
        except OSError as exc:
            raise NotAStubError(f"{in_words(exc.errno)}, so no process can be looked at") from exc

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
            if not self._reap(settings):
                raise
            sock = self._host_socket(settings, stub)
        if self.ports.named(name_of(settings.port)) is not None:
            self._reap(settings)
        port = self._serve_on(settings, arguments, sock, stub)
        port.log.info(f"published -> {settings.port.container}" + (f" (process {stub.pid})" if stub else ""))
        return port

    def _host_socket(self, settings: Settings, stub: Stub | None) -> Any:
        if stub is not None and settings.use_listen_fd:
            return _adopted(settings, stub.take(LISTEN_FD))
        try:
            return host_socket(settings.port, adopt=False)
        except OSError as exc:
            raise StartError(f"{settings.port.host} cannot be bound: {in_words(exc.errno)}") from exc

    def _serve_on(self, settings: Settings, arguments: list[str], sock: Any, stub: Stub | None) -> Port:
        log = Log(settings.port.host)
        if self.ports.named(name_of(settings.port)) is not None:
            sock.close()
            raise StartError(f"{settings.port.host} is served already, for another process")
        try:
            relay = make_server(self.poller, settings, sock, log, self._shared)
        except OSError as exc:  # epoll_ctl: no memory, or its limit on watches
            sock.close()
            raise StartError(f"{settings.port.host} cannot be watched: {in_words(exc.errno)}") from exc
        except StartError:  # the container's zone is no interface any more
            sock.close()
            raise
        return self._add(Port(settings, arguments, relay, log, stub))

    def _add(self, port: Port) -> Port:
        """Serve a port from now on, for as long as its stub lives. StartError: it has been closed."""
        try:
            if self.ports.named(port.name) is not None:
                raise StartError(f"{port.published.host} is served already, for another process")
            if (stub := port.stub) is not None:
                self.poller.watch(stub.fileno(), select.EPOLLIN, lambda _events: self._on_stub_exit(port))
        except OSError as exc:
            port.relay.close()
            raise StartError(f"the process of {port.name} cannot be watched: {in_words(exc.errno)}") from exc
        except StartError:
            port.relay.close()
            raise
        self.ports.add(port)
        return port

    def _refuse_while_handing_over(self) -> None:
        if self.handing_over or self.handed_off:
            raise StubError("another engine is taking over: try again, it will answer")

    def _on_stub_exit(self, port: Port) -> None:
        # In turns: all containers may end at once.
        self._unwatch_stub(port)
        self.poller.call_soon(functools.partial(self._after_stub, port))

    def _after_stub(self, port: Port) -> None:
        if self.ports.named(port.name) is port:
            self.unpublish(port, "its process has ended")
        elif port.stub is not None:
            self._release(port)
            if not self.options.drain_unpublished_s:
                self._cut(port)  # unpublished while it drained for another engine

    def _reap(self, wanted: Settings) -> bool:
        """Unpublish ports that are in the way of a new one and whose stubs have been killed. Whether there were any."""
        dead = [
            port
            for port in self.ports
            if port.published.host_port == wanted.port.host_port
            and port.published.proto == wanted.port.proto
            and port.stub is not None
            and port.stub.has_ended()
        ]
        for port in dead:
            self.unpublish(port, "its process has ended")
        return bool(dead)

    def _drain_for(self, port: Port, drain_s: float) -> None:
        """Accept no more; forget the port when its connections have ended, or been cut after `drain_s`."""
        timer = self.loop.call_later(drain_s, self._cut, port)
        port.relay.stop_accepting(lambda: self._drained(port, timer))

    def _cut(self, port: Port) -> None:
        """Reset what is left of a port, some at a time; `_drained` follows when the last connection has ended."""
        if not port.relay.can_drain:
            self._forget(port)
            return
        step = Slice()
        for connection in port.connections():
            connection.abort()
            if step.over:
                self.poller.call_soon(functools.partial(self._cut, port))
                return
        port.relay.close()

    def _drained(self, port: Port, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self.loop.call_soon(self._forget, port)  # not before its stub has been told

    def _forget(self, port: Port) -> None:
        if port not in self.ports.leaving:
            return
        port.relay.close()
        self.ports.leaving.discard(port)
        self.ports.gone.add(port.own_totals().values())
        self._release(port)
        if self.handed_off and port.has_news:
            self.departed.append(port)
        self._end_when_drained()

    def _end_when_drained(self) -> None:
        if self._on_drained is not None and not self.ports.leaving:
            on_drained, self._on_drained = self._on_drained, None
            self.loop.call_soon(on_drained)

    def _unwatch_stub(self, port: Port) -> None:
        """Another engine may hold the same pidfd: closing ours would not end the watch."""
        if port.stub is not None and port.stub_watched:
            port.stub_watched = False
            self.poller.unwatch(port.stub.fileno())

    def _release(self, port: Port) -> None:
        self._unwatch_stub(port)
        if port.stub is not None:
            self.poller.close_socket(port.stub)
            port.stub = None


def _adopted(settings: Settings, fd: int) -> Any:
    """The socket with this descriptor, which is closed if it cannot be served. StartError."""
    try:
        return host_socket(settings.port, adopt=True, listen_fd=fd)
    except OSError as exc:
        raise StartError(f"{settings.port.host} cannot be adopted: {in_words(exc.errno)}") from exc


def _anything() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
