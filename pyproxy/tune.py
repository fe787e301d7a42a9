"""Socket options, the same for the host socket and for every backend socket.

Set on the host socket before its first client can come: a connection inherits them as it is established, and a
datagram finds its buffer as it arrives. Light, as it is imported before the event loop is (see `__main__`).
"""

from __future__ import annotations

import _socket
import sys

from pyproxy.published import SCTP, TCP

# Go's default keepalive, on both sides, which docker-proxy's connections have (net.Dialer, net.ListenConfig).
_KEEPALIVE_S = 15

# Asked for on every UDP socket: room for a burst while this process does something else. The kernel grants it to root
# (SO_RCVBUFFORCE), others get up to net.core.rmem_max. Memory is used only while datagrams wait.
_RECEIVE_BUFFER_BYTES = 4 << 20

# SCTP streams asked for and granted, each way: docker-proxy's number (ishidawataru/sctp, SCTP_MAX_STREAM), so that any
# stream a peer may use exists on the far side too.
_STREAMS = 0xFFFF

# Kernel constants that _socket does not carry: include/uapi/asm-generic/socket.h and include/uapi/linux/sctp.h.
_SO_RCVBUFFORCE = 33
_SCTP_INITMSG = 2
_SCTP_NODELAY = 3
_SCTP_RECVRCVINFO = 32


def tune(sock: _socket.socket, proto: str) -> None:
    """Set what both sides of `proto` have. OSError as setsockopt(2) has it."""
    if proto == TCP:
        _tune_tcp(sock)
    elif proto == SCTP:
        _tune_sctp(sock)
    else:
        _tune_udp(sock)


def _tune_tcp(sock: _socket.socket) -> None:
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, _KEEPALIVE_S)
    # Urgent bytes stay in the stream, where they are not lost (RFC 6093 section 6).
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_OOBINLINE, 1)


def _tune_udp(sock: _socket.socket) -> None:
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


def _tune_sctp(sock: _socket.socket) -> None:
    sock.setsockopt(_socket.IPPROTO_SCTP, _SCTP_NODELAY, 1)
    # Each message comes with its stream and payload identifier.
    sock.setsockopt(_socket.IPPROTO_SCTP, _SCTP_RECVRCVINFO, 1)
    # struct sctp_initmsg: streams out, streams in, attempts and time-out (0: the kernel's own).
    streams = _STREAMS.to_bytes(2, sys.byteorder)
    sock.setsockopt(_socket.IPPROTO_SCTP, _SCTP_INITMSG, streams + streams + bytes(4))
