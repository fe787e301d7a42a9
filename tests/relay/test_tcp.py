"""TCP through the program, on loopback: bytes, ends, resets and refusals arrive as they were sent."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Iterator
from itertools import product

import pytest

from tests.support.proxy import PATIENCE_S, Proxy, before, borrow_sockets, connect
from tests.support.sockets import (
    accept,
    address_of,
    echo,
    listening,
    receive_all,
    receive_exactly,
    reset,
    serving,
)


@contextlib.contextmanager
def connected(*flags: str) -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """A client and the backend's side of its connection, through a proxy."""
    with listening() as listener, before(address_of(listener), *flags) as proxy:
        client = connect(proxy)
        backend = accept(listener)
        with client, backend:
            yield proxy, client, backend


@pytest.mark.parametrize(("host", "container"), [*product(("127.0.0.1", "::1"), repeat=2)])
def test_every_pairing_of_families_is_relayed(loop_flag: str, host: str, container: str) -> None:
    with serving(echo, container) as backend, before(backend, loop_flag, host=host) as proxy, connect(proxy, host) as c:
        c.sendall(b"hello")
        c.shutdown(socket.SHUT_WR)
        assert receive_all(c) == b"hello"
        proxy.stop()


def test_a_wildcard_host_address_serves_its_own_family_only() -> None:
    with serving(echo) as backend, before(backend, host="::") as proxy:
        with connect(proxy, "::1") as client:
            client.sendall(b"x")
            assert receive_exactly(client, 1) == b"x"
        with pytest.raises(ConnectionRefusedError):
            connect(proxy, "127.0.0.1")


def test_reply_still_flows_after_client_half_closes(loop_flag: str) -> None:
    with connected(loop_flag) as (_, client, backend):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(backend) == b"question"
        backend.sendall(b"a long answer" * 100_000)
        backend.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"a long answer" * 100_000


def test_requests_still_flow_after_backend_half_closes(loop_flag: str) -> None:
    with connected(loop_flag) as (_, client, backend):
        backend.sendall(b"banner")
        backend.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"banner"
        upload = threading.Thread(target=send_and_close, args=(client, b"upload" * 500_000))
        upload.start()
        assert receive_all(backend) == b"upload" * 500_000
        upload.join()


def test_a_client_that_finishes_before_the_backend_is_reached_is_served(loop_flag: str) -> None:
    with listening() as listener, before(address_of(listener), loop_flag) as proxy, connect(proxy) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        with accept(listener) as backend:
            assert receive_all(backend) == b"last words"


@pytest.mark.parametrize("sent", [b"", b"x", b"x" * 10_000_000], ids=["idle", "after a byte", "in bulk"])
def test_a_reset_by_the_client_reaches_the_backend_as_a_reset(loop_flag: str, sent: bytes) -> None:
    with connected(loop_flag) as (proxy, client, backend):
        sender = threading.Thread(target=send_and_reset, args=(client, sent))
        sender.start()
        with pytest.raises(ConnectionResetError):
            receive_all(backend)
        sender.join()
        assert "1 connection reset" in proxy.totals()


@pytest.mark.parametrize("sent", [b"", b"x", b"x" * 10_000_000], ids=["idle", "after a byte", "in bulk"])
def test_a_reset_by_the_backend_reaches_the_client_as_a_reset(loop_flag: str, sent: bytes) -> None:
    with connected(loop_flag) as (_, client, backend):
        sender = threading.Thread(target=send_and_reset, args=(backend, sent))
        sender.start()
        with pytest.raises(ConnectionResetError):
            receive_all(client)
        sender.join()


def test_a_reset_after_a_half_close_is_passed_on_though_nobody_writes(loop_flag: str) -> None:
    with connected(loop_flag) as (_, client, backend):
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(backend) == b"request"
        reset(client)
        # A read would go on saying "end of stream", which it was; the next write tells.
        await_reset(backend)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            backend.sendall(b"reply")


def test_what_the_backend_said_before_it_reset_is_delivered_then_the_reset(loop_flag: str) -> None:
    """A server that answers and closes without reading the request: its kernel sends the answer, then a reset."""
    with connected(loop_flag) as (_, client, backend):
        client.sendall(b"a request that nobody reads")
        backend.recv(1)
        backend.sendall(b"413")
        backend.close()
        assert client.recv(100) == b"413"
        with pytest.raises(ConnectionResetError):
            receive_all(client)


def test_a_cut_off_upload_to_a_backend_that_has_gone_never_looks_complete(loop_flag: str) -> None:
    with connected(loop_flag) as (_, client, backend):
        reset(backend)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(b"x" * 100_000_000)


def test_a_backend_that_refuses_resets_the_client_at_once_and_is_logged_once(loop_flag: str) -> None:
    with listening() as listener:
        nobody = address_of(listener)
    with before(nobody, loop_flag) as proxy:
        for _ in range(50):
            with contextlib.suppress(ConnectionResetError), connect(proxy) as client:
                assert client.recv(1) == b"never"
        assert proxy.line().count("connection refused") == 1
        assert "50 connections, 50 connections failed" in proxy.totals()
        assert "refused" not in proxy.stop()


def test_a_sender_is_stopped_by_a_receiver_that_does_not_read(loop_flag: str) -> None:
    with connected(loop_flag) as (proxy, client, backend):
        resident = proxy.resident_bytes()
        client.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while True:
                sent += client.send(b"x" * 65_536)
        # Four socket buffers (tcp_wmem and tcp_rmem's largest, 4 and 6 MiB, twice over) and one pipe.
        assert sent < 40 << 20
        assert proxy.resident_bytes() - resident < 4 << 20
        client.settimeout(PATIENCE_S)
        client.shutdown(socket.SHUT_WR)
        assert len(receive_all(backend)) == sent


def test_urgent_bytes_stay_in_the_stream(loop_flag: str) -> None:
    with connected(loop_flag) as (_, client, backend):
        client.sendall(b"before")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"after")
        assert receive_exactly(backend, 12) == b"before!after"


@pytest.mark.parametrize("bulk", [0, 1_000_000, 50_000_000])
def test_urgent_bytes_after_bulk_cut_nothing_off(loop_flag: str, bulk: int) -> None:
    """splice(2) stops at the urgent mark, and calls it the end of the stream once there is one."""
    with connected(loop_flag) as (_, client, backend):
        sender = threading.Thread(target=send_urgently, args=(client, bulk))
        sender.start()
        data = receive_all(backend)
        sender.join()
        assert len(data) == bulk + 1006
        assert data[bulk:] == b"!after" + b"y" * 1000


def send_urgently(sock: socket.socket, bulk: int) -> None:
    sock.sendall(b"x" * bulk)
    sock.send(b"!", socket.MSG_OOB)
    sock.sendall(b"after")
    sock.sendall(b"y" * 1000)
    sock.shutdown(socket.SHUT_WR)


def test_what_a_backend_says_before_it_resets_at_once_is_delivered(loop_flag: str) -> None:
    def banner_and_reset(sock: socket.socket) -> None:
        sock.sendall(b"banner")
        reset(sock)

    delivered = 0
    with serving(banner_and_reset) as backend, before(backend, loop_flag) as proxy:
        for _ in range(100):
            try:
                client = connect(proxy)
            except ConnectionResetError:
                continue  # the reset overtook the client's own connect()
            with client:
                assert receive_exactly(client, 6) == b"banner"
                delivered += 1
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
        assert delivered > 50
        assert "100 connections, 100 connections reset" in proxy.totals()


def test_a_finish_and_a_reset_that_are_seen_together_are_both_passed_on(loop_flag: str) -> None:
    with connected(loop_flag) as (proxy, client, backend):
        client.sendall(b"x")
        assert receive_exactly(backend, 1) == b"x"
        proxy.process.send_signal(signal.SIGSTOP)
        client.sendall(b"y")
        client.shutdown(socket.SHUT_WR)
        reset(client)
        proxy.process.send_signal(signal.SIGCONT)
        await_reset(backend)
        assert "1 connection reset" in proxy.totals()


def test_a_reset_is_counted_once_and_bytes_with_it(loop_flag: str) -> None:
    with connected(loop_flag) as (proxy, client, backend):
        client.shutdown(socket.SHUT_WR)
        assert receive_all(backend) == b""
        backend.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while True:
                sent += backend.send(b"x" * 65_536)
        reset(client)
        await_reset(backend)
        assert "1 connection, 1 connection reset" in (totals := proxy.totals())
        assert int(float(totals.split(" MB down")[0].split()[-1]) * 1e6) <= sent


def test_a_reset_is_not_held_up_for_ever_by_a_side_that_does_not_read(loop_flag: str) -> None:
    """What was said before it has some time to be taken (flush.DRAIN_S, or the limit), then the other side is told."""
    with connected(loop_flag, "-half-closed-timeout", "1") as (proxy, client, backend):
        for sock in (client, backend):
            sock.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    sock.send(b"x" * 65_536)
        reset(backend)
        await_reset(client)
        assert "0 live" in proxy.totals()


def test_a_client_that_gives_up_while_the_backend_is_dialed_is_let_go(loop_flag: str) -> None:
    with socket.socket() as silent, contextlib.ExitStack() as stack:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4):  # fill the backlog: further requests are then ignored
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        with before(address_of(silent), loop_flag) as proxy:
            clients = [connect(proxy) for _ in range(20)]
            while "20 live" not in proxy.totals():
                pass
            for client in clients:
                reset(client)
            while "0 live" not in proxy.totals():
                pass


def test_a_killed_proxy_leaves_no_transfer_that_looks_complete(loop_flag: str) -> None:
    with connected(loop_flag) as (proxy, client, backend):
        backend.sendall(b"half of it")
        assert receive_exactly(client, 10) == b"half of it"
        proxy.process.kill()
        proxy.process.wait()
        for sock in (client, backend):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def await_reset(sock: socket.socket) -> None:
    """Wait until the kernel knows that the peer has reset; reading would tell only after what came before."""
    poll = select.poll()
    poll.register(sock, select.POLLERR)
    assert poll.poll(PATIENCE_S * 1000)


def test_both_sides_have_keepalive_and_no_delay() -> None:
    with connected() as (proxy, client, backend):
        peers = {client.getsockname(), backend.getsockname()}
        for sock in borrow_sockets(proxy):
            with sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or not connected_to(sock, peers):
                    continue
                peers.remove(sock.getpeername())
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 15
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not peers


def connected_to(sock: socket.socket, peers: set[tuple[str, int]]) -> bool:
    try:
        return sock.getpeername() in peers
    except OSError:
        return False  # the spare backend socket


def test_no_descriptor_is_left_behind(loop_flag: str) -> None:
    def whims(sock: socket.socket) -> None:
        first = sock.recv(1)
        if first == b"r":
            reset(sock)
        elif first == b"e":
            echo(sock)
        elif first == b"b":
            while sock.recv(1 << 20):
                pass

    with serving(whims) as backend, before(backend, loop_flag) as proxy:
        with connect(proxy) as client:
            client.sendall(b"e1")
            receive_exactly(client, 1)
        count = settled(proxy)
        for whim in (b"r", b"e", b"b", b"c") * 10:
            with contextlib.suppress(OSError), connect(proxy) as client:
                client.sendall(whim + b"x" * 300_000)
                client.shutdown(socket.SHUT_WR)
                receive_all(client)
        # The pool keeps its pipes: two descriptors each, of which one connection at a time needed at most two.
        assert settled(proxy) <= count + 4
        proxy.stop()


def send_and_reset(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    reset(sock)


def send_and_close(sock: socket.socket, data: bytes) -> None:
    with sock:
        sock.sendall(data)


def settled(proxy: Proxy) -> int:
    """Descriptors, once no connection is live."""
    while not proxy.totals().startswith("0 live"):
        pass
    return proxy.descriptors()
