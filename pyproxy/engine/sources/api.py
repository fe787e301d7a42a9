"""A person asks, or a program, by the control API: ports that no process holds.

`publish` and `drain` have no way back but another command, and a new engine is told of ports once: so all are refused
while it is being told.
"""

from __future__ import annotations

from pyproxy.config import Settings
from pyproxy.engine.port import Port
from pyproxy.engine.publisher import Publisher, RefusedError
from pyproxy.errors import StartError


class Commands:
    """Whatever it does or refuses to do has been done, or not, when a method returns."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._paused = False

    def pause(self) -> None:
        """Refuse commands: another engine is being given everything."""
        self._paused = True

    def resume(self) -> None:
        """After `pause`: it has failed to take over."""
        self._paused = False

    def publish(self, settings: Settings, arguments: list[str]) -> Port:
        """Serve a port until `unpublish`, or the end of all engines. StartError, RefusedError."""
        self._refuse_while_paused()
        if settings.use_listen_fd:
            raise StartError("-use-listen-fd is for dockerd: the engine has no parent that passes a socket")
        return self._publisher.publish(settings, arguments)

    def unpublish(self, port: Port) -> None:
        """RefusedError if a process holds it."""
        if port.pid is not None:
            raise RefusedError(f"{port.name} is held by process {port.pid}: stop the container instead")
        self._refuse_while_paused()
        self._publisher.unpublish(port, "by the control API")

    def drain(self, port: Port) -> None:
        """Refuse new clients of the port from now on, for good; those that are served stay. RefusedError for UDP."""
        if not port.server.can_drain:
            raise RefusedError(f"{port.name}: UDP has no connections that could end: stop the container instead")
        self._refuse_while_paused()
        self._publisher.drain(port)

    def _refuse_while_paused(self) -> None:
        if self._paused:
            raise RefusedError("another engine is taking over: try again, it will answer")
