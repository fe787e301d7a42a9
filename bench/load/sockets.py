"""The sockets of load programs."""

from __future__ import annotations

import _socket
import socket
from typing import Any

# Time in which a whole exchange must have happened; else the peer hangs, and the cell has failed.
HANG_S = 5


def open_stream(address: list[Any]) -> socket.socket:
    client = socket.create_connection(tuple(address), timeout=HANG_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def open_datagrams(address: list[Any]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(tuple(address))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    return sock


def receive(client: _socket.socket, data: bytes, got: bytes = b"") -> None:
    """Receive `data`, of which `got` has come already."""
    while len(got) < len(data):
        more = client.recv(len(data) - len(got))
        if not more:
            break
        got += more
    if got != data:
        raise AssertionError(f"sent {len(data)} bytes, and got back {len(got)} that differ")
