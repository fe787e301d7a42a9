"""What a person sees of the engine: ports, top, drain; and what was typed wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from pyproxy.cli.help import usage
from pyproxy.cli.verbs import VERBS
from tests.support.engine import (
    LOCAL,
    Engine,
    client_of,
    publish,
    running_engine,
)
from tests.support.parent import exchange_tcp
from tests.support.proxy import pyproxy


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
        assert done.stderr.startswith(f"pyproxy: no engine in {run_dir}: start it (`systemctl start pyproxy`")
    with running_engine(run_dir) as gone:
        gone.kill()
    assert "has ended" in pyproxy("ports").stderr


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


def test_the_engine_can_be_asked_whether_it_would_start(run_dir: Path) -> None:
    done = pyproxy("engine", "--check", "--run-dir", str(run_dir), "--drain=5m")
    assert (done.returncode, done.stderr) == (0, "")
    assert not run_dir.exists()
    assert pyproxy("engine", "--check", "--drain=x").returncode == 2
