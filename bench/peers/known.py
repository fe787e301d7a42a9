"""All peers."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers.docker_proxy import DockerProxy, DockerProxyLike, NextDockerProxy
from bench.peers.others import Haproxy, Nginx, Socat, SocketProxyd
from bench.peers.peer import Peer
from bench.peers.stub import Stub
from bench.peers.unproxied import Direct, Dnat


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
