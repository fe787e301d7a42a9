"""Run by hand: what it says, how it refuses, how it stops, how it survives running out of descriptors."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.proxy import PATIENCE_S, PROGRAM, before, connect, running
from tests.support.sockets import (
    accept,
    address_of,
    echo,
    echo_process,
    listening,
    receive_all,
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


def test_it_says_what_it_serves_and_why_it_stops() -> None:
    with running(*ENDS) as proxy:
        assert proxy.served == f"pyproxy: tcp 127.0.0.1:{proxy.port}: serving -> 127.0.0.1:9\n"
        ended = proxy.stop(signal.SIGTERM)
        assert ended == f"pyproxy: tcp 127.0.0.1:{proxy.port}: stopped by SIGTERM: 0 live, no client so far\n"


def test_a_proxy_without_clients_has_no_event_loop_yet() -> None:
    """Most published ports never see a client here: until then neither time nor memory goes into one."""

    def has_loop() -> bool:
        return "uvloop" in Path(f"/proc/{proxy.process.pid}/maps").read_text()

    with serving(echo) as backend, before(backend) as proxy:
        assert "no client so far" in proxy.totals()
        assert not has_loop()
        with connect(proxy) as client:
            client.sendall(b"x")
            assert receive_exactly(client, 1) == b"x"
        assert has_loop()
        assert "live, 1 B up, 1 B down, 1 connection" in proxy.totals()


_ASKED_IN_THE_MIDDLE = """
import os, select, signal
from pyproxy.log import Log
from pyproxy.signals import Signals

signals = Signals(Log("here"))
steps = []
signals.summary = lambda: f"after {len(steps)} steps"
for _ in range(3):
    os.kill(os.getpid(), signal.SIGUSR1)
    steps.append(None)
assert select.select([signals.wake_fd], [], [], 0)[0]
signals.handle_pending()
assert not select.select([signals.wake_fd], [], [], 0)[0]
"""


def test_totals_are_not_told_in_the_middle_of_something() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASKED_IN_THE_MIDDLE], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stderr.splitlines() == ["pyproxy: here: after 3 steps"] * 3


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


def test_pyproxy_alone_says_what_it_could_do() -> None:
    done = refused()
    assert done.returncode == 2
    assert "pyproxy -host-port 1234 -container-ip 172.19.0.2 -container-port 1234\n" in done.stderr
    assert "engine, ports, top, drain, install, uninstall, help" in done.stderr


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


def test_a_stop_resets_what_is_unfinished_and_only_that(loop_flag: str) -> None:
    with (
        listening() as listener,
        before(address_of(listener), loop_flag) as proxy,
        connect(proxy) as cut,
        accept(listener) as cut_backend,
        connect(proxy) as told,
        accept(listener) as told_backend,
    ):
        cut_backend.sendall(b"half of it")
        assert receive_exactly(cut, 10) == b"half of it"
        told_backend.sendall(b"all of it")
        told_backend.shutdown(socket.SHUT_WR)
        # The end has been passed on once the client has seen it.
        assert receive_all(told) == b"all of it"
        assert "2 connections" in proxy.stop()
        with pytest.raises(ConnectionResetError):
            cut.recv(1)
        assert told.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_it_stops_with_a_thousand_connections_and_leaves_the_port_free(loop_flag: str) -> None:
    with echo_process() as backend, before(backend, loop_flag) as proxy, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(proxy)) for _ in range(1000)]
        for client in clients:
            client.sendall(b"x")
        for client in clients:
            assert receive_exactly(client, 1) == b"x"
        proxy.stop()
        with socket.create_server(("127.0.0.1", proxy.port)):
            pass
        # And again at once, by a proxy, with those connections in TIME_WAIT or reset.
        with running(*ENDS, "-host-port", str(proxy.port)):
            pass


def test_restart_at_once_with_connections_in_time_wait() -> None:
    with serving(echo) as backend:
        port = 0
        for _ in range(3):
            with before(backend, "-host-port", str(port)) as proxy:
                port = proxy.port
                for _ in range(5):
                    with connect(proxy) as client, contextlib.suppress(ConnectionResetError):
                        client.sendall(b"x")
                        receive_exactly(client, 1)
                proxy.stop()


def test_running_out_of_descriptors_is_survived_and_said_once(loop_flag: str) -> None:
    limited = ("prlimit", "--nofile=60:60")
    with (
        echo_process() as backend,
        running(*ENDS, "-container-port", str(backend[1]), loop_flag, prefix=limited) as proxy,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connect(proxy)) for _ in range(100)]
        for client in clients:
            client.sendall(b"x")
        assert "cannot accept more than the present" in (line := proxy.line())
        assert "too many open files" in line
        served = 0
        # Each client that leaves makes room for one that waits in the backlog: in the end all have been served.
        for client in clients:
            assert receive_exactly(client, 1) == b"x"
            client.close()
            served += 1
        assert served == 100
        assert "accepting again" in proxy.line()
        assert "100 connections, 1 out of descriptors" in proxy.totals()


def test_the_soft_descriptor_limit_is_raised_to_the_hard_one() -> None:
    with (
        serving(echo) as backend,
        running(*ENDS, "-container-port", str(backend[1]), prefix=("prlimit", "--nofile=64:512")) as proxy,
        connect(proxy) as client,
    ):
        client.sendall(b"x")
        assert receive_exactly(client, 1) == b"x"
        limits = Path(f"/proc/{proxy.process.pid}/limits").read_text()
        [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert line.split()[3:5] == ["512", "512"]


def test_two_thousand_connections_take_flat_memory(loop_flag: str) -> None:
    with echo_process() as backend, before(backend, loop_flag) as proxy, contextlib.ExitStack() as stack:
        resident = [proxy.resident_bytes()]
        for _ in range(2):
            for _ in range(1000):
                client = stack.enter_context(connect(proxy))
                client.sendall(b"x")
                assert receive_exactly(client, 1) == b"x"
            resident.append(proxy.resident_bytes())
        first, second = resident[1] - resident[0], resident[2] - resident[1]
        # Per connection: a few Python objects. The second thousand must not cost more than the first, within the
        # grain in which memory is taken from the kernel.
        assert second < 8 * 1024 * 1000
        assert second < first + (1 << 20)


def test_limits_end_connections_that_do_nothing(loop_flag: str) -> None:
    with (
        listening() as listener,
        before(address_of(listener), loop_flag, "-idle-timeout", "0.2") as proxy,
        connect(proxy) as client,
        accept(listener) as backend,
    ):
        for sock in (client, backend):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert "1 connection timed out" in proxy.totals()


def test_the_half_closed_limit_spares_open_connections(loop_flag: str) -> None:
    with (
        listening() as listener,
        before(address_of(listener), loop_flag, "-half-closed-timeout", "0.2") as proxy,
        connect(proxy) as open_client,
        accept(listener),
        connect(proxy) as half,
        accept(listener) as backend,
    ):
        half.shutdown(socket.SHUT_WR)
        assert receive_all(backend) == b""
        with pytest.raises(ConnectionResetError):
            half.recv(1)
        open_client.setblocking(False)
        with pytest.raises(BlockingIOError):
            open_client.recv(1)


def test_the_connect_limit_ends_a_dial_that_nobody_answers(loop_flag: str) -> None:
    # A backlog of one, filled: the kernel then ignores further connection requests.
    with socket.socket() as silent, contextlib.ExitStack() as stack:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        with before(address_of(silent), loop_flag, "-connect-timeout", "0.2") as proxy, connect(proxy) as client:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            assert "connection timed out" in proxy.line()
            assert "1 connection failed" in proxy.totals()


def test_messages_go_to_the_system_log_where_stderr_is_null(tmp_path: Path) -> None:
    # In place of /dev/log, which a test has no right to take: a datagram socket like it.
    path = str(tmp_path / "log")
    program = (
        "import sys; from pyproxy.log import Log\n"
        "log = Log('tcp 0.0.0.0:80', system_log=sys.argv[1])\n"
        "log.info('serving'); log.warn('kind', 'refused'); log.warn('kind', 'refused'); log.error('broken')\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        process = subprocess.Popen([sys.executable, "-c", program, path], stderr=subprocess.DEVNULL)
        assert process.wait(PATIENCE_S) == 0
        daemon.setblocking(False)
        said = [daemon.recv(1000).decode() for _ in range(3)]
        with pytest.raises(BlockingIOError):
            daemon.recv(1000)
    # Facility daemon (3) times 8, and informational, warning, error.
    assert said == [
        f"<30>pyproxy[{process.pid}]: tcp 0.0.0.0:80: serving",
        f"<28>pyproxy[{process.pid}]: tcp 0.0.0.0:80: refused",
        f"<27>pyproxy[{process.pid}]: tcp 0.0.0.0:80: broken",
    ]
    # And without a daemon, nothing happens.
    assert subprocess.run([sys.executable, "-c", program, path], stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_a_log_that_nobody_reads_stops_neither_traffic_nor_the_stop() -> None:
    with listening() as unused:
        port = unused.getsockname()[1]
    with serving(echo) as backend:
        read, write = os.pipe()
        os.set_blocking(write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 65_536)
        os.set_blocking(write, True)
        arguments = [*ENDS, "-host-port", str(port), "-container-port", str(backend[1])]
        answer, status = os.pipe()
        child = os.posix_spawn(
            PROGRAM,
            [PROGRAM, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, write, 2), (os.POSIX_SPAWN_DUP2, status, 3)],
        )
        os.close(status)
        assert os.read(answer, 2) == b"0\n"
        os.close(answer)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            client.sendall(b"x")
            assert receive_exactly(client, 1) == b"x"
            os.kill(child, signal.SIGINT)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(read)
        os.close(write)
