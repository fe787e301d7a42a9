"""Client, host and container: three network namespaces, and what serves in the container.

    client 10.0.0.1 --- eth0 10.0.0.27 host 172.19.0.1 --- bridge --- 172.19.0.2 container

The lab's own layout (tests/lab), without its rules: those of a peer that is the kernel's DNAT are loaded with it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.lab.host import BRIDGE, ReferenceHost
from tests.lab.namespaces import HOST

CLIENT = "outside"
CONTAINER = "daemon1"
CLIENT_IP = "10.0.0.1"
HOST_IP = "10.0.0.27"
CONTAINER_IP = "172.19.0.2"
BRIDGE_IP = "172.19.0.1"

# Another of the container's addresses, for the kernel's DNAT: it and a direct connection, of the same client's port by
# chance, would else be one and the same to the container, which resets it.
DNAT_IP = "172.19.0.200"

# The client's further addresses: to a proxy they are as many clients.
CLIENT_IPS = [f"10.0.0.{100 + number}" for number in range(1, 101)]

# What serves where in the container.
ECHO_PORT = 7001
DATAGRAM_PORT = 7002
MIXED_PORT = 7003
BULK_PORT = 7004
IPERF_PORT = 5201

# What the kernel has by default, and Debian with it (Documentation/networking/ip-sysctl.rst; the largest receive buffer
# is that of machines with 2 GiB of memory and more).
CONGESTION_CONTROL = "cubic"
_BUFFERS = """set -e
cd /proc/sys/net/ipv4
echo 4096 131072 6291456 >tcp_rmem
echo 4096 16384 4194304 >tcp_wmem
"""
# By the routes: the sysctl takes only what the machine leaves to namespaces (tcp_allowed_congestion_control), which
# may be BBR and not cubic.
_BY_ROUTE = f"""set -e
ip route show | sed 's/ linkdown//' | while read -r route; do ip route change $route congctl {CONGESTION_CONTROL}; done
"""

# Ten thousand idle connections cost a client, a server and a proxy of six descriptors each as many.
_DESCRIPTORS = 200_000


class LoadError(Exception):
    """A load program failed, or found that what arrived is not what was sent."""


class LoadSession(NamedTuple):
    """A load program that takes orders: what it answered at first, and how to give it one."""

    found: dict[str, Any]
    ask: Callable[[str], dict[str, Any]]


class BenchWorld(ReferenceHost):
    """The namespaces with the servers running. Use as a context manager."""

    def __init__(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # it takes CAP_SYS_RESOURCE; what there is will do
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, max(hard, _DESCRIPTORS)))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        super().__init__(rules=False)
        self.run(
            "ip", "-batch", "-", on=CLIENT, stdin="".join(f"address add {ip}/24 dev eth0\n" for ip in CLIENT_IPS)
        )  # fmt: skip
        self.run("ip", "address", "add", f"{DNAT_IP}/16", "dev", "eth0", on=CONTAINER)
        self._make_neighbours_known()
        # Thousands of connections a second leave as many in TIME_WAIT: enough ports, and those may be used again.
        for machine in (CLIENT, HOST):
            self.run("sh", "-c", "cd /proc/sys/net/ipv4; echo 1024 65000 >ip_local_port_range; echo 1 >tcp_tw_reuse",
                     on=machine)  # fmt: skip
        # The client knows the way to the container itself: the "direct" of every table.
        self.run("ip", "route", "add", "172.19.0.0/16", "via", HOST_IP, on=CLIENT)
        # Namespaces inherit what the machine has been given. BBR, say, paces by what it believes of the path.
        for machine in (CLIENT, HOST, CONTAINER):
            self.run("sh", "-c", _BUFFERS, on=machine)
            self.run("sh", "-c", _BY_ROUTE, on=machine)
        self._processors = sorted(os.sched_getaffinity(0))
        self._client_processors = self._processors
        self._echo = self._serve("echo", ECHO_PORT)
        self._serve("mixed", MIXED_PORT)
        self._bulk = self._serve("bulk", BULK_PORT)
        self._datagrams = self._serve("datagrams", DATAGRAM_PORT)
        self._names = itertools.count()
        self._loads = self.start(
            sys.executable, "-m", "bench.load.forkserver", on=CLIENT, stdin=subprocess.PIPE, stderr=None
        )
        _answer(self._loads)
        # It says a line per stream, which nobody reads: so it is the kernel that is asked whether it listens.
        silent = subprocess.DEVNULL
        self.start("iperf3", "-s", "-p", str(IPERF_PORT), on=CONTAINER, stdout=silent, stderr=silent)
        for _ in range(500):
            if self.run("ss", "-ltnH", f"sport = :{IPERF_PORT}", on=CONTAINER).strip():
                return
        raise LoadError("iperf3 does not start in the container")

    def _make_neighbours_known(self) -> None:
        """For good: else each would be asked again twice a minute who it is, amid floods that go one way."""
        for machine, device, neighbour, its_device, ips in (
            (CLIENT, "eth0", HOST, "eth0", [HOST_IP]),
            (HOST, "eth0", CLIENT, "eth0", [CLIENT_IP, *CLIENT_IPS]),
            (HOST, BRIDGE, CONTAINER, "eth0", [CONTAINER_IP, DNAT_IP]),
            (CONTAINER, "eth0", HOST, BRIDGE, [BRIDGE_IP]),
        ):
            (link,) = json.loads(self.run("ip", "-json", "link", "show", its_device, on=neighbour))
            entry = f"lladdr {link['address']} dev {device} nud permanent\n"
            batch = "".join(f"neighbour replace {ip} {entry}" for ip in ips)
            self.run("ip", "-batch", "-", on=machine, stdin=batch)

    def _serve(self, what: str, port: int) -> subprocess.Popen[str]:
        server = self.start(
            sys.executable,
            "-m",
            "bench.load.servers",
            what,
            str(port),
            on=CONTAINER,
            stdin=subprocess.PIPE,
            stderr=None,
        )
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            raise LoadError(f"the {what} server does not start in the container")
        return server

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """For the time of the block the container's servers have a processor, and load programs that begin another.

        Where one message is in flight at a time, the kernel else puts both on one processor, or on two, as it happens:
        a direct round trip then takes 22 us or 65, for as long as nothing disturbs it. On machines of more than two
        processors it is two. The proxy is free to run on either.
        """
        servers = [self._echo.pid, self._datagrams.pid]
        *_, theirs = self._processors
        for pid in servers:
            os.sched_setaffinity(pid, [theirs])
        self._client_processors = self._processors[:1]
        try:
            yield
        finally:
            for pid in servers:
                os.sched_setaffinity(pid, self._processors)
            self._client_processors = self._processors

    def run_load(self, what: str, within_s: float = 60, **arguments: Any) -> dict[str, Any]:
        """Run a load program (bench/load/) on the client and return what it found. LoadError if it failed, or has
        not ended within that time.
        """
        return self._begin_load(what, f"{next(self._names)}", within_s, arguments)

    def _begin_load(self, what: str, name: str, within_s: float, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._request(
            what,
            {
                "run": what,
                "as": name,
                "arguments": arguments,
                "processors": self._client_processors,
                "within_s": within_s,
            },
        )

    @contextlib.contextmanager
    def load_session(self, what: str, within_s: float = 60, **arguments: Any) -> Iterator[LoadSession]:
        """The same of a session, which lasts for the time of the block and takes orders. Several may last at a time."""
        name = f"{next(self._names)}"

        def ask(order: str) -> dict[str, Any]:
            return self._request(what, {"ask": name, "order": order, "within_s": within_s})

        found = self._begin_load(what, name, within_s, arguments)
        try:
            yield LoadSession(found, ask)
        finally:
            self._request(what, {"end": name})

    def _request(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        found = _answer(self._loads, json.dumps(request))
        if "error" in found:
            raise LoadError(f"{what}: {found['error']}")
        return found

    def bulk(self, command: str = "read") -> dict[str, float]:
        """Bytes that the bulk server has received so far, and when that was true.

        `go KEY` has those of its streams send that began with this key, `pause` none; `end KEY` resets them.
        """
        return _answer(self._bulk, command)

    def datagrams(self, command: str = "read") -> dict[str, Any]:
        """What the datagram server has counted so far: datagrams (`amount`), bytes, and those that were not as sent.

        `echo`, `count` and `flood SIZE` change what it does with those that come; all start from zero.
        """
        return _answer(self._datagrams, command)


def _answer(server: subprocess.Popen[str], line: str = "") -> dict[str, Any]:
    """A server's answer, in JSON, to a line; to none, if it speaks first."""
    assert server.stdin is not None
    assert server.stdout is not None
    if line:
        server.stdin.write(line + "\n")
        server.stdin.flush()
    said = server.stdout.readline()
    if not said:
        raise LoadError(f"a program of the harness itself has ended: status {server.wait()}")
    answer: dict[str, Any] = json.loads(said)
    return answer
