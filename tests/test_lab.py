"""Who carries which connection of the reference host: every row of its table, proved by messages and by counters."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.exchange import Daemon, UdpClient, tell
from tests.lab.host import BRIDGE, RULES, ReferenceHost
from tests.lab.namespaces import HOST, CommandError, World, WorldError, processes_in
from tests.support.proxy import Proxy, running

DNAT = {
    "tcp": f"-A DOCKER ! -i {BRIDGE} -p tcp -m tcp --dport 1234 -j DNAT --to-destination 172.19.0.2:1234",
    "udp": f"-A DOCKER ! -i {BRIDGE} -p udp -m udp --dport 1234 -j DNAT --to-destination 172.19.0.2:1234",
}
RETURN = {BRIDGE: f"-A DOCKER -i {BRIDGE} -j RETURN", "docker0": "-A DOCKER -i docker0 -j RETURN"}
DROP = f"-A DOCKER-ISOLATION-STAGE-2 -o {BRIDGE} -j DROP"

# From, to, carried by, and the rule that turns it away from DNAT, if one does.
TABLE = [
    ("outside", "10.0.0.27", "kernel", None),
    (HOST, "10.0.0.27", "kernel", None),
    (HOST, "172.19.0.1", "kernel", None),
    (HOST, "127.0.0.1", "proxy", None),
    ("daemon2", "172.19.0.1", "proxy", RETURN[BRIDGE]),
    ("daemon2", "10.0.0.27", "proxy", RETURN[BRIDGE]),
    ("daemon1", "10.0.0.27", "proxy", RETURN[BRIDGE]),
    ("other", "10.0.0.27", "proxy", RETURN["docker0"]),
]
TABLE_IPV6 = [(HOST, "::1"), ("outside", "fd00:10::27"), ("daemon2", "fd00:19::1"), ("daemon1", "fd00:10::27")]


def new_lab(*, rules: bool = True) -> ReferenceHost:
    try:
        return ReferenceHost(rules=rules)
    except WorldError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def lab() -> Iterator[ReferenceHost]:
    with new_lab() as lab:
        yield lab


def serve(lab: World, proto: str, host: str, container: str = "172.19.0.2") -> contextlib.AbstractContextManager[Proxy]:
    """A proxy on the host, as dockerd would start it for daemon1's port 1234."""
    ends = ["-proto", proto, "-host-ip", host, "-host-port", "1234"]
    return running(*ends, "-container-ip", container, "-container-port", "1234", prefix=lab.command())


@pytest.fixture(scope="module")
def tcp(lab: ReferenceHost) -> Iterator[Proxy]:
    with serve(lab, "tcp", "0.0.0.0") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def tcp6(lab: ReferenceHost) -> Iterator[Proxy]:
    with serve(lab, "tcp", "::") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def udp(lab: ReferenceHost) -> Iterator[Proxy]:
    with serve(lab, "udp", "0.0.0.0") as proxy:
        yield proxy


def carried(proxy: Proxy, what: str) -> int:
    """How many connections or flows a proxy has had."""
    found = re.search(rf"(\d+) {what}?\b", proxy.totals())
    return int(found[1]) if found else 0


@pytest.mark.parametrize(("chains", "table", "files"), [
    ({"PREROUTING", "POSTROUTING", "OUTPUT", "DOCKER"}, "nat", ["nat-published.rules", "nat-udp.rules"]),
    ({"FORWARD", "DOCKER", "DOCKER-USER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2"}, "filter",
     ["filter-published.rules", "filter-udp.rules"]),
])  # fmt: skip
def test_the_hosts_rules_are_the_administrators(
    lab: ReferenceHost, chains: set[str], table: str, files: list[str]
) -> None:
    recorded = "".join((RULES / name).read_text() for name in files).splitlines()
    in_force = lab.rules(table).splitlines()
    assert sorted(in_force) == sorted(recorded)
    # iptables lists chains in an order of its own; within each, order is meaning.
    for chain in chains:
        rules = [line for line in in_force if line.startswith(f"-A {chain} ")]
        assert rules == [line for line in recorded if line.startswith(f"-A {chain} ")]
        assert rules


@pytest.mark.parametrize(("source", "to", "carrier", "turned_away_by"), TABLE)
def test_tcp_row(
    lab: ReferenceHost, tcp: Proxy, source: str, to: str, carrier: str, turned_away_by: str | None
) -> None:
    dnat, by_proxy = lab.packets("nat", DNAT["tcp"]), carried(tcp, "connections")
    turned_away = lab.packets("nat", turned_away_by) if turned_away_by else 0
    daemon = Daemon(lab, "daemon1", 1234)
    assert tell(lab, source, to, 1234, f"{source} to {to}") == daemon.says
    assert daemon.heard() == f"{source} to {to}"
    # A rule of the nat table meets the first packet of each connection, and no other.
    assert lab.packets("nat", DNAT["tcp"]) - dnat == (carrier == "kernel")
    assert carried(tcp, "connections") - by_proxy == (carrier == "proxy")
    if turned_away_by:
        assert lab.packets("nat", turned_away_by) - turned_away == 1


@pytest.mark.parametrize(("source", "to"), TABLE_IPV6)
def test_tcp_row_by_ipv6_to_an_ipv4_container(lab: ReferenceHost, tcp6: Proxy, source: str, to: str) -> None:
    by_proxy = carried(tcp6, "connections")
    daemon = Daemon(lab, "daemon1", 1234)
    assert tell(lab, source, to, 1234, f"{source} to {to}") == daemon.says
    assert daemon.heard() == f"{source} to {to}"
    assert carried(tcp6, "connections") - by_proxy == 1


def test_directly_from_another_bridge_nobody_carries_it(lab: ReferenceHost, tcp: Proxy) -> None:
    dropped, by_proxy = lab.packets("filter", DROP), carried(tcp, "connections")
    daemon = Daemon(lab, "daemon1", 1234)
    assert tell(lab, "other", "172.19.0.2", 1234, "anybody?", wait_s=1) == ""
    daemon.end()
    assert lab.packets("filter", DROP) > dropped
    assert carried(tcp, "connections") == by_proxy


@pytest.mark.parametrize(("source", "to", "carrier", "turned_away_by"), TABLE)
def test_udp_row(
    lab: ReferenceHost, udp: Proxy, source: str, to: str, carrier: str, turned_away_by: str | None
) -> None:
    dnat, by_proxy = lab.packets("nat", DNAT["udp"]), carried(udp, "flows")
    daemon = Daemon(lab, "daemon1", 1234, udp=True)
    # A connected socket: it would not hear a reply from any other address than the one it spoke to.
    client = UdpClient(lab, source, to, 1234)
    client.say(f"{source} to {to}")
    assert daemon.answer() == f"{source} to {to}"
    assert client.hear() == daemon.says
    client.end()
    daemon.end()
    assert lab.packets("nat", DNAT["udp"]) - dnat == (carrier == "kernel")
    assert carried(udp, "flows") - by_proxy == (carrier == "proxy")


@pytest.mark.parametrize(("source", "to"), TABLE_IPV6)
@pytest.mark.parametrize("container", ["172.19.0.2", "fd00:19::2"])
def test_udp_row_by_ipv6(lab: ReferenceHost, source: str, to: str, container: str) -> None:
    daemon = Daemon(lab, "daemon1", 1234, udp=True, family="-6" if ":" in container else "-4")
    with serve(lab, "udp", "::", container):
        client = UdpClient(lab, source, to, 1234)
        client.say(f"{source} to {to}")
        assert daemon.answer() == f"{source} to {to}"
        assert client.hear() == daemon.says
        client.end()
    daemon.end()


@pytest.mark.parametrize("kind", ["unreachable", "prohibit", "blackhole"])
def test_a_container_that_cannot_be_reached_resets_the_client(lab: ReferenceHost, kind: str) -> None:
    client = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(1)"
    ends = ["-host-ip", "127.0.0.1", "-host-port", "0", "-container-ip", "198.51.100.7", "-container-port", "9"]
    lab.run("ip", "route", "add", kind, "198.51.100.0/24")
    try:
        with running(*ends, prefix=lab.command()) as proxy:
            with pytest.raises(CommandError, match="ConnectionResetError"):
                lab.run(sys.executable, "-c", client, str(proxy.port))
            assert "the client was reset" in proxy.line()
            assert "1 connection failed" in proxy.totals()
    finally:
        lab.run("ip", "route", "del", kind, "198.51.100.0/24")


@pytest.mark.parametrize("kind", ["icmp-port-unreachable", "icmp-host-prohibited", "icmp-admin-prohibited"])
def test_no_datagram_is_lost_to_a_firewalls_refusal_of_an_earlier_one(lab: ReferenceHost, kind: str) -> None:
    """The ICMP error is told on the next send, which then sends nothing: it has to be sent again."""
    rule = ["INPUT", "-p", "udp", "--dport", "1234", "-j", "REJECT", "--reject-with", kind]
    with serve(lab, "udp", "::1") as proxy:
        client = UdpClient(lab, HOST, "::1", 1234)
        lab.run("iptables", "-A", *rule, on="daemon1")
        client.say("refused")
        while "1 datagram up" not in proxy.totals():
            pass
        lab.run("iptables", "-D", *rule, on="daemon1")
        daemon = Daemon(lab, "daemon1", 1234, udp=True)
        client.say("received")
        assert daemon.answer() == "received"
        assert client.hear() == daemon.says
        daemon.end()
        client.end()
        totals = proxy.totals()
        assert "1 datagram unreachable" in totals
        assert "dropped" not in totals


def test_without_any_rules_the_proxy_carries_everything() -> None:
    with new_lab(rules=False) as lab, serve(lab, "tcp", "0.0.0.0") as proxy:
        for source, to, _, _ in TABLE:
            daemon = Daemon(lab, "daemon1", 1234)
            assert tell(lab, source, to, 1234, "hello") == daemon.says
            assert daemon.heard() == "hello"
        assert carried(proxy, "connections") == len(TABLE)


def test_the_lab_leaves_nothing_behind_even_when_its_maker_is_killed() -> None:
    program = (
        "from tests.lab.host import ReferenceHost\n"
        "lab = ReferenceHost()\n"
        "print(lab.run('readlink', '/proc/self/ns/net'))\n"
        "input()\n"
    )
    new_lab().__exit__()
    before = machine_state()
    maker = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    assert maker.stdin is not None
    network = maker.stdout.readline().strip()
    watched = [os.pidfd_open(pid) for pid in processes_in(network)]
    assert watched
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    maker.stdin.close()
    for pidfd in watched:
        # Readable when the process is gone: the kernel's word, no polling.
        with open(pidfd, "rb") as gone:
            assert select.select([gone], [], [], 10)[0]
    assert processes_in(network) == []
    assert machine_state() == before


def machine_state() -> str:
    """The machine's own interfaces and named namespaces."""
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    return links + subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="this whole file runs unprivileged then")
def test_the_lab_stands_without_root_too() -> None:
    program = (
        "from tests.lab.host import ReferenceHost\n"
        "from tests.lab.exchange import Daemon, tell\n"
        "with ReferenceHost() as lab:\n"
        "    daemon = Daemon(lab, 'daemon1', 1234)\n"
        "    assert tell(lab, 'outside', '10.0.0.27', 1234, 'hello') == daemon.says\n"
        "    assert daemon.heard() == 'hello'\n"
    )
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    tree = Path(__file__).parents[1]
    done = subprocess.run(
        [*nobody, "/usr/bin/python3", "-B", "-c", f"import sys; sys.path[:0] = [{str(tree)!r}]\n{program}"],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    if "WorldError" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    if "Permission denied" in done.stderr or "No module named" in done.stderr:
        pytest.skip(f"nobody may not read {tree}, or there is no /usr/bin/python3 of 3.11")
    assert done.returncode == 0, done.stderr
