"""The control API, and what a person sees of it: ports, top, drain, and Prometheus' figures."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyproxy.engine.client import ClientError, Rates, ask, rates
from tests.support.engine import Engine, is_stub, running_engine, stub
from tests.support.parent import exchange_tcp, free_port
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import echo, serving
from tests.test_engine import LOCAL, engine, free, run_dir

__all__ = ["engine", "run_dir"]


@pytest.fixture
def port(engine: Engine) -> Iterator[tuple[str, int]]:
    """A port before an echo server, held by a stub."""
    with serving(echo) as backend, stub("sh", address := free(), backend) as child:
        assert child.first_answer() == b"0\n"
        yield address
        assert child.stop() == 0


@contextlib.contextmanager
def client_of(address: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection over which an exchange has gone."""
    with socket.create_connection(address, timeout=PATIENCE_S) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        yield client


def pyproxy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def publish(engine: Engine, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = ask(
        engine.run_dir, "POST", "/ports",
        {"host_ip": LOCAL, "host_port": 0, "container_ip": LOCAL, "container_port": 9} | fields,
    )  # fmt: skip
    return found


def test_health(engine: Engine) -> None:
    found = ask(engine.run_dir, "GET", "/health")
    assert (found["status"], found["pid"], found["ports"]) == ("ok", engine.pid, 0)


def test_ports_connections_and_totals(engine: Engine, port: tuple[str, int]) -> None:
    assert exchange_tcp(port) == b"over and back"
    with client_of(port) as client:
        [found] = ask(engine.run_dir, "GET", "/ports")["ports"]
        name = f"tcp/{LOCAL}:{port[1]}"
        assert (found["name"], found["live"], found["draining"]) == (name, 1, False)
        assert is_stub(found["pid"])
        assert found["totals"]["connections"] == 2
        assert ask(engine.run_dir, "GET", f"/ports/{name}") == found
        for path in ("/connections", f"/ports/{name}/connections"):
            [connection] = ask(engine.run_dir, "GET", path)["connections"]
            assert (connection["client_ip"], connection["client_port"]) == client.getsockname()
            assert (connection["bytes_up"], connection["bytes_down"]) == (1, 1)
            assert (connection["port"], connection["state"]) == (name, "open")
        totals = ask(engine.run_dir, "GET", "/totals")
        assert (totals["ports"], totals["live"], totals["totals"]["connections"]) == (1, 1, 2)


def test_totals_keep_what_closed_ports_have_moved(engine: Engine) -> None:
    with serving(echo) as backend:
        found = publish(engine, container_port=backend[1])
        exchange_tcp((LOCAL, found["host_port"]))
        ask(engine.run_dir, "DELETE", f"/ports/{found['name']}")
        totals = ask(engine.run_dir, "GET", "/totals")
        assert (totals["ports"], totals["totals"]["bytes_up"]) == (0, len(b"over and back"))


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_publish_and_unpublish_by_the_api(engine: Engine, proto: str) -> None:
    found = publish(engine, proto=proto, host_ip="::1", udp_max_flows=5)
    assert re.fullmatch(rf"{proto}/\[::1\]:\d+", found["name"])
    assert found["pid"] is None
    taken = pytest.raises(ClientError, match="address already in use")
    with taken:
        publish(engine, proto=proto, host_ip="::1", host_port=found["host_port"])
    assert ask(engine.run_dir, "DELETE", f"/ports/{found['name']}")["name"] == found["name"]
    kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6, kind) as sock:
        sock.bind(("::1", found["host_port"]))


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "/ports", {}, "-host-port is missing"),
        ("POST", "/ports", {"host_port": 70000, "container_port": 1}, "-host-port 70000"),
        ("POST", "/ports", {"no_such_thing": 1}, "not defined: -no-such-thing"),
        ("POST", "/ports", {"help": True}, "asks for no port"),
        ("POST", "/ports", {"host_port": 0, "container_port": 1, "use_listen_fd": True}, "-use-listen-fd"),
        ("POST", "/ports", ["x"], "not a JSON object"),
        ("POST", "/drain", {"port": "1"}, "no port 1: see `pyproxy ports`"),
        ("GET", "/ports/tcp/nowhere", None, "no port tcp/nowhere"),
        ("GET", "/no/such/path", None, "not found"),
        ("PUT", "/ports", None, "method not allowed"),
        ("POST", "/ports", {"proto": "x" * 20_000}, "too large"),
    ],
)
def test_what_cannot_be_done_is_said(engine: Engine, method: str, path: str, body: object, words: str) -> None:
    with pytest.raises(ClientError) as refused:
        ask(engine.run_dir, method, path, body)
    assert words in str(refused.value)


def test_a_body_that_is_not_json_is_said(engine: Engine) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(engine.run_dir / "control"))
        sock.sendall(b"POST /ports HTTP/1.0\r\nContent-Length: 1\r\n\r\n{")
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.status == 400
        assert "not JSON" in json.loads(answer.read())["error"]


def test_a_port_that_dockerd_holds_is_not_the_apis_to_end(engine: Engine, port: tuple[str, int]) -> None:
    with pytest.raises(ClientError, match="stop the container instead"):
        ask(engine.run_dir, "DELETE", f"/ports/tcp/{LOCAL}:{port[1]}")
    assert exchange_tcp(port) == b"over and back"


def test_pyproxy_ports_lists_them(engine: Engine, port: tuple[str, int]) -> None:
    publish(engine, proto="udp", host_ip="::1")
    exchange_tcp(port)
    done = pyproxy("ports")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split()[:3] == ["port", "container", "live"]
    assert {line.split()[0] for line in lines} >= {f"tcp/{LOCAL}:{port[1]}"}
    assert len(lines) == 2
    listed = json.loads(pyproxy("ports", "--json").stdout)
    assert [found["host_ip"] for found in listed] == [LOCAL, "::1"]


def test_pyproxy_top_shows_what_moves(engine: Engine, port: tuple[str, int]) -> None:
    with client_of(port):
        done = pyproxy("top", "--interval", "0.05", "--count", "3")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[-2].split()[:2] == [f"tcp/{LOCAL}:{port[1]}", "1"]


def test_rates_are_differences_per_second() -> None:
    def at(up: int, down: int, connections: int, flows: int) -> dict[str, Any]:
        return {"totals": {"bytes_up": up, "bytes_down": down, "connections": connections, "flows": flows}}

    assert rates(at(100, 0, 1, 1), at(300, 50, 2, 4), 2.0) == Rates(100.0, 25.0, 2.0)


def test_pyproxy_drain_refuses_new_clients_and_keeps_the_others(engine: Engine, port: tuple[str, int]) -> None:
    with client_of(port) as client:
        done = pyproxy("drain", str(port[1]))
        assert done.stdout == f"tcp/{LOCAL}:{port[1]}: new clients are refused, 1 connections stay\n"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(port)
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        assert "(draining)" in pyproxy("ports").stdout
        assert pyproxy("drain", str(port[1])).returncode == 0  # again is no mistake


def test_udp_has_nothing_to_drain(engine: Engine) -> None:
    number = publish(engine, proto="udp")["host_port"]
    done = pyproxy("drain", f"{number}/udp")
    assert done.returncode == 1
    assert "UDP has no connections that could end" in done.stderr


def test_without_an_engine_the_commands_say_what_to_do(run_dir: Path) -> None:
    for arguments in (["ports"], ["top", "--count", "1"], ["drain", "80"]):
        done = pyproxy(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"pyproxy: no engine in {run_dir}: start `pyproxy engine`")
    with running_engine(run_dir) as gone:
        gone.kill()
    assert "has ended" in pyproxy("ports").stderr


def test_metrics_are_prometheus_to_read_on_both_addresses(run_dir: Path) -> None:
    number = free_port(LOCAL, socket.SOCK_STREAM)
    with (
        running_engine(run_dir, "--metrics", f"{LOCAL}:{number}"),
        serving(echo) as backend,
        stub("sh", address := free(), backend) as child,
    ):
        assert child.first_answer() == b"0\n"
        with client_of(address):
            tcp = http.client.HTTPConnection(LOCAL, number, timeout=PATIENCE_S)
            unix = socket.socket(socket.AF_UNIX)
            unix.connect(str(run_dir / "control"))
            local = http.client.HTTPConnection("engine", timeout=PATIENCE_S)
            local.sock = unix
            for connection in (tcp, local):
                connection.request("GET", "/metrics")
                answer = connection.getresponse()
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                samples = {
                    (sample.name, sample.labels.get("host")): sample.value
                    for family in text_string_to_metric_families(answer.read().decode())
                    for sample in family.samples
                }
                host = f"{LOCAL}:{address[1]}"
                assert samples["pyproxy_ports", None] == 1
                assert samples["pyproxy_port_live", host] == 1
                assert samples["pyproxy_port_connections_total", host] == 1
                assert samples["pyproxy_port_bytes_up_total", host] == 1
                assert samples["pyproxy_process_open_fds", None] > 10
            tcp.request("GET", "/ports")
            assert tcp.getresponse().status == 404  # to the network, figures alone
            tcp.close()
            local.close()
        assert child.stop() == 0


def test_a_metrics_address_in_use_is_said(run_dir: Path) -> None:
    with socket.create_server((LOCAL, 0)) as taken:
        done = pyproxy("engine", "--run-dir", str(run_dir), "--metrics", f"{LOCAL}:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "--metrics" in done.stderr


@pytest.mark.parametrize("missing", ["aiohttp", "prometheus_client", "rich"])
def test_a_missing_library_is_named_with_the_mend(missing: str) -> None:
    name = "ports" if missing == "rich" else "engine"
    program = f"import sys; sys.modules[{missing!r}] = None; from pyproxy.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, name], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"pyproxy {name} needs {missing}, which is not installed: pip install 'pyproxy[engine]'\n"


def test_ten_thousand_ports_and_each_costs_the_same(engine: Engine) -> None:
    def resident() -> int:
        with open(f"/proc/{engine.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    publish(engine)  # whatever is made once
    sizes = [resident()]
    descriptors = engine.descriptors()
    for _ in range(2):
        for _ in range(5_000):
            found = publish(engine)
        sizes.append(resident())
    # Either count may have met the end of a conversation with the engine that was not closed there yet.
    assert abs(engine.descriptors() - descriptors - 10_000) <= 1
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    # Within the grain in which dictionaries grow and memory is taken from the kernel.
    assert second < 1.3 * first + (1 << 20)
    assert second < 8_192 * 5_000
    with serving(echo) as backend:
        last = publish(engine, container_port=backend[1])
        assert exchange_tcp((LOCAL, last["host_port"])) == b"over and back"
    assert ask(engine.run_dir, "GET", "/health")["ports"] == 10_002
    assert found["name"] in pyproxy("ports", "--json").stdout  # a table of so many takes rich ten seconds
