"""The host socket: the one that clients speak to. Bound here, or adopted from descriptor 4.

Comes before the event loop is imported, so it deals in `_socket.socket`, the C type under `socket.socket`: the
`socket` module itself costs as much as the interpreter's whole start. Whoever calls `host_socket` closes it.
OSError is turned into StartError here and nowhere else on the way to the answer.
"""

from __future__ import annotations

import _socket
import errno
import os

from pyproxy.config import SCTP, TCP, UDP, PublishedPort
from pyproxy.endpoint import family_of
from pyproxy.errors import StartError, in_words
from pyproxy.sockopts import ask_for_packet_info, tune

LISTEN_FD = 4  # where dockerd's -use-listen-fd puts the socket: the second of exec.Cmd's ExtraFiles

_SO_ACCEPTCONN = 30  # include/uapi/asm-generic/socket.h; _socket does not carry it

# The kernel cuts it to net.core.somaxconn, which is what Go asks for by reading that file.
_BACKLOG = 65_535

_TYPES = {TCP: _socket.SOCK_STREAM, UDP: _socket.SOCK_DGRAM, SCTP: _socket.SOCK_STREAM}
_NUMBERS = {TCP: _socket.IPPROTO_TCP, UDP: _socket.IPPROTO_UDP, SCTP: _socket.IPPROTO_SCTP}

_WILDCARDS = ("0.0.0.0", "::")

_NO_SUPPORT = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT)


def host_socket(
    port: PublishedPort, *, adopt: bool, listen_fd: int = LISTEN_FD
) -> tuple[_socket.socket, PublishedPort]:
    """Return the socket that serves `port`: listening if TCP or SCTP, with packet info if UDP, close-on-exec. And the
    port with the host address that the socket has: another than was asked for, if that was port 0, or if `adopt`.

    `adopt` takes descriptor `listen_fd` as it is, and closes it if it cannot be served; else a socket is bound to the
    port's host address. StartError names the flag, address or descriptor at fault.
    """
    sock = _adopt(port, listen_fd) if adopt else _bind(port)
    try:
        bound = port.at(*sock.getsockname()[:2])
        _refuse_a_forwarding_loop(bound)
    except BaseException:
        sock.close()
        raise
    return sock, bound


def backend_address(port: PublishedPort) -> tuple[int, tuple[str | int, ...]]:
    """The container's family and socket address. StartError for a zone that names no interface."""
    # To connect to "any address" is to connect to this host's loopback (ip(7)); said here, so that it can be compared.
    ip = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(port.container_ip, port.container_ip)
    return family_of(ip), _socket_address(ip, port.container_port, "-container-ip")


def socket_kind(proto: str) -> tuple[int, int]:
    """Type and protocol number for `socket(2)`. SCTP is the one-to-one kind (RFC 6458, section 4)."""
    return _TYPES[proto], _NUMBERS[proto]


def _socket_address(ip: str, port: int, flag: str) -> tuple[str | int, ...]:
    if "%" not in ip:
        return (ip, port)
    try:
        # As bytes: for text, getaddrinfo imports the idna codec, which takes longer than all else here together.
        found = _socket.getaddrinfo(ip.encode(), port, 0, _socket.SOCK_DGRAM, 0, _socket.AI_NUMERICHOST)
    except (OSError, ValueError) as exc:
        raise StartError(f"{flag} {ip}: check that the zone after % is an interface of this host") from exc
    scope = found[0][4][-1]
    assert isinstance(scope, int)
    return (ip.partition("%")[0], port, 0, scope)


def _bind(port: PublishedPort) -> _socket.socket:
    family = family_of(port.host_ip)
    address = _socket_address(port.host_ip, port.host_port, "-host-ip")
    try:
        sock = _socket.socket(family, _TYPES[port.proto], _NUMBERS[port.proto])
    except OSError as exc:
        raise StartError(_unsupported(port, exc)) from exc
    try:
        if family == _socket.AF_INET6:
            # dockerd starts a second proxy for IPv4, on the same port.
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        if port.proto == TCP:
            # Connections in TIME_WAIT must not keep a restarted container from its port.
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        _prepare(sock, port.proto, address[0])
        sock.bind(address)
        if port.proto != UDP:
            sock.listen(_BACKLOG)
    except OSError as exc:
        sock.close()
        raise StartError(_cannot_bind(port, exc)) from exc
    return sock


def _prepare(sock: _socket.socket, proto: str, host: str | int) -> None:
    """Set the options that must be there when the first client comes."""
    tune(sock, proto)
    # A socket that is bound to one address can reply from no other.
    if proto == UDP and host in _WILDCARDS:
        ask_for_packet_info(sock)


def _adopt(port: PublishedPort, listen_fd: int) -> _socket.socket:
    where = f"descriptor {LISTEN_FD} (-use-listen-fd)"
    try:
        sock = _socket.socket(fileno=listen_fd)
    except OSError as exc:
        if exc.errno == errno.EBADF:
            raise StartError(f"{where} is not open: the parent must pass the bound socket there") from exc
        os.close(listen_fd)
        raise StartError(f"{where} is not a socket: the parent must pass the bound socket there") from exc
    try:
        os.set_inheritable(listen_fd, False)
        if sock.family not in (_socket.AF_INET, _socket.AF_INET6):
            raise StartError(f"{where} is neither an IPv4 nor an IPv6 socket")
        if (sock.type, sock.proto) != (_TYPES[port.proto], _NUMBERS[port.proto]):
            raise StartError(f"{where} is not a {port.proto.upper()} socket, as -proto {port.proto} says")
        if port.proto != UDP and not sock.getsockopt(_socket.SOL_SOCKET, _SO_ACCEPTCONN):
            raise StartError(f"{where} is not listening: the parent must call listen() before it starts pyproxy")
        if port.proto == UDP and not sock.getsockname()[1]:
            raise StartError(f"{where} is not bound: the parent must call bind() before it starts pyproxy")
        _prepare(sock, port.proto, sock.getsockname()[0])
    except OSError as exc:
        sock.close()
        raise StartError(f"{where} cannot be served: {in_words(exc.errno)}") from exc
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_a_forwarding_loop(port: PublishedPort) -> None:
    """If the container address is the very address that is served, each connection causes another one, until
    descriptors run out. That takes equal port numbers; with others nothing is looked up.
    """
    if port.host_port != port.container_port:
        return
    family, address = backend_address(port)
    container = address[0]
    if port.host_ip in _WILDCARDS:
        ours = family == family_of(port.host_ip) and _is_local(family, address)
    else:
        ours = container == port.host_ip
    if ours:
        raise StartError(
            f"-container-ip {port.container_ip} with -container-port {port.container_port} is the address served:"
            " pyproxy would connect to itself; give the container's own address"
        )


def _is_local(family: int, address: tuple[str | int, ...]) -> bool:
    """Whether this host has the address. The kernel is asked in two ways, as neither is always right."""
    probe = _socket.socket(family, _socket.SOCK_DGRAM)
    try:
        # Connecting a UDP socket sends nothing. To an address of this host the kernel chooses that same address as
        # source, unless it prefers another.
        probe.connect(address)
        if probe.getsockname()[0] == address[0]:
            return True
    except OSError:
        return False  # no route yet: told when a client comes and the container cannot be reached
    finally:
        probe.close()
    return not _may_bind_foreign_addresses(family) and _can_bind(family, address)


def _can_bind(family: int, address: tuple[str | int, ...]) -> bool:
    probe = _socket.socket(family, _socket.SOCK_DGRAM)
    try:
        probe.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _may_bind_foreign_addresses(family: int) -> bool:
    version = "ipv6" if family == _socket.AF_INET6 else "ipv4"
    try:
        with open(f"/proc/sys/net/{version}/ip_nonlocal_bind", "rb") as setting:
            return setting.read(1) != b"0"
    except OSError:
        return True


def _unsupported(port: PublishedPort, exc: OSError) -> str:
    if port.proto == SCTP and exc.errno in _NO_SUPPORT:
        return f"cannot serve {port.host}: this kernel has no SCTP: load it with `modprobe sctp`, or build it in"
    if exc.errno == errno.EAFNOSUPPORT:
        return f"cannot serve {port.host}: this kernel has no IPv6: give an IPv4 -host-ip"
    return f"cannot serve {port.host}: {in_words(exc.errno)}"


def _cannot_bind(port: PublishedPort, exc: OSError) -> str:
    start = f"cannot listen on {port.host}: {in_words(exc.errno)}"
    if exc.errno == errno.EADDRINUSE:
        letter = {TCP: "t", UDP: "u", SCTP: "S"}[port.proto]
        return f"{start}: choose another -host-port, or see who has it: ss -lnp{letter} 'sport = {port.host_port}'"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"{start}: -host-ip is not an address of this host: see `ip address`, or give 0.0.0.0 or ::"
    if exc.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{start}: ports below net.ipv4.ip_unprivileged_port_start (1024) need root or CAP_NET_BIND_SERVICE:"
            " choose a higher -host-port or grant it"
        )
    return start
