"""What is measured against: how each proxy is started before the container, and stopped.

`direct` and `dnat` are no proxies: the client speaks to the container, or the kernel rewrites its packets. Every
other peer runs on the host namespace, new for each round of a scenario, and is ended with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.world import CONTAINER_IP, DNAT_IP, HOST_IP, BenchWorld, LoadError
from tests.lab.namespaces import HOST

_BUILD = Path(__file__).parents[1] / "build"
_FOLDERS = ["build/docker/usr/sbin", "build/peers/usr/sbin", "build/peers/usr/bin", "build/peers/lib/systemd"]
_PATH = os.pathsep.join(
    [*(str(_BUILD.parent / folder) for folder in _FOLDERS), os.environ["PATH"], "/usr/sbin", "/lib/systemd"]
)
_LIBRARIES = os.pathsep.join(
    str(path) for path in (*_BUILD.glob("peers/usr/lib/*-linux-gnu*"), _BUILD / "peers/usr/lib/systemd",
                           *_BUILD.glob("peers/usr/lib/*-linux-gnu*/systemd"))
)  # fmt: skip

# docker-proxy's command line writes its answer to descriptor 3: here, to our end of its standard output.
_ANSWERS_ON_3 = ("sh", "-c", 'exec "$@" 3>&1 >/dev/null 2>/dev/null', "sh")


class Running(NamedTuple):
    """A peer before the container: where the client goes, and whose CPU and memory it costs."""

    address: tuple[str, int]
    processes: list[psutil.Process]


class Beside(NamedTuple):
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
    def before(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        """It carries the one port to the other for the time of the block."""
        raise NotImplementedError

    @contextlib.contextmanager
    def beside(self) -> Iterator[Beside]:
        """What `command` needs, outside of the world; its memory is counted with the command's."""
        yield Beside([], os.environ)


class Direct(Peer):
    """No proxy: the client speaks to the container, by way of the host's forwarding."""

    @contextlib.contextmanager
    def before(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        yield Running((CONTAINER_IP, container_port), [])


class Dnat(Peer):
    """The kernel's DNAT, with the rules that Docker makes for a published port."""

    # Ports that no proxy has had in an earlier round: what the kernel still knows of a proxy's connection
    # (nf_conntrack) no rule applies to any more.
    _OTHER_PORTS = 1000

    @contextlib.contextmanager
    def before(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        host_port += self._OTHER_PORTS
        # The datagram server answers from the container's first address, whomever it was spoken to as.
        ip = DNAT_IP if proto == "tcp" else CONTAINER_IP
        to = f"--to-destination {ip}:{container_port}"
        rules = f"*nat\n-A PREROUTING -d {HOST_IP} -p {proto} -m {proto} --dport {host_port} -j DNAT {to}\nCOMMIT\n"
        world.run("iptables-restore", stdin=rules)
        try:
            yield Running((HOST_IP, host_port), [])
        finally:
            world.run("iptables", "-t", "nat", "-F")


class Program(Peer):
    """A program that is found on the machine or in build/, and started for one port."""

    program = ""
    version_flag = "--version"

    def path(self) -> str | None:
        return shutil.which(self.program, path=_PATH)

    def missing(self) -> str | None:
        return None if self.path() else f"no {self.program} here (make bench-deps)"

    def version(self) -> str:
        return self._said_by(f"{self.path()}", self.version_flag)

    def _said_by(self, *command: str) -> str:
        """The line with the version; none if the program does not know the flag."""
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"LD_LIBRARY_PATH": _LIBRARIES}
        )
        said = (done.stdout + done.stderr).splitlines() if done.returncode == 0 else []
        return next((line for line in said if any(map(str.isdigit, line))), "")

    def arguments(self, proto: str, host_port: int, container_port: int, folder: Path) -> Sequence[str]:
        raise NotImplementedError

    @contextlib.contextmanager
    def before(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        with tempfile.TemporaryDirectory() as folder:
            words = [f"{self.path()}", *self.arguments(proto, host_port, container_port, Path(folder))]
            environment = ["env", f"LD_LIBRARY_PATH={_LIBRARIES}"]
            with ended(world, [*environment, *words]) as process:
                _wait_until_bound(world, proto, host_port, process)
                yield Running((HOST_IP, host_port), [psutil.Process(process.pid)])


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
    def before(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        assert self.command is not None
        ends = ["-proto", proto, "-host-ip", HOST_IP, "-host-port", str(host_port)]
        words = [*ends, "-container-ip", CONTAINER_IP, "-container-port", str(container_port)]
        with ended(world, ["env", *self.environment, *_ANSWERS_ON_3, *self.command, *words]) as process:
            assert process.stdout is not None
            if process.stdout.readline() != "0\n":
                raise LoadError(f"{self.name} did not start: {process.stdout.read().strip()}")
            yield Running((HOST_IP, host_port), [psutil.Process(process.pid)])


class DockerProxy(DockerProxyLike):
    """The one that comes with Docker."""

    def version(self) -> str:
        """Older ones have no flag for it: then that of the dockerd beside it."""
        dockerd = shutil.which("dockerd", path=_PATH)
        return super().version() or (self._said_by(dockerd, "--version") if dockerd is not None else "")


class NextDockerProxy(DockerProxy):
    """The one that comes with the Docker of Debian's next release; by its version it has its name."""

    def __init__(self) -> None:
        super().__init__("docker-proxy-next", [str(_BUILD / "docker-next/usr/sbin/docker-proxy")], version_flag="-v")
        if self.path() and (found := re.search(r"version (\d+)", self.version())):
            self.name = f"docker-proxy-{found[1]}"

    def missing(self) -> str | None:
        return super().missing() and "no docker-proxy in build/docker-next (make bench-deps)"


class Stub(DockerProxyLike):
    """pyproxy's stub, before an engine."""

    def __init__(self, name: str, stub: str, engine: Sequence[str]) -> None:
        super().__init__(name, [stub], version_flag="-v")
        self._engine = list(engine)

    @contextlib.contextmanager
    def before(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        with (
            tempfile.TemporaryDirectory() as folder,
            ended(world, self._engine_in(folder), stderr=subprocess.PIPE) as engine,
        ):
            _wait_for_engine(engine)
            self.environment = [f"{_RUN_DIR}={folder}"]
            with super().before(world, proto, host_port, container_port) as running:
                yield Running(running.address, [*running.processes, psutil.Process(engine.pid)])

    @contextlib.contextmanager
    def beside(self) -> Iterator[Beside]:
        with tempfile.TemporaryDirectory() as folder:
            engine = subprocess.Popen(self._engine_in(folder), stderr=subprocess.PIPE, text=True)
            try:
                _wait_for_engine(engine)
                yield Beside([psutil.Process(engine.pid)], os.environ | {_RUN_DIR: folder})
            finally:
                engine.kill()
                engine.communicate()

    def _engine_in(self, folder: str) -> list[str]:
        return [*self._engine, "--run-dir", folder]


# Where a stub looks for its engine's run directory.
_RUN_DIR = "PYPROXY_RUN_DIR"


def _wait_for_engine(engine: subprocess.Popen[str]) -> None:
    assert engine.stderr is not None
    if "requests come by" not in (said := engine.stderr.readline()):
        raise LoadError(f"the engine did not start: {said + engine.stderr.read()}")


class Socat(Program):
    """A process per connection."""

    program = "socat"
    version_flag = "-V"

    def arguments(self, proto: str, host_port: int, container_port: int, folder: Path) -> Sequence[str]:
        if proto == "tcp":
            listen = f"TCP-LISTEN:{host_port},bind={HOST_IP},fork,reuseaddr,backlog=4096,nodelay"
            return [listen, f"TCP:{CONTAINER_IP}:{container_port},nodelay"]
        listen = f"UDP-LISTEN:{host_port},bind={HOST_IP},fork,reuseaddr"
        return [listen, f"UDP:{CONTAINER_IP}:{container_port}"]


class Haproxy(Program):
    """In TCP mode, splicing when it sees fit, with its default number of threads.

    It wants to know how many connections, and refuses to start if they could need more descriptors than there are: two
    each, and pipes of two more for a quarter of them.
    """

    program = "haproxy"
    version_flag = "-v"
    protocols = ("tcp",)

    def arguments(self, proto: str, host_port: int, container_port: int, folder: Path) -> Sequence[str]:
        configuration = folder / "haproxy.cfg"
        configuration.write_text(
            f"global\n maxconn {(resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) * 2 // 5}\n"
            "defaults\n mode tcp\n option splice-auto\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n"
            f"listen port\n bind {HOST_IP}:{host_port}\n server container {CONTAINER_IP}:{container_port}\n"
        )
        return ["-db", "-q", "-f", str(configuration)]


class Nginx(Program):
    """Its stream module, one worker, as Debian configures it."""

    program = "nginx"
    version_flag = "-v"

    def arguments(self, proto: str, host_port: int, container_port: int, folder: Path) -> Sequence[str]:
        found = [*_BUILD.glob("peers/usr/lib/nginx/modules/ngx_stream_module.so"),
                 *Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so")]  # fmt: skip
        configuration = folder / "nginx.conf"
        udp = " udp" if proto == "udp" else ""
        configuration.write_text(
            f"load_module {found[0]};\ndaemon off;\nuser root;\npid {folder}/pid;\nerror_log {folder}/log;\n"
            "worker_rlimit_nofile 100000;\nevents {{ worker_connections 50000; }}\n".replace("{{", "{").replace(
                "}}", "}"
            )
            + f"stream {{ server {{ listen {HOST_IP}:{host_port}{udp};"
            f" proxy_pass {CONTAINER_IP}:{container_port}; }} }}\n"
        )
        return ["-p", str(folder), "-c", str(configuration), "-e", str(folder / "log")]


class SocketProxyd(Program):
    """systemd-socket-proxyd, its socket handed over by systemd-socket-activate when the first client comes."""

    program = "systemd-socket-proxyd"
    protocols = ("tcp",)

    def missing(self) -> str | None:
        if self.path() is None or shutil.which("systemd-socket-activate", path=_PATH) is None:
            return "no systemd-socket-proxyd and systemd-socket-activate here (make bench-deps)"
        return None

    def arguments(self, proto: str, host_port: int, container_port: int, folder: Path) -> Sequence[str]:
        return [f"--connections-max={20_000}", f"{CONTAINER_IP}:{container_port}"]

    @contextlib.contextmanager
    def before(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        activate = f"{shutil.which('systemd-socket-activate', path=_PATH)}"
        words = [
            activate,
            "-l",
            f"{HOST_IP}:{host_port}",
            f"{self.path()}",
            *self.arguments(proto, host_port, container_port, Path()),
        ]
        with ended(world, ["env", f"LD_LIBRARY_PATH={_LIBRARIES}", *words]) as process:
            _wait_until_bound(world, proto, host_port, process)
            yield Running((HOST_IP, host_port), [psutil.Process(process.pid)])


def known_peers() -> list[Peer]:
    """All of them, the first three being those of a quick run."""
    pyproxy = str(Path(sys.executable).with_name("pyproxy"))
    return [
        DockerProxyLike("pyproxy", [pyproxy]),
        DockerProxy("docker-proxy", ["docker-proxy"], version_flag="-v"),
        Direct("direct"),
        NextDockerProxy(),
        Dnat("dnat"),
        DockerProxyLike("pyproxy-asyncio", [pyproxy, "-loop=asyncio"], starts_as_another=True),
        Stub("pyproxy-engine", f"{pyproxy}-stub", [pyproxy, "engine"]),
        Nginx("nginx"),
        Haproxy("haproxy"),
        Socat("socat"),
        SocketProxyd("socket-proxyd"),
    ]


QUICK = ("pyproxy", "docker-proxy", "direct")

# What users might expect to find here.
NOT_MEASURED = {
    "rootlessport, RootlessKit": "their port drivers forward into the loopback of a child namespace that they make"
    " themselves, so they cannot be put before a container that is already there",
}


# In which a process ends that has been told to.
_ENDS_S = 1


@contextlib.contextmanager
def ended(world: BenchWorld, words: Sequence[str], stderr: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
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


def _wait_until_bound(world: BenchWorld, proto: str, host_port: int, process: subprocess.Popen[str]) -> None:
    """These peers do not say when they listen, so the kernel is asked until it lists the port."""
    flag = "-ltnH" if proto == "tcp" else "-lunH"
    for _ in range(500):
        if world.run("ss", flag, f"sport = :{host_port}").strip():
            return
        if process.poll() is not None:
            break
    raise LoadError(f"it does not listen on port {host_port}: status {process.poll()}")
