"""The engine as a whole: what it is made of, since when it counts, and how it goes over to another one."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

from pyproxy.engine.handover.predecessor import Predecessors
from pyproxy.engine.publisher import Publisher
from pyproxy.engine.rundir import RunDir
from pyproxy.engine.slices import sliced
from pyproxy.engine.sources.api import Commands
from pyproxy.engine.sources.stubs import Stubs
from pyproxy.log import Log
from pyproxy.relay.loop import report_defect
from pyproxy.relay.poller import Poller


class Options(NamedTuple):
    """Seconds. `drain_s`: what established connections get when another engine takes over. `drain_unpublished_s`: what
    they get when their port is unpublished; 0 resets them at once, as docker-proxy does. `busy_poll_s` is
    the poller's.
    """

    drain_s: float = 30.0
    drain_unpublished_s: float = 0.0
    busy_poll_s: float = 0.0


class Engine:
    """Serves from `open` on, until `hand_off` or the end of the process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run_dir: RunDir, options: Options, log: Log) -> None:
        self.loop = loop
        self.run_dir = run_dir
        self.poller = Poller(loop, options.busy_poll_s)
        self.publisher = Publisher(loop, self.poller, drain_unpublished_s=options.drain_unpublished_s)
        self.ports = self.publisher.ports
        self.stubs = Stubs(loop, run_dir, self.publisher, drain_s=options.drain_s, log=log)
        self.commands = Commands(self.publisher)
        self.predecessors = Predecessors(loop, self.ports)
        self.started = time.time()
        self.counting_since = self.started  # the first of the engines that took over from one another
        self.handed_off = False  # another engine has everything; this one drains
        self._drain_s = options.drain_s
        self._log = log

    def count_on(self, since: float, refused: int, garbage: int) -> None:
        """Go on with what earlier engines have counted."""
        self.counting_since = since
        self.stubs.count_on(refused, garbage)

    def open(self, unread: bytes = b"") -> None:
        """Take requests from now on, after those in `unread` (`Stubs.stop_reading`).

        Stubs learn of this engine first: those that start from now on ask it.
        """
        self.run_dir.announce()
        self.stubs.open(unread)

    def withdraw(self) -> None:
        """This engine ends: stubs look after their ports from here on (`os._exit` does the rest)."""
        if not self.handed_off:
            self.run_dir.withdraw()

    async def hand_off(self) -> None:
        """Another engine serves all ports now, and is the one that stubs ask: let go of everything but the established
        connections. Those have their time: `drain_s`, or what those of ports that were unpublished before have left of
        theirs.
        """
        self.handed_off = True
        self.stubs.close()
        self.run_dir.close()
        released = self.predecessors.release()
        async for port in sliced(self.ports):
            if self.ports.named(port.name) is port:  # its stub may have ended just now
                for pid in released:
                    port.earlier.pop(pid, None)
                self.publisher.detach(port, self._drain_s)

    def report(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler: a defect of ours. Say it whole, though not each time, and serve the others."""
        report_defect(self._log, context)
