"""What a process inherits from whoever starts it: ignored signals, another user's directory, a PATH without tools."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pyproxy.engine.rundir import PROCESS_NAME, default_path
from tests.support.engine import HANGS_S, LOCAL, SHELLS, STUB, Engine, free, is_stub, running_engine
from tests.support.parent import Child, arguments_for, exchange_tcp, started
from tests.support.proxy import PROGRAM
from tests.support.sockets import echo, serving

NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which takes root")

IGNORED = ["INT", "HUP,INT,QUIT", "TERM", "INT,TERM", "USR1,USR2,ALRM", "CHLD", "HUP,INT,QUIT,TERM,USR1,USR2,ALRM,CHLD"]


@contextlib.contextmanager
def ignoring(
    signals: str, words: tuple[str, ...], address: tuple[str, int], backend: tuple[str, int], **environment: str
) -> Iterator[Child]:
    """A child that was started with these signals ignored."""
    arguments = [f"--ignore-signal={signals}", *words, *arguments_for(address, backend)]
    with started(arguments, program="/usr/bin/env", environment={**os.environ, **environment}) as child:
        assert child.first_answer() == b"0\n"
        yield child


@contextlib.contextmanager
def without(tools: tuple[str, ...], words: list[str], *, ignored: str = "") -> Iterator[Child]:
    """A child in a mount namespace of its own, in which these programs are no programs."""
    hide = "".join(f"mount --bind /dev/null $(command -v {tool}); " for tool in tools)
    try:
        subprocess.run(["unshare", "-m", "true"], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        pytest.skip("no right to make a mount namespace")
    ignoring = [f"--ignore-signal={ignored}"] if ignored else []
    command = [*ignoring, "unshare", "-m", "sh", "-c", f'{hide} exec "$@"', "sh", *words]
    with started(command, program="/usr/bin/env") as child:
        yield child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignored", IGNORED)
def test_solo_ends_by_a_signal_that_was_ignored_when_it_was_started(ignored: str, number: int) -> None:
    with serving(echo) as backend, ignoring(ignored, (PROGRAM,), address := free(), backend) as child:
        assert child.stop(number) == 0
    with serving(echo) as backend, ignoring(ignored, (PROGRAM,), address, backend) as child:
        assert exchange_tcp(address) == b"over and back"
        assert child.stop(number) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignored", IGNORED)
def test_a_stub_is_served_and_ends_with_signals_ignored_when_it_was_started(
    engine: Engine, shell: str, ignored: str, number: int
) -> None:
    began = time.monotonic()
    with serving(echo) as backend, ignoring(ignored, (*SHELLS[shell], STUB), address := free(), backend) as child:
        assert is_stub(child.pid)
        assert exchange_tcp(address) == b"over and back"
        assert child.stop(number) == 0
    assert time.monotonic() - began < HANGS_S / 2


def test_a_stub_that_cannot_have_its_signals_back_is_pyproxy(engine: Engine, shell: str) -> None:
    """Where coreutils are of before 8.31, or busybox's."""
    with serving(echo) as backend:
        address = free()
        with without(("env",), [*SHELLS[shell], STUB, *arguments_for(address, backend)], ignored="INT") as child:
            assert child.first_answer() == b"0\n", child.rest()
            assert not is_stub(child.pid)
            assert exchange_tcp(address) == b"over and back"
            assert child.stop() == 0


def test_an_engine_ends_by_a_signal_that_was_ignored_when_it_was_started(run_dir: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with running_engine(run_dir, prefix=("env", "--ignore-signal=HUP,INT,TERM")) as running:
            running.process.send_signal(number)
            running.rest()
            assert running.process.returncode == 0


@pytest.fixture
def named_engine(tmp_path: Path) -> Iterator[int]:
    """The process id of what stubs take for an engine by its name, and which is none."""
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith(("pytest-", "test_")):
            path.chmod(0o755)
    name = tmp_path / PROCESS_NAME
    name.symlink_to(f"{shutil.which('sleep')}")
    with subprocess.Popen([name, "1000"]) as process:
        yield process.pid
        process.kill()


def _planted(folder: Path, owner: int, alive: Path, engine: int) -> None:
    """A run directory with a live engine's process id, and a link where stubs open a file for writing."""
    folder.mkdir(parents=True)
    os.mkfifo(folder / "requests")
    (folder / "alive").symlink_to(alive)
    (folder / "pid").write_text(f"{engine}\n")
    for path in (folder.parent, folder, folder / "requests", folder / "pid"):
        os.chown(path, owner, owner)


def _is_pyproxy_at_once(shell: str, environment: Mapping[str, str]) -> None:
    words = [*(SHELLS[shell] or ("/bin/sh",)), STUB, *arguments_for((LOCAL, 0), (LOCAL, 9))]
    began = time.monotonic()
    with started(words[1:], program=words[0], environment={**os.environ, **environment}) as child:
        assert child.first_answer() == b"0\n"
        assert not is_stub(child.pid)
        assert time.monotonic() - began < HANGS_S / 2
        assert child.stop() == 0


@as_root
def test_root_makes_no_file_where_another_users_directory_points(shell: str, tmp_path: Path, named_engine: int) -> None:
    target = tmp_path / "target"
    _planted(tmp_path / "session" / "pyproxy", NOBODY, target, named_engine)
    _is_pyproxy_at_once(shell, {"XDG_RUNTIME_DIR": str(tmp_path / "session")})
    assert not target.exists()


@as_root
def test_root_uses_no_session_directory_at_all(shell: str, tmp_path: Path) -> None:
    with running_engine(_made(tmp_path / "pyproxy")):
        _is_pyproxy_at_once(shell, {"XDG_RUNTIME_DIR": str(tmp_path)})


def _made(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def test_nothing_is_opened_through_a_link_nor_made(shell: str, tmp_path: Path, named_engine: int) -> None:
    target = tmp_path / "target"
    folder = tmp_path / "session" / "pyproxy"
    _planted(folder, os.geteuid(), target, named_engine)
    _is_pyproxy_at_once(shell, {"PYPROXY_RUN_DIR": str(folder)})
    (folder / "alive").unlink()
    _is_pyproxy_at_once(shell, {"PYPROXY_RUN_DIR": str(folder)})
    (folder / "alive").write_text("")
    _is_pyproxy_at_once(shell, {"PYPROXY_RUN_DIR": str(folder)})
    assert not target.exists()
    assert (folder / "alive").read_text() == ""


@as_root
def test_a_user_has_the_engine_of_his_session_and_of_no_other(shell: str, tmp_path: Path, named_engine: int) -> None:
    """By what a stub writes: the engine is the test."""
    user = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"]
    for owner in (NOBODY, NOBODY - 1):
        session = tmp_path / str(owner)
        _planted(session / "pyproxy", owner, tmp_path / "target", named_engine)
        (session / "pyproxy" / "alive").unlink()
        os.mkfifo(session / "pyproxy" / "alive")
        os.chown(session / "pyproxy" / "alive", owner, owner)
        requests = os.open(session / "pyproxy" / "requests", os.O_RDWR | os.O_NONBLOCK)
        words = [*user, *(SHELLS[shell] or ["sh"]), STUB, "-host-port", "0"]
        with subprocess.Popen(words, env={"XDG_RUNTIME_DIR": str(session)}, stderr=subprocess.DEVNULL) as stub:
            if owner == NOBODY:
                assert select.select([requests], [], [], HANGS_S)[0]
                assert os.read(requests, 100).startswith(b"serve %d " % stub.pid)
                stub.kill()
            else:
                stub.wait(HANGS_S / 2)
                with pytest.raises(BlockingIOError):
                    os.read(requests, 100)
        os.close(requests)


@as_root
def test_the_engine_looks_where_stubs_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYPROXY_RUN_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_path() == Path("/run/pyproxy")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/")
    os.seteuid(NOBODY)
    try:
        assert default_path() == Path("/run/pyproxy")  # root's, as it is
    finally:
        os.seteuid(0)
    os.chown(tmp_path, NOBODY, NOBODY)
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith(("pytest-", "test_")):
            path.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    os.seteuid(NOBODY)
    try:
        assert default_path() == tmp_path / "pyproxy"
    finally:
        os.seteuid(0)
    monkeypatch.setenv("PYPROXY_RUN_DIR", "/somewhere")
    assert default_path() == Path("/somewhere")


@pytest.mark.parametrize(
    ("tools", "served"), [(("sleep",), True), (("sleep", "busybox"), False)], ids=["busybox", "nothing"]
)
def test_a_stub_waits_with_what_there_is(engine: Engine, shell: str, tools: tuple[str, ...], served: bool) -> None:
    if shell in tools:
        pytest.skip("the shell itself")
    with serving(echo) as backend:
        address = free()
        with without(tools, [*SHELLS[shell], STUB, *arguments_for(address, backend)]) as child:
            assert child.first_answer() == b"0\n"
            if shell != "bash":  # which finds what it may not run, and so asks first: the engine may be faster
                assert is_stub(child.pid) == served
            assert exchange_tcp(address) == b"over and back"
            assert child.stop() == 0


@pytest.mark.parametrize("program", [PROGRAM, STUB], ids=["solo", "stub"])
@pytest.mark.parametrize(("tools", "followed"), [(("readlink",), True), (("readlink", "busybox"), False)])
def test_a_link_that_cannot_be_followed_is_told(
    shell: str, program: str, tools: tuple[str, ...], followed: bool, tmp_path: Path
) -> None:
    if shell in tools:
        pytest.skip("the shell itself")
    link = tmp_path / "docker-proxy"
    link.symlink_to(program)
    with without(tools, [*SHELLS[shell], str(link), *arguments_for((LOCAL, 0), (LOCAL, 9))]) as child:
        if followed:
            assert child.first_answer() == b"0\n"
            assert child.stop() == 0
        else:
            assert child.first_answer() == b"1\n"
            assert "there is no readlink to follow it" in child.rest()
