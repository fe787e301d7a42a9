"""Proxies of others, each configured for one port."""

from __future__ import annotations

import contextlib
import resource
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bench.peers.peer import BUILD, LIBRARIES, PATH, Program, Running, process_on_host, wait_until_bound
from bench.world import CONTAINER_IP, HOST_IP, BenchWorld


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
        found = [*BUILD.glob("peers/usr/lib/nginx/modules/ngx_stream_module.so"),
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
        if self.path() is None or shutil.which("systemd-socket-activate", path=PATH) is None:
            return "no systemd-socket-proxyd and systemd-socket-activate here (make bench-deps)"
        return None

    def arguments(self, proto: str, host_port: int, container_port: int, folder: Path) -> Sequence[str]:
        return [f"--connections-max={20_000}", f"{CONTAINER_IP}:{container_port}"]

    @contextlib.contextmanager
    def serving(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        activate = f"{shutil.which('systemd-socket-activate', path=PATH)}"
        words = [
            activate,
            "-l",
            f"{HOST_IP}:{host_port}",
            f"{self.path()}",
            *self.arguments(proto, host_port, container_port, Path()),
        ]
        with process_on_host(world, ["env", f"LD_LIBRARY_PATH={LIBRARIES}", *words]) as process:
            wait_until_bound(world, proto, host_port, process)
            yield Running((HOST_IP, host_port), [psutil.Process(process.pid)])
