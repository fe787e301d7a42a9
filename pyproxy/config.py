"""A published port and how it is served: values that are checked once, by `flags.parse`, and never change.

Written by hand: dataclasses, typing and collections would each cost a start-up more than all of this (see `__main__`).
"""

from __future__ import annotations

from pyproxy.endpoint import join_host_port

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would cost a start-up 8 ms
    from typing import Final

TCP = "tcp"
UDP = "udp"
SCTP = "sctp"
PROTOCOLS = (TCP, UDP, SCTP)

# The flow table's cap. 16,384 flows are 16,384 descriptors; with a 4,096-byte socket each that is the order of
# memory a host can spare for one port under a spoofed flood. A guess at "enough for any honest use": at the
# 90 s idle limit it takes 180 new clients a second, sustained, to reach it.
DEFAULT_UDP_MAX_FLOWS = 16_384

# Most of a short round trip is going to sleep and being woken (bench/NOTES.md). This is longer than a container takes
# to answer a small request, and too short to keep a processor from others.
DEFAULT_BUSY_POLL_US = 60


class Frozen:
    """A value: each attribute is set once, in `__init__`; equal if all are. Subclasses name them in `__slots__`."""

    __slots__: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, name):
            raise AttributeError(f"{type(self).__name__}.{name} does not change: make another")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} stays")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        named = (f"{name}={value!r}" for name, value in zip(self.__slots__, _values(self), strict=True))
        return f"{type(self).__name__}({', '.join(named)})"


class Limits(Frozen):
    """Time limits of connections, in seconds; 0 is no limit (for `connect_s`: the kernel's own)."""

    __slots__ = ("connect_s", "half_closed_s", "idle_s")

    def __init__(self, connect_s: float = 0.0, idle_s: float = 0.0, half_closed_s: float = 0.0) -> None:
        self.connect_s: Final = connect_s
        self.idle_s: Final = idle_s
        self.half_closed_s: Final = half_closed_s


class PublishedPort(Frozen):
    """A protocol, the host address that clients speak to, the container address behind it. Addresses are as
    `endpoint.parse_address` returns them, ports are numbers; `host_port` 0 asks the kernel for a free one.
    """

    __slots__ = ("container_ip", "container_port", "host_ip", "host_port", "proto")

    def __init__(self, proto: str, host_ip: str, host_port: int, container_ip: str, container_port: int) -> None:
        self.proto: Final = proto
        self.host_ip: Final = host_ip
        self.host_port: Final = host_port
        self.container_ip: Final = container_ip
        self.container_port: Final = container_port

    def at(self, host_ip: str, host_port: int) -> PublishedPort:
        """The same container, on another host address."""
        return PublishedPort(self.proto, host_ip, host_port, self.container_ip, self.container_port)

    @property
    def host(self) -> str:
        """`tcp 0.0.0.0:1234`: how messages call this port."""
        return f"{self.proto} {join_host_port(self.host_ip, self.host_port)}"

    @property
    def container(self) -> str:
        """`172.19.0.2:1234`."""
        return join_host_port(self.container_ip, self.container_port)

    def __str__(self) -> str:
        return f"{self.host} -> {self.container}"


class Settings(Frozen):
    """All that serving a port depends on. `workers` 0: as many as make sense; `busy_poll_s` 0: never."""

    __slots__ = ("busy_poll_s", "limits", "loop", "port", "udp_max_flows", "use_listen_fd", "workers")

    def __init__(
        self,
        port: PublishedPort,
        *,
        use_listen_fd: bool = False,
        limits: Limits | None = None,
        udp_max_flows: int = DEFAULT_UDP_MAX_FLOWS,
        busy_poll_s: float = DEFAULT_BUSY_POLL_US / 1e6,
        workers: int = 0,
        loop: str = "auto",
    ) -> None:
        self.port: Final = port
        self.use_listen_fd: Final = use_listen_fd
        self.limits: Final = limits or Limits()
        self.udp_max_flows: Final = udp_max_flows
        self.busy_poll_s: Final = busy_poll_s
        self.workers: Final = workers
        self.loop: Final = loop

    def on(self, port: PublishedPort) -> Settings:
        """The same settings, for another port."""
        return Settings(
            port,
            use_listen_fd=self.use_listen_fd,
            limits=self.limits,
            udp_max_flows=self.udp_max_flows,
            busy_poll_s=self.busy_poll_s,
            workers=self.workers,
            loop=self.loop,
        )


def _values(value: Frozen) -> tuple[object, ...]:
    return tuple(getattr(value, name) for name in value.__slots__)
