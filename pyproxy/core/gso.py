"""Generic segmentation offload: which datagrams of a flow may leave in one call, as an aggregate. Pure.

An aggregate is one buffer to the kernel, which segments it into datagrams of its segment size (UDP_SEGMENT, udp(7));
the last may be shorter. So equal sizes are coalesced, a shorter one closes the aggregate, and neither boundaries nor
order change.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from pyproxy.core.cmsg import Ancillary
from pyproxy.sockopts import UDP_SEGMENT

# UDP_MAX_SEGMENTS of include/linux/udp.h; 128 since Linux 6.9, 64 on all.
MAX_SEGMENTS = 64

# The largest UDP payload over IPv4 (over IPv6 it is 20 bytes more), aggregates included.
MAX_BYTES = 65_507


# udp(7), UDP_SEGMENT: the ancillary data is a 16-bit number.
_SEGMENT = struct.Struct("=H")


class Aggregate(NamedTuple):
    """The datagrams from index `first` up to `end`, exclusive; `segment` is 0 for one datagram that stands alone."""

    first: int
    end: int
    segment: int


def coalesce(sizes: Sequence[int], segments: Sequence[int] | None, largest: int) -> list[Aggregate]:
    """Coalesce neighbours among the datagrams of one flow. Every index is in exactly one aggregate, in order.

    `sizes`: bytes of each. `segments`: the segment size of each that came as an aggregate itself, 0 for those that did
    not; None if none did. `largest`: the largest datagram to coalesce, in bytes: what fits the path without fragments.
    """
    count = len(sizes)
    size = sizes[0]
    if segments is None and 0 < size <= largest and sizes.count(size) == count:
        step = min(MAX_SEGMENTS, MAX_BYTES // size)
        aggregates = [Aggregate(first, min(first + step, count), size) for first in range(0, count, step)]
        if aggregates[-1].end - aggregates[-1].first == 1:
            aggregates[-1] = Aggregate(count - 1, count, 0)
        return aggregates
    aggregates = []
    first = 0
    while first < count:
        size = sizes[first]
        if segments is not None and segments[first]:
            aggregates.append(Aggregate(first, first + 1, segments[first]))
            first += 1
            continue
        end = first + 1
        if 0 < size <= largest:
            most = first + min(MAX_SEGMENTS, MAX_BYTES // size)
            while end < min(count, most) and 0 < sizes[end] <= size and not (segments is not None and segments[end]):
                end += 1
                if sizes[end - 1] < size:
                    break
        aggregates.append(Aggregate(first, end, size if end - first > 1 else 0))
        first = end
    return aggregates


def cmsg(size: int) -> Ancillary:
    """Ancillary data that has the kernel segment what is sent into datagrams of `size` bytes."""
    return [(socket.IPPROTO_UDP, UDP_SEGMENT, _SEGMENT.pack(size))]
