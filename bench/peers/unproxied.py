"""No proxy at all: the client speaks to the container, or the kernel rewrites its packets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.peers.peer import Peer, Running
from bench.world import CONTAINER_IP, DNAT_IP, HOST_IP, BenchWorld


class Direct(Peer):
    """No proxy: the client speaks to the container, by way of the host's forwarding."""

    @contextlib.contextmanager
    def serving(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
        yield Running((CONTAINER_IP, container_port), [])


class Dnat(Peer):
    """The kernel's DNAT, with the rules that Docker makes for a published port."""

    # Ports that no proxy has had in an earlier round: what the kernel still knows of a proxy's connection
    # (nf_conntrack) no rule applies to any more.
    _OTHER_PORTS = 1000

    @contextlib.contextmanager
    def serving(self, world: BenchWorld, proto: str, host_port: int, container_port: int) -> Iterator[Running]:
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
