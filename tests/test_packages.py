"""What `make wheel` and `make deb` give: installed as their users would, and run under a real dockerd.

The Debian package is installed into a root file system of this machine's release; for dockerd, which runs on this
machine's, its /opt is put in the place of this one's, in a private mount namespace.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy import __version__
from pyproxy.cli import unit
from tests.lab.namespaces import CommandError, WorldError
from tests.support.dockerd import IMAGE, RELEASES, Dockerd
from tests.support.proxy import PATIENCE_S, PROGRAM
from tests.test_dockerd import SERVE, tell

TREE = Path(__file__).parents[1]
BASE = TREE / "build" / "base.tar"
WHEELS = TREE / "build" / "wheels"
WHEEL = TREE / "dist" / f"pyproxyd-{__version__}-py3-none-any.whl"
# For which build/wheels are, and the Debian package is.
PYTHON = "/usr/bin/python3"
# What dpkg and ldconfig keep for themselves.
NOTES = ("proc", "var/lib/dpkg", "var/log", "var/cache")


class World(NamedTuple):
    """dockerd, and the link that it takes for its proxy."""

    dockerd: Dockerd
    proxy: Path

    def use(self, program: Path) -> None:
        self.proxy.unlink()
        self.proxy.symlink_to(program)


class Root:
    """A root file system of this machine's release, to install the package into."""

    def __init__(self, dockerd: Dockerd, folder: Path, package: Path) -> None:
        self._dockerd = dockerd
        self.folder = folder
        subprocess.run(["tar", "-xf", BASE, "-C", folder], check=True)
        dockerd.run("mount", "--bind", "/proc", f"{folder}/proc")
        (folder / "pyproxy.deb").write_bytes(package.read_bytes())
        self.before = self.files()
        self.install()
        dockerd.run("mount", "--bind", f"{folder}/opt", "/opt")

    def install(self) -> None:
        self.run("dpkg", "--install", "/pyproxy.deb")

    def run(self, *command: str) -> str:
        return self._dockerd.run("chroot", str(self.folder), *command)

    def files(self) -> set[str]:
        found = subprocess.run(
            ["find", ".", "-xdev", "-printf", "%P\n"], cwd=self.folder, capture_output=True, text=True
        )
        return {path for path in found.stdout.splitlines() if not path.startswith(NOTES)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    proxy = tmp_path_factory.mktemp("bin") / "docker-proxy"
    proxy.symlink_to(PROGRAM)
    # Under the newest that there is: what is installed is in question here, not what dockerd does.
    release = next((each for each in reversed(RELEASES) if each.missing() is None), RELEASES[0])
    try:
        dockerd = Dockerd(str(proxy), release)
    except WorldError as exc:
        pytest.skip(str(exc))
    with dockerd:
        yield World(dockerd, proxy)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs, in a virtual environment that has nothing else."""
    if not (WHEEL.exists() and WHEELS.exists()):
        pytest.skip("no wheel in dist/, or no build/wheels: `make test` makes both")
    home = tmp_path_factory.mktemp("wheel") / "venv"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", home], check=True)
    pip = [sys.executable, "-m", "pip", "--python", f"{home}/bin/python", "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--find-links", WHEELS, f"{WHEEL}[engine]"], check=True)
    return home / "bin"


@pytest.fixture(scope="module")
def root(world: World, tmp_path_factory: pytest.TempPathFactory) -> Root:
    package = next((TREE / "dist").glob(f"pyproxy_{__version__}-*.deb"), None)
    if package is None or not BASE.exists():
        pytest.skip("no package in dist/, or no build/base.tar: `make test` as root on Debian or Ubuntu makes both")
    return Root(world.dockerd, tmp_path_factory.mktemp("root"), package)


@pytest.fixture
def deb(root: Root) -> Path:
    return Path("/opt/pyproxy/bin")


@pytest.fixture(params=["wheel", "deb"])
def programs(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


def publish(world: World) -> list[str]:
    """Run a container, and exchange a line with it by its published port; return its proxies' command lines."""
    dockerd = world.dockerd
    dockerd.docker("run", "-d", "--name", "daemon1", "-p", "127.0.0.1:1234:1234", IMAGE, "sh", "-c", SERVE)
    try:
        assert tell(dockerd, "127.0.0.1") == "to the client"
        assert dockerd.docker("logs", "daemon1") == "to the container"
        return [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid, _ in dockerd.proxies()]
    finally:
        dockerd.docker("rm", "-f", "daemon1")


def test_a_container_is_published_by_a_process_for_its_port(world: World, programs: Path) -> None:
    world.use(programs / "pyproxy")
    [command] = publish(world)
    assert f"{programs}/python -I -S -X utf8 {programs}/pyproxy-python " in command


def test_a_container_is_published_by_the_stub_and_its_engine(world: World, programs: Path) -> None:
    world.use(programs / "pyproxy-stub")
    engine = world.dockerd.start_engine(program=str(programs / "pyproxy"))
    try:
        [command] = publish(world)
        assert command.split()[:2] == ["/bin/sh", str(world.proxy)]
    finally:
        world.dockerd.run("sh", "-c", "kill -TERM $(cat /run/pyproxy/pid)")
        assert engine.wait(PATIENCE_S) == 0


def test_the_wheel_says_that_it_is_typed_and_needs_uvloop_alone(wheel: Path) -> None:
    program = "import importlib.metadata, pathlib, pyproxy; print(importlib.metadata.requires('pyproxyd'));"
    program += "assert (pathlib.Path(pyproxy.__path__[0]) / 'py.typed').exists()"
    said = subprocess.run([wheel / "python", "-I", "-c", program], capture_output=True, text=True, check=True).stdout
    assert [each for each in ast.literal_eval(said) if "extra ==" not in each] == ["uvloop<1,>=0.21"]


def test_the_package_puts_everything_in_its_place(root: Root) -> None:
    assert root.run("pyproxy", "-version") == f"pyproxy version {__version__}\n"
    unit_path = root.folder / "usr/lib/systemd/system" / unit.NAME
    [started] = [line for line in unit_path.read_text().splitlines() if line.startswith("ExecStart=")]
    assert root.run(*started.removeprefix("ExecStart=").split(), "--check").startswith(f"pyproxy engine {__version__}")
    assert unit.notes_of(unit_path.read_text()) is None
    assert not list((root.folder / "etc/systemd/system").rglob(unit.NAME))
    # Of this machine, and of what builds it, nothing is left in it.
    for path in (root.folder / "opt/pyproxy/bin").iterdir():
        assert path.name.startswith("py")
        if path.is_symlink():
            assert str(path.readlink()) in ("python3", PYTHON)
        else:
            assert path.read_text().splitlines()[0] in ("#!/bin/sh", "#!/opt/pyproxy/bin/python")


def test_nothing_is_compiled_at_a_start(root: Root) -> None:
    root.run("pyproxy", "engine", "--check")
    before = root.files()
    # It would be written again, and be another one than the package has.
    assert root.run("dpkg", "--verify", "pyproxy") == ""
    assert root.files() == before


def test_it_can_be_upgraded_but_not_removed_while_dockerd_is_told_to_use_it(root: Root) -> None:
    root.run("pyproxy", "install", "--yes")
    root.install()
    with pytest.raises(CommandError, match="run `pyproxy uninstall`, or take that out, and try again"):
        root.run("dpkg", "--purge", "pyproxy")
    assert root.run("pyproxy", "-version")
    root.run("pyproxy", "uninstall", "--yes")


def test_a_purge_leaves_nothing_behind(root: Root) -> None:
    """The last of this file: it takes the package away."""
    root.run("dpkg", "--purge", "pyproxy")
    assert root.files() - root.before <= {"etc/docker", "etc/systemd/system"}  # which `pyproxy install` made
    assert root.before <= root.files()
