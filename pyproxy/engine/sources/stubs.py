"""Stubs ask: what they write into the FIFO is read here, dealt with, and answered by a signal.

Everything here happens in the event loop's thread, in short steps that wait for nothing. Owns the two FIFOs. What it
can do nothing about (a port in use, flags that cannot be read, another network namespace) it leaves to the stub: told
no, that becomes pyproxy, which meets the same trouble and reports it to dockerd itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections import deque

from pyproxy.bind import LISTEN_FD
from pyproxy.engine.port import Port
from pyproxy.engine.publisher import Observer, Publisher
from pyproxy.engine.rundir import RunDir
from pyproxy.engine.slices import Slice
from pyproxy.engine.sources.nudge import Nudges
from pyproxy.engine.sources.requests import SERVE, STOP, Reader, Request, drop_withdrawn, line_of
from pyproxy.engine.sources.reserve import Reserve
from pyproxy.engine.sources.stub import NO, NUDGE, YES, NotAStubError, Stub, StubError, own_network, recognise
from pyproxy.errors import StartError
from pyproxy.flags import parse
from pyproxy.log import Log

# Read at once from the FIFO: what a pipe holds by default.
_READ_BYTES = 1 << 16


class Stubs(Observer):
    """Listens from `open` to `stop_reading`; stubs see an engine until `close`. `drain_s`: what connections get whose
    stub goes on serving by itself.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, run_dir: RunDir, publisher: Publisher, *, drain_s: float, log: Log
    ) -> None:
        self.refused = 0  # requests that were answered no
        self._loop = loop
        self._publisher = publisher
        self._drain_s = drain_s
        self._log = log
        self._nudges = Nudges(loop)
        self._reader = Reader()
        self._garbage_before = 0
        self._unsettled: list[Request] = []  # read, while there may be more in the FIFO
        self._waiting: deque[Request] = deque()  # read, and not yet dealt with
        self._turn: asyncio.Handle | None = None  # that will deal with them
        self._network = own_network()
        self._reserve = Reserve()
        self._alive = run_dir.open_alive()
        self._requests = run_dir.open_requests()
        publisher.observe(self)

    @property
    def garbage(self) -> int:
        """Lines in the FIFO that were no requests."""
        return self._garbage_before + self._reader.garbage

    def count_on(self, refused: int, garbage: int) -> None:
        """Go on with what earlier engines have counted."""
        self.refused, self._garbage_before = refused, garbage

    def open(self, unread: bytes = b"") -> None:
        """Take requests from now on, after those in `unread` (`stop_reading`)."""
        self._waiting.extend(self._reader.feed(unread))
        self._loop.add_reader(self._requests, self._on_requests)
        self._work()

    def stop_reading(self) -> bytes:
        """Take no more requests; return those that have not been dealt with, and a line whose end has yet to come."""
        self._loop.remove_reader(self._requests)
        self._cancel_turn()
        waiting, self._waiting, self._unsettled = [*self._waiting, *self._unsettled], deque(), []
        return b"".join(line_of(request) for request in waiting) + self._reader.take_rest()

    def close(self) -> None:
        """After `stop_reading`: another engine is the one that stubs see."""
        for fd in (self._alive, self._requests):
            os.close(fd)
        self._reserve.close()

    def serve_anew(self, stub: Stub) -> None:
        """Serve the port of a stub that was not to be adopted, as if it asked now, or have it serve the port itself.
        The socket of the engine before must have been closed.
        """
        if self._publisher.ports.held_by(stub.pid) is not None:
            stub.close()  # it was handed over twice, and is served
        else:
            self._answer(stub)

    def published(self, port: Port) -> None:
        if isinstance(port.holder, Stub):
            self._nudges.plan(port.holder)  # taken over, too: the engine before may not have come to it

    def unpublished(self, port: Port) -> None:
        """A stub that waits for its port to be free is told so."""
        if isinstance(stub := port.holder, Stub):
            with contextlib.suppress(NotAStubError):  # no descriptor for a look: it will not wait for ever
                if self._reserve.look(lambda: stub.stops):
                    stub.signal(YES)

    def _on_requests(self) -> None:
        # All that waits, before anything is done: some of it may have been withdrawn since (`drop_withdrawn`).
        try:
            data = os.read(self._requests, _READ_BYTES)
        except BlockingIOError:
            return
        self._unsettled += self._reader.feed(data)
        self._cancel_turn()
        if len(data) < _READ_BYTES:
            self._waiting = deque(drop_withdrawn([*self._waiting, *self._unsettled]))
            self._unsettled = []
            self._work()

    def _cancel_turn(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _work(self) -> None:
        """Deal with some requests. After another engine's death all ports' come at once, and clients are waiting."""
        self._turn = None
        step = Slice()
        while self._waiting and not step.over:
            request = self._waiting.popleft()
            try:
                self._deal_with(request)
            except Exception as exc:  # a defect of ours; the other requests' stubs wait, and not for long
                context = {"message": f"in a request to {request.verb} process {request.pid}", "exception": exc}
                self._loop.call_exception_handler(context)
        if self._waiting:
            self._turn = self._loop.call_soon(self._work)

    def _deal_with(self, request: Request) -> None:
        port = self._port_of(request.pid)
        stub = port.holder if port is not None and isinstance(port.holder, Stub) else None
        if port is None or stub is None:
            if request.verb == SERVE:
                self._serve(request)
            elif request.verb == STOP:
                self._stop_unserved(request)
        elif request.verb == SERVE:
            if not self._reserve.look(lambda: stub.stops):
                stub.signal(YES)  # it has missed our answer
        elif request.verb == STOP:
            if self._reserve.look(lambda: stub.stops):
                self._publisher.unpublish(port, "stopped")
        elif self._reserve.look(lambda: stub.is_solo):
            self._publisher.unpublish(port, f"process {request.pid} serves it itself now", self._drain_s)

    def _port_of(self, pid: int) -> Port | None:
        """The port that this very process holds: not one before it that had the same number."""
        port = self._publisher.ports.held_by(pid)
        if port is not None and port.holder is not None and port.holder.has_ended():
            self._publisher.unpublish(port, "its process has ended")
            return None
        return port

    def _recognised(self, request: Request) -> Stub:
        """NotAStubError."""
        return self._reserve.look(lambda: recognise(request.pid, request.command))

    def _serve(self, request: Request) -> None:
        try:
            stub = self._recognised(request)
        except NotAStubError as exc:
            self._log.warn("stranger", f"a request to serve is ignored: {exc}")
            return
        self._answer(stub)

    def _stop_unserved(self, request: Request) -> None:
        with contextlib.suppress(NotAStubError):
            stub = self._recognised(request)
            if self._reserve.look(lambda: stub.stops):
                stub.signal(YES)
            stub.close()

    def _answer(self, stub: Stub) -> None:
        if not stub.was_stoppable:
            # It starts again with its signals as they should be, or as pyproxy; or it is being stopped just now.
            stub.signal(NUDGE)
            stub.close()
            return
        try:
            self._publish(stub)
        except (StubError, StartError) as exc:
            self._log.warn("refused", f"left to a process of its own (process {stub.pid}): {exc}")
            self._refuse(stub)
        except BaseException:
            self._refuse(stub)
            raise
        else:
            stub.signal(YES)

    def _refuse(self, stub: Stub) -> None:
        self.refused += 1
        stub.signal(NO)
        stub.close()

    def _publish(self, stub: Stub) -> None:
        """StubError, StartError."""
        self._reserve.refill()
        if stub.network() != self._network:
            raise StubError("it is in another network namespace than the engine")
        settings = parse(stub.arguments)
        passed = functools.partial(stub.take, LISTEN_FD) if settings.use_listen_fd else None
        self._publisher.publish(settings, stub.arguments, stub, passed)
