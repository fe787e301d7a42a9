"""What is typed, and what is said of it: help, what is wrong, what cannot be had."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import (
    echo,
    listening,
    receive_exactly,
    serving,
)

ENDS = ["-host-ip", "127.0.0.1", "-host-port", "0", "-container-ip", "127.0.0.1", "-container-port", "9"]


def refused(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_help_is_for_a_person_and_fits_a_terminal() -> None:
    done = refused("--help")
    assert done.returncode == 0
    assert "pyproxy -host-port 1234 -container-ip 172.19.0.2 -container-port 1234" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_version_is_one_line() -> None:
    done = refused("-v")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pyproxy version ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["-host-port", "70000"], 2, ["-host-port 70000", "65535"]),
        (["-container-ip", "db"], 2, ["-container-ip 'db'"]),
        (["-host-ip", "192.0.2.1", "-host-port", "0"], 1, ["192.0.2.1", "not an address of this host"]),
        (["-host-ip", "fe80::1%nowhere"], 1, ["-host-ip fe80::1%nowhere", "zone"]),
        (["-hostport", "80"], 2, ["-hostport", "See pyproxy -help."]),
        (["-use-listen-fd"], 1, ["descriptor 4"]),
        (["-proto", "icmp"], 2, ["-proto 'icmp'"]),
        (["80:8080"], 2, ["'80:8080'", "See pyproxy -help."]),
    ],
)
def test_bad_input_gets_a_line_that_names_it(arguments: list[str], status: int, words: list[str]) -> None:
    done = refused(*ENDS, *arguments)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert len(done.stderr.splitlines()) == status


@pytest.mark.parametrize(("typed", "meant"), [("drian", "drain"), ("port", "ports"), ("uninstal", "uninstall")])
def test_a_subcommand_that_was_mistyped_is_guessed(typed: str, meant: str) -> None:
    done = refused(typed, "80")
    assert done.returncode == 2
    assert f"'{typed}': did you mean {meant}?" in done.stderr


def test_a_port_in_use_is_named_with_the_command_that_shows_who_has_it() -> None:
    with listening() as taken:
        port = str(taken.getsockname()[1])
        done = refused(*ENDS, "-host-port", port)
        assert done.returncode == 1
        assert f"tcp 127.0.0.1:{port}: address already in use" in done.stderr
        command = done.stderr[done.stderr.index("ss -") :].strip().replace("'", "").split()
        assert f"127.0.0.1:{port}" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights, which takes root")
def test_no_right_to_bind_is_named() -> None:
    without = ("setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 1024:
        pytest.skip("this machine lets everybody bind low ports")
    done = refused(*ENDS, "-host-port", "81", prefix=without)
    assert done.returncode == 1
    assert "permission denied" in done.stderr
    assert "CAP_NET_BIND_SERVICE" in done.stderr


@pytest.mark.parametrize(
    ("host", "container"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.5"),
        ("::", "::1"),
        ("::", "::"),
        ("::1", "::"),
    ],
)
def test_a_proxy_to_itself_is_refused(host: str, container: str) -> None:
    with listening() as unused:
        port = str(unused.getsockname()[1])
    done = refused("-host-ip", host, "-host-port", port, "-container-ip", container, "-container-port", port)
    assert done.returncode == 1
    assert "connect to itself" in done.stderr


@pytest.mark.parametrize("what", ["file", "pipe open for reading", "socket"])
def test_whatever_the_shell_left_on_descriptor_3_is_not_written_to(what: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        read, write = os.pipe()
        stack.callback(os.close, read)
        stack.callback(os.close, write)
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        file = stack.enter_context(open(tmp_path / "file", "wb"))
        left = {"file": file.fileno(), "pipe open for reading": read, "socket": theirs.fileno()}[what]
        child = os.posix_spawn(
            PROGRAM, [PROGRAM, *ENDS, "-container-port", "0"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, left, 3)]
        )
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        assert (tmp_path / "file").stat().st_size == 0


def test_closed_standard_streams_do_not_become_a_clients_socket() -> None:
    """Else messages would go into somebody's stream."""
    with serving(echo) as backend, listening() as unused:
        port = unused.getsockname()[1]
        unused.close()
        arguments = [*ENDS, "-host-port", str(port), "-container-port", str(backend[1])]
        read, write = os.pipe()
        child = os.posix_spawn(
            PROGRAM,
            [PROGRAM, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 3), *((os.POSIX_SPAWN_CLOSE, fd) for fd in range(3))],
        )
        os.close(write)
        assert os.read(read, 2) == b"0\n"
        os.close(read)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            client.sendall(b"x")
            assert receive_exactly(client, 1) == b"x"
            links = {os.readlink(f"/proc/{child}/fd/{fd}") for fd in range(3)}
            assert links == {"/dev/null"}
            os.kill(child, signal.SIGINT)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
