"""docker-proxy, and whatever has its command line."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence

import psutil

from bench.peers.peer import BUILD, PATH, Program, Running, process_on_host
from bench.world import CONTAINER_IP, HOST_IP, BenchWorld, LoadError

# docker-proxy's command line writes its answer to descriptor 3: here, to our end of its standard output.
_ANSWERS_ON_3 = ("sh", "-c", 'exec "$@" 3>&1 >/dev/null 2>/dev/null', "sh")


class DockerProxyLike(Program):
    """docker-proxy, and whatever has its command line."""

    def __init__(
        self, name: str, command: Sequence[str], version_flag: str = "-version", *, starts_as_another: bool = False
    ) -> None:
        super().__init__(name)
        self.program = command[0]
        self.command = tuple(command)
        self.version_flag = version_flag
        self.starts_as_another = starts_as_another
        self.environment: list[str] = []  # `NAME=VALUE`, besides our own

    def missing(self) -> str | None:
        if self.path() is None:
            return f"no {self.program} here (make bench-deps)"
        self.command = (f"{self.path()}", *(self.command or ())[1:])
        return None

    @contextlib.contextmanager
    def serving(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        assert self.command is not None
        ends = ["-proto", proto, "-host-ip", HOST_IP, "-host-port", str(host_port)]
        words = [*ends, "-container-ip", CONTAINER_IP, "-container-port", str(container_port)]
        with process_on_host(world, ["env", *self.environment, *_ANSWERS_ON_3, *self.command, *words]) as process:
            assert process.stdout is not None
            if process.stdout.readline() != "0\n":
                raise LoadError(f"{self.name} did not start: {process.stdout.read().strip()}")
            yield Running((HOST_IP, host_port), [psutil.Process(process.pid)])


class DockerProxy(DockerProxyLike):
    """The one that comes with Docker."""

    def version(self) -> str:
        """Older ones have no flag for it: then that of the dockerd beside it."""
        dockerd = shutil.which("dockerd", path=PATH)
        return super().version() or (self._said_by(dockerd, "--version") if dockerd is not None else "")


class NextDockerProxy(DockerProxy):
    """The one that comes with the Docker of Debian's next release; by its version it has its name."""

    def __init__(self) -> None:
        super().__init__("docker-proxy-next", [str(BUILD / "docker-next/usr/sbin/docker-proxy")], version_flag="-v")
        if self.path() and (found := re.search(r"version (\d+)", self.version())):
            self.name = f"docker-proxy-{found[1]}"

    def missing(self) -> str | None:
        return super().missing() and "no docker-proxy in build/docker-next (make bench-deps)"
