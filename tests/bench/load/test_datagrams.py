"""Datagrams, as they are sent."""

from __future__ import annotations

import sys

from bench.world import CLIENT_IPS, CONTAINER, CONTAINER_IP, BenchWorld


def test_a_hundred_flows_are_as_many_clients(world: BenchWorld) -> None:
    with (
        world.start(
            sys.executable, "-c",
            "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 7999)); print('ready', flush=True)\n"
            "sources = [s.recvfrom(100)[1] for _ in range(200)]\n"
            "print(len(set(sources)), sources[:100] == sources[100:])",
            on=CONTAINER,
        ) as receiver,
        world.load_session("datagrams", address=[CONTAINER_IP, 7999], size=64, sources=CLIENT_IPS) as load,
    ):  # fmt: skip
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        load.ask("2000 0.12")
        assert receiver.stdout.readline() == "100 True\n"
        world.forget(receiver)
