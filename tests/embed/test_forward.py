"""A published port inside another asyncio program, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pyproxy
from tests.support.proxy import PATIENCE_S
from tests.support.sockets import echo, reset, serving

LOCAL = "127.0.0.1"
FREE = (LOCAL, 0)
# Nobody listens there: the discard service, which nothing of today has.
NOWHERE = (LOCAL, 9)
EXAMPLE = Path(__file__).parents[2] / "examples" / "forward.py"


class Pair(NamedTuple):
    """A client's connection through the port, both ends: blocking sockets are awaited by `loop.sock_*`."""

    client: socket.socket
    backend: socket.socket


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(FREE) as sock:
        sock.setblocking(False)
        yield sock


def address_of(sock: socket.socket) -> tuple[str, int]:
    ip, port = sock.getsockname()
    return str(ip), int(port)


@contextlib.asynccontextmanager
async def connected(port: pyproxy.ForwardedPort, listener: socket.socket) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await asyncio.wait_for(loop.sock_connect(client, port.host), PATIENCE_S)
        backend, _ = await asyncio.wait_for(loop.sock_accept(listener), PATIENCE_S)
        with backend:
            yield Pair(client, backend)


async def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so much."""
    data = b""
    while len(data) < size:
        chunk = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, size - len(data)), PATIENCE_S)
        assert chunk, f"the stream ended after {data!r}"
        data += chunk
    return data


async def ended(sock: socket.socket) -> bool:
    """Whether the stream ends here, and in order. A reset raises."""
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), PATIENCE_S) == b""


async def exchange(address: tuple[str, int], message: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.wait_for(loop.sock_connect(sock, address), PATIENCE_S)
        await asyncio.wait_for(loop.sock_sendall(sock, message), PATIENCE_S)
        return await receive(sock, len(message))


async def receive_from(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """One datagram and its sender: uvloop has no `sock_recvfrom`."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), PATIENCE_S)
    finally:
        loop.remove_reader(sock)
    return sock.recvfrom(1 << 16)


@pytest.mark.asyncio
async def test_a_port_is_served_for_the_time_of_the_block() -> None:
    with no_descriptor_left(), serving(echo) as backend:
        async with pyproxy.forward(host=FREE, container=backend, drain_s=PATIENCE_S) as port:
            assert (port.proto, port.host[0], port.container) == ("tcp", LOCAL, backend)
            assert port.host[1] != 0
            assert await exchange(port.host, b"over and back") == b"over and back"
            # The client does not wait for the backend's end; the block's end does.
        assert port.live == 0
        counters = port.counters()
        assert (counters.connections, counters.bytes_up, counters.bytes_down) == (1, 13, 13)
        with pytest.raises(ConnectionRefusedError):
            await exchange(port.host, b"too late")


@pytest.mark.asyncio
async def test_udp_and_tcp_are_served_side_by_side_on_either_family() -> None:
    with (
        no_descriptor_left(),
        serving(echo) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client,
    ):
        for sock in (udp, client):
            sock.setblocking(False)
        udp.bind(FREE)
        async with (
            pyproxy.forward(host=("::1", 0), container=address_of(udp), proto="udp") as port,
            pyproxy.forward(host=FREE, container=tcp) as other,
        ):
            client.connect(port.host)
            client.send(b"question")
            data, flow = await receive_from(udp)
            udp.sendto(data[::-1], flow)
            assert await receive(client, 8) == b"noitseuq"
            assert port.live == 1
            assert await exchange(other.host, b"beside it") == b"beside it"
        assert port.live == 0
        assert (port.counters().datagrams_up, port.counters().datagrams_down) == (1, 1)


@pytest.mark.asyncio
async def test_a_port_that_cannot_be_served_is_a_start_error_and_leaves_nothing() -> None:
    with no_descriptor_left(), listening() as taken:
        for host, container, words in (
            (address_of(taken), NOWHERE, "address already in use"),
            (("localhost", 0), NOWHERE, "-host-ip 'localhost' is not an IP address"),
            (FREE, (LOCAL, 70_000), "-container-port 70000 is out of range"),
            (FREE, ("fe80::1%nothing", 9), "check that the zone after % is an interface"),
        ):
            with pytest.raises(pyproxy.StartError, match=re.escape(words)):
                await pyproxy.forward(host=host, container=container).__aenter__()


@pytest.mark.asyncio
async def test_connections_get_their_time_to_end_at_the_end_of_the_block() -> None:
    loop = asyncio.get_running_loop()
    with no_descriptor_left(), listening() as listener:
        async with contextlib.AsyncExitStack() as outer:
            async with pyproxy.forward(host=FREE, container=address_of(listener), drain_s=PATIENCE_S) as port:
                client, backend = await outer.enter_async_context(connected(port, listener))

                async def finish() -> None:
                    with pytest.raises(ConnectionRefusedError):  # this runs when the block has ended
                        await exchange(port.host, b"too late")
                    backend.send(b"last words")
                    for end in (client, backend):
                        end.shutdown(socket.SHUT_WR)

                finishing = loop.create_task(finish())
            await finishing
            assert await receive(client, 10) == b"last words"
            assert await ended(client)


@pytest.mark.asyncio
async def test_without_such_a_time_what_is_unfinished_is_reset() -> None:
    with no_descriptor_left(), listening() as listener:
        async with contextlib.AsyncExitStack() as outer:
            async with pyproxy.forward(host=FREE, container=address_of(listener)) as port:
                pair = await outer.enter_async_context(connected(port, listener))
                assert port.live == 1
            for end in pair:
                with pytest.raises(ConnectionResetError):
                    await ended(end)


@pytest.mark.asyncio
async def test_a_task_that_is_cancelled_while_it_drains_resets_what_is_left() -> None:
    reached: asyncio.Future[pyproxy.ForwardedPort] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def serve(container: tuple[str, int]) -> None:
        async with pyproxy.forward(host=FREE, container=container, drain_s=1e6) as port:
            reached.set_result(port)
            await leave.wait()

    with no_descriptor_left(), listening() as listener:
        task = asyncio.create_task(serve(address_of(listener)))
        async with connected(await reached, listener) as pair:
            leave.set()
            await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ConnectionResetError):
                await ended(pair.client)


@pytest.mark.asyncio
async def test_a_slow_reader_whose_container_has_gone_keeps_nothing_open() -> None:
    """Elsewhere it is given all that was acknowledged, however slowly it reads."""
    loop = asyncio.get_running_loop()
    with no_descriptor_left(), listening() as listener:
        async with contextlib.AsyncExitStack() as outer:
            async with pyproxy.forward(host=FREE, container=address_of(listener)) as port:
                pair = await outer.enter_async_context(connected(port, listener))
                with contextlib.suppress(TimeoutError):  # it never ends, as nobody reads
                    await asyncio.wait_for(loop.sock_sendall(pair.backend, bytes(1 << 24)), 0.1)
                reset(pair.backend)
                assert port.live == 1
            assert port.live == 0


@pytest.mark.asyncio
async def test_messages_go_to_the_programs_own_log(caplog: pytest.LogCaptureFixture) -> None:
    async with pyproxy.forward(host=FREE, container=NOWHERE) as port:
        with pytest.raises(ConnectionResetError):
            await exchange(port.host, b"x")
        [record] = caplog.records
        assert (record.name, record.levelname) == ("pyproxy", "WARNING")
        assert record.getMessage().startswith(f"tcp {LOCAL}:{port.host[1]}: container: connection refused")


@pytest.mark.asyncio
async def test_another_event_loop_is_refused_while_one_serves() -> None:
    failures: list[BaseException] = []

    async def serve() -> None:
        async with pyproxy.forward(host=FREE, container=NOWHERE):
            pass

    def elsewhere() -> None:
        try:
            asyncio.run(serve())
        except RuntimeError as exc:
            failures.append(exc)

    async with pyproxy.forward(host=FREE, container=NOWHERE):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "one event loop" in str(failures.pop())
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not failures


def test_the_package_says_that_it_is_typed_and_has_no_other_names() -> None:
    assert (Path(pyproxy.__path__[0]) / "py.typed").exists()
    assert {"forward", "ForwardedPort", "StartError"} < set(pyproxy.__all__)
    with pytest.raises(AttributeError, match="'pyproxy' has no attribute 'fordward'"):
        getattr(pyproxy, "fordward")  # noqa: B009


def test_the_example_serves_and_says_what_it_has_moved() -> None:
    with serving(echo) as backend:
        command = [sys.executable, str(EXAMPLE), "0", *map(str, backend)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            found = re.search(r"^tcp \('127\.0\.0\.1', (\d+)\) -> ", program.stdout.readline())
            assert found
            assert asyncio.run(exchange((LOCAL, int(found[1])), b"over and back")) == b"over and back"
            program.send_signal(signal.SIGINT)
            assert program.communicate(timeout=PATIENCE_S)[0].startswith("13 B up, 13 B down, 1 connection")
        assert program.returncode == 0
