"""One published port being served. Owns its relay, and the stub that dockerd started for it, if there is one."""

from __future__ import annotations

import time
from typing import Any

from pyproxy.core.counters import Counters
from pyproxy.engine.stub import Stub
from pyproxy.flags import Settings
from pyproxy.log import Log
from pyproxy.published import PublishedPort, join_host_port
from pyproxy.relay.connection import Connection
from pyproxy.relay.server import Server


def name_of(port: PublishedPort) -> str:
    """`tcp/0.0.0.0:80`, `udp/[::1]:53`: how people and the control API call a port."""
    return f"{port.proto}/{join_host_port(port.host_ip, port.host_port)}"


class Port:
    """A port that is served, or no longer accepts and drains. `stub` None: published by the control API."""

    __slots__ = ("arguments", "draining", "log", "name", "pid", "published", "relay", "settings", "since", "stub")

    def __init__(self, settings: Settings, arguments: list[str], relay: Server, log: Log, stub: Stub | None) -> None:
        self.settings = settings
        self.arguments = arguments
        self.published = settings.port
        self.name = name_of(settings.port)
        self.relay = relay
        self.log = log
        self.stub = stub  # None once it has been let go of, too
        self.pid = stub.pid if stub is not None else None
        self.since = time.time()
        self.draining = False

    @property
    def live(self) -> int:
        """Connections or flows now."""
        return self.relay.live

    def totals(self) -> Counters:
        return self.relay.counters()

    def connections(self) -> tuple[Connection, ...]:
        """Live ones; none for UDP, which has flows."""
        return self.relay.connections

    def describe(self) -> dict[str, Any]:
        """What the control API says of it. Counters in their own units, times in seconds since the epoch."""
        counters = self.totals()
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
            "totals": {name: getattr(counters, name) for name in Counters.__slots__},
        }
