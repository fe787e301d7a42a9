"""Whatever is in dockerd's environment, its proxies serve; and what keeps one from starting is told to dockerd."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.engine import HANGS_S, LOCAL, SHELLS, STUB, command_of, is_stub, running_engine, until
from tests.support.installation import Installation
from tests.support.parent import Child, arguments_for, exchange_tcp, free_port, passed_socket, started
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.support.sockets import address_of, echo, serving

NOWHERE = (LOCAL, 9)

# Modules of the standard library that something on PYTHONPATH stands in for, and what that then does.
NAMESAKES = {
    "enum": "class Enum(object):\n    pass\nclass IntEnum(int, Enum):\n    pass\n",  # of the package enum34
    "types": "x = 1\n",
    "select": "raise SystemExit('mine')\n",
    "signal": "print('mine')\n",
    "asyncio": "import trollius_is_gone\n",
    "os": "raise ImportError('mine')\n",
    "site": "raise ImportError('mine')\n",
    "sitecustomize": "import os; os._exit(7)\n",
    "uvloop": "import os; os._exit(7)\n",
    "pyproxy": "import os; os._exit(7)\n",
}

VARIABLES = [
    "PYTHONHOME=/nowhere",
    "PYTHONHOME=/usr",
    "PYTHONWARNINGS=error",
    "PYTHONDEVMODE=1",
    "PYTHONOPTIMIZE=2",
    "PYTHONINSPECT=1",
    "PYTHONMALLOC=debug",
    "PYTHONHASHSEED=yes",
    "PYTHONUTF8=on",
    "PYTHONIOENCODING=latin-9:bad",
    "PYTHONPLATLIBDIR=lib64",
    "PYTHONTRACEMALLOC=x",
    "PYTHONINTMAXSTRDIGITS=1",
    "PYTHONUSERBASE=/nowhere",
    "PYTHONEXECUTABLE=/nowhere",  # heeded in spite of -I, as is the next
    "__PYVENV_LAUNCHER__=/nowhere",
    "PYTHONPYCACHEPREFIX=/proc/nowhere",
    "LC_ALL=C",
    "LC_ALL=de_DE.ISO-8859-1",
    "PATH=/nowhere",
    "XDG_RUNTIME_DIR=/nowhere",
    "CDPATH=/",
]


def served(child: Child, address: tuple[str, int]) -> None:
    assert child.first_answer() == b"0\n", child.rest()
    assert exchange_tcp(address) == b"over and back"
    assert child.stop() == 0


def serves(environment: Mapping[str, str], program: str = PROGRAM) -> None:
    """Start, exchange, stop: on a socket that is passed, so that a client can be there at once."""
    with serving(echo) as backend, passed_socket(LOCAL, socket.SOCK_STREAM) as sock:
        address = address_of(sock)
        arguments = [*arguments_for(address, backend), "-use-listen-fd"]
        with started(arguments, sock, program=program, environment=environment) as child:
            served(child, address)


@pytest.fixture(params=[PROGRAM, STUB], ids=["solo", "stub without an engine"])
def program(request: pytest.FixtureRequest, run_dir: Path) -> str:
    return str(request.param)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "a folder of its own")


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_of_other_programs_changes_nothing(program: str, variable: str) -> None:
    name, _, value = variable.partition("=")
    serves({**os.environ, name: value}, program)


@pytest.mark.parametrize("name", NAMESAKES)
def test_a_namesake_of_a_module_on_pythonpath_changes_nothing(program: str, name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(NAMESAKES[name])
    serves({**os.environ, "PYTHONPATH": str(tmp_path)}, program)


def test_an_empty_environment_will_do(program: str) -> None:
    serves({}, program)


def test_a_locale_whose_encoding_python_lacks_will_do(program: str, tmp_path: Path) -> None:
    made = ["localedef", "-i", "hy_AM", "-f", "ARMSCII-8", str(tmp_path / "hy_AM")]
    if shutil.which("localedef") is None or subprocess.run(made, capture_output=True, check=False).returncode > 1:
        pytest.skip("no localedef, or not the sources of this locale")
    serves({**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "hy_AM"}, program)


def test_no_pth_file_is_run(installation: Installation) -> None:
    (installation.packages / "evil.pth").write_text("import os; os._exit(7)\n")
    serves(os.environ, str(installation.program))


def test_no_user_site_is_looked_at(installation: Installation, tmp_path: Path) -> None:
    packages = tmp_path / f".local/lib/{installation.packages.parent.name}/site-packages"
    packages.mkdir(parents=True)
    (packages / "usercustomize.py").write_text("import os; os._exit(7)\n")
    serves({**os.environ, "HOME": str(tmp_path)}, str(installation.program))


def test_a_backport_that_is_installed_beside_it_does_not_stand_in_for_a_module(installation: Installation) -> None:
    (installation.packages / "enum.py").write_text(NAMESAKES["enum"])
    serves(os.environ, str(installation.program))


@pytest.mark.parametrize("module", [["-m", "pyproxy"], ["-P", "-m", "pyproxy"]], ids=" ".join)
def test_started_as_a_module_it_is_isolated_too(module: list[str], tmp_path: Path) -> None:
    (tmp_path / "asyncio.py").write_text(NAMESAKES["asyncio"])
    tree = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{tree}"}
    with serving(echo) as backend:
        address = LOCAL, free_port(LOCAL, socket.SOCK_STREAM)
        arguments = [*module, *arguments_for(address, backend)]
        with started(arguments, program=sys.executable, environment=environment) as child:
            served(child, address)


@pytest.mark.parametrize("interpreter", ["executable", "none"])
def test_uvloop_is_found_without_site(installation: Installation, interpreter: str) -> None:
    if interpreter == "none":
        shutil.rmtree(installation.packages / "uvloop")
    with serving(echo) as backend, passed_socket(LOCAL, socket.SOCK_STREAM) as sock:
        address = address_of(sock)
        arguments = [*arguments_for(address, backend), "-use-listen-fd"]
        with started(arguments, sock, program=str(installation.program)) as child:
            assert child.first_answer() == b"0\n"
            assert exchange_tcp(address) == b"over and back"
            assert ("uvloop" in Path(f"/proc/{child.pid}/maps").read_text()) == (interpreter != "none")
            assert child.stop() == 0


def test_the_engine_and_its_next_one_are_isolated(run_dir: Path, tmp_path: Path) -> None:
    for name in ("enum", "asyncio"):
        (tmp_path / f"{name}.py").write_text(NAMESAKES[name])
    prefix = ("env", f"PYTHONPATH={tmp_path}", "PYTHONHOME=/nowhere")
    with (
        running_engine(run_dir, prefix=prefix) as engine,
        _upgraded(engine.pid, run_dir, engine.await_line),
        serving(echo) as backend,
    ):
        address = LOCAL, free_port(LOCAL, socket.SOCK_STREAM)
        with started(arguments_for(address, backend), program=STUB) as child:
            assert child.first_answer() == b"0\n"
            assert is_stub(child.pid)
            assert exchange_tcp(address) == b"over and back"
            assert child.stop() == 0


@contextlib.contextmanager
def _upgraded(pid: int, run_dir: Path, await_line: object) -> Iterator[None]:
    assert callable(await_line)
    os.kill(pid, signal.SIGHUP)
    await_line("taken over from another engine")
    new = int((run_dir / "pid").read_text())
    assert new != pid
    assert "-I" in command_of(new)
    try:
        yield
    finally:
        os.kill(new, signal.SIGTERM)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["pyproxy", "pyproxy-stub"])
def test_every_shell_starts_it_from_anywhere(
    installation: Installation, shell: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "docker-proxy"
    link.symlink_to(installation.prefix / "bin" / name)
    monkeypatch.chdir(installation.prefix / "bin")
    for path in (str(link), str(installation.prefix / "bin" / name), f"./{name}", name):
        script = path if "/" in path or shell != "sh" else f"./{path}"
        done = subprocess.run(
            [*SHELLS[shell], script, "-v"], capture_output=True, text=True, timeout=PATIENCE_S, env={}, check=False
        )
        assert done.stdout.startswith("pyproxy version"), done.stderr


def told(program: Path, environment: Mapping[str, str] | None = None) -> str:
    """The reason that dockerd gets."""
    with started(arguments_for((LOCAL, 0), NOWHERE), program=str(program), environment=environment) as child:
        assert child.first_answer() == b"1\n"
        reason = child.rest()
        assert child.wait() == 1
    return reason


@pytest.mark.parametrize("shell", SHELLS)
def test_an_import_that_fails_is_told(installation: Installation, shell: str) -> None:
    (installation.packages / "pyproxy" / "bind.py").write_text("import nothing_of_the_kind\n")
    assert "No module named 'nothing_of_the_kind'" in told(installation.program)
    (installation.packages / "pyproxy" / "bind.py").write_text("import ''\n")
    assert "SyntaxError" in told(installation.program)
    shutil.rmtree(installation.packages / "pyproxy")
    assert "No module named 'pyproxy'" in told(installation.stub)


def test_a_part_that_is_missing_is_told(installation: Installation) -> None:
    (installation.prefix / "bin" / "pyproxy-python").unlink()
    assert "pyproxy-python is missing: install pyproxy again" in told(installation.program)
    installation.program.unlink()
    assert "bin/pyproxy is missing: install pyproxy again" in told(installation.stub)


def test_without_its_interpreter_it_runs_on_another(installation: Installation, tmp_path: Path) -> None:
    for name in ("python", "python3"):
        (installation.prefix / "bin" / name).unlink()
    (tmp_path / "python3").symlink_to(sys.executable)
    serves({**os.environ, "PATH": str(tmp_path)}, str(installation.program))


NO_UTF8 = os.fsdecode(b"\xff\xfe")


@pytest.mark.parametrize(
    "more", [["-container-ip", NO_UTF8], ["-host-ip", NO_UTF8], ["-proto", NO_UTF8], [f"-{NO_UTF8}"]]
)
def test_arguments_that_are_no_utf8_are_told(program: str, more: list[str]) -> None:
    with started([*arguments_for((LOCAL, 0), NOWHERE), *more], program=program) as child:
        assert child.first_answer() == b"1\n"
        assert "dcff" in child.rest()
        assert child.wait() in (1, 2)


def test_an_engine_that_writes_to_the_system_log_refuses_them_at_once(run_dir: Path) -> None:
    words = [PROGRAM, "engine", "--run-dir", str(run_dir)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as engine:
        try:
            until(lambda: (run_dir / "pid").exists() and (run_dir / "pid").read_text().strip() == str(engine.pid))
            began = time.monotonic()
            for more in ("-host-ip", "-container-ip"):
                with started([*arguments_for((LOCAL, 0), NOWHERE), more, NO_UTF8], program=STUB) as child:
                    assert child.first_answer() == b"1\n"
            assert time.monotonic() - began < HANGS_S / 2
        finally:
            engine.terminate()


def test_a_message_that_is_no_utf8_reaches_the_system_log(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    program = "import sys; from pyproxy.log import Log; Log(sys.argv[2], system_log=sys.argv[1]).info('here')"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        command = [sys.executable, "-c", program, path, NO_UTF8]
        assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
        daemon.setblocking(False)
        assert daemon.recv(1000).endswith(b": \\udcff\\udcfe: here")
