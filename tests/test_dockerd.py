"""Under a real dockerd, in docker-proxy's place: publish, exchange, stop, restart, and what its user reads.

All of it twice: with pyproxy, and with the stub before an engine.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator

import pytest

from tests.lab.namespaces import CommandError, WorldError
from tests.support.dockerd import IMAGE, Dockerd
from tests.support.engine import STUB, is_stub
from tests.support.proxy import PROGRAM

# One exchange: nc -l says a line, notes one, and ends; then the next.
SERVE = "while true; do echo to the client | nc -l -p 1234; done"


@pytest.fixture(scope="module", params=["pyproxy", "the stub, and an engine"])
def dockerd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    with_engine = request.param != "pyproxy"
    link = tmp_path_factory.mktemp("bin") / "docker-proxy"
    link.symlink_to(STUB if with_engine else PROGRAM)
    try:
        world = Dockerd(str(link), engine=with_engine)
    except WorldError as exc:
        pytest.skip(str(exc))
    with world:
        world.add_machine("outside")
        world.cable("outside", "eth0", "eth0")
        world.run("ip", "address", "add", "10.0.0.27/24", "dev", "eth0")
        world.run("ip", "address", "add", "10.0.0.1/24", "dev", "eth0", on="outside")
        world.run("ip", "link", "set", "eth0", "up", on="outside")
        world.docker("network", "create", "inetwork")
        yield world


@pytest.fixture
def containers(dockerd: Dockerd) -> Iterator[list[str]]:
    """Names of containers to remove after the test."""
    names: list[str] = []
    yield names
    for name in names:
        dockerd.docker("rm", "-f", name)


def run(dockerd: Dockerd, containers: list[str], name: str, *arguments: str, command: str = SERVE) -> str:
    containers.append(name)
    return dockerd.docker("run", "-d", "--name", name, *arguments, IMAGE, "sh", "-c", command)


def tell(dockerd: Dockerd, address: str, port: int = 1234, message: str = "to the container") -> str:
    """From the host, by nc: say a line and return the answer, which ends the exchange."""
    return dockerd.run("nc", "-N", "-w", "5", address, str(port), stdin=message + "\n").strip()


def test_a_published_port_is_reached_from_everywhere(dockerd: Dockerd, containers: list[str]) -> None:
    run(dockerd, containers, "daemon1", "--network", "inetwork", "-p", "1234:1234")
    assert set(dockerd.docker("port", "daemon1").splitlines()) == {"1234/tcp -> 0.0.0.0:1234", "1234/tcp -> :::1234"}
    [(pid4, ipv4), (pid6, ipv6)] = dockerd.proxies()
    assert is_stub(pid4) == is_stub(pid6) == dockerd.has_engine
    assert ipv4.startswith("-proto tcp -host-ip 0.0.0.0 -host-port 1234 -container-ip 172.")
    assert ipv6.startswith("-proto tcp -host-ip :: -host-port 1234 -container-ip 172.")
    for address in ("127.0.0.1", "::1", "10.0.0.27"):
        assert tell(dockerd, address, message=f"by {address}") == "to the client"
    # From the same network, which is a hairpin, and from another one, both by the host's address.
    for network in ("inetwork", "bridge"):
        inside = f"echo by {network} | nc 10.0.0.27 1234"
        answer = dockerd.docker("run", "--rm", "--network", network, IMAGE, "sh", "-c", inside)
        assert answer == "to the client"
    assert dockerd.run("nc", "-N", "10.0.0.27", "1234", on="outside", stdin="by eth0\n") == "to the client\n"
    heard = dockerd.docker("logs", "daemon1").splitlines()
    assert heard == ["by 127.0.0.1", "by ::1", "by 10.0.0.27", "by inetwork", "by bridge", "by eth0"]


def test_udp(dockerd: Dockerd, containers: list[str]) -> None:
    # nc serves one peer: a port for each address. What it receives goes by the fifo to its input, and so back.
    serve = "for p in 1235 1236 1237; do mkfifo $p; nc.openbsd -u -l $p <>$p >&0 & done; wait"
    run(dockerd, containers, "udp", "-p", "1235-1237:1235-1237/udp", command=serve)
    for port, address in enumerate(("127.0.0.1", "::1", "10.0.0.27"), start=1235):
        # -W: leave after one datagram.
        assert dockerd.run("nc", "-u", "-W", "1", "-w", "5", address, str(port), stdin="hello\n") == "hello\n"


def test_a_range_of_twenty_ports(dockerd: Dockerd, containers: list[str]) -> None:
    serve = "for port in $(seq 2000 2019); do (while true; do echo $port | nc -l -p $port; done) & done; wait"
    run(dockerd, containers, "range", "-p", "2000-2019:2000-2019", command=serve)
    assert len(dockerd.proxies()) == 40
    for port in range(2000, 2020):
        assert tell(dockerd, "127.0.0.1", port) == str(port)
    dockerd.docker("stop", "-t", "0", "range")
    assert dockerd.proxies() == []


def test_a_stopped_container_frees_its_port_and_docker_stop_reports_no_error(
    dockerd: Dockerd, containers: list[str]
) -> None:
    run(dockerd, containers, "daemon1", "-p", "1234:1234")
    assert tell(dockerd, "127.0.0.1") == "to the client"
    assert dockerd.docker("stop", "-t", "0", "daemon1") == "daemon1"
    with pytest.raises(CommandError):
        tell(dockerd, "127.0.0.1")
    assert "1234" not in dockerd.run("ss", "-ltnH")
    log = dockerd.run("cat", "/run/dockerd.log")
    assert "level=error" not in log


def test_restart_at_once_with_connections_in_time_wait(dockerd: Dockerd, containers: list[str]) -> None:
    run(dockerd, containers, "daemon1", "-p", "1234:1234")
    for _ in range(3):
        # The container ends first, so the proxy does towards the client: its side keeps the TIME_WAIT.
        assert tell(dockerd, "127.0.0.1") == "to the client"
        assert "127.0.0.1:1234" in dockerd.run("ss", "-tnH", "state", "time-wait")
        dockerd.docker("restart", "-t", "0", "daemon1")
    assert tell(dockerd, "::1") == "to the client"


def test_a_port_in_use_is_explained_to_the_user_of_docker_run(dockerd: Dockerd, containers: list[str]) -> None:
    squatter = dockerd.start("nc", "-l", "-v", "-n", "0.0.0.0", "1234")
    assert squatter.stderr is not None
    assert squatter.stderr.readline().startswith("Listening on")
    with pytest.raises(CommandError) as refused:
        run(dockerd, containers, "late", "-p", "1234:1234")
    read = str(refused.value)
    assert "cannot listen on tcp 0.0.0.0:1234: address already in use: choose another -host-port" in read
    assert dockerd.proxies() == []
    # The user does what the line says.
    assert "127.0.0.1" not in (who := dockerd.run("ss", "-lnpt", "sport = :1234"))
    assert '"nc"' in who
    tell(dockerd, "127.0.0.1")  # nc serves one connection and ends
    dockerd.docker("rm", "late")
    run(dockerd, containers, "late", "-p", "1234:1234")
    assert tell(dockerd, "127.0.0.1") == "to the client"


def test_a_container_that_refuses_resets_the_client(dockerd: Dockerd, containers: list[str]) -> None:
    run(dockerd, containers, "deaf", "-p", "1234:1234", command="sleep 1000")
    client = "import socket; socket.create_connection(('127.0.0.1', 1234)).recv(1)"
    with pytest.raises(CommandError, match="ConnectionResetError"):
        dockerd.run(sys.executable, "-c", client)


def test_the_engine_may_be_replaced_or_die_meanwhile(dockerd: Dockerd, containers: list[str]) -> None:
    if not dockerd.has_engine:
        pytest.skip("there is no engine")
    run(dockerd, containers, "daemon1", "-p", "1234:1234")
    for arguments in (["--replace"], []):
        if not arguments:
            dockerd.run("sh", "-c", "kill -KILL $(cat /run/pyproxy/pid)")
        dockerd.start_engine(*arguments)
        # Until the new engine has its ports, whoever comes is refused, or cut off.
        client = f"until echo x | nc -N -w 5 127.0.0.1 1234 | grep -q 'to the client'; do :; done; {PROGRAM} ports"
        assert "tcp/0.0.0.0:1234" in dockerd.run("timeout", "10", "sh", "-c", client)
    assert all(is_stub(pid) for pid, _ in dockerd.proxies())
    dockerd.docker("restart", "-t", "0", "daemon1")
    assert tell(dockerd, "127.0.0.1") == "to the client"


def test_no_proxy_outlives_dockerd(dockerd: Dockerd, containers: list[str]) -> None:
    """The last of this file: it takes dockerd away."""
    run(dockerd, containers, "orphan", "-p", "1234:1234", "-p", "1236:1236/udp")
    proxies = dockerd.proxies()
    assert len(proxies) == 4
    watched = [os.pidfd_open(pid) for pid, _ in proxies]
    dockerd.run("kill", "-KILL", dockerd.pid())
    containers.clear()
    for pidfd in watched:
        assert select.select([pidfd], [], [], 10)[0]
        os.close(pidfd)
    assert dockerd.proxies() == []
