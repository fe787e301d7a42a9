"""All ports: those that are served, by name and by stub, and those that only drain."""

from __future__ import annotations

from collections.abc import Iterator

from pyproxy.core.counters import Counters
from pyproxy.engine.port import Port


class Ports:
    """Closes nothing; whoever removes a port does."""

    def __init__(self) -> None:
        self._by_name: dict[str, Port] = {}
        self._by_pid: dict[int, Port] = {}
        self.leaving: set[Port] = set()  # unpublished, with connections that drain
        self._gone = Counters()

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Port]:
        """Served ones, in the order in which they came. A copy: it may be changed meanwhile."""
        return iter(list(self._by_name.values()))

    def add(self, port: Port) -> None:
        assert port.name not in self._by_name
        self._by_name[port.name] = port
        if port.pid is not None:
            self._by_pid[port.pid] = port

    def remove(self, port: Port) -> None:
        del self._by_name[port.name]
        if port.pid is not None:
            del self._by_pid[port.pid]

    def named(self, name: str) -> Port | None:
        return self._by_name.get(name)

    def of(self, pid: int) -> Port | None:
        """The port that the stub with this process id holds."""
        return self._by_pid.get(pid)

    def find(self, text: str) -> list[Port]:
        """Ports that a person may mean: a name, a host port, or both as in `80/tcp`."""
        if (port := self.named(text)) is not None:
            return [port]
        number, _, proto = text.partition("/")
        return [
            port for port in self if str(port.published.host_port) == number and proto in ("", port.published.proto)
        ]

    def count_gone(self, port: Port) -> None:
        """Keep what has gone through a port that is closed now: totals never fall."""
        _add(self._gone, port.totals())

    def totals(self) -> Counters:
        """Of all ports since this engine started."""
        total = Counters()
        _add(total, self._gone)
        for port in (*self, *self.leaving):
            _add(total, port.totals())
        return total

    @property
    def live(self) -> int:
        """Connections and flows of all ports."""
        return sum(port.live for port in (*self, *self.leaving))


def _add(total: Counters, more: Counters) -> None:
    for name in Counters.__slots__:
        setattr(total, name, getattr(total, name) + getattr(more, name))
