"""Small real peers for the proxy, on loopback."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

from tests.support.proxy import PATIENCE_S

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def family_of(ip: str) -> int:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def listening(ip: str = "127.0.0.1") -> socket.socket:
    """A backend's listening socket, on a free port."""
    sock = socket.create_server((ip, 0), family=family_of(ip))
    sock.settimeout(PATIENCE_S)
    return sock


def address_of(sock: socket.socket) -> tuple[str, int]:
    ip, port = sock.getsockname()[:2]
    return str(ip), int(port)


def accept(listener: socket.socket) -> socket.socket:
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE_S)
    return sock


def receive_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream. A reset raises."""
    chunks = []
    while chunk := sock.recv(1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        assert chunk, f"the stream ended after {len(data)} of {size} bytes"
        data += chunk
    return data


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None], ip: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    """A backend that gives each connection to `handle` in a thread of its own, and closes it afterwards."""
    listener = listening(ip)
    listener.settimeout(None)
    threads: list[threading.Thread] = []

    def handle_and_close(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionResetError):
            handle(sock)

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # shut down below
            thread = threading.Thread(target=handle_and_close, args=(sock,))
            threads.append(thread)
            thread.start()

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield address_of(listener)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
        listener.close()
        for thread in threads:
            thread.join(PATIENCE_S)


def echo(sock: socket.socket) -> None:
    """Send back what comes, to the end."""
    while chunk := sock.recv(1 << 16):
        sock.sendall(chunk)


@contextlib.contextmanager
def echo_process(ip: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    """An echo backend in a process of its own, for thousands of connections."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.echo", ip], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield ip, int(process.stdout.readline())
    finally:
        process.stdin.close()  # it ends with its standard input
        process.wait()
        process.stdout.close()
