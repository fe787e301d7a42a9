"""Ancillary data, against bytes as the kernel gives them."""

from __future__ import annotations

import socket

import pytest

from pyproxy.core.cmsg import Ancillary, local_address, reply_from, sctp_onward

# Recorded: recvmsg on a socket bound to 0.0.0.0 and [::], from a client of 127.0.0.2 and ::1 on loopback (index 1).
V4_LOOPBACK = (socket.IPPROTO_IP, 8, bytes.fromhex("01000000 7f000002 7f000002"))
V6_LOOPBACK = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes.fromhex("00000000000000000000000000000001 01000000"))
# A broadcast to 10.255.255.255 that reached 10.0.0.27: the address to answer from differs from the header's.
V4_BROADCAST = (socket.IPPROTO_IP, 8, bytes.fromhex("02000000 0a00001b 0affffff"))
V4_UNKNOWN = (socket.IPPROTO_IP, 8, bytes.fromhex("00000000 00000000 7f000001"))
V6_LINK_LOCAL = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes.fromhex("fe80000000000000 00425efffea38dd2 07000000"))
V6_MULTICAST = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes.fromhex("ff020000000000000000000000000001 07000000"))
TIMESTAMP = (socket.SOL_SOCKET, 29, bytes(16))


@pytest.mark.parametrize(
    ("received", "reply"),
    [
        ([V4_LOOPBACK], [(socket.IPPROTO_IP, 8, bytes.fromhex("00000000 7f000002 00000000"))]),
        ([TIMESTAMP, V4_LOOPBACK], [(socket.IPPROTO_IP, 8, bytes.fromhex("00000000 7f000002 00000000"))]),
        ([V4_BROADCAST], [(socket.IPPROTO_IP, 8, bytes.fromhex("00000000 0a00001b 00000000"))]),
        ([V4_UNKNOWN], []),
        ([], []),
        ([(socket.IPPROTO_IP, 8, b"\x01\0\0")], []),  # cut short (MSG_CTRUNC)
        ([V6_LOOPBACK], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes(15) + b"\x01" + bytes(4))]),
        ([V6_LINK_LOCAL], [V6_LINK_LOCAL]),
        ([V6_MULTICAST], []),
    ],
)
def test_a_reply_leaves_from_the_address_the_client_spoke_to(received: Ancillary, reply: Ancillary) -> None:
    assert reply_from(local_address(received)) == reply


# struct sctp_rcvinfo as x86-64 Linux lays it out (include/uapi/linux/sctp.h): stream 5, sequence 9, flags, two bytes
# of padding, payload identifier 0x2e000000 (46 in network order), two TSNs, context, association 7.
ORDERED = (132, 3, bytes.fromhex("0500 0900 0000 0000 0000002e 11223344 11223343 00000000 07000000"))
UNORDERED = (132, 3, bytes.fromhex("ffff 0000 0100 0000 deadbeef 11223344 11223343 00000000 07000000"))


@pytest.mark.parametrize(
    ("received", "sent"),
    [
        ([ORDERED], [(132, 2, bytes.fromhex("0500 0000 0000002e 00000000 00000000"))]),
        ([TIMESTAMP, UNORDERED], [(132, 2, bytes.fromhex("ffff 0100 deadbeef 00000000 00000000"))]),
        ([], []),
        ([(132, 3, bytes(27))], []),
    ],
)
def test_an_sctp_message_keeps_stream_payload_identifier_and_ordering(received: Ancillary, sent: Ancillary) -> None:
    assert sctp_onward(received) == sent
