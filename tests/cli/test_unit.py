"""The systemd unit: what it says, and that its rights are enough."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from pyproxy.cli import unit
from pyproxy.cli.ask import ask
from tests.cli.root import UNIT, pyproxy, root
from tests.support.engine import LOCAL, free, is_stub, running_engine, stub
from tests.support.parent import exchange_tcp, passed_socket
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import address_of, echo, serving

__all__ = ["root"]


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/tmp/x/bin/python", True),
        ("/var/tmp/x", True),
        ("/opt/tmp/x", False),
        ("/tmpx/y", False),
        ("/home/u/x", False),
    ],
)
def test_what_private_tmp_hides(path: str, hidden: bool) -> None:
    assert unit.is_hidden(PurePath(path)) == hidden


@pytest.mark.parametrize(
    ("mode", "owner", "group", "is_open"),
    [
        (stat.S_IFDIR | 0o700, 0, 0, True),
        (stat.S_IFDIR | 0o700, 1000, 1000, False),
        (stat.S_IFDIR | 0o750, 1000, 0, True),
        (stat.S_IFDIR | 0o711, 1000, 1000, True),
        (stat.S_IFREG | 0o644, 1000, 1000, True),
        (stat.S_IFREG | 0o640, 1000, 1000, False),
        (stat.S_IFREG | 0o044, 0, 0, False),
    ],
)
def test_the_units_root_has_no_right_to_other_users_files(mode: int, owner: int, group: int, is_open: bool) -> None:
    assert unit.is_open_to_the_unit(mode, owner, group) == is_open


def test_a_program_with_an_odd_path_is_quoted() -> None:
    text = unit.text_of('/opt/my "py" 100%/pyproxy', [], {})
    assert 'ExecStart="/opt/my \\"py\\" 100%%/pyproxy" engine\n' in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_finds_no_fault_with_the_unit(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(root / UNIT)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "pyproxy" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are what is limited")
def test_the_units_capabilities_are_enough(run_dir: Path) -> None:
    """For a stub with all of root's rights, a low port, and a deep receive buffer."""
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in unit.CAPABILITIES)
    limited = ("setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{kept}")
    with running_engine(run_dir, prefix=limited) as engine, serving(echo) as backend:
        status = Path(f"/proc/{engine.pid}/status").read_text()
        assert "CapEff:\t" + f"{1 << 19 | 1 << 10 | 1 << 12:016x}" in status
        with stub("sh", address := free(), backend) as child:
            assert child.first_answer() == b"0\n"
            assert is_stub(child.pid)
            assert exchange_tcp(address) == b"over and back"
            assert child.stop() == 0
        wanted = {"proto": "udp", "host_ip": "127.0.0.1", "container_port": 9}
        low = next(port for port in range(200, 1024) if _is_free(port))
        assert ask(run_dir, "POST", "/ports", wanted | {"host_port": low})["host_port"] == low
        # Twice what was asked for: the kernel counts its own overhead in (socket(7)).
        memory = subprocess.run(["ss", "-lunmH", f"sport = :{low}"], capture_output=True, text=True, check=True).stdout
        assert f"rb{2 * (4 << 20)}" in memory


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or shutil.which("strace") is None,
    reason="systemd-analyze and strace are not installed here",
)
def test_the_units_system_calls_are_enough(run_dir: Path) -> None:
    """Not under systemd's filter itself, which only systemd installs: what was called is held against its list."""
    with tempfile.NamedTemporaryFile("r") as trace:
        traced = ("strace", "--follow-forks", "--output", trace.name)
        with running_engine(run_dir, prefix=traced) as engine, serving(echo) as backend:
            for proto in ("tcp", "udp"):
                ask(run_dir, "POST", "/ports", {"proto": proto, "host_port": 0, "container_port": 9})
            with (
                passed_socket(LOCAL, socket.SOCK_STREAM) as sock,
                stub("sh", address := address_of(sock), backend, sock) as child,
            ):
                assert child.first_answer() == b"0\n"
                assert exchange_tcp(address, b"x" * (1 << 22)) == b"x" * (1 << 22)
                with running_engine(run_dir, "--replace"):
                    engine.rest()
                    assert child.stop() == 0
        called = {line.split()[1].partition("(")[0] for line in trace if "(" in line and "= " in line}
    allowed = set(_system_calls(unit.SYSTEM_CALLS))
    assert {"pidfd_getfd", "splice", "sendmsg", "epoll_wait"} <= called | {"epoll_wait"}
    assert {name for name in called if name.isidentifier()} - allowed == set()


def _system_calls(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if not name.startswith("@"):
            yield name
            continue
        done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
        lines = [line.strip() for line in done.stdout.splitlines()[1:]]
        yield from _system_calls(tuple(line for line in lines if line and not line.startswith("#")))


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_what_systemd_is_told(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of systemd: a datagram socket where NOTIFY_SOCKET says, which is all that it is to a service."""
    run_dir.mkdir(mode=0o700)
    path = str(run_dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        with running_engine(run_dir) as engine:
            assert systemd.recv(1000).decode().splitlines() == ["READY=1", f"MAINPID={engine.pid}"]
            with running_engine(run_dir, "--replace") as new:
                assert systemd.recv(1000).decode().splitlines() == ["READY=1", f"MAINPID={new.pid}"]
                engine.rest()
            assert systemd.recv(1000) == b"STOPPING=1"


def test_an_engine_that_cannot_start_is_not_started_for_ever() -> None:
    """What is typed wrong, what is missing and what systemd cannot execute; a crash is none of these."""
    [line] = [line for line in unit.text_of(PROGRAM, [], {}).splitlines() if line.startswith("RestartPrevent")]
    assert line.split("=")[1].split() == ["2", "78", "203"]
    assert "Restart=always\n" in unit.text_of(PROGRAM, [], {})
    assert pyproxy("engine", "--no-such-flag").returncode == 2
