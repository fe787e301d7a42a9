"""A parent written to the contract: what dockerd does for one published port."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence

from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import family_of, receive_all

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_IP_PKTINFO = 8


class Child:
    """pyproxy as dockerd starts it: no standard streams, the status pipe on 3, perhaps a socket on 4."""

    def __init__(
        self,
        arguments: Sequence[str],
        passed: socket.socket | None = None,
        *,
        program: str = PROGRAM,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        read, write = os.pipe()
        try:
            self.pid = os.posix_spawn(
                program,
                [program, *arguments],
                os.environ if environment is None else environment,
                file_actions=[
                    *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
                    # The numbers in hand may be 3 or 4 themselves, so they go by way of high ones.
                    (os.POSIX_SPAWN_DUP2, write, 100),
                    *([(os.POSIX_SPAWN_DUP2, passed.fileno(), 101)] if passed else []),
                    (os.POSIX_SPAWN_DUP2, 100, 3),
                    (os.POSIX_SPAWN_CLOSE, 100),
                    *(
                        [(os.POSIX_SPAWN_DUP2, 101, 4), (os.POSIX_SPAWN_CLOSE, 101)]
                        if passed
                        else [(os.POSIX_SPAWN_OPEN, 4, os.devnull, os.O_RDWR, 0), (os.POSIX_SPAWN_CLOSE, 4)]
                    ),
                ],
            )
        finally:
            os.close(write)
        self._status = read
        self.exited: int | None = None

    def first_answer(self) -> bytes:
        """dockerd's one read of two bytes."""
        return os.read(self._status, 2)

    def rest(self) -> str:
        """dockerd's reading to end of file, which nothing else may hold up."""
        with open(self._status, closefd=False) as pipe:
            return pipe.read()

    def stop(self, number: int = signal.SIGINT) -> int:
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Exit status; negative for a signal."""
        if self.exited is None:
            self.exited = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.exited

    def close(self) -> None:
        os.close(self._status)
        if self.exited is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


@contextlib.contextmanager
def started(
    arguments: Sequence[str],
    passed: socket.socket | None = None,
    *,
    program: str = PROGRAM,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Child]:
    child = Child(arguments, passed, program=program, environment=environment)
    try:
        yield child
    finally:
        child.close()


def arguments_for(host: tuple[str, int], container: tuple[str, int], proto: str = "tcp") -> list[str]:
    """The arguments in dockerd's order."""
    ends = ["-proto", proto, "-host-ip", host[0], "-host-port", str(host[1])]
    return [*ends, "-container-ip", container[0], "-container-port", str(container[1])]


def free_port(ip: str, kind: socket.SocketKind) -> int:
    """A port that was free a moment ago. SO_REUSEADDR on our side is not needed: nothing connects to it."""
    with socket.socket(family_of(ip), kind) as sock:
        sock.bind((ip, 0))
        return int(sock.getsockname()[1])


def passed_socket(ip: str, kind: socket.SocketKind, *, packet_info: bool = True) -> socket.socket:
    """The socket as dockerd makes it: with SO_REUSEADDR, of UDP in 28 only; bound, from 29 on behind a filter that
    drops all until the rules are in place.
    """
    sock = socket.socket(family_of(ip), kind)
    if ":" in ip:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == socket.SOCK_DGRAM and packet_info and ":" in ip:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif kind == socket.SOCK_DGRAM and packet_info:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    # struct sock_fprog of one instruction, BPF_RET | BPF_K with 0: accept no byte of any packet.
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(drop_all)))
    sock.bind((ip, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    return sock


def exchange_tcp(address: tuple[str, int], data: bytes = b"over and back") -> bytes:
    with socket.create_connection(address, timeout=PATIENCE_S) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return receive_all(client)
