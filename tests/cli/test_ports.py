"""`pyproxy ports`: what a person sees, what a program reads."""

from __future__ import annotations

import subprocess

from pyproxy.cli.ask import ask
from tests.support.engine import Engine, publish
from tests.support.proxy import PATIENCE_S, PROGRAM, pyproxy
from tests.support.terminal import Terminal


def test_ports_and_top_show_ipv6_addresses_whole(engine: Engine) -> None:
    name = publish(engine, host_ip="::1", container_ip="::1")["name"]
    assert name.startswith("tcp/[::1]:")
    assert pyproxy("ports").stdout.splitlines()[1].split()[:2] == [name, "[::1]:9"]
    assert name in pyproxy("top", "-count=1").stdout


def test_ports_without_ports_says_so(engine: Engine) -> None:
    done = pyproxy("ports")
    assert done.returncode == 0
    assert done.stdout.startswith("The engine serves no ports yet")
    assert pyproxy("ports", "--json").stdout == "[]\n"


def test_ports_on_a_terminal_fits_it(engine: Engine) -> None:
    for _ in range(3):
        publish(engine, host_ip="::1")
    terminal = Terminal(PROGRAM, "ports", width=60)
    try:
        terminal.await_text("tcp/[::1]:")
        assert terminal.status() == 0
        assert "process" not in terminal.shown
    finally:
        terminal.close()
    assert "process" in pyproxy("ports").stdout
    assert len(ask(engine.run_dir, "GET", "/ports")["ports"]) == 3


def test_a_reader_that_has_seen_enough_is_no_error(engine: Engine) -> None:
    for _ in range(300):  # whose JSON is more than a pipe takes
        publish(engine)
    for verb in ("ports --json", "top --interval 0.05"):
        script = f"{PROGRAM} {verb} | head -n 1"
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""
