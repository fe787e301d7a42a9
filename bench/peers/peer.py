"""A peer, and how a program is started before the container and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.world import HOST_IP, BenchWorld, LoadError
from tests.lab.namespaces import HOST

BUILD = Path(__file__).parents[2] / "build"
_FOLDERS = ["build/docker/usr/sbin", "build/peers/usr/sbin", "build/peers/usr/bin", "build/peers/lib/systemd"]
PATH = os.pathsep.join(
    [*(str(BUILD.parent / folder) for folder in _FOLDERS), os.environ["PATH"], "/usr/sbin", "/lib/systemd"]
)
LIBRARIES = os.pathsep.join(
    str(path) for path in (*BUILD.glob("peers/usr/lib/*-linux-gnu*"), BUILD / "peers/usr/lib/systemd",
                           *BUILD.glob("peers/usr/lib/*-linux-gnu*/systemd"))
)  # fmt: skip


class Running(NamedTuple):
    """A peer before the container: where the client goes, and whose CPU and memory it costs."""

    address: tuple[str, int]
    processes: list[psutil.Process]


class Prerequisites(NamedTuple):
    """What a peer's command needs: processes that run already, and the environment to start it in."""

    processes: list[psutil.Process]
    environment: Mapping[str, str]


class Peer:
    """One way from the client to the container."""

    protocols: tuple[str, ...] = ("tcp", "udp")
    # With docker-proxy's command line: can be measured port by port, and from spawn to answer.
    command: tuple[str, ...] | None = None
    # Not so if it is another peer's command with flags that tell only when a client comes.
    starts_as_another = False

    def __init__(self, name: str) -> None:
        self.name = name

    def missing(self) -> str | None:
        """Why it cannot be measured here, or None."""
        return None

    def version(self) -> str:
        return ""

    @contextlib.contextmanager
    def serving(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        """The peer carries the host port to the container's for the time of the block."""
        raise NotImplementedError

    @contextlib.contextmanager
    def prerequisites(self) -> Iterator[Prerequisites]:
        """What `command` needs, outside of the world; its memory is counted with the command's."""
        yield Prerequisites([], os.environ)


class Program(Peer):
    """A program that is found on the machine or in build/, and started for one port."""

    program = ""
    version_flag = "--version"

    def path(self) -> str | None:
        return shutil.which(self.program, path=PATH)

    def missing(self) -> str | None:
        return None if self.path() else f"no {self.program} here (make bench-deps)"

    def version(self) -> str:
        return self._said_by(f"{self.path()}", self.version_flag)

    def _said_by(self, *command: str) -> str:
        """The line with the version; none if the program does not know the flag."""
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"LD_LIBRARY_PATH": LIBRARIES}
        )
        said = (done.stdout + done.stderr).splitlines() if done.returncode == 0 else []
        return next((line for line in said if any(map(str.isdigit, line))), "")

    def arguments(self, proto: str, host_port: int, container_port: int, folder: Path) -> Sequence[str]:
        raise NotImplementedError

    @contextlib.contextmanager
    def serving(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        with tempfile.TemporaryDirectory() as folder:
            words = [f"{self.path()}", *self.arguments(proto, host_port, container_port, Path(folder))]
            environment = ["env", f"LD_LIBRARY_PATH={LIBRARIES}"]
            with process_on_host(world, [*environment, *words]) as process:
                wait_until_bound(world, proto, host_port, process)
                yield Running((HOST_IP, host_port), [psutil.Process(process.pid)])


# In which a process ends that has been told to.
_ENDS_S = 1


@contextlib.contextmanager
def process_on_host(
    world: BenchWorld, words: Sequence[str], stderr: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """A process on the host for the time of the block; it and its children are gone afterwards, and the port free."""
    process = world.start(*words, on=HOST, stderr=stderr)
    try:
        yield process
    finally:
        tree: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDS_S)
        process.kill()
        process.wait()
        # Only now are those that it has left behind to be waited for here (usage.adopt_orphans).
        _, alive = psutil.wait_procs(tree, timeout=_ENDS_S)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(alive, timeout=_ENDS_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        world.forget(process)


def wait_until_bound(world: BenchWorld, proto: str, host_port: int, process: subprocess.Popen[str]) -> None:
    """These peers do not say when they listen, so the kernel is asked until it lists the port."""
    flag = "-ltnH" if proto == "tcp" else "-lunH"
    for _ in range(500):
        if world.run("ss", flag, f"sport = :{host_port}").strip():
            return
        if process.poll() is not None:
            break
    raise LoadError(f"it does not listen on port {host_port}: status {process.poll()}")
