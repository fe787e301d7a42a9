"""What runs in the container: `python -m bench.servers echo|mixed|datagrams PORT`.

As little work per message as Python allows, so that the proxy in front is what is measured.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from bench.batch import Receiver, Sender, with_room


def echo(port: int) -> None:
    """Send back whatever comes, on any number of connections."""
    listener = socket.create_server(("", port), backlog=20_000)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, tuple[Callable[[memoryview], int], Callable[[memoryview], None], socket.socket]] = {}
    buffer = memoryview(bytearray(1 << 16))
    print("ready", flush=True)
    while True:
        for fd, _ in epoll.poll():
            if fd not in clients:
                try:
                    client, _ = listener.accept()
                except BlockingIOError:
                    continue
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client.recv_into, client.sendall, client
                epoll.register(client, select.EPOLLIN)
                continue
            receive, send, client = clients[fd]
            try:
                if size := receive(buffer):
                    send(buffer[:size])
                    continue
            except ConnectionError:
                pass
            del clients[fd]
            client.close()


def mixed(port: int) -> None:
    """A process per connection: what comes is sent back, or thrown away if the first byte is an `s`."""
    listener = socket.create_server(("", port), backlog=100)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies (waitpid(2))
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        if os.fork():
            client.close()
            continue
        listener.close()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = memoryview(bytearray(1 << 18))
        sink = client.recv(1, socket.MSG_PEEK) == b"s"
        try:
            while size := client.recv_into(buffer):
                if not sink:
                    client.sendall(buffer[:size])
        except ConnectionError:
            pass
        os._exit(0)


def datagrams(port: int) -> None:
    """Count datagrams that carry the sender's stamp, answer them, or send many back to the first that comes.

    Told which, and asked, by lines on standard input: `count`, `echo`, `flood SIZE SECONDS`, `read`.
    """
    sock = with_room(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    sock.bind(("", port))
    receiver = Receiver(sock)
    does = "count"
    arguments: list[str] = []
    counted = [0, 0, 0]
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd == sock.fileno() and does == "echo":
                data, client = sock.recvfrom(1 << 16)
                sock.sendto(data, client)
            elif fd == sock.fileno() and does == "flood":
                client = sock.recvfrom(1 << 16)[1]
                sender = Sender(sock, int(arguments[0]), client)
                end = time.perf_counter() + float(arguments[1])
                while time.perf_counter() < end:
                    counted[0] += sender.send(32)
                does = "count"
            elif fd == sock.fileno():
                for each, value in enumerate(receiver.count()):
                    counted[each] += value
            else:
                command = sys.stdin.readline().split()
                if not command:
                    return
                if command[0] != "read":
                    does, *arguments = command
                    counted = [0, 0, 0]
                print(json.dumps(dict(zip(("datagrams", "bytes", "damaged"), counted, strict=True))), flush=True)


if __name__ == "__main__":
    {"echo": echo, "mixed": mixed, "datagrams": datagrams}[sys.argv[1]](int(sys.argv[2]))
