"""The reference host: bridges, containers, the uplink, and exactly the administrator's rules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.lab.namespaces import HOST, World

BRIDGE = "br-b5a3f4778f2a"

# Machine, the bridge it hangs on, its addresses, its gateways. The reference host has no IPv6 between machines: these
# are unique local addresses of the same shape.
_CONTAINERS = [
    ("daemon1", BRIDGE, "172.19.0.2/16", "fd00:19::2/64", ["172.19.0.1", "fd00:19::1"]),
    ("daemon2", BRIDGE, "172.19.0.3/16", "fd00:19::3/64", ["172.19.0.1", "fd00:19::1"]),
    ("other", "docker0", "172.17.0.2/16", "fd00:17::2/64", ["172.17.0.1", "fd00:17::1"]),
]
_BRIDGES = [("docker0", "172.17.0.1/16", "fd00:17::1/64"), (BRIDGE, "172.19.0.1/16", "fd00:19::1/64")]

RULES = Path(__file__).with_name("rules")


class ReferenceHost(World):
    """The lab. `with ReferenceHost() as lab: lab.run("ip", "route", on="daemon1")`."""

    def __init__(self, *, rules: bool = True) -> None:
        super().__init__()
        try:
            self._lay_out()
            if rules:
                self.load("nat", ["nat-published.rules", "nat-udp.rules"])
                self.load("filter", ["filter-published.rules", "filter-udp.rules"])
        except BaseException:
            self.__exit__()
            raise

    def load(self, table: str, files: Iterable[str]) -> None:
        """Load rules, as `iptables -S` prints them, into `table` with iptables-restore."""
        listed = "".join((RULES / name).read_text() for name in files)
        self.run("iptables-restore", stdin=restorable(table, listed))

    def rules(self, table: str) -> str:
        """The rules in force, as `iptables -S` prints them."""
        return self.run("iptables", "-t", table, "-S")

    def packets(self, table: str, rule: str) -> int:
        """How many packets have met the rule whose `-S` line this is."""
        for line in self.run("iptables-save", "-c", "-t", table).splitlines():
            counters, _, listed = line.partition(" ")
            if listed == rule:
                return int(counters.strip("[").split(":")[0])
        raise LookupError(rule)

    def _lay_out(self) -> None:
        for bridge, address, address6 in _BRIDGES:
            self.run("ip", "link", "add", bridge, "type", "bridge")
            self.run("ip", "address", "add", address, "dev", bridge)
            self.run("ip", "address", "add", address6, "dev", bridge, "nodad")
            self.run("ip", "link", "set", bridge, "up")
        for name, bridge, address, address6, gateways in _CONTAINERS:
            self.add_machine(name)
            self.cable(name, f"veth-{name}", "eth0")
            self.run("ip", "link", "set", f"veth-{name}", "master", bridge)
            self._configure(name, "eth0", [address], [address6], gateways)
        self.add_machine("outside")
        self.cable("outside", "eth0", "eth0")
        self._configure(HOST, "eth0", ["10.0.0.27/24"], ["fd00:10::27/64"], ["10.0.0.1"])
        self._configure("outside", "eth0", ["10.0.0.1/24", "10.0.0.97/24"], ["fd00:10::1/64"], [])

    def _configure(self, on: str, interface: str, ipv4: list[str], ipv6: list[str], gateways: list[str]) -> None:
        for address in ipv4:
            self.run("ip", "address", "add", address, "dev", interface, on=on)
        for address in ipv6:
            self.run("ip", "address", "add", address, "dev", interface, "nodad", on=on)
        self.run("ip", "link", "set", interface, "up", on=on)
        for gateway in gateways:
            self.run("ip", "route", "add", "default", "via", gateway, on=on)


def restorable(table: str, listed: str) -> str:
    """Turn what `iptables -S` prints into what `iptables-restore` reads: chains are declared in another form."""
    lines = []
    for line in listed.splitlines():
        words = line.split()
        if words[0] == "-P":
            lines.append(f":{words[1]} {words[2]} [0:0]")
        elif words[0] == "-N":
            lines.append(f":{words[1]} - [0:0]")
        else:
            lines.append(line)
    return "\n".join([f"*{table}", *lines, "COMMIT", ""])
