"""The control API: what is asked, answered and refused."""

from __future__ import annotations

import http.client
import json
import re
import socket

import pytest

from pyproxy.cli.ask import ClientError, ask
from tests.support.engine import (
    LOCAL,
    Engine,
    client_of,
    is_stub,
    publish,
)
from tests.support.parent import exchange_tcp
from tests.support.sockets import echo, serving


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
