"""What goes wrong for one port, request or peer must not cost the others: lines that are no requests, take-overs that
fail for one port, numbers of processes that are used again, and work that takes long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyproxy.cli.ask import ask
from pyproxy.engine.publisher import Engine as Core
from pyproxy.engine.publisher import Options
from pyproxy.engine.rundir import RunDir
from pyproxy.engine.sources.stub import Stub
from pyproxy.flags import parse
from pyproxy.log import Log
from tests.engine.test_api import client_of, publish
from tests.engine.test_publisher import HANGS_S, LOCAL, NOWHERE, _until, engine, free, run_dir, shell
from tests.support.engine import Engine, accepted_within, ends_within, is_stub, running_engine, start_stub, stub
from tests.support.parent import arguments_for, exchange_tcp
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import echo, serving

__all__ = ["engine", "run_dir", "shell"]


@contextlib.contextmanager
def held(engine: Engine) -> Iterator[None]:
    """Stopped for the time of the block, so that all requests come in one go."""
    os.kill(engine.pid, signal.SIGSTOP)
    yield
    os.kill(engine.pid, signal.SIGCONT)


def a_thread_of_ours() -> int:
    """The number of a thread that is no process's."""
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, daemon=True)
    thread.start()
    assert thread.native_id is not None
    return thread.native_id


@pytest.mark.parametrize(
    "line",
    [
        b"serve 0 x",
        b"stop 0 x",
        b"solo 0 x",
        b"serve 9999999 x",
        b"serve %d x" % a_thread_of_ours(),
        b"stop %d x" % a_thread_of_ours(),
        b"serve 2 \xff\xfe\x00",
    ],
)
def test_a_line_that_is_no_request_holds_up_no_other(engine: Engine, run_dir: Path, line: bytes) -> None:
    fifo = os.open(run_dir / "requests", os.O_WRONLY)
    with held(engine):
        os.write(fifo, line + b"\n")
        child = start_stub("sh", free(), NOWHERE)
        # It has asked when its timer runs.
        _until(lambda: Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text())
        os.write(fifo, line + b"\n")
    os.close(fifo)
    began = time.monotonic()
    assert child.first_answer() == b"0\n"
    assert time.monotonic() - began < HANGS_S / 2
    assert is_stub(child.pid)
    assert child.stop() == 0
    child.close()
    assert "internal error" not in engine.stop()


def test_arguments_that_are_no_text_hold_up_no_other(engine: Engine) -> None:
    odd = ["-host-ip", "\udcff\udcfe"]
    with stub("sh", free(), NOWHERE, more=odd) as strange, stub("sh", free(), NOWHERE) as child:
        assert child.first_answer() == b"0\n"
        assert is_stub(child.pid)
        assert strange.wait() == 1
        assert child.stop() == 0


def test_a_defect_in_one_request_is_reported_and_holds_up_no_other(run_dir: Path) -> None:
    """The defect is made: there is none to be had that is known of."""
    loop = asyncio.new_event_loop()
    directory = RunDir(run_dir)
    directory.lock()
    core = Core(loop, directory, Options(), Log("engine"))
    seen: list[str] = []
    loop.set_exception_handler(lambda _loop, context: seen.append(str(context["exception"])))
    core.ports.of = {}.__getitem__  # type: ignore[assignment,method-assign]
    core.open(b"stop 7 x\nstop 8 x\n")
    assert seen == ["7", "8"]
    core.stop_reading()
    core.poller.close()
    loop.close()


def test_a_stub_whose_descriptor_4_is_no_socket_costs_no_descriptor(engine: Engine) -> None:
    with open(os.devnull) as file:
        for number in range(6):
            # A pipe's end, passed as dockerd passes the socket.
            with stub("sh", free(), NOWHERE, file) as child:  # type: ignore[arg-type]
                assert child.first_answer() == b"1\n"
                assert "is not a socket" in child.rest()
                child.wait()
            if not number:
                before = engine.descriptors()
    assert engine.descriptors() == before
    engine.await_line("left to a process of its own")


def test_a_hundred_ports_go_over_though_the_soft_limit_is_low(run_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(running_engine(run_dir))
        backend = stack.enter_context(serving(echo))
        ports = [publish(old, container_port=backend[1])["host_port"] for _ in range(100)]
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        new = stack.enter_context(running_engine(run_dir, "--replace", prefix=("prlimit", f"--nofile=64:{hard}")))
        old.await_line("another engine has taken over")
        assert ask(run_dir, "GET", "/health")["pid"] == new.pid
        assert all(exchange_tcp((LOCAL, port)) == b"over and back" for port in ports)


def test_too_few_descriptors_for_a_take_over_are_named_and_the_engine_goes_on(run_dir: Path) -> None:
    with running_engine(run_dir) as old, serving(echo) as backend:
        ports = [publish(old, container_port=backend[1])["host_port"] for _ in range(100)]
        done = subprocess.run(
            ["prlimit", "--nofile=64:64", PROGRAM, "engine", "--run-dir", str(run_dir), "--replace"],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "may have 64 descriptors" in done.stderr
        assert "kill" not in done.stderr
        old.await_line("failed to take over")
        assert all(exchange_tcp((LOCAL, port)) == b"over and back" for port in ports[:3])


@contextlib.contextmanager
def changed_on_the_way(run_dir: Path, change: Callable[[dict[str, Any], list[int]], int]) -> Iterator[None]:
    """Between the engine and the next one: `change` may alter each port's message, and says how often it is sent."""
    handover = run_dir / "handover"
    handover.rename(run_dir / "real")
    with contextlib.ExitStack() as stack:

        def made() -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.settimeout(PATIENCE_S)
            return sock

        listener, present = made(), made()
        listener.bind(str(handover))
        listener.listen()
        present.connect(str(run_dir / "real"))

        def relay() -> None:
            new = stack.enter_context(listener.accept()[0])
            new.settimeout(PATIENCE_S)
            present.send(new.recv(100))
            while True:
                data, fds, _, _ = socket.recv_fds(present, 1 << 17, 250)
                said = json.loads(data)
                times = change(said, fds) if "arguments" in said else 1
                for _ in range(times):
                    socket.send_fds(new, [json.dumps(said).encode()], fds)
                for fd in fds:
                    os.close(fd)
                if "end" in said:
                    break
            present.send(new.recv(100))
            new.send(present.recv(100))

        thread = threading.Thread(target=relay)
        thread.start()
        yield
        thread.join()


def a_flag_of_another_version(about: dict[str, Any], _fds: list[int]) -> int:
    about["arguments"].append("-new-flag")
    return 1


def no_socket(_about: dict[str, Any], fds: list[int]) -> int:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, fds[0])
    os.close(null)
    return 1


def twice(_about: dict[str, Any], _fds: list[int]) -> int:
    return 2


@pytest.mark.parametrize("change", [a_flag_of_another_version, no_socket, twice])
def test_a_port_that_cannot_be_taken_over_goes_on_and_ends_as_ever(
    run_dir: Path, shell: str, change: Callable[[dict[str, Any], list[int]], int]
) -> None:
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(running_engine(run_dir))
        backend = stack.enter_context(serving(echo))
        child = stack.enter_context(stub(shell, address := free(), backend))
        assert child.first_answer() == b"0\n"
        assert exchange_tcp(address) == b"over and back"
        with changed_on_the_way(run_dir, change):
            new = stack.enter_context(running_engine(run_dir, "--replace"))
        assert "not taken over: " in new.said
        if change is a_flag_of_another_version:
            _until(lambda: not is_stub(child.pid))  # it can read its own flags
        accepted_within(address, PATIENCE_S)
        assert child.stop() == 0
        socket.create_server(address).close()
        assert ends_within(old.pid, PATIENCE_S)
        assert "internal error" not in new.stop()


def test_a_port_of_the_api_that_cannot_be_taken_over_is_free(run_dir: Path) -> None:
    with running_engine(run_dir) as old:
        address = (LOCAL, publish(old)["host_port"])
        with changed_on_the_way(run_dir, a_flag_of_another_version):
            new = Engine(run_dir, "--replace")
        old.await_line("another engine has taken over")
        assert f"not taken over: -host-ip={LOCAL}" in new.said
        socket.create_server(address).close()
        new.stop()
        new.close()


# What follows is of time that was promised, through an upgrade.


def test_connections_of_an_unpublished_port_keep_their_time_through_an_upgrade(run_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        flags = ("--drain-unpublished", "30", "--drain", "0.1")
        old = stack.enter_context(running_engine(run_dir, *flags))
        backend = stack.enter_context(serving(echo))
        child = stack.enter_context(stub("sh", address := free(), backend))
        other = stack.enter_context(stub("sh", served := free(), backend))
        assert child.first_answer() == other.first_answer() == b"0\n"
        client, cut = stack.enter_context(client_of(address)), stack.enter_context(client_of(served))
        assert child.stop() == 0
        new = stack.enter_context(running_engine(run_dir, "--replace"))
        with pytest.raises(ConnectionResetError):
            cut.recv(1)  # the time of what was handed over is up
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        [listed] = ask(run_dir, "GET", "/ports")["draining"]
        assert (listed["name"], listed["live"], listed["engine"]) == (f"tcp/{LOCAL}:{address[1]}", 1, old.pid)
        client.close()
        assert ends_within(old.pid, PATIENCE_S)
        assert old.process.wait() == 0
        assert ask(run_dir, "GET", "/ports")["draining"] == []
        assert other.stop() == 0
        new.stop()


def test_a_drained_port_stays_drained_and_listed_through_upgrades(run_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(running_engine(run_dir))
        backend = stack.enter_context(serving(echo))
        child = stack.enter_context(stub("sh", address := free(), backend))
        assert child.first_answer() == b"0\n"
        client = stack.enter_context(client_of(address))
        ask(run_dir, "POST", "/drain", {"port": str(address[1])})
        for _ in range(2):
            stack.enter_context(running_engine(run_dir, "--replace"))
            found = ask(run_dir, "GET", "/ports")
            [port] = found["ports"]
            assert (port["draining"], port["pid"]) == (True, child.pid)
            assert port["totals"]["connections"] == 1
            assert [listed["live"] for listed in found["draining"]] == [1]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        assert is_stub(child.pid)
        assert child.stop() == 0
        assert ask(run_dir, "GET", "/ports")["ports"] == []


def test_counts_go_on_over_upgrades(run_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(running_engine(run_dir))]
        backend = stack.enter_context(serving(echo))
        child = stack.enter_context(stub("sh", address := free(), backend))
        assert child.first_answer() == b"0\n"
        gone = publish(engines[0], container_port=backend[1])
        exchange_tcp((LOCAL, gone["host_port"]))
        ask(run_dir, "DELETE", f"/ports/{gone['name']}")
        clients: list[socket.socket] = []

        def counts() -> tuple[int, int, int]:
            [port] = ask(run_dir, "GET", "/ports")["ports"]
            totals = ask(run_dir, "GET", "/totals")
            return port["totals"]["bytes_up"], totals["totals"]["bytes_up"], totals["live"]

        began = ask(run_dir, "GET", "/totals")["since"]
        first = len(b"over and back")
        for number in range(1, 4):
            clients.append(stack.enter_context(client_of(address)))  # that sends a byte
            for client in clients[:-1]:  # which earlier engines have
                client.sendall(b"y")
                assert client.recv(1) == b"y"
            expected = number * (number + 1) // 2
            assert counts() == (expected, expected + first, number)
            engines.append(stack.enter_context(running_engine(run_dir, "--replace")))
            assert counts() == (expected, expected + first, number)
        assert ask(run_dir, "GET", "/totals")["since"] == began
        assert len(ask(run_dir, "GET", "/health")["draining_engines"]) == 3
        # They end, in any order, and take nothing of it along.
        for index in (1, 0, 2):
            clients[index].close()
            assert ends_within(engines[index].pid, PATIENCE_S)
            engines[index].process.wait()
        _until(lambda: ask(run_dir, "GET", "/health")["draining_engines"] == [])
        assert counts() == (6, 6 + first, 0)
        assert child.stop() == 0


def test_counts_of_an_engine_that_is_killed_while_it_drains_stay(run_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(running_engine(run_dir))
        backend = stack.enter_context(serving(echo))
        child = stack.enter_context(stub("sh", address := free(), backend))
        assert child.first_answer() == b"0\n"
        stack.enter_context(client_of(address))
        stack.enter_context(running_engine(run_dir, "--replace"))
        old.await_line("another engine has taken over")
        old.kill()
        found = ask(run_dir, "GET", "/ports")
        assert found["draining"] == []
        assert found["ports"][0]["totals"]["bytes_up"] == 1
        assert ask(run_dir, "GET", "/totals")["totals"]["bytes_up"] == 1
        assert child.stop() == 0


# What follows is of work that takes long: others' traffic goes on meanwhile.


class Exchanges:
    """One client that asks and is answered, as fast as that goes, for the time of the block; and how often so far."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.count = 0
        self.longest_s = 0.0
        self._address = address
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Exchanges:
        self._thread.start()
        _until(lambda: self.count > 10)
        self.longest_s = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()

    def _run(self) -> None:
        with socket.create_connection(self._address, timeout=PATIENCE_S) as client:
            while not self._ended:
                began = time.perf_counter()
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                self.longest_s = max(self.longest_s, time.perf_counter() - began)
                self.count += 1


# Each takes tens of steps: in one go, one or two exchanges would be under way.
_MANY_PORTS = 2000


def test_a_peer_that_does_not_read_holds_up_no_traffic(engine: Engine, run_dir: Path) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        address = (LOCAL, publish(engine, container_port=backend[1])["host_port"])
        for _ in range(_MANY_PORTS):
            publish(engine)
        exchanges = stack.enter_context(Exchanges(address))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
            deaf.connect(str(run_dir / "handover"))
            deaf.send(b"hello")
            deaf.recv(1, socket.MSG_PEEK)  # it has begun
            began, count = time.monotonic(), exchanges.count
            _until(lambda: exchanges.count > count + 500)
            assert time.monotonic() - began < 2.0  # it used to be 5 s before it gave up
        engine.await_line("failed to take over")
        assert exchange_tcp(address) == b"over and back"


@pytest.mark.parametrize("path", ["/ports", "/metrics", "/totals"])
def test_thousands_of_ports_are_told_without_holding_up_traffic(engine: Engine, path: str) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        address = (LOCAL, publish(engine, container_port=backend[1])["host_port"])
        for _ in range(_MANY_PORTS):
            publish(engine)
        exchanges = stack.enter_context(Exchanges(address))
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(str(engine.run_dir / "control"))
        count = exchanges.count
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert sock.recv(1)
        # In one go: the one that is under way, and the next. How many a step is not for a busy machine to say.
        assert exchanges.count - count > 2


def test_a_number_used_again_is_the_new_process_alone(run_dir: Path) -> None:
    """Two stubs of one number, one of which has ended: the kernel gives a number again only after 32,768 others."""
    run_dir.mkdir(mode=0o700)
    loop = asyncio.new_event_loop()
    directory = RunDir(run_dir)
    directory.lock()
    core = Core(loop, directory, Options(), Log("engine"))
    with subprocess.Popen(["true"]) as ended, subprocess.Popen(["sleep", "1000"]) as living:
        ports = []
        for process in (ended, living):
            arguments = arguments_for((LOCAL, 0), NOWHERE)
            with socket.create_server((LOCAL, 0)) as sock:
                held_stub = Stub(living.pid, os.pidfd_open(process.pid), arguments)
                ports.append(core.adopt(parse(arguments), arguments, os.dup(sock.fileno()), held_stub))
        first, second = ports
        assert ended.wait() == 0
        core.unpublish(first, "its process has ended")
        assert core.ports.of(living.pid) is second
        core.unpublish(second, "ended")
        assert core.ports.of(living.pid) is None
        loop.run_until_complete(asyncio.sleep(0.01))
        living.kill()
    core.stop_reading() if core._turn else None
    core.poller.close()
    loop.close()


def test_a_pid_file_that_names_somebody_else_costs_no_time(run_dir: Path, shell: str) -> None:
    with running_engine(run_dir) as engine:
        engine.kill()
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        (run_dir / "pid").write_text(f"{stranger.pid:<20}\n")
        began = time.monotonic()
        with stub(shell, free(), NOWHERE) as child:
            assert child.first_answer() == b"0\n"
            assert time.monotonic() - began < HANGS_S / 2
            assert child.stop() == 0
        stranger.kill()


def test_a_take_over_waits_asleep_for_a_descriptor(run_dir: Path) -> None:
    with running_engine(run_dir, prefix=("prlimit", "--nofile=40:40")) as engine, contextlib.ExitStack() as stack:
        with contextlib.suppress(Exception):
            while True:
                publish(engine)
        for _ in range(2):  # descriptors that are left
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.connect(str(run_dir / "handover"))
        engine.await_line("no descriptor to speak with another engine")
        before = _processor_s(engine.pid)
        time.sleep(0.5)  # not a wait for an event: that it sleeps is what is measured
        assert _processor_s(engine.pid) - before < 0.1


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
