"""A root directory to install into, and an installation to do it with."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.proxy import PATIENCE_S, PROGRAM

TREE = Path(__file__).parents[2]
UNIT = Path("etc/systemd/system/pyproxy.service")

DAEMON = Path("etc/docker/daemon.json")


def pyproxy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/docker").mkdir(parents=True)
    return tmp_path


def files_below(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in root.rglob("*")
        if path.is_file()
    }


def exec_start(root: Path) -> str:
    return next(line for line in (root / UNIT).read_text().splitlines() if line.startswith("ExecStart="))


def bare_installation(folder: Path, python: str = sys.executable) -> str:
    """pyproxy's own files in a virtual environment with nothing else in it; the program."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    shutil.copytree(TREE / "pyproxy", packages / "pyproxy")
    for script in (TREE / "bin").iterdir():
        (folder / "bin" / script.name).write_text(script.read_text().replace("#!python", f"#!{folder}/bin/python"))
        (folder / "bin" / script.name).chmod(0o755)
    return str(folder / "bin" / "pyproxy")
