"""The layers of the package: who may import whom, and what is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyproxy

PACKAGE = Path(pyproxy.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# A module imports its own layer and those below. "" is the root; the runtimes, solo, engine and embed, know nothing of
# one another, and only the command line knows more than one.
BELOW: dict[str, set[str]] = {
    "": set(),
    "core": {""},
    "relay": {"", "core"},
    "solo": {"", "core", "relay"},
    "engine": {"", "core", "relay"},
    "embed": {"", "core", "relay"},
    "cli": {"", "core", "relay", "engine"},
}
# The two doors: for a process of its own, which goes on to solo or to the command line when it is known which; and for
# other programs, whose `pyproxy.forward` is imported when they ask for it.
DOORS = {Path("__main__.py"), Path("__init__.py")}

# What takes longer to import than the interpreter takes to start, or brings such in.
HEAVY = {
    "argparse",
    "asyncio",
    "collections",
    "contextlib",
    "ctypes",
    "dataclasses",
    "enum",
    "fcntl",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "re",
    "signal",
    "socket",
    "subprocess",
    "typing",
    "uvloop",
}


def layer_of(name: str) -> str:
    """Of a module, as `pyproxy.relay.stream`."""
    parts = name.split(".")[1:]
    return parts[0] if parts and parts[0] in BELOW else ""


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the layer"
            base = node.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if base == "pyproxy")


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_downwards_only(path: Path) -> None:
    if path in DOORS:
        return
    layer = path.parts[0] if len(path.parts) > 1 else ""
    assert layer in BELOW, f"a new folder: say in {Path(__file__).name} what it may import"
    for name in imports_of(path):
        if name == "pyproxy" or name.startswith("pyproxy."):
            assert layer_of(name) in BELOW[layer] | {layer}, f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] == "core"], ids=str)
def test_the_core_does_no_input_and_output_and_has_no_clock(path: Path) -> None:
    assert not {"os", "time", "select", "asyncio", "threading", "subprocess"} & set(imports_of(path))


def test_one_module_calls_the_c_library() -> None:
    assert [path for path in MODULES if "ctypes" in imports_of(path)] == [Path("relay/syscalls.py")]


def test_the_root_is_light() -> None:
    """All of it may be imported before dockerd's answer, which dockerd awaits for each port in turn."""
    names = [f"pyproxy.{path.stem}" for path in MODULES if len(path.parts) == 1 and path.stem != "__init__"]
    program = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import {', '.join(names)}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "pyproxy.bind" in imported
    assert not HEAVY & set(imported)


def test_the_solo_path_imports_nothing_of_the_engine() -> None:
    program = "import sys, pyproxy.__main__, pyproxy.solo.serve; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not [name for name in out.split() if name.startswith("pyproxy.engine")]
