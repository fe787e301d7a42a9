"""One published port being served. Owns its server, and its holder, if there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from pyproxy.config import PublishedPort, Settings
from pyproxy.core.counters import Counters
from pyproxy.endpoint import join_host_port
from pyproxy.log import Log
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


class Holder(Protocol):
    """The process for which a port is published, such as a stub: the port ends when it does."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def fileno(self) -> int:
        """A descriptor that is readable when the process has ended, as a pidfd is."""

    def has_ended(self) -> bool:
        """Whether the process has ended; another one of the same number does not count."""

    def close(self) -> None:
        """Close the descriptor."""


class Port:
    """A port that is served, or no longer accepts and drains. `holder` None: published by command.

    Of one port several engines may have connections, after upgrades: its counters are of all of them.
    """

    __slots__ = (
        "arguments",
        "draining",
        "earlier",
        "holder",
        "holder_watched",
        "log",
        "name",
        "pid",
        "published",
        "server",
        "settings",
        "since",
        "told",
    )

    def __init__(
        self, settings: Settings, arguments: list[str], server: Server, log: Log, holder: Holder | None
    ) -> None:
        self.settings = settings
        self.arguments = arguments
        self.published = settings.port
        self.name = name_of(settings.port)
        self.server = server
        self.log = log
        self.holder = holder  # None once it has been released, too
        self.pid = holder.pid if holder is not None else None
        self.holder_watched = holder is not None
        self.since = time.time()
        self.draining = False
        # What earlier engines have counted, by their process ids; those that have ended are summed up at a hand-over.
        self.earlier: dict[int, Counters] = {}
        self.told: tuple[int, ...] = ()  # the other engine, when it was last told: our counters, and what is live

    @property
    def live(self) -> int:
        """Connections or flows now."""
        return self.server.live

    def counters(self) -> Counters:
        """A snapshot of what has gone through since it was published."""
        total = self.server.counters()
        for counted in self.earlier.values():
            total.add(counted.values())
        return total

    def own_counters(self) -> Counters:
        """A snapshot of what has gone through in this engine."""
        return self.server.counters()

    @property
    def has_news(self) -> bool:
        """Whether the other engine was last told something else."""
        return (*self.counters().values(), self.live) != self.told

    def tell(self) -> None:
        """The other engine is being told how it stands now."""
        self.told = (*self.counters().values(), self.live)

    def connections(self) -> tuple[Connection, ...]:
        """Live ones; none for UDP, which has flows."""
        return self.server.connections

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
            "totals": self.counters().as_dict(),
        }
