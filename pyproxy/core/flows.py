"""Which UDP flow a datagram belongs to, how long a flow lives, and which one goes when there are too many. Pure.

UDP has no connections, so a flow is what its datagrams say: a client and the address it spoke to. A flow lives while
either side speaks and ends a fixed time after the last datagram in either direction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

# Parity: UDPConnTrackTimeout in moby's cmd/docker-proxy/udp_proxy_linux.go.
IDLE_S = 90.0


class Aging(Protocol):
    """A flow, as the table sees it."""

    last_s: float  # when its last datagram went through, on the clock of `now`


K = TypeVar("K", bound=Hashable)
F = TypeVar("F", bound=Aging)


class FlowTable(Generic[K, F]):
    """Flows by key, the least recently used first. `now` is any clock that does not go back, in seconds."""

    def __init__(self, max_flows: int, idle_s: float = IDLE_S) -> None:
        self._flows: OrderedDict[K, F] = OrderedDict()
        self._max_flows = max_flows
        self._idle_s = idle_s

    def __len__(self) -> int:
        return len(self._flows)

    def find(self, key: K, now: float) -> F | None:
        """Return the flow and count this as a datagram of it, or None."""
        flow = self._flows.get(key)
        if flow is not None:
            flow.last_s = now
            self._flows.move_to_end(key)
        return flow

    @property
    def is_full(self) -> bool:
        return len(self._flows) >= self._max_flows

    def add(self, key: K, flow: F, now: float) -> None:
        """Add a new flow. Make room first: see `is_full` and `evict`."""
        flow.last_s = now
        self._flows[key] = flow

    def touch(self, key: K, now: float) -> None:
        """Count a datagram of a flow that is in the table."""
        self._flows[key].last_s = now
        self._flows.move_to_end(key)

    def evict(self) -> F | None:
        """Remove and return the least recently used flow; None from an empty table."""
        return self._flows.popitem(last=False)[1] if self._flows else None

    def expire(self, now: float) -> list[F]:
        """Remove and return the flows that have been silent for too long."""
        expired: list[F] = []
        for flow in self._flows.values():
            if flow.last_s + self._idle_s > now:
                break
            expired.append(flow)
        for _ in expired:
            self._flows.popitem(last=False)
        return expired

    def next_expiry(self) -> float | None:
        """When the first flow will have been silent for too long, should nothing more come; None when there is none."""
        for flow in self._flows.values():
            return flow.last_s + self._idle_s
        return None

    def clear(self) -> list[F]:
        """Remove and return every flow."""
        flows = list(self._flows.values())
        self._flows.clear()
        return flows
