"""The Dockerfile, built and run by a real dockerd. No registry is needed: the base image is made on this machine."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy import __version__
from tests.lab.namespaces import WorldError
from tests.support.dockerd import RELEASES, Dockerd
from tests.support.proxy import PROGRAM

TREE = Path(__file__).parents[1]
BASE = TREE / "build" / "base.tar"
# What the Dockerfile needs of the tree, and the wheels that pip would else fetch.
NEEDED = ["Dockerfile", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "bin", "pyproxy", "build/wheels"]


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: release.name)
def dockerd(request: pytest.FixtureRequest) -> Iterator[Dockerd]:
    if not BASE.exists():
        pytest.skip("no build/base.tar: `make test` as root on Debian or Ubuntu makes it")
    try:
        world = Dockerd(PROGRAM, request.param)
    except WorldError as exc:
        pytest.skip(str(exc))
    with world:
        world.load("base", BASE.read_bytes())
        yield world


def build(dockerd: Dockerd, tag: str, *arguments: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cp", "-r", "--parents", *NEEDED, folder], cwd=TREE, check=True)
        offline = "PIP_FLAGS=--no-index --find-links=/source/build/wheels"
        flags = ["--build-arg", "BASE=base", "--build-arg", offline, "--tag", tag, *arguments]
        dockerd.docker("build", "--quiet", *flags, folder)


def test_the_image_runs_pyproxy_as_an_ordinary_user_on_the_hosts_network(dockerd: Dockerd) -> None:
    build(dockerd, "pyproxy")
    if any((folder / "docker-buildx").exists() for folder in dockerd.release.plugins):
        assert "buildkit" in dockerd.docker("history", "pyproxy")
    assert dockerd.docker("run", "--rm", "pyproxy", "-version") == f"pyproxy version {__version__}"
    backend = dockerd.start("nc", "-l", "-v", "-N", "-n", "127.0.0.1", "1234")
    assert backend.stderr is not None
    assert backend.stderr.readline().startswith("Listening on")
    ends = ["-host-ip", "127.0.0.1", "-host-port", "4321", "-container-ip", "127.0.0.1", "-container-port", "1234"]
    dockerd.docker("run", "-d", "--name", "proxy", "--network", "host", "pyproxy", *ends)
    dockerd.await_log("proxy", "serving")
    assert dockerd.docker("exec", "proxy", "id", "-u") == "65532"
    dockerd.run("nc", "-N", "-w", "5", "127.0.0.1", "4321", stdin="through the container\n")
    out, _ = backend.communicate(timeout=10)
    assert out == "through the container\n"
    assert dockerd.docker("stop", "proxy") == "proxy"
    assert dockerd.docker("inspect", "-f", "{{.State.ExitCode}}", "proxy") == "0"
    dockerd.await_log("proxy", "stopped by SIGTERM")


def test_the_bench_target_has_iperf3(dockerd: Dockerd) -> None:
    build(dockerd, "pyproxy-bench", "--target", "bench")
    assert dockerd.docker("run", "--rm", "pyproxy-bench", "--version").startswith("iperf 3")
