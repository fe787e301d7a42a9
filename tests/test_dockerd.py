"""Under a real dockerd, in docker-proxy's place: publish, exchange, stop, restart, and what its user reads.

All of it with pyproxy, and with the stub before an engine; under the dockerd of this machine's distribution, and under
that of Debian's next release. From 28 on dockerd binds the ports itself and hands over the sockets: what differs for
that is said where it does.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
from collections.abc import Iterator

import pytest

from tests.lab.namespaces import CommandError, WorldError
from tests.support.dockerd import IMAGE, RELEASES, Dockerd
from tests.support.engine import STUB, is_stub
from tests.support.proxy import PROGRAM

# One exchange: nc -l says a line, notes one, and ends; then the next.
SERVE = "while true; do echo to the client | nc -l -p 1234; done"


MODES = ["pyproxy", "the stub, and an engine"]


@pytest.fixture(
    scope="module",
    params=[(release, mode) for release in RELEASES for mode in MODES],
    ids=[f"{release.name}, {mode}" for release in RELEASES for mode in MODES],
)
def dockerd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    release, mode = request.param
    with_engine = mode != "pyproxy"
    link = tmp_path_factory.mktemp("bin") / "docker-proxy"
    link.symlink_to(STUB if with_engine else PROGRAM)
    try:
        world = Dockerd(str(link), release, engine=with_engine)
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


@contextlib.contextmanager
def occupied(dockerd: Dockerd, address: str, port: int) -> Iterator[None]:
    """Some other program has the port for the time of the block, or until its first client has gone."""
    squatter = dockerd.start("nc", "-l", "-v", "-n", address, str(port))
    assert squatter.stderr is not None
    assert squatter.stderr.readline().startswith("Listening on")
    try:
        yield
    finally:
        squatter.kill()
        squatter.wait()


def kill_engine(dockerd: Dockerd) -> None:
    dockerd.run("sh", "-c", "kill -KILL $(cat /run/pyproxy/pid)")


def holders(dockerd: Dockerd, proto: str, port: int) -> list[list[str]]:
    """For each socket that is bound to a port, the programs that have it open."""
    lines = dockerd.run("ss", f"-{proto[0]}lnpH", f"sport = :{port}").splitlines()
    return [re.findall(r'\("([^"]+)"', line) for line in lines]


def test_a_published_port_is_reached_from_everywhere(dockerd: Dockerd, containers: list[str]) -> None:
    run(dockerd, containers, "daemon1", "--network", "inetwork", "-p", "1234:1234")
    # Newer clients print brackets.
    published = dockerd.docker("port", "daemon1").replace("[::]", "::").splitlines()
    assert sorted(published) == ["1234/tcp -> 0.0.0.0:1234", "1234/tcp -> :::1234"]
    [(pid4, ipv4), (pid6, ipv6)] = dockerd.proxies()
    assert is_stub(pid4) == is_stub(pid6) == dockerd.has_engine
    assert ipv4.startswith("-proto tcp -host-ip 0.0.0.0 -host-port 1234 -container-ip 172.")
    assert ipv6.startswith("-proto tcp -host-ip :: -host-port 1234 -container-ip 172.")
    for address in ("127.0.0.1", "::1", "10.0.0.27"):
        assert tell(dockerd, address, message=f"by {address}") == "to the client"
    # From the same network, which is a hairpin, and from another one, both by the host's address.
    for network in ("inetwork", "bridge"):
        inside = f"echo by {network} >said; nc 10.0.0.27 1234 <said"  # there before the answer is
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
    dockerd.docker("restart", "-t", "0", "udp")
    assert dockerd.run("nc", "-u", "-W", "1", "-w", "5", "127.0.0.1", "1235", stdin="again\n") == "again\n"


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
    if dockerd.passes_sockets:
        why = "failed to bind host port for 0.0.0.0:1234:172.16.0.2:1234/tcp: address already in use"
    else:
        why = "cannot listen on tcp 0.0.0.0:1234: address already in use: choose another -host-port"
    with occupied(dockerd, "0.0.0.0", 1234):
        with pytest.raises(CommandError) as refused:
            run(dockerd, containers, "late", "-p", "1234:1234")
        assert why in str(refused.value)
        assert dockerd.proxies() == []
        # The user does what the line says.
        assert holders(dockerd, "tcp", 1234) == [["nc"]]
        tell(dockerd, "127.0.0.1")  # nc serves one connection and ends
        dockerd.docker("rm", "late")
        run(dockerd, containers, "late", "-p", "1234:1234")
        assert tell(dockerd, "127.0.0.1") == "to the client"


def test_of_a_range_of_host_ports_the_next_is_taken_if_one_is_in_use(dockerd: Dockerd, containers: list[str]) -> None:
    with occupied(dockerd, "127.0.0.1", 3000):
        if not dockerd.passes_sockets:
            # Older ones take the next only when asked again.
            with pytest.raises(CommandError, match=r"cannot listen on tcp 127\.0\.0\.1:3000: address already in use"):
                run(dockerd, containers, "daemon1", "-p", "127.0.0.1:3000-3005:1234")
            dockerd.docker("rm", "daemon1")
        run(dockerd, containers, "daemon1", "-p", "127.0.0.1:3000-3005:1234")
        assert dockerd.docker("port", "daemon1") == "1234/tcp -> 127.0.0.1:3001"
        [(_, arguments)] = dockerd.proxies()
        assert arguments.startswith("-proto tcp -host-ip 127.0.0.1 -host-port 3001 ")
        assert tell(dockerd, "127.0.0.1", 3001) == "to the client"


def test_a_port_that_docker_chooses(dockerd: Dockerd, containers: list[str]) -> None:
    run(dockerd, containers, "daemon1", "-p", "127.0.0.1::1234")
    _, port = dockerd.docker("port", "daemon1", "1234").split(":")
    assert tell(dockerd, "127.0.0.1", int(port)) == "to the client"


def test_an_ipv6_host_address_alone_before_a_container_that_has_none(dockerd: Dockerd, containers: list[str]) -> None:
    run(dockerd, containers, "daemon1", "-p", "[::1]:1234:1234")
    [(_, arguments)] = dockerd.proxies()
    assert arguments.startswith("-proto tcp -host-ip ::1 -host-port 1234 -container-ip 172.")
    assert tell(dockerd, "::1") == "to the client"
    with pytest.raises(CommandError):
        tell(dockerd, "127.0.0.1")


def test_a_container_with_an_ipv6_address_is_spoken_to_by_it(dockerd: Dockerd, containers: list[str]) -> None:
    dockerd.docker("network", "create", "--ipv6", "--subnet", "fd00:1::/64", "six")
    run(dockerd, containers, "daemon1", "--network", "six", "-p", "1234:1234")
    (_, ipv4), (_, ipv6) = dockerd.proxies()
    assert " -container-ip 172." in ipv4
    assert " -host-ip :: -host-port 1234 -container-ip fd00:1::2 " in ipv6
    for address in ("127.0.0.1", "::1"):
        assert tell(dockerd, address) == "to the client"


def test_dockerd_from_28_on_passes_the_bound_socket_and_the_proxy_adopts_it(
    dockerd: Dockerd, containers: list[str]
) -> None:
    run(dockerd, containers, "daemon1", "-p", "1234:1234", "-p", "1234:1234/udp")
    proxies = dockerd.proxies()
    assert len(proxies) == 4
    passed = [" -use-listen-fd" in arguments for _, arguments in proxies]
    assert passed == [dockerd.passes_sockets] * 4
    # One socket for each, so nobody has bound a second one, and dockerd has closed its own. The stub holds the one that
    # it was passed, as the engine does.
    expected = 2 if dockerd.has_engine and dockerd.passes_sockets else 1
    for proto in ("tcp", "udp"):
        found = holders(dockerd, proto, 1234)
        assert [len(programs) for programs in found] == [expected] * 2, found
        assert all("dockerd" not in programs for programs in found)


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
            kill_engine(dockerd)
        dockerd.start_engine(*arguments)
        # Until the new engine has its ports, whoever comes is refused, or cut off.
        client = f"until echo x | nc -N -w 5 127.0.0.1 1234 | grep -q 'to the client'; do :; done; {PROGRAM} ports"
        assert "tcp/0.0.0.0:1234" in dockerd.run("timeout", "10", "sh", "-c", client)
    assert all(is_stub(pid) for pid, _ in dockerd.proxies())
    dockerd.docker("restart", "-t", "0", "daemon1")
    assert tell(dockerd, "127.0.0.1") == "to the client"


def test_a_port_that_dockerd_bound_never_closes_when_the_engine_is_killed(
    dockerd: Dockerd, containers: list[str]
) -> None:
    if not (dockerd.has_engine and dockerd.passes_sockets):
        pytest.skip("there is no engine, or no socket that a stub holds")
    serve = f"mkfifo back; nc.openbsd -u -l 1235 <>back >&0 & {SERVE}"
    run(dockerd, containers, "daemon1", "-p", "1234:1234", "-p", "1235:1235/udp", command=serve)
    kill_engine(dockerd)
    # Nobody is there to accept now: the kernel does, and keeps what comes until the stubs have become pyproxy.
    assert tell(dockerd, "127.0.0.1", message="amid nobody") == "to the client"
    assert dockerd.run("nc", "-u", "-W", "1", "-w", "5", "127.0.0.1", "1235", stdin="amid nobody\n") == "amid nobody\n"
    assert not any(is_stub(pid) for pid, _ in dockerd.proxies())
    assert tell(dockerd, "::1") == "to the client"
    assert len(holders(dockerd, "tcp", 1234)) == 2
    assert dockerd.docker("stop", "-t", "0", "daemon1") == "daemon1"
    assert holders(dockerd, "tcp", 1234) == []
    dockerd.start_engine()
    dockerd.docker("start", "daemon1")
    assert all(is_stub(pid) for pid, _ in dockerd.proxies())
    assert tell(dockerd, "127.0.0.1") == "to the client"


def test_ports_of_containers_that_live_on_are_published_again_when_dockerd_is_restarted(
    dockerd: Dockerd, containers: list[str]
) -> None:
    run(dockerd, containers, "daemon1", "-p", "1234:1234")
    run(dockerd, containers, "udp", "-p", "1235:1235/udp", command="sleep 1000")
    assert tell(dockerd, "127.0.0.1") == "to the client"
    before = {pid for pid, _ in dockerd.proxies()}
    dockerd.restart()
    proxies = dockerd.proxies()
    assert len(proxies) == 4
    assert before.isdisjoint(pid for pid, _ in proxies)
    assert all(is_stub(pid) == dockerd.has_engine for pid, _ in proxies)
    for address in ("127.0.0.1", "::1"):
        assert tell(dockerd, address) == "to the client"
    assert dockerd.docker("inspect", "-f", "{{.RestartCount}} {{.State.Running}}", "daemon1") == "0 true"
    assert "level=error" not in dockerd.run("cat", "/run/dockerd.log")


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
