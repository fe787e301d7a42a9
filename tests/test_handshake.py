"""dockerd's handshake, by a parent written to the contract: the answer on descriptor 3, the socket on descriptor 4."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.support.parent import Child, arguments_for, exchange_tcp, free_port, passed_socket, started
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import address_of, echo, family_of, listening, serving

HOSTS = ["127.0.0.1", "::1"]


@pytest.mark.parametrize("host", HOSTS)
def test_tcp_bound_here(host: str) -> None:
    with serving(echo) as backend:
        address = host, free_port(host, socket.SOCK_STREAM)
        with started(arguments_for(address, backend)) as child:
            assert child.first_answer() == b"0\n"
            assert child.rest() == ""
            assert exchange_tcp(address) == b"over and back"
            assert child.stop() == 0


@pytest.mark.parametrize("host", HOSTS)
def test_tcp_on_the_passed_socket(host: str) -> None:
    with serving(echo) as backend, passed_socket(host, socket.SOCK_STREAM) as sock:
        address = address_of(sock)
        with started([*arguments_for(address, backend), "-use-listen-fd"], sock) as child:
            assert child.first_answer() == b"0\n"
            assert child.rest() == ""
            assert exchange_tcp(address) == b"over and back"
            # dockerd closes its copy and gives the port to others before it signals.
            sock.close()
            assert child.stop() == 0
        with socket.create_server(address, family=family_of(host), reuse_port=False):
            pass


@pytest.mark.parametrize("packet_info", [True, False], ids=["packet info", "partial upgrade"])
@pytest.mark.parametrize("host", HOSTS)
def test_udp_on_the_passed_socket(host: str, packet_info: bool) -> None:
    with (
        socket.socket(family_of(host), socket.SOCK_DGRAM) as backend,
        socket.socket(family_of(host), socket.SOCK_DGRAM) as client,
        passed_socket(host, socket.SOCK_DGRAM, packet_info=packet_info) as sock,
    ):
        backend.bind((host, 0))
        backend.settimeout(PATIENCE_S)
        client.settimeout(PATIENCE_S)
        client.connect(address_of(sock))
        # Before the proxy is there: the socket is, so the datagram waits.
        client.send(b"early")
        arguments = [*arguments_for(address_of(sock), address_of(backend), "udp"), "-use-listen-fd"]
        with started(arguments, sock) as child:
            assert child.first_answer() == b"0\n"
            data, flow = backend.recvfrom(100)
            assert data == b"early"
            backend.sendto(b"reply", flow)
            assert client.recv(100) == b"reply"
            assert child.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_the_moment_it_has_answered_it_still_exits_0(number: int) -> None:
    """A container that fails to start has its proxies stopped at once."""
    for _ in range(20):
        with started(arguments_for(("127.0.0.1", 0), ("127.0.0.1", 9))) as child:
            assert child.first_answer() == b"0\n"
            assert child.stop(number) == 0


@pytest.mark.parametrize("used", [False, True], ids=["no client came", "a client is there"])
def test_the_port_is_free_the_moment_the_process_is_gone(used: bool) -> None:
    with serving(echo) as backend:
        address = "127.0.0.1", free_port("127.0.0.1", socket.SOCK_STREAM)
        for _ in range(30):
            with started(arguments_for(address, backend)) as child, contextlib.ExitStack() as stack:
                assert child.first_answer() == b"0\n"
                if used:
                    client = stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
                    client.sendall(b"x")
                    assert client.recv(1) == b"x"
                assert child.stop() == 0
                socket.create_server(address).close()


def test_a_port_in_use_is_dockerds_to_report() -> None:
    with listening() as taken, started(arguments_for(address_of(taken), ("127.0.0.1", 9))) as child:
        assert child.first_answer() == b"1\n"
        reason = child.rest()
        assert f"cannot listen on tcp 127.0.0.1:{taken.getsockname()[1]}: address already in use" in reason
        assert "-host-port" in reason
        assert child.wait() == 1


def test_a_command_line_that_cannot_be_read_is_told_too() -> None:
    with started(["-proto", "tcp", "-new-flag", "x"]) as child:
        assert child.first_answer() == b"1\n"
        assert child.rest() == "flag provided but not defined: -new-flag"
        assert child.wait() == 2


def test_a_kernel_without_sctp_is_told() -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        pass
    else:
        pytest.skip("this kernel has SCTP")
    with started(arguments_for(("127.0.0.1", 0), ("127.0.0.1", 9), "sctp")) as child:
        assert child.first_answer() == b"1\n"
        assert "this kernel has no SCTP" in child.rest()
        assert child.wait() == 1


def open_null() -> IO[bytes]:
    return Path(os.devnull).open("rb")


def bound(kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize(
    ("make", "proto", "complaint"),
    [
        (lambda: None, "tcp", "descriptor 4 (-use-listen-fd) is not open"),
        (open_null, "tcp", "descriptor 4 (-use-listen-fd) is not a socket"),
        (lambda: bound(socket.SOCK_DGRAM), "tcp", "is not a TCP socket, as -proto tcp says"),
        (lambda: bound(socket.SOCK_STREAM), "udp", "is not a UDP socket, as -proto udp says"),
        (lambda: bound(socket.SOCK_STREAM), "tcp", "is not listening"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "udp", "is not bound"),
        (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), "tcp", "is neither an IPv4 nor an IPv6 socket"),
    ],
)
def test_a_descriptor_4_that_is_not_the_socket_is_named(make, proto: str, complaint: str) -> None:  # type: ignore[no-untyped-def]
    arguments = [*arguments_for(("127.0.0.1", 1234), ("127.0.0.1", 9), proto), "-use-listen-fd"]
    with contextlib.ExitStack() as stack:
        passed = make()
        if passed is not None:
            stack.enter_context(passed)
        child = stack.enter_context(started(arguments, passed))
        assert child.first_answer() == b"1\n"
        assert complaint in child.rest()
        assert child.wait() == 1


def test_a_parent_that_no_longer_waits_is_not_served() -> None:
    """dockerd gave up after 16 s: nobody would ever stop this proxy, and the port would be taken for good."""
    child = Child(arguments_for(("127.0.0.1", 0), ("127.0.0.1", 9)))
    os.close(child._status)
    assert child.wait() == 1


def test_nothing_heavy_is_imported_before_the_answer() -> None:
    """Start-up is paid in series, once per port: the event loop must come after the answer."""
    program = (
        "import sys, pyproxy.dockerd as parent\n"
        "parent.answer_ready = lambda pipe: sys.exit(' '.join(sys.modules))\n"
        "sys.argv[1:] = '-host-ip 127.0.0.1 -host-port 0 -container-ip 127.0.0.1 -container-port 9'.split()\n"
        "from pyproxy.__main__ import main; main()\n"
    )
    modules = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    if "No module named" in modules.stderr:  # -S leaves site-packages out; the source tree will do
        path = f"import sys; sys.path[:0] = [{str(Path(__file__).parents[1])!r}]\n"
        command = [sys.executable, "-I", "-S", "-c", path + program]
        modules = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = set(modules.stderr.split())
    assert "_socket" in imported
    assert not imported & {"asyncio", "uvloop", "socket", "signal", "enum", "re", "typing", "dataclasses", "argparse"}


def test_nothing_but_the_standard_library_and_uvloop_is_imported_at_all() -> None:
    program = "import sys, pyproxy.solo.serve\npyproxy.relay.loop.new_loop('uvloop').close()\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    packages = {name.partition(".")[0] for name in out.split()}
    plain = subprocess.run([sys.executable, "-c", "import sys\nprint(*sys.modules)"], capture_output=True, text=True)
    of_the_environment = {name.partition(".")[0] for name in plain.stdout.split()}
    # Cython registers its run-time support, part of uvloop's binary, under names of its own.
    others = {name for name in packages - of_the_environment if "cython" not in name}
    assert others - set(sys.stdlib_module_names) <= {"pyproxy", "uvloop"}


def test_a_link_named_docker_proxy_works_and_shows_its_arguments(tmp_path: Path) -> None:
    link = tmp_path / "docker-proxy"
    link.symlink_to(PROGRAM)
    with started(arguments_for(("127.0.0.1", 0), ("127.0.0.1", 9)), program=str(link)) as child:
        assert child.first_answer() == b"0\n"
        command = Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")
        assert command[command.index(str(link).encode()) + 1 :][:2] == [b"-proto", b"tcp"]
        assert child.stop() == 0
