"""pyproxy and Python are replaced, broken and removed while a port waits for its first client."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.installation import Installation, Interpreter
from tests.support.proxy import PATIENCE_S, Proxy, before, connect
from tests.support.sockets import echo, receive_exactly, serving


@pytest.fixture
def backend() -> Iterator[tuple[str, int]]:
    with serving(echo) as address:
        yield address


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    return Interpreter(tmp_path / "python")


@pytest.fixture
def installation(tmp_path: Path, interpreter: Interpreter) -> Installation:
    return Installation(tmp_path / "environment", python=interpreter.python)


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only interpreter on PATH, but for the distribution's."""
    (tmp_path / "another").mkdir()
    python = tmp_path / "another" / "python3"
    python.symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setenv("PATH", f"{tmp_path / 'another'}:{os.environ['PATH']}")
    return python


def exchanged(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        assert receive_exactly(client, 1) == b"x"


def executable(proxy: Proxy) -> str:
    """The file that the process runs; the kernel marks one that is there no longer."""
    return os.readlink(f"/proc/{proxy.process.pid}/exe")


def test_a_port_survives_an_upgrade_of_pyproxy(installation: Installation, backend: tuple[str, int]) -> None:
    """The process then becomes the version that is installed; its process id, its socket and its parent stay."""
    with before(backend, program=str(installation.program)) as proxy:
        installation.upgrade()
        exchanged(proxy)
        command = Path(f"/proc/{proxy.process.pid}/cmdline").read_text().split("\0")
        assert "-use-listen-fd" in command
        assert f"serving -> 127.0.0.1:{backend[1]}" in proxy.line()
        assert "1 connection" in proxy.totals()


def test_a_port_survives_a_patch_of_python(
    installation: Installation, interpreter: Interpreter, backend: tuple[str, int]
) -> None:
    with before(backend, program=str(installation.program)) as proxy:
        interpreter.patch()
        assert "deleted" in executable(proxy)
        exchanged(proxy)
        assert executable(proxy) == str(interpreter.python)


@pytest.mark.parametrize(
    "breaks",
    [
        lambda python: python.remove(),
        lambda python: shutil.rmtree(python.library),
        lambda python: shutil.rmtree(python.library / "asyncio"),  # which nothing but an import can find
    ],
    ids=["the interpreter", "its library", "a module"],
)
def test_a_port_survives_the_removal_of_its_python_where_there_is_another(
    installation: Installation,
    interpreter: Interpreter,
    another: Path,
    backend: tuple[str, int],
    breaks: Callable[[Interpreter], None],
) -> None:
    with before(backend, program=str(installation.program)) as proxy:
        breaks(interpreter)
        exchanged(proxy)
        # Without its library beside it, a copy may still find that of the Python it was copied from.
        assert executable(proxy) in (os.path.realpath(another), str(interpreter.python))


def test_a_port_survives_an_environment_made_anew(installation: Installation, backend: tuple[str, int]) -> None:
    with before(backend, program=str(installation.program)) as proxy:
        shutil.rmtree(installation.prefix)
        Installation(installation.prefix)
        exchanged(proxy)
        assert executable(proxy) == os.path.realpath(sys.executable)


def test_what_is_loaded_serves_where_nothing_that_is_installed_does(
    installation: Installation, backend: tuple[str, int]
) -> None:
    """An upgrade that has got half-way: the new version does not start, and the rest of the old one is still there."""
    with before(backend, program=str(installation.program)) as proxy:
        (installation.packages / "pyproxy" / "flags.py").write_text("import ''\n")
        (installation.packages / "pyproxy" / "interpreter.py").touch()
        exchanged(proxy)
        assert "does not work as it is now" in proxy.line()


@pytest.mark.parametrize("rest", [True, False], ids=["a part", "all"])
def test_a_port_whose_program_is_gone_says_so(installation: Installation, backend: tuple[str, int], rest: bool) -> None:
    with before(backend, program=str(installation.program)) as proxy:
        if rest:
            shutil.rmtree(installation.packages / "pyproxy" / "solo")
        else:
            shutil.rmtree(installation.prefix)
        with contextlib.suppress(ConnectionResetError):
            connect(proxy).close()
        said = proxy.line() + proxy.line() if not rest else proxy.line()
        assert "cannot be served any more: ModuleNotFoundError: No module named 'pyproxy.solo'" in said
        assert "install it again" in said
        assert proxy.process.wait(PATIENCE_S) == 1
