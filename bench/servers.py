"""What runs in the container: an echo server and a datagram counter. `python -m bench.servers echo|datagrams PORT`.

As little work per message as Python allows, so that the proxy in front is what is measured.
"""

from __future__ import annotations

import json
import select
import socket
import sys

from bench.batch import Receiver


def echo(port: int) -> None:
    """Send back whatever comes, on any number of connections."""
    listener = socket.create_server(("", port), backlog=20_000)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    buffer = memoryview(bytearray(1 << 16))
    print("ready", flush=True)
    while True:
        for fd, _ in epoll.poll():
            client = clients.get(fd)
            if client is None:
                try:
                    client, _ = listener.accept()
                except BlockingIOError:
                    continue
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                epoll.register(client, select.EPOLLIN)
                continue
            try:
                size = client.recv_into(buffer)
                if size:
                    client.sendall(buffer[:size])
                    continue
            except ConnectionError:
                pass
            del clients[fd]
            client.close()


def datagrams(port: int) -> None:
    """Count datagrams that carry the sender's stamp, or send them back; told which, and asked, by standard input."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind(("", port))
    receiver = Receiver(sock)
    echoes = False
    counted = [0, 0, 0]
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd == sock.fileno() and echoes:
                data, client = sock.recvfrom(1 << 16)
                sock.sendto(data, client)
            elif fd == sock.fileno():
                for each, value in enumerate(receiver.count()):
                    counted[each] += value
            else:
                command = sys.stdin.readline().strip()
                if not command:
                    return
                if command in ("echo", "count"):
                    echoes = command == "echo"
                    counted = [0, 0, 0]
                print(json.dumps(dict(zip(("datagrams", "bytes", "damaged"), counted, strict=True))), flush=True)


if __name__ == "__main__":
    {"echo": echo, "datagrams": datagrams}[sys.argv[1]](int(sys.argv[2]))
