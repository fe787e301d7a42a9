"""UDP through the program, on loopback: flows, sizes, addresses, refusals, the cap; and in-process, the clock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import socket
import sys
from collections.abc import Iterator
from itertools import product

import pytest

from pyproxy.core.counters import Counters
from pyproxy.log import Log
from pyproxy.relay.datagrams import DatagramServer
from pyproxy.relay.poller import Poller
from pyproxy.sockopts import UDP_SEGMENT
from tests.lab.namespaces import World
from tests.support.proxy import PATIENCE_S, Proxy, before
from tests.support.sockets import address_of, family_of


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
from tests.relay.test_udp import address_of, before, client_of, datagram_socket
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


def client_buffer_is_small(sock: socket.socket) -> bool:
    """Each small datagram is charged with its kernel bookkeeping (skb->truesize), about 2,304 bytes for 1,200."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 400 * 2304 and os.geteuid() != 0


def test_no_datagram_is_lost_to_a_port_unreachable(loop_flag: str) -> None:
    """The error that came back for an earlier datagram is told on a later send, which then sends nothing."""
    with (
        datagram_socket() as backend,
        before(address_of(backend), loop_flag, proto="udp") as proxy,
        client_of(proxy) as client,
    ):
        client.send(b"first")
        assert backend.recv(100) == b"first"
        address = address_of(backend)
        backend.close()
        client.send(b"into the void")
        assert "connection refused" in proxy.line()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(address)
            again.settimeout(PATIENCE_S)
            for number in range(20):
                client.send(str(number).encode())
                assert again.recv(100) == str(number).encode()
        assert " unreachable" in proxy.totals()


def test_the_cap_on_flows_lets_the_least_recently_used_go(loop_flag: str) -> None:
    with (
        datagram_socket() as backend,
        before(address_of(backend), loop_flag, "-udp-max-flows=3", proto="udp") as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(client_of(proxy)) for _ in range(4)]
        first: dict[int, object] = {}
        for name in (0, 1, 2, 0, 3):
            clients[name].send(b"x")
            first.setdefault(name, backend.recvfrom(10)[1])
        assert "at 3 flows, -udp-max-flows" in proxy.line()
        assert "3 live" in (totals := proxy.totals())
        assert "4 flows, 1 flow evicted" in totals
        # Client 1 was the one that went: its next datagram is a new flow, the others' are not.
        for name, is_new in ((0, False), (2, False), (3, False), (1, True)):
            clients[name].send(b"y")
            assert (backend.recvfrom(10)[1] != first[name]) == is_new


def test_out_of_descriptors_the_oldest_flow_makes_room() -> None:
    with (
        datagram_socket() as backend,
        before(address_of(backend), proto="udp") as proxy,
        contextlib.ExitStack() as stack,
    ):
        resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (30, 30))
        for _ in range(60):
            client = stack.enter_context(client_of(proxy))
            client.send(b"x")
            answer(backend, b"x", b"y")
            assert client.recv(10) == b"y"
        assert "too many open files" in proxy.line()
        assert "60 flows" in proxy.totals()


def test_a_spoofed_flood_costs_no_more_than_the_cap() -> None:
    with (
        datagram_socket() as backend,
        before(address_of(backend), "-udp-max-flows=50", proto="udp") as proxy,
        contextlib.ExitStack() as stack,
    ):
        backend.setblocking(False)
        # Before the others, so that none of them has its port: its datagram is then the last that is passed on.
        client = stack.enter_context(client_of(proxy))
        for _ in range(1000):
            with datagram_socket() as spoofed:
                spoofed.sendto(b"x", ("127.0.0.1", proxy.port))
        client.send(b"still there?")
        backend.settimeout(PATIENCE_S)
        while backend.recv(100) != b"still there?":
            pass
        assert proxy.totals().startswith("50 live")
        assert proxy.descriptors() < 70


# In-process, where the idle time can be short.


@contextlib.asynccontextmanager
async def relaying(backend: socket.socket, idle_s: float):  # type: ignore[no-untyped-def]
    poller = Poller(asyncio.get_running_loop())
    counters = Counters()
    host = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    host.bind(("127.0.0.1", 0))
    address = host.getsockname()
    to = (backend.family, backend.getsockname())
    relay = DatagramServer(poller, host, to, max_flows=10, counters=counters, log=Log("test"), idle_s=idle_s)
    try:
        yield relay, counters, address
    finally:
        relay.close()
        poller.close()


@contextlib.contextmanager
def unblocked() -> Iterator[socket.socket]:
    with datagram_socket() as sock:
        sock.setblocking(False)
        yield sock


async def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(sock, lambda: None if readable.done() else readable.set_result(None))
    try:
        await asyncio.wait_for(readable, PATIENCE_S)
    finally:
        loop.remove_reader(sock)
    return sock.recvfrom(1 << 16)


@pytest.mark.asyncio
async def test_a_silent_flow_ends_and_its_descriptor_with_it() -> None:
    before_all = len(os.listdir("/proc/self/fd"))
    with unblocked() as backend, unblocked() as client:
        async with relaying(backend, 0.1) as (relay, counters, address):
            idle = len(os.listdir("/proc/self/fd"))
            client.sendto(b"x", address)
            _, first = await receive(backend)
            assert relay.live == 1
            async with asyncio.timeout(PATIENCE_S):
                while relay.live:  # noqa: ASYNC110 - nobody is told of an expiry
                    await asyncio.sleep(0)
            assert counters.flows_expired == 1
            assert len(os.listdir("/proc/self/fd")) == idle
            client.sendto(b"y", address)
            _, second = await receive(backend)
            assert second != first
    assert len(os.listdir("/proc/self/fd")) == before_all


@pytest.mark.asyncio
@pytest.mark.parametrize("speaker", ["client", "backend"])
async def test_a_flow_lives_while_one_side_speaks(speaker: str) -> None:
    with unblocked() as backend, unblocked() as client:
        async with relaying(backend, 0.2) as (relay, counters, address):
            client.sendto(b"x", address)
            _, flow = await receive(backend)
            loop = asyncio.get_running_loop()
            started = loop.time()
            # Three idle times' length, one datagram after another.
            while loop.time() < started + 0.6:
                if speaker == "client":
                    client.sendto(b"x", address)
                    await receive(backend)
                else:
                    backend.sendto(b"x", flow)
                    await receive(client)
            assert relay.live == 1
            assert counters.flows == 1


@pytest.mark.asyncio
async def test_a_server_that_accepts_no_more_answers_its_flows_and_tells_when_the_last_has_ended() -> None:
    with unblocked() as backend, unblocked() as client:
        async with relaying(backend, 0.1) as (server, counters, address):
            client.sendto(b"x", address)
            _, flow = await receive(backend)
            drained = asyncio.Event()
            server.stop_accepting(drained.set)
            assert not drained.is_set()
            backend.sendto(b"still", flow)
            assert (await receive(client))[0] == b"still"
            async with asyncio.timeout(PATIENCE_S):
                await drained.wait()
            assert (server.live, counters.flows_expired) == (0, 1)
        async with relaying(backend, 0.1) as (server, _, _):
            drained.clear()
            server.stop_accepting(drained.set)
            assert drained.is_set()
