"""UDP flows: refusals, the cap, and in-process, the clock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from pyproxy.core.counters import Counters
from pyproxy.log import Log
from pyproxy.relay.datagrams import DatagramServer
from pyproxy.relay.poller import Poller
from tests.support.proxy import PATIENCE_S, before
from tests.support.sockets import address_of
from tests.support.udp import answer, client_of, datagram_socket


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
