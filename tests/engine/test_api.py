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
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyproxy import __version__
from pyproxy.cli import unit
from pyproxy.cli.ask import ClientError, ask
from pyproxy.cli.extra import DISTRIBUTION, requirement
from pyproxy.cli.help import usage
from pyproxy.cli.verbs import VERBS
from tests.engine.test_publisher import LOCAL, engine, free, run_dir
from tests.support.engine import Engine, is_stub, running_engine, stub
from tests.support.parent import exchange_tcp, free_port
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import echo, serving

__all__ = ["engine", "run_dir"]

TREE = Path(__file__).parents[2]


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
        *_, moving, total = done.stdout.splitlines()
        assert moving.split()[:2] == [f"tcp/{LOCAL}:{port[1]}", "1"]
        assert total.split()[:2] == ["total", "1"]
        assert done.stdout.count("total") == 3


def test_pyproxy_drain_refuses_new_clients_and_keeps_the_others(engine: Engine, port: tuple[str, int]) -> None:
    with client_of(port) as client:
        done = pyproxy("drain", str(port[1]))
        assert done.stdout == f"tcp/{LOCAL}:{port[1]}: new clients are refused, 1 connection stays\n"
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


@pytest.mark.parametrize(("missing", "name", "status"), [
    ("aiohttp", "engine", unit.MISCONFIGURED),
    ("prometheus_client", "engine", unit.MISCONFIGURED),
    ("rich", "ports", 1),
    ("rich", "top", 1),
])  # fmt: skip
def test_a_missing_library_is_named_with_the_mend(missing: str, name: str, status: int) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from pyproxy.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, name], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == status
    mend = f"{sys.executable} -m pip install --editable '{TREE}[engine]'"
    assert done.stderr == f"pyproxy {name} needs {missing}, which is not installed: {mend}\n"


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, ["pyproxyd[engine]"]),
        ("", ["--editable", f"{TREE}[engine]"]),
        ({"url": TREE.as_uri(), "dir_info": {}}, [f"{TREE}[engine]"]),
        ({"url": TREE.as_uri(), "dir_info": {"editable": True}}, ["--editable", f"{TREE}[engine]"]),
        ({"url": "file:///no/such/clone", "dir_info": {}}, [".[engine]"]),
        (
            {"url": "https://host/p.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            ["pyproxyd[engine] @ git+https://host/p.git@abc"],
        ),
        (
            {"url": "https://host/p.whl", "archive_info": {}},
            ["pyproxyd[engine] @ https://host/p.whl"],
        ),
    ],
)
def test_libraries_come_from_where_pyproxy_came(origin: dict[str, Any] | str | None, wanted: list[str]) -> None:
    assert requirement("engine", json.dumps(origin) if isinstance(origin, dict) else origin, TREE) == wanted


def test_the_distribution_has_a_name_of_its_own() -> None:
    """`pyproxy` is somebody else's on PyPI."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION == "pyproxyd"
    assert version(DISTRIBUTION) == __version__


def test_json_and_drain_need_no_library(engine: Engine) -> None:
    publish(engine)
    program = "import sys; sys.modules['rich'] = None; from pyproxy.__main__ import main; main()"
    command = [sys.executable, "-c", program]
    for arguments in (["ports", "--json"], ["drain", "80"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert "not installed" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["engine", "--drain", "abc"], "--drain: 'abc': give seconds, such as 30 or 0.5, or a unit"),
        (["engine", "-drain=-1"], "--drain: '-1': give seconds"),
        (["engine", "--busy-poll", "-5"], "--busy-poll: '-5': give microseconds from 0 to 1000"),
        (["engine", "--busy-poll", "1000000000"], "--busy-poll: '1000000000': give microseconds"),
        (["engine", "--metrics", "9100"], "--metrics: '9100': give ADDRESS:PORT, such as 127.0.0.1:9100, or :9100"),
        (["engine", "--metrics", ":0"], "--metrics: ':0': give ADDRESS:PORT"),
        (["engine", "--loop", "trio"], "--loop: 'trio': give auto, uvloop or asyncio"),
        (["engine", "-metric", ":9100"], "unknown argument --metric: did you mean --metrics?"),
        (["engine", "--dra", "3"], "unknown argument --dra: did you mean --drain?"),
        (["engine", "\x1b[2J"], "unknown argument \\x1b[2J"),
        (["top", "--interval", "0"], "--interval: '0': give 0.05 s or more"),
        (["top", "--interval", "nan"], "--interval: 'nan': give seconds"),
        (["top", "--count", "-1"], "--count: '-1': give a whole number"),
        (["top", "--sort", "age"], "--sort: 'age': give traffic, live, up, down, failed or name"),
        (["drain"], "port"),
        (["ports", "80"], "unknown argument 80"),
        (["install", "--metrics", "x"], "--metrics: 'x': give ADDRESS:PORT"),
        (["help", "drian"], "no subcommand 'drian': did you mean drain?"),
        (["help", "xyzzy"], "give one of engine, ports, top, drain, install, uninstall, completion, help"),
    ],
)
def test_what_was_typed_wrong_is_said_in_a_line_with_its_mend(arguments: list[str], words: str) -> None:
    done = pyproxy(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"pyproxy {arguments[0]}: ")
    assert words in first
    assert rest in ([f"See pyproxy {arguments[0]} -help."], [])


@pytest.mark.parametrize("name", [name for name in VERBS if name != "help"])
def test_each_subcommand_has_its_help_in_each_way(name: str) -> None:
    texts = {pyproxy(*arguments).stdout for arguments in (["help", name], [name, "-help"], [name, "--help"])}
    assert len(texts) == 1
    assert texts.pop().startswith(f"usage: pyproxy {name} ")


@pytest.mark.parametrize("arguments", [["help"], ["help", "help"], ["--help"], ["-h"]])
def test_the_help_lists_the_subcommands(arguments: list[str]) -> None:
    done = pyproxy(*arguments)
    assert (done.returncode, done.stdout) == (0, usage())


@pytest.mark.parametrize(
    "style", [["-count=1", "-interval=50ms"], ["--count", "1", "--interval", "0.05"], ["-count", "1"]]
)
def test_flags_may_have_one_dash_or_two_and_a_space_or_an_equals_sign(engine: Engine, style: list[str]) -> None:
    done = pyproxy("top", *style, "-run-dir", str(engine.run_dir))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_metrics_port_alone_is_on_every_address(run_dir: Path) -> None:
    number = free_port(LOCAL, socket.SOCK_STREAM)
    with running_engine(run_dir, "-metrics", f":{number}"):
        for host in (LOCAL, "127.0.0.2", "::1"):
            connection = http.client.HTTPConnection(host, number, timeout=PATIENCE_S)
            connection.request("GET", "/metrics")
            assert connection.getresponse().status == 200
            connection.close()


def test_the_engine_can_be_asked_whether_it_would_start(run_dir: Path) -> None:
    done = pyproxy("engine", "--check", "--run-dir", str(run_dir), "--drain=5m")
    assert (done.returncode, done.stderr) == (0, "")
    assert not run_dir.exists()
    assert pyproxy("engine", "--check", "--drain=x").returncode == 2


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
    assert found["name"] in pyproxy("ports", "--json").stdout
    assert found["name"] in pyproxy("ports").stdout
