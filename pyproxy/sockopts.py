"""Socket options, the same for the host socket and for every backend socket.

Set on the host socket before its first client can come: a connection inherits them as it is established, and a
datagram finds its buffer as it arrives. Light, as it is imported before the event loop is (see `__main__`).
"""

from __future__ import annotations

import _socket
import errno
import sys

from pyproxy.config import SCTP, TCP

# Go's default keepalive, on both sides, which docker-proxy's connections have (net.Dialer, net.ListenConfig).
_KEEPALIVE_S = 15

# Asked for on every UDP socket: room for a burst while this process does something else. The kernel grants it to root
# (SO_RCVBUFFORCE), others get up to net.core.rmem_max; likewise for sending. Memory is used only while datagrams wait.
_BUFFER_BYTES = 4 << 20

# The receive buffer of a bulk stream from nearby (`bound_receive_buffer`); the kernel doubles it, for its bookkeeping.
# With it 64 streams both ways came to 1.39 times docker-proxy's rate, with 2 MiB to 1.17; half of it costs a single
# stream 6 % (bench/NOTES.md).
_BULK_BUFFER_BYTES = 512 << 10
# The same host or its neighbour: even half the buffer takes 10 Gbit/s at this round trip.
_NEAR_US = 200
_MIN_RTT_AT = 148

_TCP_NOTSENT_LOWAT = 25  # include/uapi/linux/tcp.h

_TCP_ESTABLISHED = 1  # include/net/tcp_states.h

# SCTP streams asked for and granted, each way: docker-proxy's number (ishidawataru/sctp, SCTP_MAX_STREAM), so that any
# stream a peer may use exists on the far side too.
_STREAMS = 0xFFFF

# Kernel constants that _socket does not carry: include/uapi/asm-generic/socket.h, include/uapi/linux/in.h, udp.h and
# sctp.h.
IP_PKTINFO = 8
UDP_SEGMENT = 103
UDP_GRO = 104
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SCTP_INITMSG = 2
_SCTP_NODELAY = 3
_SCTP_RECVRCVINFO = 32


# struct linger {on, seconds} (socket(7)). On with 0 s: close sends a reset and forgets what was not sent (SCTP: ABORT).
_LINGER_RESET = (1).to_bytes(4, sys.byteorder) + bytes(4)
_LINGER_OFF = bytes(8)

_TCP_OPTIONS: tuple[tuple[int, int, int | bytes], ...] = (
    (_socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER_RESET),
    (_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1),
    (_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1),
    (_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, _KEEPALIVE_S),
    (_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, _KEEPALIVE_S),
    # Urgent bytes stay in the stream, where they are not lost (RFC 6093 section 6).
    (_socket.SOL_SOCKET, _socket.SO_OOBINLINE, 1),
)


def tune(sock: _socket.socket, proto: str) -> None:
    """Set what both sides of `proto` have. OSError as setsockopt(2) has it.

    A connection's socket is set up so that closing it resets the connection. If this process ends, be it by a signal, a
    crash or SIGKILL, no transfer that is cut off looks complete. `close_politely` undoes that.
    """
    if proto == TCP:
        _tune_tcp(sock)
    elif proto == SCTP:
        _tune_sctp(sock)
    else:
        _tune_udp(sock)


def close_politely(sock: _socket.socket) -> None:
    """All that was to be sent on `sock` has been: closing it may be an orderly end."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER_OFF)


def close_with_reset(sock: _socket.socket) -> None:
    """What was to be sent on `sock` was cut off: closing it must show that."""
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER_RESET)


def bound_receive_buffer(sock: _socket.socket) -> None:
    """Keep what waits in a bulk stream's receive buffer small enough to stay in the processor's caches.

    The kernel lets the buffer grow to net.ipv4.tcp_rmem's largest (6 MiB and more) when a reader takes much at a time,
    as splice does. That helps on long paths. From a near peer it only makes the bytes wait until they are no longer in
    the caches, and are copied at twice the cost. So for a near peer the size is fixed; for a far one the kernel
    chooses. It chooses too where this process may not set the size (SO_RCVBUFFORCE, CAP_NET_ADMIN), as
    net.core.rmem_max would make it too small.
    """
    try:
        # struct tcp_info, include/uapi/linux/tcp.h: tcpi_min_rtt in us.
        info = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _MIN_RTT_AT + 4)
        if len(info) == _MIN_RTT_AT + 4 and int.from_bytes(info[_MIN_RTT_AT:], sys.byteorder) <= _NEAR_US:
            sock.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BULK_BUFFER_BYTES)
    except OSError:
        return  # EPERM mostly; it is an advantage, and not needed


def signal_when_all_sent(sock: _socket.socket) -> None:
    """Have a TCP socket become writable only once all has been sent for the first time, which takes a reader that
    reads (tcp(7), TCP_NOTSENT_LOWAT; the event is made by net/ipv4/tcp_input.c, tcp_check_space).
    """
    sock.setsockopt(_socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, 1)


def is_connected_to_itself(sock: _socket.socket, port: int) -> bool:
    """Whether connect(2) to `port` of this host, where nobody listened, chose that very port for our end, and so
    connected the socket to itself (RFC 9293 section 3.5, simultaneous open; a UDP socket always can be).
    """
    try:
        own = sock.getsockname()
        return bool(own[1] == port and own == sock.getpeername())
    except OSError:  # no longer connected
        return False


def is_established(sock: _socket.socket) -> bool:
    """Whether a TCP socket is connected. One dialed to this host or a container of its own is, when connect(2) returns:
    the whole handshake has been processed within the call, although it says EINPROGRESS.
    """
    # The first byte of struct tcp_info is tcpi_state.
    return sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED


def ask_for_packet_info(sock: _socket.socket) -> None:
    """Have each datagram say which address it was sent to. One that came before this does not."""
    if sock.family == _socket.AF_INET6:
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(_socket.IPPROTO_IP, IP_PKTINFO, 1)


def supports_gso(sock: _socket.socket) -> bool:
    """Whether the kernel segments aggregates: since Linux 4.18. Before, it would send one as a single datagram."""
    try:
        sock.getsockopt(_socket.IPPROTO_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def gives_packet_info(sock: _socket.socket) -> bool:
    """Whether `ask_for_packet_info` has been called."""
    if sock.family == _socket.AF_INET6:
        return bool(sock.getsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_RECVPKTINFO))
    return bool(sock.getsockopt(_socket.IPPROTO_IP, IP_PKTINFO))


def _tune_tcp(sock: _socket.socket) -> None:
    setsockopt = sock.setsockopt
    for level, option, value in _TCP_OPTIONS:
        setsockopt(level, option, value)


def _tune_udp(sock: _socket.socket) -> None:
    for force, ask in ((_SO_RCVBUFFORCE, _socket.SO_RCVBUF), (_SO_SNDBUFFORCE, _socket.SO_SNDBUF)):
        try:
            sock.setsockopt(_socket.SOL_SOCKET, force, _BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(_socket.SOL_SOCKET, ask, _BUFFER_BYTES)
    try:
        # What the kernel carried as one aggregate arrives as one (udp(7)).
        sock.setsockopt(_socket.IPPROTO_UDP, UDP_GRO, 1)
    except OSError as exc:
        if exc.errno != errno.ENOPROTOOPT:  # before Linux 5.0
            raise


def _tune_sctp(sock: _socket.socket) -> None:
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER_RESET)
    sock.setsockopt(_socket.IPPROTO_SCTP, _SCTP_NODELAY, 1)
    # Each message comes with its stream and payload identifier.
    sock.setsockopt(_socket.IPPROTO_SCTP, _SCTP_RECVRCVINFO, 1)
    # struct sctp_initmsg: streams out, streams in, attempts and time-out (0: the kernel's own).
    streams = _STREAMS.to_bytes(2, sys.byteorder)
    sock.setsockopt(_socket.IPPROTO_SCTP, _SCTP_INITMSG, streams + streams + bytes(4))
