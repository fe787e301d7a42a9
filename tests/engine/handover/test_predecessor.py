"""Earlier engines drain: their connections keep their time, and their counts are told and kept."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from pyproxy.cli.ask import ask
from tests.support.engine import (
    LOCAL,
    client_of,
    ends_within,
    free,
    is_stub,
    publish,
    running_engine,
    stub,
    until,
)
from tests.support.parent import exchange_tcp
from tests.support.proxy import PATIENCE_S
from tests.support.sockets import echo, serving


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
        until(lambda: ask(run_dir, "GET", "/health")["draining_engines"] == [])
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
