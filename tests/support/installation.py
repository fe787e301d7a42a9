"""pyproxy as pip installs it, in a virtual environment of the test's own, to be upgraded, broken and removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import uvloop

import pyproxy

_TREE = Path(pyproxy.__path__[0]).parent
_VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"


class Installation:
    """What is in `prefix`: the programs, the package, and uvloop. `python` makes the environment."""

    def __init__(self, prefix: Path, *, python: Path | str = sys.executable) -> None:
        self.prefix = prefix
        self.packages = prefix / "lib" / _VERSION / "site-packages"
        self.program = prefix / "bin" / "pyproxy"
        self.stub = prefix / "bin" / "pyproxy-stub"
        subprocess.run([python, "-I", "-m", "venv", "--without-pip", prefix], check=True)
        for source in (_TREE / "bin").iterdir():
            first, rest = source.read_text().split("\n", 1)
            program = prefix / "bin" / source.name
            program.write_text(f"#!{prefix}/bin/python\n{rest}" if first == "#!python" else f"{first}\n{rest}")
            program.chmod(0o755)
        for package in (pyproxy, uvloop):
            folder = Path(package.__path__[0])
            shutil.copytree(folder, self.packages / folder.name, ignore=shutil.ignore_patterns("__pycache__"))

    def upgrade(self) -> None:
        """Another version of pyproxy, of which every file is new."""
        folder = self.packages / "pyproxy"
        folder.rename(self.prefix / "before")
        shutil.copytree(self.prefix / "before", folder)
        shutil.rmtree(self.prefix / "before")
        (folder / "interpreter.py").touch()


class Interpreter:
    """A Python of the test's own, with its standard library, below `prefix`: to be patched or removed."""

    def __init__(self, prefix: Path) -> None:
        base = Path(sys.base_prefix)
        self.python = prefix / "bin" / "python3"
        self.library = prefix / "lib" / _VERSION
        self.python.parent.mkdir(parents=True)
        shutil.copy(os.path.realpath(sys.executable), self.python)
        unneeded = shutil.ignore_patterns("site-packages", "dist-packages", "test", "idlelib", "config-*", "ensurepip")
        shutil.copytree(base / "lib" / _VERSION, self.library, ignore=unneeded)

    def patch(self) -> None:
        """What a package manager does for a new patch release: every file is another one, of the same name."""
        self._aside(self.library)
        shutil.copytree(self._old, self.library)
        shutil.rmtree(self._old)
        self._aside(self.python)
        shutil.copy(self._old, self.python)
        self._old.unlink()

    def _aside(self, path: Path) -> None:
        self._old = path.with_name("old")
        path.rename(self._old)

    def remove(self) -> None:
        shutil.rmtree(self.python.parents[1])
