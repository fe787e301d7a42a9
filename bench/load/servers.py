"""What runs in the container: `python -m bench.load.servers echo|mixed|bulk|datagrams PORT`.

As little work per message as Python allows, so that the proxy in front is what is measured.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time

from bench.load.batch import Receiver, Sender, enlarge_receive_buffer
from bench.load.pump import DOWN, OPEN, UP, Pump

_BACKLOG = 20_000


def _listener(port: int) -> socket.socket:
    listener = socket.create_server(("", port), backlog=_BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it
    return listener


def echo(port: int) -> None:
    """Send back whatever comes, on any number of connections.

    On bare descriptors, as a socket object for each connection costs as much as a system call. Clients here close when
    they have everything: so a connection whose client has ended is closed unread, which saves another.
    """
    listener = _listener(port)
    listener.setblocking(False)
    epoll = select.epoll()
    incoming = listener.fileno()
    epoll.register(incoming, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for fd, events in epoll.poll():
            if fd == incoming:
                try:
                    while True:
                        client, _ = listener._accept()  # type: ignore[attr-defined]  # accept4(2) and no object
                        epoll.register(client, select.EPOLLIN | select.EPOLLRDHUP)
                except BlockingIOError:
                    continue
            if not events & select.EPOLLRDHUP:
                try:
                    os.write(fd, os.read(fd, 1 << 16))  # all of it, as the descriptor blocks
                    continue
                except ConnectionError:
                    pass
            os.close(fd)


def mixed(port: int) -> None:
    """A process per connection: what comes is sent back, or thrown away if the first byte is an `s`."""
    listener = _listener(port)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies (waitpid(2))
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        if os.fork():
            client.close()
            continue
        listener.close()
        buffer = memoryview(bytearray(1 << 18))
        try:
            sink = client.recv(1, socket.MSG_PEEK) == b"s"
            while size := client.recv_into(buffer):
                if not sink:
                    client.sendall(buffer[:size])
        except ConnectionError:
            pass
        os._exit(0)


def bulk(port: int) -> None:
    """Take in, or send, all that goes, on any number of connections; the first byte of each says which, the second is
    its key (bench/load/pump.py).

    Told by lines on standard input: `go KEY`, `pause`, `end KEY`, `read`. All are answered by how much has come.
    """
    listener = _listener(port)
    pump = Pump()
    pump.watch(listener.fileno())
    pump.watch(sys.stdin.fileno())
    undecided: dict[int, socket.socket] = {}
    print("ready", flush=True)
    while True:
        for fd in pump.turn():
            if fd == listener.fileno():
                client, _ = listener.accept()
                undecided[client.fileno()] = client
                pump.watch(client.fileno())
            elif fd in undecided:
                pump.forget(fd)
                client = undecided.pop(fd)
                try:
                    said = client.recv(2)
                    way, key = said[:1], said[1:]
                    if way in (UP, DOWN):
                        client.send(OPEN)
                except ConnectionError:
                    way, key = b"", b""
                if way == UP:
                    pump.receive_on(client, key)
                elif way == DOWN:
                    pump.send_on(client, key)
                else:
                    client.close()
            elif fd == sys.stdin.fileno():
                match sys.stdin.readline().split():
                    case []:
                        return
                    case ["go", key_word]:
                        pump.go(key_word.encode())
                    case ["pause"]:
                        pump.pause()
                    case ["end", key_word]:
                        pump.end(key_word.encode())
                print(json.dumps(pump.count()), flush=True)


def datagrams(port: int) -> None:
    """Count datagrams that carry the sender's stamp, answer them, or send many back to the first that comes.

    Told which, and asked, by lines on standard input: `count`, `echo`, `flood SIZE`, `read`.
    """
    sock = enlarge_receive_buffer(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    sock.bind(("", port))
    receiver = Receiver(sock)
    does = "count"
    size = 0
    flood: Sender | None = None
    counted = [0, 0, 0]
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN)
    print("ready", flush=True)
    while True:
        if flood is not None:
            flood.send(32)
        for fd, _ in poll.poll(None if flood is None else 0):
            if fd == sock.fileno() and does == "echo":
                data, client = sock.recvfrom(1 << 16)
                sock.sendto(data, client)
            elif fd == sock.fileno() and does == "flood":
                flood = Sender(sock, size, sock.recvfrom(1 << 16)[1])
            elif fd == sock.fileno():
                for each, value in enumerate(receiver.count()):
                    counted[each] += value
            else:
                command = sys.stdin.readline().split()
                if not command:
                    return
                if command[0] != "read":
                    does = command[0]
                    size = int(command[1]) if does == "flood" else 0
                    flood = None
                    counted = [0, 0, 0]
                found = dict(zip(("amount", "bytes", "damaged"), counted, strict=True))
                print(json.dumps({**found, "at": time.perf_counter()}), flush=True)


if __name__ == "__main__":
    gc.disable()  # nothing here is in circles, and a collection would look like the proxy's latency
    {"echo": echo, "mixed": mixed, "bulk": bulk, "datagrams": datagrams}[sys.argv[1]](int(sys.argv[2]))
