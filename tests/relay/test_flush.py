"""What one side had said, and seen acknowledged, before it was reset: the other gets all of it, and then the reset.

Each row of the table is played over a direct connection first, and must come to the same through the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.cli.ask import ask
from pyproxy.relay import flush
from pyproxy.relay.flush import Progress
from tests.lab.namespaces import World, WorldError
from tests.solo.test_workers import split
from tests.support.engine import running_engine
from tests.support.proxy import PATIENCE_S, Proxy, before, connect
from tests.support.sockets import accept, address_of, listening, receive_exactly, reset, serving

# What a reader's own kernel takes at once; and more than that, so that it lies in each place that a byte can lie in:
# the reader's kernel, the proxy's send queue, its pipe and its receive queue.
LITTLE = 40_000
MUCH = 1_500_000


class Ends(NamedTuple):
    """The two ends of one connection. `handled` returns when the proxy has dealt with all that has happened so far."""

    client: socket.socket
    backend: socket.socket
    handled: Callable[[], object]


# Has the sender (first) end; whether its reader has been told by then that it was reset.
Ending = Callable[[socket.socket, socket.socket], bool]


class Outcome(NamedTuple):
    """What a reader saw: how much, how it ended, and whether a write fails in the end."""

    received: int
    end: str
    write_fails: bool


def direct() -> contextlib.AbstractContextManager[Ends]:
    return _between(lambda listener: contextlib.nullcontext((address_of(listener), lambda: None)))


def solo(*flags: str) -> contextlib.AbstractContextManager[Ends]:
    @contextlib.contextmanager
    def through(listener: socket.socket) -> Iterator[tuple[tuple[str, int], Callable[[], object]]]:
        with before(address_of(listener), *flags) as proxy:
            yield ("127.0.0.1", proxy.port), lambda: _handled(proxy)

    return _between(through)


def engine(run_dir: Path) -> contextlib.AbstractContextManager[Ends]:
    @contextlib.contextmanager
    def through(listener: socket.socket) -> Iterator[tuple[tuple[str, int], Callable[[], object]]]:
        container = {"container_ip": "127.0.0.1", "container_port": address_of(listener)[1]}
        port = ask(run_dir, "POST", "/ports", {"host_ip": "127.0.0.1", "host_port": 0} | container)
        yield ("127.0.0.1", port["host_port"]), lambda: [ask(run_dir, "GET", "/ports") for _ in range(2)]
        ask(run_dir, "DELETE", f"/ports/{port['name']}")

    return _between(through)


@contextlib.contextmanager
def _between(
    through: Callable[[socket.socket], contextlib.AbstractContextManager[tuple[tuple[str, int], Callable[[], object]]]],
) -> Iterator[Ends]:
    with listening() as listener, through(listener) as (address, handled):
        client = socket.create_connection(address, timeout=PATIENCE_S)
        with client, accept(listener) as backend:
            yield Ends(client, backend, handled)


def _handled(proxy: Proxy) -> None:
    # What it says of itself is said by the loop, after what came before; twice, for what that led to.
    proxy.totals()
    proxy.totals()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of an engine that serves all tests here."""
    with running_engine(tmp_path_factory.mktemp("engine") / "run") as engine:
        yield engine.run_dir


@pytest.fixture(params=["solo", "solo on asyncio", "engine"])
def path(request: pytest.FixtureRequest) -> Callable[[], contextlib.AbstractContextManager[Ends]]:
    if request.param == "engine":
        found: Path = request.getfixturevalue("run_dir")
        return lambda: engine(found)
    return lambda: solo("-loop=uvloop" if request.param == "solo" else "-loop=asyncio")


def just_resets(sender: socket.socket, reader: socket.socket) -> bool:
    reset(sender)
    return False


def finishes_and_resets(sender: socket.socket, reader: socket.socket) -> bool:
    sender.shutdown(socket.SHUT_WR)
    await_acknowledged(sender)
    reset(sender)
    return False


def resets_after_the_reader_has_finished(sender: socket.socket, reader: socket.socket) -> bool:
    reader.shutdown(socket.SHUT_WR)
    assert sender.recv(1) == b""
    reset(sender)
    return False


def resets_after_both_have_finished(sender: socket.socket, reader: socket.socket) -> bool:
    reader.shutdown(socket.SHUT_WR)
    assert sender.recv(1) == b""
    return finishes_and_resets(sender, reader)


def closes_with_unread_input(sender: socket.socket, reader: socket.socket) -> bool:
    reader.sendall(b"never read")
    sender.recv(1)
    sender.close()
    return False


def finishes_and_closes_with_unread_input(sender: socket.socket, reader: socket.socket) -> bool:
    sender.shutdown(socket.SHUT_WR)
    return closes_with_unread_input(sender, reader)


def resets_while_the_reader_writes(sender: socket.socket, reader: socket.socket) -> bool:
    """More than fits, both before the reset and after it: the reader comes to read only when all has been taken."""
    reader.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            reader.send(b"w" * 65_536)
    reader.settimeout(PATIENCE_S)
    reset(sender)
    try:
        for _ in range(200):
            reader.sendall(b"w" * 65_536)
    except ConnectionResetError:  # the error is told once: to the next read it looks like the end
        return True
    return False


ENDINGS = [
    just_resets,
    finishes_and_resets,
    resets_after_the_reader_has_finished,
    resets_after_both_have_finished,
    closes_with_unread_input,
    finishes_and_closes_with_unread_input,
    resets_while_the_reader_writes,
]


def play(
    path: Callable[[], contextlib.AbstractContextManager[Ends]],
    sender_name: str,
    size: int,
    ending: Ending,
) -> Outcome:
    """The sender sends, sees all of it acknowledged, and ends so; only then the reader begins to read."""
    with path() as ends:
        sender, reader = (ends.client, ends.backend) if sender_name == "client" else (ends.backend, ends.client)
        sender.sendall(b"s" * size)
        await_acknowledged(sender)
        told = ending(sender, reader)
        ends.handled()
        outcome = read(reader)
        return outcome._replace(end="reset") if told else outcome


def read(reader: socket.socket) -> Outcome:
    received, end = 0, "end of stream"
    try:
        while chunk := reader.recv(1 << 14):
            received += len(chunk)
    except ConnectionResetError:
        end = "reset"
    return Outcome(received, end, _write_fails(reader))


def _write_fails(reader: socket.socket) -> bool:
    started = time.monotonic()
    try:
        while time.monotonic() - started < PATIENCE_S:
            reader.send(b"x")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def await_acknowledged(sock: socket.socket) -> None:
    """Wait until the peer's kernel has everything (tcp(7), SIOCOUTQ)."""
    while struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]:
        pass


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
@pytest.mark.parametrize("sender", ["client", "backend"])
def test_last_words_arrive_and_the_end_is_that_of_a_direct_connection(
    path: Callable[[], contextlib.AbstractContextManager[Ends]],
    sender: str,
    ending: Ending,
) -> None:
    expected = play(direct, sender, LITTLE, ending)
    assert expected.received == LITTLE
    assert play(path, sender, LITTLE, ending) == expected
    assert play(path, sender, MUCH, ending) == expected._replace(received=MUCH)


def test_last_words_arrive_although_the_port_is_unpublished_meanwhile(run_dir: Path) -> None:
    """As when a container crashes: it resets, and dockerd stops its proxies at once."""
    with listening() as listener:
        container = {"container_ip": "127.0.0.1", "container_port": address_of(listener)[1]}
        port = ask(run_dir, "POST", "/ports", {"host_ip": "127.0.0.1", "host_port": 0} | container)
        address = ("127.0.0.1", port["host_port"])
        with (
            socket.create_connection(address, timeout=PATIENCE_S) as told,
            accept(listener) as teller,
            socket.create_connection(address, timeout=PATIENCE_S) as cut,
            accept(listener),
        ):
            teller.sendall(b"s" * MUCH)
            await_acknowledged(teller)
            reset(teller)
            for _ in range(2):
                ask(run_dir, "GET", "/ports")
            ask(run_dir, "DELETE", f"/ports/{port['name']}")
            with pytest.raises(ConnectionResetError):  # the container of this one had said nothing that waits
                cut.recv(1)
            with socket.create_server(address):  # the port is free
                pass
            assert read(told) == Outcome(MUCH, "reset", True)


def test_last_words_arrive_from_a_worker_too() -> None:
    """The container answers, sees it acknowledged, and resets; connections have been moved before."""

    def echo_or_burst(sock: socket.socket) -> None:
        while word := sock.recv(4):
            if word == b"much":
                sock.sendall(b"s" * MUCH)
                await_acknowledged(sock)
                reset(sock)
                return
            sock.sendall(word)

    with serving(echo_or_burst) as backend, split(backend) as (proxy, clients):
        for client in clients:
            client.sendall(b"much")
        for client in clients:
            assert read(client) == Outcome(MUCH, "reset", True)
        while "8 connections reset" not in proxy.totals():
            pass


def test_a_client_that_resets_while_the_container_is_dialed_is_heard_nevertheless(loop_flag: str) -> None:
    """As a direct connection's bytes lie in the container's kernel before it has accepted."""
    with socket.socket() as slow, contextlib.ExitStack() as stack:
        slow.bind(("127.0.0.1", 0))
        slow.listen(0)
        fillers = []
        for _ in range(4):  # fill the backlog: further requests are ignored until somebody accepts
            fillers.append(stack.enter_context(socket.socket()))
            fillers[-1].setblocking(False)
            fillers[-1].connect_ex(slow.getsockname())
        with before(address_of(slow), loop_flag) as proxy:
            client = connect(proxy)
            client.sendall(b"my last words")
            await_acknowledged(client)
            while "1 live" not in proxy.totals():
                pass
            reset(client)
            _handled(proxy)
            for filler in fillers:
                filler.close()
            slow.settimeout(PATIENCE_S)
            heard = b""
            while heard != b"my last words":  # the fillers that had got in have said nothing
                with accept(slow) as backend, contextlib.suppress(ConnectionResetError):
                    while chunk := backend.recv(100):
                        heard += chunk


def test_a_reader_that_goes_on_reading_is_not_idle(loop_flag: str) -> None:
    """Limits count what the reader's kernel takes, not only what this process could hand over at once."""
    with solo(loop_flag, "-idle-timeout", "1", "-half-closed-timeout", "1") as ends:
        ends.backend.sendall(b"s" * MUCH)
        await_acknowledged(ends.backend)
        reset(ends.backend)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := ends.client.recv(1 << 16):
                received += len(chunk)
                time.sleep(0.1)  # its pace: 2.3 s in all
        assert received == MUCH


def test_a_reader_that_stops_for_good_is_given_up_and_leaves_no_descriptor(loop_flag: str) -> None:
    with listening() as listener, before(address_of(listener), loop_flag, "-half-closed-timeout", "0.2") as proxy:
        with connect(proxy) as client, accept(listener) as backend:  # makes what is made once
            client.sendall(b"x")
            receive_exactly(backend, 1)
        while not proxy.totals().startswith("0 live"):
            pass
        before_it = proxy.descriptors()
        with connect(proxy) as client, accept(listener) as backend:
            backend.sendall(b"s" * MUCH)
            await_acknowledged(backend)
            reset(backend)
            while not proxy.totals().startswith("0 live"):
                pass
            assert proxy.descriptors() <= before_it + 2  # a pipe that is kept
            assert read(client).end == "reset"


def test_progress_is_waited_for_as_long_as_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush, "DRAIN_S", 0.01)
    loop = asyncio.new_event_loop()
    measured = iter([1, 2, 2, 3, 3, 3])  # at the start; then twice at each look that finds some
    seen: list[int] = []

    def measure() -> int:
        seen.append(next(measured))
        return seen[-1]

    Progress(loop, measure, loop.stop)
    loop.run_forever()
    cancelled = Progress(loop, lambda: 1, lambda: seen.append(-1))
    cancelled.cancel()
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    loop.close()
    assert seen == [1, 2, 2, 3, 3, 3]


_CLIENTS = """
import socket, sys
kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[sys.argv[1]]
for number in range({socket.SOCK_STREAM: 200, socket.SOCK_DGRAM: 60}[kind]):
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(0.05 if kind == socket.SOCK_DGRAM else 10)
        client.bind(("127.0.0.1", 20000 + number))
        try:
            client.connect(("127.0.0.1", 1234))
            client.sendall(b"to whom?")
            answer = client.recv(100)
        except OSError:
            answer = b""
        if answer:
            sys.exit(f"client {number} was answered by itself: {answer!r}")
with socket.socket(socket.AF_INET, kind) as service:
    service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    service.bind(("127.0.0.1", 40000))
"""


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_container_that_is_down_is_not_replaced_by_the_clients_own_echo(proto: str, loop_flag: str) -> None:
    """Its port on this host may be chosen for our own end, which connect(2) then connects to itself."""
    try:
        world = World()
    except WorldError as exc:
        pytest.skip(str(exc))
    with world:
        # So few that it happens within some attempts: for UDP, where each flow keeps its port, once in so many flows.
        world.run("sh", "-c", "echo 40000 40031 >/proc/sys/net/ipv4/ip_local_port_range")
        ends = ["-host-ip", "127.0.0.1", "-host-port", "1234", "-container-ip", "127.0.0.1", "-container-port", "40000"]
        proxy = world.start(str(Path(sys.executable).with_name("pyproxy")), "-proto", proto, loop_flag, *ends)
        assert proxy.stderr is not None
        assert "serving" in proxy.stderr.readline()
        world.run(sys.executable, "-c", _CLIENTS, proto)
