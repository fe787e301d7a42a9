"""The demonstration of `make demo`: pyproxy before a container of the reference host, and who carried what."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from tests.lab.exchange import Daemon, tell
from tests.lab.host import BRIDGE, ReferenceHost
from tests.lab.namespaces import HOST, World, WorldError
from tests.support.proxy import PROGRAM, Proxy, running

_DNAT = f"-A DOCKER ! -i {BRIDGE} -p tcp -m tcp --dport 1234 -j DNAT --to-destination 172.19.0.2:1234"
_DROP = f"-A DOCKER-ISOLATION-STAGE-2 -o {BRIDGE} -j DROP"

_FROM_TO = [
    ("outside", "10.0.0.27"),
    (HOST, "10.0.0.27"),
    (HOST, "127.0.0.1"),
    (HOST, "::1"),
    ("daemon2", "172.19.0.1"),
    ("daemon1", "10.0.0.27"),
    ("other", "10.0.0.27"),
    ("other", "172.19.0.2"),
]

_BULK_S = 3


def main() -> None:
    try:
        lab = ReferenceHost()
    except WorldError as exc:
        sys.exit(f"demo: {exc}. It needs root, or a kernel that lets you make user namespaces.")
    with lab:
        ends = ["-host-port", "1234", "-container-ip", "172.19.0.2", "-container-port", "1234"]
        with (
            running(*ends, prefix=lab.command()) as ipv4,
            running("-host-ip", "::", *ends, prefix=lab.command()) as ipv6,
        ):
            print(
                "On a host of network namespaces, with a Docker host's iptables rules, a container runs `nc -l 1234`."
            )
            print("Two proxies serve it, as dockerd would start them:")
            for proxy in (ipv4, ipv6):
                print("   ", proxy.served.strip())
            print(f"\n{'from':9} {'to':16} {'answer':18} carried by")
            for source, to in _FROM_TO:
                _show(lab, source, to, [ipv4, ipv6])
            print("\nBulk, by iperf3 through the proxy:")
            for words, flags in (("host to container", []), ("container to host", ["-R"])):
                print(f"    {words:18} {_bulk(lab, flags)}")
            print("\nWhat the proxies say of it:")
            for proxy in (ipv4, ipv6):
                print("   ", proxy.stop().splitlines()[-1])


def _show(lab: ReferenceHost, source: str, to: str, proxies: list[Proxy]) -> None:
    def counts() -> list[int]:
        by_proxy = [int(found[1]) if (found := re.search(r"(\d+) conn", p.totals())) else 0 for p in proxies]
        return [lab.packets("nat", _DNAT), sum(by_proxy), lab.packets("filter", _DROP)]

    before = counts()
    daemon = Daemon(lab, "daemon1", 1234)
    answer = tell(lab, source, to, 1234, f"{source} to {to}", wait_s=1)
    daemon.end()
    changes = [now > then for now, then in zip(counts(), before, strict=True)]
    words = [("the kernel, by DNAT", "pyproxy", "nobody: dropped by isolation")[i] for i in range(3) if changes[i]]
    print(f"{source:9} {to:16} {answer or '-':18} {', '.join(words)}")


def _bulk(lab: World, flags: list[str]) -> str:
    """A rate through a proxy of its own: bytes per second that arrived, by iperf3's own count."""
    server = lab.start("iperf3", "-s", "-1", "-p", "5201", "--forceflush", on="daemon1")
    assert server.stdout is not None
    while "listening" not in server.stdout.readline():
        pass
    port = ["-host-ip", "127.0.0.1", "-host-port", "5201", "-container-ip", "172.19.0.2", "-container-port", "5201"]
    with running(*port, prefix=lab.command()):
        done = json.loads(lab.run("iperf3", "-c", "127.0.0.1", "-p", "5201", "-t", str(_BULK_S), "-J", *flags))
    received = done["end"]["sum_received"]
    return f"{received['bits_per_second'] / 1e9:.1f} Gbit/s, {received['bytes'] / 1e9:.1f} GB"


if __name__ == "__main__":
    if not os.path.exists(PROGRAM):
        sys.exit(f"demo: no {PROGRAM}: run `make demo`")
    try:
        main()
    except subprocess.TimeoutExpired as exc:
        sys.exit(f"demo: {exc}")
