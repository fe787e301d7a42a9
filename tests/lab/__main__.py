"""The demonstration of `make demo`: pyproxy before a container of the reference host, and who carried what."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from tests.lab.exchange import Daemon, tell
from tests.lab.host import BRIDGE, ReferenceHost
from tests.lab.namespaces import HOST, CommandError, World, WorldError
from tests.support.proxy import PROGRAM, Proxy, running

_DNAT = f"-A DOCKER ! -i {BRIDGE} -p tcp -m tcp --dport 1234 -j DNAT --to-destination 172.19.0.2:1234"
_DROP = f"-A DOCKER-ISOLATION-STAGE-2 -o {BRIDGE} -j DROP"

_KERNEL, _PROXY, _NOBODY = "the kernel, by DNAT", "pyproxy", "nobody: dropped by isolation"

# From, to, and who is to carry it.
WAYS = [
    ("outside", "10.0.0.27", _KERNEL),
    (HOST, "10.0.0.27", _KERNEL),
    (HOST, "127.0.0.1", _PROXY),
    (HOST, "::1", _PROXY),
    ("daemon2", "172.19.0.1", _PROXY),
    ("daemon1", "10.0.0.27", _PROXY),
    ("other", "10.0.0.27", _PROXY),
    ("other", "172.19.0.2", _NOBODY),
]

_BULK_S = 3


def main(bulk_s: int = _BULK_S) -> int:
    """Show it; return the exit status, which the last line explains."""
    try:
        lab = ReferenceHost()
    except WorldError as exc:
        print(f"demo: {exc}. It needs root, or a kernel that lets you make user namespaces.", file=sys.stderr)
        return 1
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
            faults = [fault for way in WAYS for fault in _show(lab, *way, [ipv4, ipv6])]
            print("\nBulk, by iperf3, through a proxy each:")
            totals = []
            for words, flags in (("host to container", []), ("container to host", ["-R"])):
                received_bytes, took_s, total = _bulk(lab, flags, bulk_s)
                print(f"    {words:18} {received_bytes * 8 / took_s / 1e9:.1f} Gbit/s, {received_bytes / 1e9:.1f} GB")
                totals.append(total)
                if not received_bytes:
                    faults.append(f"bulk, {words}: nothing arrived")
            print("\nWhat the proxies say of it:")
            for total in [*(proxy.stop().splitlines()[-1] for proxy in (ipv4, ipv6)), *totals]:
                print("   ", total)
    print("\n" + verdict(faults))
    return 1 if faults else 0


def verdict(faults: list[str]) -> str:
    return "NOT as it should be: " + "; ".join(faults) if faults else "All of this is as it should be."


def fault_of(way: str, expected: str, carriers: list[str], answer: str) -> list[str]:
    """What is wrong with one way: who carried it, and whether there was an answer. Pure."""
    if carriers != [expected]:
        return [f"{way}: carried by {' and '.join(carriers) or 'nobody'}, not by {expected}"]
    if bool(answer) == (expected == _NOBODY):
        return [f"{way}: {'an' if answer else 'no'} answer"]
    return []


def _show(lab: ReferenceHost, source: str, to: str, expected: str, proxies: list[Proxy]) -> list[str]:
    def counts() -> list[int]:
        by_proxy = [int(found[1]) if (found := re.search(r"(\d+) conn", p.totals())) else 0 for p in proxies]
        return [lab.packets("nat", _DNAT), sum(by_proxy), lab.packets("filter", _DROP)]

    before = counts()
    daemon = Daemon(lab, "daemon1", 1234)
    answer = tell(lab, source, to, 1234, f"{source} to {to}", wait_s=1)
    daemon.end()
    changes = [now > then for now, then in zip(counts(), before, strict=True)]
    carriers = [(_KERNEL, _PROXY, _NOBODY)[i] for i in range(3) if changes[i]]
    print(f"{source:9} {to:16} {answer or '-':18} {', '.join(carriers)}")
    return fault_of(f"{source} to {to}", expected, carriers, answer)


def _bulk(lab: World, flags: list[str], seconds: int) -> tuple[int, float, str]:
    """Through a proxy of its own: bytes that arrived and seconds that took, by iperf3's count; the proxy's total."""
    server = lab.start("iperf3", "-s", "-1", "-p", "5201", "--forceflush", on="daemon1")
    assert server.stdout is not None
    while "listening" not in server.stdout.readline():
        pass
    port = ["-host-ip", "127.0.0.1", "-host-port", "5201", "-container-ip", "172.19.0.2", "-container-port", "5201"]
    with running(*port, prefix=lab.command()) as proxy:
        done = json.loads(lab.run("iperf3", "-c", "127.0.0.1", "-p", "5201", "-t", str(seconds), "-J", *flags))
        total = proxy.stop().splitlines()[-1]
    received = done["end"]["sum_received"]
    return received["bytes"], received["seconds"], total


if __name__ == "__main__":
    if not os.path.exists(PROGRAM):
        sys.exit(f"demo: no {PROGRAM}: run `make demo`")
    try:
        sys.exit(main())
    except (CommandError, subprocess.TimeoutExpired) as exc:
        sys.exit(f"demo: NOT as it should be: {exc}")
