"""What has gone through one published port. Only ever added to; whoever wants a rate takes two readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Counters:
    """Totals since the start. Bytes and datagrams are counted when the far kernel has taken them."""

    __slots__ = (
        "bytes_down",
        "bytes_up",
        "connections",
        "connections_failed",
        "connections_reset",
        "connections_timed_out",
        "datagrams_down",
        "datagrams_dropped",
        "datagrams_unreachable",
        "datagrams_up",
        "flows",
        "flows_evicted",
        "flows_expired",
        "out_of_descriptors",
    )

    def __init__(self) -> None:
        self.bytes_up = 0
        self.bytes_down = 0
        self.connections = 0  # accepted
        self.connections_failed = 0  # the backend refused, could not be reached, or took too long
        self.connections_reset = 0  # ended by a reset from either side
        self.connections_timed_out = 0  # ended by one of our own limits
        self.datagrams_up = 0
        self.datagrams_down = 0
        self.datagrams_dropped = 0  # the kernel would not take them
        self.datagrams_unreachable = 0  # ICMP errors that came back from the backend's side
        self.flows = 0
        self.flows_expired = 0
        self.flows_evicted = 0
        self.out_of_descriptors = 0  # times that accepting, or a new flow, had to wait for a descriptor

    @classmethod
    def of(cls, said: Mapping[str, int]) -> Counters:
        """What another's `as_dict` said, of any version: what it does not name is 0."""
        total = cls()
        total.add([said.get(name, 0) for name in cls.__slots__])
        return total

    def plus(self, bytes_up: int, bytes_down: int) -> Counters:
        """A copy with these bytes added."""
        total = Counters()
        total.add(self.values())
        total.bytes_up += bytes_up
        total.bytes_down += bytes_down
        return total

    def values(self) -> tuple[int, ...]:
        """All of them, in the order of `__slots__`."""
        return tuple(getattr(self, name) for name in self.__slots__)

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}

    def add(self, values: Sequence[int]) -> None:
        """Add what another's `values` gave; more than those is left alone."""
        for name, value in zip(self.__slots__, values, strict=False):
            setattr(self, name, getattr(self, name) + value)

    def summary(self) -> str:
        """One line of what is not zero, for a person."""
        moved = f"{_size(self.bytes_up)} up, {_size(self.bytes_down)} down"
        words = [
            _counted(value, name)
            for name in self.__slots__
            if not name.startswith("bytes") and (value := getattr(self, name))
        ]
        return ", ".join([moved, *words])


def counted(count: int, noun: str) -> str:
    """`1 connection`, `2 connections`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _counted(count: int, name: str) -> str:
    """`connections_failed` as `1 connection failed`; `out_of_descriptors` as it is."""
    noun, *rest = name.split("_")
    return " ".join([counted(count, noun[:-1]) if noun.endswith("s") else f"{count} {noun}", *rest])


def _size(count: int) -> str:
    """Bytes in powers of 1000, as network figures are: 999 B, 1.00 kB, 12.3 MB."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    units = ["kB", "MB", "GB", "TB"]
    value /= 1000
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g} {units[0]}"
