"""All ports: those that are served, by name and by stub, and those that only drain."""

from __future__ import annotations

from collections.abc import Iterator

from pyproxy.core.counters import Counters
from pyproxy.engine.port import Port
from pyproxy.engine.slices import sliced


class Ports:
    """Closes nothing; whoever removes a port does."""

    def __init__(self) -> None:
        self._by_name: dict[str, Port] = {}
        self._by_pid: dict[int, Port] = {}
        self.leaving: set[Port] = set()  # unpublished, with connections that drain
        self.gone = Counters()  # what has gone through ports that are closed now: totals never fall

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
        # A port whose process has ended may have been followed by one with the same number.
        if port.pid is not None and self._by_pid.get(port.pid) is port:
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

    def totals(self) -> Counters:
        """Of all ports of this engine, and of earlier engines that have ended. Takes 10 us a port."""
        total = self.gone.plus(0, 0)
        for port in (*self, *self.leaving):
            total.add(port.own_totals().values())
        return total

    async def totals_in_slices(self) -> Counters:
        """The same, in steps."""
        total = self.gone.plus(0, 0)  # before the others: what is closed meanwhile is in the list still
        async for port in sliced([*self, *self.leaving]):
            total.add(port.own_totals().values())
        return total

    @property
    def live(self) -> int:
        """Connections and flows of all ports."""
        return sum(port.live for port in (*self, *self.leaving))
