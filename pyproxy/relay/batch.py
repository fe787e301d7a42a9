"""Datagrams by the batch: recvmmsg(2) into buffers laid out once and reused.

One system call takes what has come, up to `SLOTS` datagrams, each whole in a slot of its own, with its sender and its
ancillary data. Datagrams that the kernel kept aggregated (UDP_GRO) come as one message, with its segment size.

One batch serves a whole process: it is empty whenever no handler runs, and only one runs at a time. Pages of a slot
that no datagram has reached cost nothing; those of a burst are given back when the last flow has ended.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
import sys
from collections.abc import Hashable, Sequence

from pyproxy.core.cmsg import PACKET_INFO4_BYTES, PACKET_INFO6_BYTES, PACKET_INFO6_SPACE, Ancillary
from pyproxy.relay.syscalls import WORD_BYTES, Messages
from pyproxy.sockopts import UDP_GRO

# Datagrams in one call. Where the datagrams of many flows alternate, more slots give each flow more that can be sent on
# together. Delivered with 100 flows, to docker-proxy's:
#
#     slots    64 B    1,400 B
#     512      1.93    1.79
#     1,024    2.59    2.35
#
# A turn of 1,024 takes some 3 ms, a fraction of what waits in the socket's buffer by then.
SLOTS = 1024

# A slot takes the largest datagram, or aggregate, of either family. The odd 64 bytes keep the beginnings of slots, all
# that most datagrams reach, from contending for the same few lines of the processor's cache.
_SLOT_BYTES = 1 << 16
_SLOT = _SLOT_BYTES + 64

# A message's record: its sender's address (struct sockaddr_in6 is the larger, 28 bytes), then its ancillary data.
_NAME = 32
_GRO_SPACE = socket.CMSG_SPACE(4)
_CONTROL = (PACKET_INFO6_SPACE + _GRO_SPACE + 15) // 16 * 16
_RECORD = _NAME + _CONTROL

# The bytes of a record that identify the sender: only those that the kernel writes, as others are left from an earlier
# message. Family, port and address, and of IPv6 flow and scope; then the packet info without its padding.
_NAME_BYTES: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 28}
_INFO_BYTES: dict[int, int] = {socket.AF_INET: PACKET_INFO4_BYTES, socket.AF_INET6: PACKET_INFO6_BYTES}

_CMSG = struct.Struct("@Nii")  # struct cmsghdr: length with this header, level, type
_DATA = socket.CMSG_LEN(0)
_INET6 = struct.Struct("=HHI16sI")  # struct sockaddr_in6 without byte order


class Batch:
    """`receive`, then look at messages 0 to count - 1 until the next `receive`."""

    def __init__(self) -> None:
        self._arena = arena = mmap.mmap(-1, SLOTS * _SLOT, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            arena.madvise(mmap.MADV_NOHUGEPAGE)  # else the first datagram would cost 2 MiB
        whole = memoryview(arena)
        self.slots = [whole[_SLOT * each : _SLOT * each + _SLOT_BYTES] for each in range(SLOTS)]
        self._messages = messages = Messages(
            arena, SLOTS, slot_bytes=_SLOT_BYTES, stride=_SLOT, name_bytes=_NAME, control_bytes=_CONTROL
        )
        # Take what waits at a socket with this descriptor, as recvmmsg(2): `Messages.receive`.
        self.receive = messages.receive
        self._lengths, self._controllens = messages.lengths, messages.control_lengths
        self._record_bytes = records = messages.records
        # A struct sockaddr_in is told by its first eight bytes: family, port, address.
        self._names4 = records.cast("Q")[:: _RECORD // 8]
        # ... and of a struct in_pktinfo the eight after the header: interface, address spoken to.
        # (On 32-bit machines the header is not a multiple of them.)
        self._spoken4 = records.cast("Q")[(_NAME + _DATA) // 8 :: _RECORD // 8] if not _DATA % 8 else None

    def give_back(self) -> None:
        """Give the memory of the slots back to the kernel, until datagrams reach them again."""
        self._arena.madvise(mmap.MADV_DONTNEED)

    def only_size(self, ancillary_bytes: int) -> int | None:
        """Bytes of the one message of a batch of one; None if it is an aggregate. Where two ends talk in turn, most
        batches are one plain message, and both wait for it: so this, and `only_sender_key`, make no lists.
        """
        return self._lengths[0] if self._controllens[0] == ancillary_bytes else None

    def only_sender_key(self, family: int, ancillary_bytes: int) -> Hashable:
        """As `sender_keys` has it, of one plain message."""
        if family == socket.AF_INET:
            if not ancillary_bytes:
                return self._names4[0]
            if self._spoken4 is not None:
                return self._names4[0], self._spoken4[0]
        return self.sender_keys(1, family, None, ancillary_bytes)[0]

    def sizes(self, count: int) -> list[int]:
        """Bytes of each message."""
        return self._lengths[:count].tolist()

    def segments(self, count: int, ancillary_bytes: int) -> list[int] | None:
        """The segment size of each message that is an aggregate, 0 for the others; None if all are plain.

        `ancillary_bytes`: what the ancillary data of a plain message takes on this socket.
        """
        lengths = self._controllens[:count].tolist()
        if lengths.count(ancillary_bytes) == count:
            return None
        return [0 if length == ancillary_bytes else self._segment(each) for each, length in enumerate(lengths)]

    def _segment(self, each: int) -> int:
        for level, kind, data in self.ancillary(each):
            if level == socket.IPPROTO_UDP and kind == UDP_GRO:
                return int.from_bytes(data[:4], sys.byteorder)
        return 0

    def sender_keys(
        self, count: int, family: int, segments: Sequence[int] | None, ancillary_bytes: int
    ) -> Sequence[Hashable]:
        """A key for each message. Equal keys mean the same sender and the same address spoken to."""
        if family == socket.AF_INET and segments is None:
            if not ancillary_bytes:
                return self._names4[:count].tolist()
            if self._spoken4 is not None:
                return list(zip(self._names4[:count].tolist(), self._spoken4[:count].tolist(), strict=True))
        records = self._record_bytes
        name_bytes, info_bytes = _NAME_BYTES[family], _INFO_BYTES[family]
        found = []
        for each in range(count):
            at = _RECORD * each
            # The kernel puts an aggregate's segment size first (net/ipv4/udp.c, udp_recvmsg): it is not the sender's.
            before = _GRO_SPACE if segments is not None and segments[each] else 0
            control = at + _NAME + before
            has_info = self._controllens[each] - before >= info_bytes
            info = bytes(records[control : control + info_bytes]) if has_info else b""
            found.append(bytes(records[at : at + name_bytes]) + info)
        return found

    def sender(self, each: int) -> tuple[str | int, ...]:
        """The address of a message's sender, as `socket` has it."""
        name = self._record_bytes[_RECORD * each : _RECORD * each + _NAME]
        family = int.from_bytes(name[:2], sys.byteorder)
        port = int.from_bytes(name[2:4], "big")
        if family == socket.AF_INET:
            return socket.inet_ntop(family, name[4:8]), port
        _, _, flow, address, scope = _INET6.unpack_from(name)
        return socket.inet_ntop(family, address), port, socket.ntohl(flow), scope

    def ancillary(self, each: int) -> Ancillary:
        """A message's ancillary data, as recvmsg gives it (cmsg(3))."""
        start = _RECORD * each + _NAME
        control = self._record_bytes[start : start + self._controllens[each]]
        found: Ancillary = []
        at = 0
        while at + _DATA <= len(control):
            length, level, kind = _CMSG.unpack_from(control, at)
            found.append((level, kind, bytes(control[at + _DATA : at + length])))
            at += (length + WORD_BYTES - 1) // WORD_BYTES * WORD_BYTES
        return found
