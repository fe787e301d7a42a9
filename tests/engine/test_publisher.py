"""The engine and its stubs: real processes, from the request to the stop, and what becomes of a port when one fails."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.cli.ask import ClientError, ask
from tests.support.engine import (
    SHELLS,
    STUB,
    Engine,
    accepted_within,
    command_of,
    ends_within,
    is_stub,
    running_engine,
    start_stub,
    stub,
)
from tests.support.parent import Child, exchange_tcp, free_port, passed_socket
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import address_of, echo, family_of, listening, serving

LOCAL = "127.0.0.1"
NOWHERE = (LOCAL, 9)  # a container that is never spoken to

# The promises of how long a stub waits for an engine: what it does without an answer, and when one has died.
HANGS_S = 5.0
RECOVERS_S = 2.0

# After the last of a new stub's nudges (`nudge.py`).
NUDGED_S = 3.3


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run directory that stubs find. Not pytest's own, whose paths are too long for a UNIX socket's address."""
    with tempfile.TemporaryDirectory(prefix="pyproxy-") as folder:
        path = Path(folder) / "run"
        monkeypatch.setenv("PYPROXY_RUN_DIR", str(path))
        yield path


@pytest.fixture
def engine(run_dir: Path) -> Iterator[Engine]:
    with running_engine(run_dir) as running:
        yield running


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def free() -> tuple[str, int]:
    return LOCAL, free_port(LOCAL, socket.SOCK_STREAM)


def test_a_port_bound_by_the_engine(engine: Engine, shell: str) -> None:
    address = free()
    with serving(echo) as backend, stub(shell, address, backend) as child:
        assert child.first_answer() == b"0\n"
        assert child.rest() == ""
        published = engine.await_line(f"tcp {LOCAL}:{address[1]}: published -> {LOCAL}:{backend[1]}")
        assert f"(process {child.pid})" in published
        assert exchange_tcp(address) == b"over and back"
        assert is_stub(child.pid)
        assert child.stop() == 0
        socket.create_server(address).close()
        assert "1 connection" in engine.await_line("unpublished, stopped")


@pytest.mark.parametrize("host", [LOCAL, "::1"])
def test_a_port_on_the_passed_socket(engine: Engine, shell: str, host: str) -> None:
    with serving(echo) as backend, passed_socket(host, socket.SOCK_STREAM) as sock:
        address = address_of(sock)
        with stub(shell, address, backend, sock) as child:
            assert child.first_answer() == b"0\n"
            assert child.rest() == ""
            assert exchange_tcp(address) == b"over and back"
            # dockerd closes its copy and gives the port to others before it signals.
            sock.close()
            assert child.stop(signal.SIGTERM) == 0
        socket.create_server(address, family=family_of(host), reuse_port=False).close()
        engine.await_line("unpublished, stopped")


@pytest.mark.parametrize("passed", [False, True], ids=["bound by the engine", "passed"])
def test_a_udp_port(engine: Engine, shell: str, passed: bool) -> None:
    with contextlib.ExitStack() as stack:
        backend, client = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        backend.bind((LOCAL, 0))
        backend.settimeout(PATIENCE_S)
        client.settimeout(PATIENCE_S)
        sock = stack.enter_context(passed_socket(LOCAL, socket.SOCK_DGRAM)) if passed else None
        address = address_of(sock) if sock is not None else (LOCAL, free_port(LOCAL, socket.SOCK_DGRAM))
        child = stack.enter_context(stub(shell, address, address_of(backend), sock, proto="udp"))
        assert child.first_answer() == b"0\n"
        client.connect(address)
        client.send(b"question")
        data, flow = backend.recvfrom(100)
        assert data == b"question"
        backend.sendto(b"answer", flow)
        assert client.recv(100) == b"answer"
        if sock is not None:
            sock.close()
        assert child.stop() == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(address)


def test_a_stub_shows_its_port_in_ps_also_through_a_link_named_docker_proxy(
    engine: Engine, tmp_path: Path, shell: str
) -> None:
    link = tmp_path / "docker-proxy"
    link.symlink_to(STUB)
    with stub(shell, free(), NOWHERE, stub=str(link)) as child:
        assert child.first_answer() == b"0\n"
        words = command_of(child.pid)
        assert words[words.index(str(link)) + 1 :][:4] == ["-proto", "tcp", "-host-ip", LOCAL]
        assert is_stub(child.pid)
        assert child.stop() == 0


def test_a_parked_stub_is_one_process_without_children(engine: Engine, shell: str) -> None:
    with stub(shell, free(), NOWHERE) as child:
        assert child.first_answer() == b"0\n"
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        _until(lambda: children.read_text() == "")
        assert child.stop() == 0


def test_without_an_engine_a_stub_is_pyproxy_at_once(run_dir: Path, shell: str) -> None:
    with serving(echo) as backend:
        for state in ("never one", "stopped", "killed"):
            if state != "never one":
                with running_engine(run_dir) as gone:
                    gone.stop() if state == "stopped" else gone.kill()
            address = free()
            began = time.monotonic()
            with stub(shell, address, backend) as child:
                assert child.first_answer() == b"0\n"
                assert time.monotonic() - began < 1.0
                assert child.rest() == ""
                words = command_of(child.pid)
                assert words[words.index(PROGRAM) + 1] == "-proto"
                assert exchange_tcp(address) == b"over and back"
                assert child.stop() == 0


def test_a_port_in_use_is_reported_by_pyproxy_itself(engine: Engine, shell: str) -> None:
    with listening() as taken, stub(shell, address_of(taken), NOWHERE) as child:
        assert child.first_answer() == b"1\n"
        assert "address already in use: choose another -host-port" in child.rest()
        assert child.wait() == 1
        engine.await_line("left to a process of its own")


@pytest.mark.parametrize("arguments", [("-new-flag",), ("-container-port", "0"), ("-idle-timeout", "x" * 5000)])
def test_bad_arguments_are_reported_by_pyproxy_itself(engine: Engine, shell: str, arguments: tuple[str, ...]) -> None:
    began = time.monotonic()
    with stub(shell, free(), NOWHERE, more=arguments) as child:
        assert child.first_answer() == b"1\n"
        assert arguments[0] in child.rest()
        assert child.wait() in (1, 2)
    assert time.monotonic() - began < HANGS_S / 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_at_any_moment_after_the_answer_it_exits_0(engine: Engine, shell: str, number: int) -> None:
    chance = random.Random(number)
    for _ in range(100):
        with stub(shell, free(), NOWHERE) as child:
            assert child.first_answer() == b"0\n"
            # Not a wait for anything: the moment is the point.
            moment = time.perf_counter() + chance.uniform(0, 0.002)
            while time.perf_counter() < moment:
                pass
            os.kill(child.pid, number)
            assert ends_within(child.pid, HANGS_S)
            assert child.wait() == 0


def test_the_port_is_free_the_moment_the_stub_is_gone(engine: Engine, shell: str) -> None:
    with serving(echo) as backend:
        address = free()
        for _ in range(30):
            with stub(shell, address, backend) as child, socket.socket() as client:
                assert child.first_answer() == b"0\n"
                client.connect(address)
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                assert child.stop() == 0
                socket.create_server(address).close()


@pytest.mark.parametrize(("flags", "kept"), [([], False), (["--drain-unpublished", "30"], True)])
def test_unpublishing_resets_connections_unless_they_are_given_time(
    run_dir: Path, flags: list[str], kept: bool
) -> None:
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(running_engine(run_dir, *flags))
        backend = stack.enter_context(serving(echo))
        child = stack.enter_context(stub("sh", address := free(), backend))
        assert child.first_answer() == b"0\n"
        client = stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert child.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        if kept:
            client.sendall(b"y")
            assert client.recv(1) == b"y"
        else:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        engine.await_line("unpublished, stopped")


def test_a_killed_stub_takes_its_port_along(engine: Engine, shell: str) -> None:
    with serving(echo) as backend:
        address = free()
        with stub(shell, address, backend) as child:
            assert child.first_answer() == b"0\n"
            assert exchange_tcp(address) == b"over and back"
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            engine.await_line("unpublished, its process has ended")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
        # And again at once, before the engine may have heard of it.
        for _ in range(10):
            with stub(shell, address, backend) as child:
                assert child.first_answer() == b"0\n"
                assert is_stub(child.pid)
                os.kill(child.pid, signal.SIGKILL)
                child.wait()


@pytest.mark.parametrize("passed", [False, True], ids=["bound by the engine", "passed"])
def test_a_port_outlives_an_engine_that_is_killed_and_none_follows(run_dir: Path, shell: str, passed: bool) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        sock = stack.enter_context(passed_socket(LOCAL, socket.SOCK_STREAM)) if passed else None
        address = address_of(sock) if sock is not None else free()
        with running_engine(run_dir) as engine:
            child = stack.enter_context(stub(shell, address, backend, sock))
            assert child.first_answer() == b"0\n"
            assert child.rest() == ""
            assert exchange_tcp(address) == b"over and back"
            engine.kill()
        assert accepted_within(address, RECOVERS_S) > 0
        assert not is_stub(child.pid)
        # Of the stub, nothing is left in the process: descriptors, or a disposition that would make it deaf.
        links = []
        for path in Path(f"/proc/{child.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it imports its event loop, and closes files as they are read
                links.append(os.readlink(path))
        assert not [link for link in links if link.startswith(str(run_dir))]
        if sock is not None:
            sock.close()
        assert child.stop() == 0
        socket.create_server(address).close()


@pytest.mark.parametrize("passed", [False, True], ids=["bound by the engine", "passed"])
def test_a_new_engine_takes_the_ports_of_one_that_was_killed(run_dir: Path, shell: str, passed: bool) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        ports = []
        with running_engine(run_dir) as first:
            for _ in range(10):
                sock = stack.enter_context(passed_socket(LOCAL, socket.SOCK_STREAM)) if passed else None
                address = address_of(sock) if sock is not None else free()
                child = stack.enter_context(stub(shell, address, backend, sock))
                assert child.first_answer() == b"0\n"
                ports.append((child, address))
            first.kill()
            began = time.monotonic()
        with running_engine(run_dir) as second:
            for child, address in ports:
                accepted_within(address, RECOVERS_S - (time.monotonic() - began))
                assert is_stub(child.pid)
            for child, _ in ports:
                assert child.stop() == 0
            for _ in ports:
                second.await_line("unpublished, stopped")


def test_stopped_after_its_engine_has_died_a_stub_exits_0(run_dir: Path, shell: str) -> None:
    for _ in range(10):
        with running_engine(run_dir) as engine:
            child = start_stub(shell, free(), NOWHERE)
            assert child.first_answer() == b"0\n"
            engine.kill()
        began = time.monotonic()
        assert child.stop() == 0
        assert time.monotonic() - began < 1.0
        child.close()


def test_an_engine_that_hangs_holds_up_neither_start_nor_stop(run_dir: Path, shell: str) -> None:
    with serving(echo) as backend, contextlib.ExitStack() as stack:
        engine = stack.enter_context(running_engine(run_dir))
        old, kept, new = free(), free(), free()
        stopped = stack.enter_context(stub(shell, old, backend))
        other = stack.enter_context(stub(shell, kept, backend))
        assert stopped.first_answer() == other.first_answer() == b"0\n"
        assert exchange_tcp(kept) == b"over and back"
        os.kill(engine.pid, signal.SIGSTOP)
        began = time.monotonic()
        os.kill(stopped.pid, signal.SIGINT)
        started = stack.enter_context(stub(shell, new, backend))
        assert started.first_answer() == b"0\n"
        assert started.rest() == ""
        assert stopped.wait() == 0
        assert time.monotonic() - began < HANGS_S
        assert not is_stub(started.pid)
        assert exchange_tcp(new) == b"over and back"
        # Awake again, it lets go of what is no longer there, and leaves what went its own way.
        os.kill(engine.pid, signal.SIGCONT)
        engine.await_line(f"tcp {LOCAL}:{old[1]}: unpublished")
        socket.create_server(old).close()
        assert exchange_tcp(kept) == b"over and back"
        assert exchange_tcp(new) == b"over and back"
        assert not is_stub(started.pid)
        assert started.stop() == 0
        assert other.stop() == 0
        assert f":{new[1]}: published" not in engine.stop()


def test_a_stub_that_gave_up_on_an_engine_keeps_its_passed_socket_to_itself(run_dir: Path, shell: str) -> None:
    """The engine, awake again, must not accept from the socket that the stub's successor serves."""
    with serving(echo) as backend, passed_socket(LOCAL, socket.SOCK_STREAM) as sock:
        address = address_of(sock)
        with running_engine(run_dir) as engine:
            os.kill(engine.pid, signal.SIGSTOP)
            with stub(shell, address, backend, sock) as child:
                assert child.first_answer() == b"0\n"
                sock.close()
                before = engine.descriptors()
                os.kill(engine.pid, signal.SIGCONT)
                # A port after it shows that the engine has come past that request.
                with stub(shell, free(), NOWHERE) as later:
                    assert later.first_answer() == b"0\n"
                    assert later.stop() == 0
                for _ in range(5):
                    assert exchange_tcp(address) == b"over and back"
                assert engine.descriptors() <= before + 1
                assert child.stop() == 0
            socket.create_server(address).close()
            assert f":{address[1]}: published" not in engine.stop()


def test_garbage_in_the_fifo_harms_no_port(engine: Engine, run_dir: Path) -> None:
    with serving(echo) as backend, subprocess.Popen(["sleep", "1000"]) as bystander:
        address = free()
        with stub("sh", address, backend) as child:
            assert child.first_answer() == b"0\n"
            command = " ".join(command_of(child.pid)[1:])
            fifo = os.open(run_dir / "requests", os.O_WRONLY)
            sent = [
                b"\n\n\0\xff\n",
                b"serve\nserve 1\nserve x y\nserve 99999999999 y\nserve -1 y\n",
                b"serve 1 /sbin/init\n",  # somebody else's
                f"serve {bystander.pid} 1000\n".encode(),  # one that a signal would kill
                f"stop {bystander.pid} 1000\n".encode(),
                f"serve {os.getpid()} {' '.join(command_of(os.getpid())[1:])}\n".encode(),
                f"serve {child.pid} /bin/other -proto tcp\n".encode(),
                f"serve {child.pid} {command}\n".encode(),  # served already
                f"stop {child.pid} {command}\nsolo {child.pid} {command}\n".encode(),  # which it did not ask for
                b"x" * 4096,
                b"\n",
                b"y" * 65_536 + b"\n",
                b"serve 1 half a line",
            ]
            for data in sent:
                os.write(fifo, data)
            os.write(fifo, b"\n")
            os.close(fifo)
            # A port after it shows that the engine has come past all of it.
            with stub("sh", free(), NOWHERE) as later:
                assert later.first_answer() == b"0\n"
                assert is_stub(later.pid)
                assert later.stop() == 0
            assert bystander.poll() is None
            assert exchange_tcp(address) == b"over and back"
            assert is_stub(child.pid)
            assert child.stop() == 0
        bystander.kill()
        engine.await_line("a request to serve is ignored")


def test_half_a_line_that_never_ends_costs_one_request_and_no_more(engine: Engine, run_dir: Path) -> None:
    fifo = os.open(run_dir / "requests", os.O_WRONLY)
    os.write(fifo, b"serve 1 without an end ")
    os.close(fifo)
    with stub("sh", free(), NOWHERE) as unlucky:
        assert unlucky.first_answer() == b"0\n"
        with stub("sh", free(), NOWHERE) as child:
            assert child.first_answer() == b"0\n"
            assert is_stub(child.pid)
            assert child.stop() == 0
        assert unlucky.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace takes root")
def test_a_stub_in_another_network_namespace_serves_its_port_itself(engine: Engine) -> None:
    with contextlib.closing(
        Child(
            ["--net", STUB, "-host-ip", "0.0.0.0", "-host-port", "0", "-container-ip", LOCAL, "-container-port", "9"],
            program="/usr/bin/unshare",
        )
    ) as child:
        assert child.first_answer() == b"0\n"
        assert not is_stub(child.pid)
        assert "in another network namespace" in engine.await_line("left to a process of its own")
        assert child.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up a right of root's, which takes root")
def test_an_engine_without_the_right_to_take_the_socket_says_so(run_dir: Path) -> None:
    without = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    with running_engine(run_dir, prefix=without) as engine, stub("sh", free(), NOWHERE) as child:
        began = time.monotonic()
        assert child.first_answer() == b"0\n"
        assert time.monotonic() - began < HANGS_S / 2
        assert not is_stub(child.pid)
        assert "CAP_SYS_PTRACE" in engine.await_line("left to a process of its own")
        assert child.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which takes root")
def test_another_users_process_is_left_alone(engine: Engine, run_dir: Path) -> None:
    """It announces itself with its own command line, which is a stub's in every other way."""
    run_dir.parent.chmod(0o755)
    script = run_dir.parent / "stub"
    script.write_text('trap : USR1 USR2 ALRM; echo "serve $$ $0 $*"; read _\n')
    fifo = os.open(run_dir / "requests", os.O_WRONLY)
    with subprocess.Popen(
        ["setpriv", "--reuid=65534", "--clear-groups", "sh", str(script), "-host-port", "0", "-container-port", "9"],
        stdout=fifo,
        stdin=subprocess.PIPE,
    ) as stranger:
        assert "another user's" in engine.await_line("is ignored")
        assert stranger.poll() is None
    os.close(fifo)


def test_a_second_engine_is_refused(engine: Engine, run_dir: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "engine", "--run-dir", str(run_dir)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    assert f"an engine runs already in {run_dir} (process {engine.pid})" in done.stderr
    assert "--replace" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_directory_that_is_not_ours_alone_is_refused(run_dir: Path) -> None:
    def refused() -> str:
        done = subprocess.run(
            [PROGRAM, "engine", "--run-dir", str(run_dir)],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    run_dir.mkdir(mode=0o700)
    run_dir.chmod(0o755)
    assert "chmod 700" in refused()
    if os.geteuid() == 0:
        run_dir.chmod(0o700)
        os.chown(run_dir, 65534, 65534)
        assert "belongs to user 65534" in refused()
    run_dir.rmdir()
    run_dir.write_text("")
    assert "is not a directory" in refused()
    run_dir.unlink()
    assert "No such file or directory".lower() in subprocess.run(
        [PROGRAM, "engine", "--run-dir", str(run_dir / "deep" / "er")],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    ).stderr  # fmt: skip


def test_the_run_directory_is_closed_to_others(engine: Engine, run_dir: Path) -> None:
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700


def test_descriptors_per_port_and_none_left_over(engine: Engine) -> None:
    before = engine.descriptors()
    children = [start_stub("sh", free(), NOWHERE) for _ in range(50)]
    for child in children:
        assert child.first_answer() == b"0\n"
    assert engine.descriptors() == before + 2 * len(children)  # its socket, and the stub's pidfd
    for child in children:
        assert child.stop() == 0
        child.close()
    _until(lambda: engine.descriptors() == before)


def test_an_engine_out_of_descriptors_says_no_and_serves_on(run_dir: Path) -> None:
    with (
        running_engine(run_dir, prefix=("prlimit", "--nofile=50:50")) as engine,
        serving(echo) as backend,
        contextlib.ExitStack() as stack,
    ):
        children = []
        began = time.monotonic()
        for _ in range(30):
            child = stack.enter_context(stub("sh", address := free(), backend))
            assert child.first_answer() == b"0\n"
            children.append((child, address))
        assert time.monotonic() - began < HANGS_S  # not one of them had to wait for its time to run out
        solo = [child for child, _ in children if not is_stub(child.pid)]
        assert 0 < len(solo) < len(children)
        assert "too many open files" in engine.await_line("left to a process of its own")
        # Ports that go give back what others need.
        for child, _ in children[:10]:
            assert child.stop() == 0
        assert exchange_tcp(children[10][1]) == b"over and back"
        with stub("sh", free(), backend) as child:
            assert child.first_answer() == b"0\n"
            assert is_stub(child.pid)
            assert child.stop() == 0
        for child, _ in children[10:]:
            assert child.stop() == 0


def test_an_idle_engine_sleeps(engine: Engine, run_dir: Path) -> None:
    """Ports with clients, a reader of the control API and of the figures have been there: none leaves a timer."""

    def wake_ups() -> int:
        tasks = Path(f"/proc/{engine.pid}/task").iterdir()
        lines = [line for task in tasks for line in (task / "status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    with serving(echo) as backend, stub("sh", address := free(), backend) as child, socket.socket() as client:
        assert child.first_answer() == b"0\n"
        client.settimeout(PATIENCE_S)
        client.connect(address)
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert exchange_tcp(address) == b"over and back"
        ask(run_dir, "GET", "/connections")
        with pytest.raises(ClientError):  # it is no JSON, but it has been made
            ask(run_dir, "GET", "/metrics")
        # Not a wait for an event: that there is none is what is measured. The nudges come first, to their end.
        time.sleep(NUDGED_S)
        before = wake_ups()
        time.sleep(1.0)
        assert wake_ups() == before
        assert child.stop() == 0


def test_the_solo_path_imports_nothing_of_the_engine() -> None:
    program = "import sys, pyproxy.__main__, pyproxy.solo.serve; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not [name for name in out.split() if name.startswith("pyproxy.engine")]


def _until(holds: object) -> None:
    """Wait for what no event announces: looked at again and again, without sleeping, as long as patience lasts."""
    assert callable(holds)
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
