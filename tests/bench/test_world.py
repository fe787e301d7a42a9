"""Client, host and container."""

from __future__ import annotations

import os
import select
from pathlib import Path

import psutil
import pytest

from bench.peers.known import known_peers
from bench.trials.bulk import bulk
from bench.world import BULK_PORT, CLIENT, CONGESTION_CONTROL, CONTAINER, CONTAINER_IP, ECHO_PORT, BenchWorld, LoadError
from tests.lab.namespaces import HOST, WorldError, processes_in


def test_congestion_control_is_the_kernels_default_whatever_the_machine_has(world: BenchWorld) -> None:
    peers = {peer.name: peer for peer in known_peers()}
    machines = (CLIENT, HOST, CONTAINER)
    for machine in machines:  # what a namespace inherits may be anything
        world.run("sh", "-c", "echo reno >/proc/sys/net/ipv4/tcp_congestion_control", on=machine)
    with (
        peers["pyproxy"].serving(world, "tcp", 9999, BULK_PORT) as running,
        bulk(1, "u")(world, running),
        peers["direct"].serving(world, "tcp", 0, BULK_PORT) as direct,
        bulk(1, "u")(world, direct),
    ):
        found = [world.run("ss", "-HtinO", "state", "established", on=machine) for machine in machines]
    streams = [line.split() for line in "".join(found).splitlines() if f":{BULK_PORT} " in line or ":9999 " in line]
    assert len(streams) == 6
    assert all(CONGESTION_CONTROL in words for words in streams)


def test_client_and_container_have_processors_of_their_own_where_it_matters(world: BenchWorld) -> None:
    processors = sorted(os.sched_getaffinity(0))
    [server] = (pid for pid in world.processes(on=CONTAINER) if "echo" in command_line(pid))
    with world.pinned(), world.load_session("hold", address=[CONTAINER_IP, ECHO_PORT], most=1):
        programs = world.processes(on=CLIENT)
        [client] = (pid for pid in programs if psutil.Process(pid).ppid() in programs)
        assert os.sched_getaffinity(server) == {processors[-1]}
        assert os.sched_getaffinity(client) == {processors[0]}
    assert os.sched_getaffinity(server) == set(processors)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def test_the_world_leaves_no_process_behind() -> None:
    try:
        world = BenchWorld()
    except (WorldError, LoadError) as exc:
        pytest.skip(str(exc))
    with world:
        networks = [world.run("readlink", "/proc/self/ns/net", on=machine).strip() for machine in (HOST, CONTAINER)]
        assert all(processes_in(network) for network in networks)
        watched = [os.pidfd_open(pid) for network in networks for pid in processes_in(network)]
    for pidfd in watched:
        assert select.select([pidfd], [], [], 10)[0]  # readable when the process is gone
        os.close(pidfd)
    assert [processes_in(network) for network in networks] == [[], []]
