"""Which datagrams of a flow may leave together, as a train that the kernel cuts up again (UDP_SEGMENT). Pure.

A train is one buffer to the kernel, cut into datagrams of its segment size; the last may be shorter. So equal sizes
join, a shorter one closes the train, and neither boundaries nor order change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# UDP_MAX_SEGMENTS of include/linux/udp.h; 128 since Linux 6.9, 64 on all.
MAX_SEGMENTS = 64

# The largest UDP payload over IPv4 (over IPv6 it is 20 bytes more), trains included.
MAX_BYTES = 65_507


class Train(NamedTuple):
    """The datagrams from index `first` up to `end`, exclusive; `segment` is 0 for one datagram that stands alone."""

    first: int
    end: int
    segment: int


def join(sizes: Sequence[int], segments: Sequence[int] | None, largest: int) -> list[Train]:
    """Join neighbours among the datagrams of one flow. Every index is in exactly one train, in order.

    `sizes`: bytes of each. `segments`: the segment size of each that came as a train itself, 0 for those that did
    not; None if none did. `largest`: the largest datagram to join, in bytes: what fits the path without fragments.
    """
    count = len(sizes)
    size = sizes[0]
    if segments is None and 0 < size <= largest and sizes.count(size) == count:
        step = min(MAX_SEGMENTS, MAX_BYTES // size)
        trains = [Train(first, min(first + step, count), size) for first in range(0, count, step)]
        if trains[-1].end - trains[-1].first == 1:
            trains[-1] = Train(count - 1, count, 0)
        return trains
    trains = []
    first = 0
    while first < count:
        size = sizes[first]
        if segments is not None and segments[first]:
            trains.append(Train(first, first + 1, segments[first]))
            first += 1
            continue
        end = first + 1
        if 0 < size <= largest:
            most = first + min(MAX_SEGMENTS, MAX_BYTES // size)
            while end < min(count, most) and 0 < sizes[end] <= size and not (segments is not None and segments[end]):
                end += 1
                if sizes[end - 1] < size:
                    break
        trains.append(Train(first, end, size if end - first > 1 else 0))
        first = end
    return trains
