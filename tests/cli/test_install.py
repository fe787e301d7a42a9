"""`pyproxy install`: what it writes, and what it refuses before it writes anything."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cli.root import DAEMON, UNIT, bare_installation, exec_start, files_below, pyproxy, root
from tests.support.engine import STUB
from tests.support.proxy import PATIENCE_S, PROGRAM

__all__ = ["root"]


def test_the_engines_flags_are_kept_in_the_unit_by_later_installations(root: Path) -> None:
    def install(*arguments: str) -> None:
        done = pyproxy("install", "--yes", "--root", str(root), *arguments)
        assert done.returncode == 0, done.stderr

    install("-metrics", ":9100", "--drain=5m")
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --drain=5m --metrics=:9100"
    install()
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --drain=5m --metrics=:9100"
    install("--drain", "10", "--busy-poll", "0")
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --drain=10 --metrics=:9100 --busy-poll=0"
    install("--defaults", "--loop=asyncio")
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --loop=asyncio"


def test_flags_that_the_administrator_wrote_into_the_unit_are_kept_or_named(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    text = (root / UNIT).read_text()
    (root / UNIT).write_text(text.replace(" engine\n", ' engine -drain 7 "--metrics" :9\n'))
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    assert exec_start(root) == f"ExecStart={PROGRAM} engine --drain=7 --metrics=:9"
    (root / UNIT).write_text(text.replace(" engine\n", " engine --run-dir /x\n"))
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 1
    assert "unknown argument --run-dir" in done.stderr
    assert "--defaults" in done.stderr
    assert pyproxy("install", "--defaults", "--yes", "--root", str(root)).returncode == 0


def test_without_the_userland_proxy_there_is_nothing_to_install(root: Path) -> None:
    (root / DAEMON).write_text('{"userland-proxy": false}')
    untouched = files_below(root)
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 1
    assert '"userland-proxy": false, so dockerd would never start a proxy' in done.stderr
    assert done.stdout == ""
    assert files_below(root) == untouched
    (root / DAEMON).write_text('{"userland-proxy": true}')
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0


def test_install_wants_what_the_engine_needs_before_it_shows_anything(root: Path, tmp_path: Path) -> None:
    program = bare_installation(tmp_path / "bare")
    done = subprocess.run(
        [program, "install", "--yes", "--root", str(root)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "the engine would not start: pyproxy engine needs aiohttp, which is not installed: " in done.stderr
    assert not (root / UNIT).exists()


def test_a_place_that_the_unit_does_not_see_is_refused(tmp_path: Path) -> None:
    """Of this machine only what is there is read: a dry run."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        program = bare_installation(Path(folder) / "bare")
        done = subprocess.run(
            [program, "install", "--dry-run"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{program} is hidden from the engine's unit" in done.stderr
    assert "/opt/pyproxy" in done.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1,}', "nonsense"])
def test_a_daemon_json_that_cannot_be_read_is_left_alone(root: Path, text: str) -> None:
    (root / DAEMON).write_text(text)
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 1
    assert "fix it first" in done.stderr
    assert (root / DAEMON).read_text() == text
    assert not (root / UNIT).exists()


def test_somebody_elses_unit_is_left_alone(root: Path) -> None:
    (root / UNIT).parent.mkdir(parents=True)
    (root / UNIT).write_text("[Service]\nExecStart=/bin/true\n")
    for name in ("install", "uninstall"):
        done = pyproxy(name, "--yes", "--root", str(root))
        assert done.returncode == 1
        assert "is not pyproxy's" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed here")
def test_the_stub_is_a_clean_posix_script() -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", STUB], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
