"""UDP through the program, on loopback: sizes, addresses, order, aggregates."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
from collections.abc import Iterator
from itertools import product

import pytest

from pyproxy.sockopts import UDP_SEGMENT
from tests.lab.namespaces import World
from tests.support.proxy import before
from tests.support.sockets import address_of
from tests.support.udp import answer, client_of, datagram_socket


def client_buffer_is_small(sock: socket.socket) -> bool:
    """Each small datagram is charged with its kernel bookkeeping (skb->truesize), about 2,304 bytes for 1,200."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 400 * 2304 and os.geteuid() != 0


@pytest.mark.parametrize(("host", "container"), [*product(("127.0.0.1", "::1"), repeat=2)])
def test_every_pairing_of_families_is_relayed(loop_flag: str, host: str, container: str) -> None:
    with (
        datagram_socket(container) as backend,
        before(address_of(backend), loop_flag, host=host, proto="udp") as proxy,
        client_of(proxy, host) as client,
    ):
        client.send(b"question")
        answer(backend, b"question", b"answer")
        assert client.recv(100) == b"answer"
        assert "8 B up, 6 B down, 1 datagram down, 1 datagram up, 1 flow" in proxy.totals()


@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 9000, 65_507])
def test_every_size_arrives_whole_both_ways(size: int) -> None:
    data = os.urandom(size)
    with (
        datagram_socket() as backend,
        before(address_of(backend), proto="udp") as proxy,
        client_of(proxy) as client,
    ):
        client.send(data)
        answer(backend, data, data[::-1])
        assert client.recv(1 << 16) == data[::-1]


@pytest.mark.parametrize("spoken_to", ["127.0.0.1", "127.0.0.2", "127.1.2.3"])
def test_a_reply_comes_from_the_address_the_client_spoke_to(spoken_to: str) -> None:
    with (
        datagram_socket() as backend,
        before(address_of(backend), host="0.0.0.0", proto="udp") as proxy,
        datagram_socket() as client,
    ):
        client.sendto(b"?", (spoken_to, proxy.port))
        answer(backend, b"?", b"!")
        assert client.recvfrom(10) == (b"!", (spoken_to, proxy.port))


def test_a_client_that_speaks_to_two_addresses_hears_from_both() -> None:
    """docker-proxy keeps one flow per client, so the second address's replies come from the first."""
    with (
        datagram_socket() as backend,
        before(address_of(backend), host="0.0.0.0", proto="udp") as proxy,
        datagram_socket() as client,
    ):
        for spoken_to in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
            client.sendto(spoken_to.encode(), (spoken_to, proxy.port))
            answer(backend, spoken_to.encode(), b"!")
            assert client.recvfrom(10) == (b"!", (spoken_to, proxy.port))
        assert "2 flows" in proxy.totals()


def test_a_wildcard_ipv6_address_replies_as_spoken_to() -> None:
    with (
        datagram_socket() as backend,
        before(address_of(backend), host="::", proto="udp") as proxy,
        client_of(proxy, "::1") as client,
    ):
        client.send(b"?")
        answer(backend, b"?", b"!")
        assert client.recv(10) == b"!"


def test_a_flow_keeps_its_backend_port_and_two_clients_never_share_one(loop_flag: str) -> None:
    with (
        datagram_socket() as backend,
        before(address_of(backend), loop_flag, proto="udp") as proxy,
        client_of(proxy) as one,
        client_of(proxy) as two,
    ):
        flows = []
        for client in (one, two, one, two):
            client.send(b"x")
            flows.append(backend.recvfrom(10)[1])
        assert flows[0] == flows[2] != flows[1] == flows[3]


def test_a_backend_may_speak_unasked_and_many_times() -> None:
    with datagram_socket() as backend, before(address_of(backend), proto="udp") as proxy, client_of(proxy) as client:
        client.send(b"subscribe")
        _, flow = backend.recvfrom(100)
        for number in range(500):
            backend.sendto(str(number).encode(), flow)
            assert client.recv(100) == str(number).encode()


def test_a_burst_arrives_whole_and_in_order(loop_flag: str) -> None:
    burst = [number.to_bytes(4) * 300 for number in range(400)]
    with datagram_socket() as backend, before(address_of(backend), loop_flag, proto="udp") as proxy:
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        with client_of(proxy) as client:
            client.send(b"warm up")
            backend.recv(100)
            if client_buffer_is_small(backend):
                pytest.skip("this user may not have a receive buffer of 400 datagrams")
            for data in burst:
                client.send(data)
            assert [backend.recv(2000) for _ in burst] == burst


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_mixed_sizes_of_many_clients_keep_their_boundaries_and_order(host: str) -> None:
    """Sent while the proxy is held, so that they come to it as one batch; and so do the replies."""
    ip = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    chance = random.Random(host)
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(datagram_socket(ip))
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        proxy = stack.enter_context(before(address_of(backend), host=host, proto="udp"))
        clients = [stack.enter_context(client_of(proxy, ip)) for _ in range(5)]
        flows = {}
        for number, client in enumerate(clients):
            client.send(bytes([number]))
            data, flow = backend.recvfrom(10)
            flows[flow] = data[0]
        sizes = [0, 1, 64, 64, 64, 900, 1200, 1200, 1472, 1473, 4000]
        burst = [(chance.randrange(5), os.urandom(chance.choice(sizes))) for _ in range(150)]
        with proxy.held():
            for number, data in burst:
                clients[number].send(data)
        arrived: dict[int, list[bytes]] = {number: [] for number in range(5)}
        for _ in burst:
            data, flow = backend.recvfrom(1 << 16)
            arrived[flows[flow]].append(data)
        assert arrived == {each: [data for number, data in burst if number == each] for each in range(5)}
        with proxy.held():
            for flow, number in flows.items():
                for data in arrived[number]:
                    backend.sendto(data, flow)
        for number, client in enumerate(clients):
            assert [client.recv(1 << 16) for _ in arrived[number]] == arrived[number]
        assert "150 datagrams down, 155 datagrams up, 5 flows" in proxy.totals()


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("wildcard", [False, True])
def test_what_a_sender_segments_itself_arrives_in_its_segments(ip: str, *, wildcard: bool) -> None:
    host = {"127.0.0.1": "0.0.0.0", "::1": "::"}[ip] if wildcard else ip
    segments = [os.urandom(1200) for _ in range(39)] + [os.urandom(7)]
    aggregate = b"".join(segments)
    with (
        datagram_socket(ip) as backend,
        before(address_of(backend), host=host, proto="udp") as proxy,
        client_of(proxy, ip) as client,
    ):
        client.send(b"plain")
        _, flow = backend.recvfrom(100)
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        backend.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        client.send(aggregate)
        assert [backend.recvfrom(1 << 16) for _ in segments] == [(segment, flow) for segment in segments]
        backend.sendto(aggregate, flow)
        assert [client.recv(1 << 16) for _ in segments] == segments
        assert "40 datagrams down, 41 datagrams up, 1 flow" in proxy.totals()


@pytest.mark.parametrize(("host", "ip"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_aggregates_and_single_datagrams_of_one_client_keep_their_order(host: str, ip: str) -> None:
    chance = random.Random(ip)
    with (
        datagram_socket(ip) as backend,
        before(address_of(backend), host=host, proto="udp") as proxy,
        client_of(proxy, ip) as client,
    ):
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        client.send(b"first")
        backend.recv(100)
        for _ in range(10):
            expected = []
            with proxy.held():
                for _ in range(chance.randrange(2, 12)):
                    segment = chance.choice([0, 200])
                    client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
                    data = os.urandom(500 if segment else 150)
                    client.send(data)
                    expected += [data[:200], data[200:400], data[400:]] if segment else [data]
            assert [backend.recv(1000) for _ in expected] == expected
        assert "1 flow" in proxy.totals()


def test_two_clients_that_take_each_others_place_lose_nothing() -> None:
    """With room for one flow, each batch ends the flow of datagrams that are further on in it."""
    numbers = [b"%d" % number for number in range(20)]
    with (
        datagram_socket() as backend,
        before(address_of(backend), "-udp-max-flows=1", proto="udp") as proxy,
        client_of(proxy) as one,
        client_of(proxy) as two,
    ):
        one.send(b"first")
        backend.recv(100)
        with proxy.held():
            for number in numbers:
                for client in (one, two):
                    client.send(b"%d %s" % (client.fileno(), number))
        arrived = [backend.recv(100).split() for _ in range(40)]
        for client in (one, two):
            assert [number for fd, number in arrived if int(fd) == client.fileno()] == numbers


def test_a_path_too_narrow_for_a_segment_takes_the_datagrams_one_by_one(world: World) -> None:
    """Loopback of a machine of its own, its MTU below what is joined: then datagrams leave alone, in fragments."""
    world.run("ip", "link", "set", "lo", "mtu", "1300")
    said = world.run(sys.executable, "-c", NARROW)
    assert "50 datagrams down, 51 datagrams up, 1 flow" in said
    assert "dropped" not in said


NARROW = """
import os
from tests.support.proxy import before
from tests.support.sockets import address_of
from tests.support.udp import client_of, datagram_socket
burst = [os.urandom(1400) for _ in range(50)]
with datagram_socket() as backend, before(address_of(backend), proto="udp") as proxy, client_of(proxy) as client:
    client.send(b"first")
    flow = backend.recvfrom(10)[1]
    with proxy.held():
        for data in burst:
            client.send(data)
    assert [backend.recv(2000) for _ in burst] == burst
    with proxy.held():
        for data in burst:
            backend.sendto(data, flow)
    assert [client.recv(2000) for _ in burst] == burst
    print(proxy.totals())
"""


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world
