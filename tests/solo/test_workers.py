"""More processes for a busy port: what is live goes on in them, whole, and they end when they should."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.core.counters import counted
from tests.support.proxy import PATIENCE_S, Proxy, connect, running
from tests.support.sockets import address_of, echo, listening, receive_exactly, serving
from tests.support.transfer import BLOCK, Receiver, Sender, assert_whole, digest_of, through

# In a test's time, ends are awaited by file descriptors of processes (pidfd_open(2)).
_PATIENCE_MS = 1000 * PATIENCE_S


@contextlib.contextmanager
def eager(backend: tuple[str, int], *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[Proxy]:
    ends = ["-host-ip", "127.0.0.1", "-host-port", "0", "-container-ip", backend[0], "-container-port", str(backend[1])]
    words = [*ends, "-busy-poll", "0", *arguments]
    with running(*words, prefix=[*prefix, sys.executable, "-m"], program="tests.support.eager") as proxy:
        yield proxy


def workers_of(proxy: Proxy) -> list[int]:
    pid = proxy.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def await_end(pid: int) -> None:
    """Of a process that is not this one's child."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(_PATIENCE_MS)
        os.close(pidfd)
        assert ended, "a worker did not end"


def await_line(proxy: Proxy, words: str) -> None:
    while words not in (line := proxy.line()):
        assert line


def exchange(clients: list[socket.socket]) -> None:
    for client in clients:
        client.sendall(b"ping")
    for client in clients:
        assert receive_exactly(client, 4) == b"ping"


@contextlib.contextmanager
def split(backend: tuple[str, int], *arguments: str, workers: int = 1) -> Iterator[tuple[Proxy, list[socket.socket]]]:
    """A proxy with eight clients, and so many workers that some of the clients are theirs."""
    with eager(backend, "-workers", str(workers + 1), *arguments) as proxy, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(proxy)) for _ in range(8)]
        exchange(clients)
        proxy.process.send_signal(signal.SIGUSR2)
        while len(workers_of(proxy)) < workers:
            exchange(clients)
        proxy.totals()  # answered when the last of them has taken over what is its own
        yield proxy, clients


@pytest.mark.timeout(120)
def test_transfers_go_on_in_workers_byte_for_byte(loop_flag: str) -> None:
    seen: set[int] = set()
    size = 30_000_000
    with listening() as listener, eager(address_of(listener), "-workers", "4", loop_flag) as proxy:
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                pairs = []
                for seed in range(6):
                    client, backend = stack.enter_context(through(proxy, listener))
                    # A third is slow, so that its relay holds bytes that its sink does not take.
                    slow = seed if seed % 3 == 0 else None
                    pairs.append((Sender(client, size, slow), Receiver(backend)))
                    pairs.append((Sender(backend, size), Receiver(client, slow)))
                proxy.process.send_signal(signal.SIGUSR2)
                for sender, receiver in pairs:
                    assert_whole(sender, receiver)
                    seen |= set(workers_of(proxy))
        assert seen
        totals = proxy.totals()
        assert "540 MB up, 540 MB down, 18 connections" in totals
        assert "reset" not in totals


def test_what_is_between_the_two_ends_stays_in_order(loop_flag: str) -> None:
    """Each message names its place in the stream; a byte lost, doubled or late would show at once."""
    with serving(echo) as backend, split(backend, loop_flag, workers=3) as (proxy, clients):
        for number in range(200):
            message = number.to_bytes(4, "big")
            for client in clients:
                client.sendall(message)
            for client in clients:
                assert receive_exactly(client, 4) == message
        assert len(workers_of(proxy)) == 3
        assert proxy.totals().startswith("8 live, ")


def test_a_worker_serves_new_clients(loop_flag: str) -> None:
    with serving(echo) as backend, split(backend, loop_flag) as (proxy, _), proxy.held(), connect(proxy) as client:
        client.sendall(b"who?")
        assert receive_exactly(client, 4) == b"who?"


def test_connections_that_come_and_go_get_a_worker_too(loop_flag: str) -> None:
    with serving(echo) as backend, eager(backend, loop_flag, "-workers", "2") as proxy:
        proxy.process.send_signal(signal.SIGUSR2)
        served = 0
        while not workers_of(proxy):
            with connect(proxy) as client:
                exchange([client])
                served += 1
        for _ in range(20):
            with connect(proxy) as client:
                exchange([client])
                served += 1
        assert f"{served} connections" in proxy.totals()


def test_half_closed_connections_are_taken_along(loop_flag: str) -> None:
    moved = threading.Event()
    sent: list[int] = []

    def send_until_moved(sock: socket.socket) -> None:
        count = 0
        while not moved.is_set():
            count += sock.send(memoryview(BLOCK)[count % len(BLOCK) :])
        sock.shutdown(socket.SHUT_WR)
        sent.append(count)

    with (
        listening() as listener,
        eager(address_of(listener), loop_flag, "-workers", "2") as proxy,
        contextlib.ExitStack() as stack,
    ):
        pairs = [stack.enter_context(through(proxy, listener)) for _ in range(6)]
        for client, backend in pairs:
            client.shutdown(socket.SHUT_WR)
            assert backend.recv(1) == b""
        senders = [threading.Thread(target=send_until_moved, args=(backend,)) for _, backend in pairs]
        receivers = [Receiver(client) for client, _ in pairs]
        for sender in senders:
            sender.start()
        proxy.process.send_signal(signal.SIGUSR2)
        while not workers_of(proxy):
            assert all(receiver.failed is None for receiver in receivers)
        moved.set()
        for thread in (*senders, *receivers):
            thread.join()
        assert all(receiver.failed is None for receiver in receivers)
        assert sorted(receiver.size for receiver in receivers) == sorted(sent)
        for receiver in receivers:
            assert receiver.digest.digest() == digest_of(receiver.size)
        assert "reset" not in proxy.totals()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_workers_and_frees_the_port(loop_flag: str, number: int) -> None:
    with serving(echo) as backend, split(backend, loop_flag, workers=2) as (proxy, clients):
        workers = workers_of(proxy)
        said = proxy.stop(number)
        assert "8 live" in said
        with socket.create_server(("127.0.0.1", proxy.port)):  # at once
            pass
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_group_that_is_interrupted_ends_as_one(loop_flag: str) -> None:
    """Ctrl-C reaches the workers too, which leave it to the first process."""
    with serving(echo) as backend, split(backend, loop_flag, workers=2) as (proxy, _):
        for pid in workers_of(proxy):
            os.kill(pid, signal.SIGINT)
        assert "a worker ended" not in proxy.stop()


def test_workers_end_with_a_first_process_that_is_killed(loop_flag: str) -> None:
    with serving(echo) as backend, split(backend, loop_flag, workers=2) as (proxy, clients):
        workers = workers_of(proxy)
        proxy.process.kill()
        proxy.process.wait()
        for pid in workers:
            await_end(pid)
        with socket.create_server(("127.0.0.1", proxy.port)):
            pass
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_worker_that_is_killed_costs_its_connections_and_no_others(loop_flag: str) -> None:
    with serving(echo) as backend, split(backend, loop_flag) as (proxy, clients):
        (worker,) = workers_of(proxy)
        os.kill(worker, signal.SIGKILL)
        line = proxy.line()
        assert "a worker ended (-9)" in line
        assert "reset" in line
        whole = cut = 0
        for client in clients:
            try:
                client.sendall(b"ping")
                assert receive_exactly(client, 4) == b"ping"
                whole += 1
            except ConnectionError:
                cut += 1
        assert whole
        assert cut
        assert whole + cut == len(clients)
        assert f"8 connections, {counted(cut, 'connection')} reset" in proxy.totals()
        with connect(proxy) as client:
            exchange([client])


def test_a_worker_with_nothing_to_do_ends_and_its_totals_stay(loop_flag: str) -> None:
    with serving(echo) as backend, split(backend, loop_flag, workers=2) as (proxy, clients):
        exchange(clients)
        descriptors = proxy.descriptors()
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        # One that ends before the last client has left may have a successor.
        while workers := workers_of(proxy):
            for pid in workers:
                await_end(pid)
        # Twice: by the second answer the first process has dealt with the ends it was told of before.
        proxy.totals()
        moved = proxy.totals()
        assert moved.startswith("0 live, ")
        assert "8 connections" in moved
        assert "reset" not in moved
        assert proxy.descriptors() < descriptors


def test_a_parent_that_ignores_the_end_of_children_does_no_harm(loop_flag: str) -> None:
    """That is inherited, and children then vanish before anybody has waited for them (waitpid(2))."""
    ignoring = ("sh", "-c", 'trap "" CHLD; exec "$@"', "sh")
    with serving(echo) as backend, eager(backend, loop_flag, "-workers", "2", prefix=ignoring) as proxy:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(proxy)) for _ in range(8)]
            proxy.process.send_signal(signal.SIGUSR2)
            while not (workers := workers_of(proxy)):
                exchange(clients)
            proxy.totals()
            os.kill(workers[0], signal.SIGKILL)
            assert "a worker ended (-9)" in proxy.line()
        proxy.stop()


def ask(speaker: socket.socket, listens: socket.socket) -> None:
    speaker.sendall(b"ping")
    assert receive_exactly(listens, 4) == b"ping"
    listens.sendall(b"pong")
    assert receive_exactly(speaker, 4) == b"pong"


def test_messages_that_wait_for_bulk_go_on_in_a_worker_and_bulk_stays(loop_flag: str) -> None:
    """With no processor to spare: where one process would have them wait, two are each given their time."""
    with (
        listening() as listener,
        eager(address_of(listener), "-workers", "2", loop_flag) as proxy,
        through(proxy, listener) as (client, backend),
        through(proxy, listener) as (speaker, listens),
    ):
        stop = threading.Event()
        sent = received = 0

        def send() -> None:
            nonlocal sent
            while not stop.is_set():
                client.sendall(BLOCK)
                sent += len(BLOCK)
            client.shutdown(socket.SHUT_WR)

        def receive() -> None:
            nonlocal received
            buffer = bytearray(1 << 20)
            while size := backend.recv_into(buffer):
                received += size

        threads = [threading.Thread(target=send), threading.Thread(target=receive)]
        for thread in threads:
            thread.start()
        try:
            while not workers_of(proxy):
                ask(speaker, listens)
            proxy.totals()  # answered when it has taken over what is its own
            with proxy.held():
                ask(speaker, listens)
                before = -1
                while select.select([], [client], [], 0.1)[1] or before != sent:  # until no buffer takes any more
                    before = sent
                ask(speaker, listens)
                assert sent == before
        finally:
            stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert received == sent > 0
        assert "reset" not in proxy.totals()


def test_connections_go_on_in_the_first_process_if_a_worker_does_not_start(
    loop_flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_LOOP_FOR_WORKERS", "1")
    with (
        serving(echo) as backend,
        eager(backend, loop_flag, "-workers", "2") as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connect(proxy)) for _ in range(8)]
        exchange(clients)
        descriptors = proxy.descriptors()
        proxy.process.send_signal(signal.SIGUSR2)
        heard = threading.Thread(target=await_line, args=(proxy, "did not start"))
        heard.start()
        while heard.is_alive():
            exchange(clients)
        for _ in range(20):
            exchange(clients)
        assert not workers_of(proxy)
        assert proxy.descriptors() <= descriptors
        assert proxy.totals().startswith("8 live, ")


def test_one_process_is_all_there_is_if_so_asked(loop_flag: str) -> None:
    with serving(echo) as backend, split(backend, loop_flag, workers=0) as (proxy, clients):
        for _ in range(50):
            exchange(clients)
        assert not workers_of(proxy)
