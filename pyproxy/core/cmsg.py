"""Ancillary data, as the bytes that recvmsg gives and sendmsg takes: which address a client spoke to (UDP), which
stream and payload a message belongs to (SCTP). Pure.
"""

from __future__ import annotations

import socket
import struct

from pyproxy.sockopts import IP_PKTINFO

Ancillary = list[tuple[int, int, bytes]]

# struct in_pktinfo (ip(7)): interface index, local address to answer from, destination in the header.
_PKTINFO4 = struct.Struct("=i4s4s")
# struct in6_pktinfo (RFC 3542 section 6.1): address, interface index.
_PKTINFO6 = struct.Struct("=16sI")

# One packet info of either family with its header, and with padding too.
PACKET_INFO4_BYTES = socket.CMSG_LEN(_PKTINFO4.size)
PACKET_INFO6_BYTES = socket.CMSG_LEN(_PKTINFO6.size)
PACKET_INFO4_SPACE = socket.CMSG_SPACE(_PKTINFO4.size)
PACKET_INFO6_SPACE = socket.CMSG_SPACE(_PKTINFO6.size)

# RFC 6458 sections 5.3.4 and 5.3.5; numbers from include/uapi/linux/sctp.h.
_SCTP_SNDINFO = 2
_SCTP_RCVINFO = 3
_SCTP_UNORDERED = 1
# struct sctp_sndinfo: stream, flags, payload identifier, context, association.
_SNDINFO = struct.Struct("=HHIIi")
# struct sctp_rcvinfo: stream, sequence, flags, (padding), payload identifier, two TSNs, context, association.
_RCVINFO = struct.Struct("=HHHxxIIIIi")
SCTP_INFO_SPACE = socket.CMSG_SPACE(_RCVINFO.size)


def local_address(ancillary: Ancillary) -> bytes:
    """Return the local address a datagram was sent to, packed, in a form that `reply_from` takes.

    Empty where the kernel does not say, or where no reply can come from it (multicast): the routing table then
    chooses. An IPv6 link-local address carries its interface.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= _PKTINFO4.size:
            # For a broadcast the header's destination is no address of ours; spec_dst is the one to answer from.
            _, local, _ = _PKTINFO4.unpack_from(data)
            return bytes(local) if any(local) else b""
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(data) >= _PKTINFO6.size:
            local, index = _PKTINFO6.unpack_from(data)
            if local[0] == 0xFF or not any(local):
                return b""
            is_link_local = local[0] == 0xFE and local[1] & 0xC0 == 0x80
            return _PKTINFO6.pack(local, index if is_link_local else 0)
    return b""


def reply_from(local: bytes) -> Ancillary:
    """Ancillary data that makes a reply leave from `local`, which `local_address` returned."""
    if len(local) == 4:
        return [(socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, local, bytes(4)))]
    if local:
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local)]
    return []


def sctp_onward(ancillary: Ancillary) -> Ancillary:
    """Turn what came with a received SCTP message into what sends it on: same stream, same payload identifier
    (kept in the byte order it came in, RFC 6458 section 5.3.4), same choice of ordered or unordered.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_SCTP and kind == _SCTP_RCVINFO and len(data) >= _RCVINFO.size:
            stream, _, flags, payload, *_ = _RCVINFO.unpack_from(data)
            return [(socket.IPPROTO_SCTP, _SCTP_SNDINFO, _SNDINFO.pack(stream, flags & _SCTP_UNORDERED, payload, 0, 0))]
    return []
