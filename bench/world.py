"""Client, host and container: three network namespaces, and what serves in the container.

    client 10.0.0.1 --- eth0 10.0.0.27 host 172.19.0.1 --- bridge --- 172.19.0.2 container

The lab's own layout (tests/lab), without its rules: those of a peer that is the kernel's DNAT are loaded with it.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from typing import Any

from tests.lab.host import ReferenceHost
from tests.lab.namespaces import HOST

CLIENT = "outside"
CONTAINER = "daemon1"
HOST_IP = "10.0.0.27"
CONTAINER_IP = "172.19.0.2"

# What serves where in the container.
ECHO_PORT = 7001
DATAGRAM_PORT = 7002
MIXED_PORT = 7003
IPERF_PORT = 5201

# Ten thousand idle connections cost a client, a server and a proxy of six descriptors each as many.
_DESCRIPTORS = 200_000


class LoadError(Exception):
    """A load program failed, or found that what arrived is not what was sent."""


class BenchWorld(ReferenceHost):
    """The namespaces with the servers running. Use as a context manager."""

    def __init__(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # it takes CAP_SYS_RESOURCE; what there is will do
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, max(hard, _DESCRIPTORS)))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        super().__init__(rules=False)
        # Thousands of connections a second leave as many in TIME_WAIT: enough ports, and those may be used again.
        for machine in (CLIENT, HOST):
            self.run("sh", "-c", "cd /proc/sys/net/ipv4; echo 1024 65000 >ip_local_port_range; echo 1 >tcp_tw_reuse",
                     on=machine)  # fmt: skip
        # The client knows the way to the container itself: the "direct" of every table.
        self.run("ip", "route", "add", "172.19.0.0/16", "via", HOST_IP, on=CLIENT)
        self._serve("echo", ECHO_PORT)
        self._serve("mixed", MIXED_PORT)
        self._datagrams = self._serve("datagrams", DATAGRAM_PORT)
        # It says a line per stream, which nobody reads: so it is the kernel that is asked whether it listens.
        silent = subprocess.DEVNULL
        self.start("iperf3", "-s", "-p", str(IPERF_PORT), on=CONTAINER, stdout=silent, stderr=silent)
        for _ in range(500):
            if self.run("ss", "-ltnH", f"sport = :{IPERF_PORT}", on=CONTAINER).strip():
                return
        raise LoadError("iperf3 does not start in the container")

    def _serve(self, what: str, port: int) -> subprocess.Popen[str]:
        server = self.start(
            sys.executable, "-m", "bench.servers", what, str(port), on=CONTAINER, stdin=subprocess.PIPE, stderr=None
        )
        assert server.stdout is not None
        if server.stdout.readline() != "ready\n":
            raise LoadError(f"the {what} server does not start in the container")
        return server

    def run_load(self, what: str, timeout_s: float = 60, **arguments: Any) -> dict[str, Any]:
        """Run a load program (`bench.load`) on the client and return what it found. LoadError if it failed."""
        done = subprocess.run(
            self.command(sys.executable, "-m", "bench.load", what, json.dumps(arguments), on=CLIENT),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if done.returncode:
            raise LoadError(f"{what}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def datagrams(self, command: str = "read") -> dict[str, int]:
        """What the datagram server has counted so far: datagrams, bytes, and those that were not as sent.

        `echo`, `count` and `flood SIZE SECONDS` change what it does with those that come; all start from zero.
        """
        server = self._datagrams
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(command + "\n")
        server.stdin.flush()
        counted: dict[str, int] = json.loads(server.stdout.readline())
        return counted
