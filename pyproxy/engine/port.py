"""One published port being served. Owns its relay, and the stub that dockerd started for it, if there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pyproxy.core.counters import Counters
from pyproxy.engine.sources.stub import Stub
from pyproxy.flags import Settings
from pyproxy.log import Log
from pyproxy.published import PublishedPort, join_host_port
from pyproxy.relay.connection import Connection
from pyproxy.relay.server import Server


def name_of(port: PublishedPort) -> str:
    """`tcp/0.0.0.0:80`, `udp/[::1]:53`: how people and the control API call a port."""
    return f"{port.proto}/{join_host_port(port.host_ip, port.host_port)}"


class Drained:
    """Stands for the server of a port that was drained by command before this engine took over."""

    can_drain: Final = True
    live: Final = 0
    connections: Final[tuple[Connection, ...]] = ()

    def counters(self) -> Counters:
        return Counters()

    def fileno(self) -> int:
        raise ValueError("a drained port has no socket any more")

    def refuse_new(self) -> None:
        """It refuses them already."""

    def stop_accepting(self, on_drained: Callable[[], None] | None = None) -> None:
        if on_drained is not None:
            on_drained()

    def free_port(self) -> None:
        """There is nothing to close."""

    close = free_port


class Port:
    """A port that is served, or no longer accepts and drains. `stub` None: published by the control API.

    Of one port several engines may have connections, after upgrades: its totals are of all of them.
    """

    __slots__ = (
        "arguments",
        "draining",
        "earlier",
        "log",
        "name",
        "pid",
        "published",
        "relay",
        "settings",
        "since",
        "stub",
        "stub_watched",
        "told",
    )

    def __init__(self, settings: Settings, arguments: list[str], relay: Server, log: Log, stub: Stub | None) -> None:
        self.settings = settings
        self.arguments = arguments
        self.published = settings.port
        self.name = name_of(settings.port)
        self.relay = relay
        self.log = log
        self.stub = stub  # None also after it has been closed
        self.pid = stub.pid if stub is not None else None
        self.stub_watched = stub is not None
        self.since = time.time()
        self.draining = False
        # What earlier engines have counted, by their process ids; those that have ended are summed up at a hand-over.
        self.earlier: dict[int, Sequence[int]] = {}
        self.told: tuple[int, ...] = ()  # totals, and what is live, as the other engine was last told

    @property
    def live(self) -> int:
        """Connections or flows now."""
        return self.relay.live

    def totals(self) -> Counters:
        """Of the port, since it was published."""
        total = self.relay.counters()
        for counted in self.earlier.values():
            total.add(counted)
        return total

    def own_totals(self) -> Counters:
        """What this engine has counted of it."""
        return self.relay.counters()

    @property
    def has_news(self) -> bool:
        """Whether something has changed since the other engine was last told."""
        return (*self.totals().values(), self.live) != self.told

    def tell(self) -> None:
        """Note that the other engine is being told the present figures."""
        self.told = (*self.totals().values(), self.live)

    def connections(self) -> tuple[Connection, ...]:
        """Live ones; none for UDP, which has flows."""
        return self.relay.connections

    def describe(self) -> dict[str, Any]:
        """What the control API says of it. Counters in their own units, times in seconds since the epoch."""
        return {
            "name": self.name,
            "proto": self.published.proto,
            "host_ip": self.published.host_ip,
            "host_port": self.published.host_port,
            "container_ip": self.published.container_ip,
            "container_port": self.published.container_port,
            "pid": self.pid,
            "since": self.since,
            "draining": self.draining,
            "live": self.live,
            "totals": self.totals().as_dict(),
        }
