"""Clients and backends that speak UDP."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from tests.support.proxy import PATIENCE_S, Proxy
from tests.support.sockets import family_of


def datagram_socket(ip: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(family_of(ip), socket.SOCK_DGRAM)
    sock.bind((ip, 0))
    sock.settimeout(PATIENCE_S)
    return sock


@contextlib.contextmanager
def client_of(proxy: Proxy, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A connected client: it takes replies from the address it spoke to and no other."""
    with datagram_socket(host) as sock:
        sock.connect((host, proxy.port))
        yield sock


def answer(backend: socket.socket, expected: bytes, reply: bytes) -> None:
    data, flow = backend.recvfrom(1 << 16)
    assert data == expected
    backend.sendto(reply, flow)
