"""Datagrams are counted where they arrive, and compared."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.trials.datagrams import counted
from bench.world import CLIENT, CONTAINER_IP, DATAGRAM_PORT, BenchWorld, LoadError
from tests.support.bench import measure_once, scenario, stand_in

DATAGRAMS = (CONTAINER_IP, DATAGRAM_PORT)


def test_datagrams_are_counted_where_they_arrive(world: BenchWorld, tmp_path: Path) -> None:
    """A proxy that answers by itself delivers none."""
    answer = "while True: sock.sendto(*sock.recvfrom(100))"
    with pytest.raises(LoadError, match="nothing arrived"):
        measure_once(world, scenario("udp-bulk-64-1"), stand_in(tmp_path, answer), 0.05)


def test_a_flood_of_which_nothing_arrives_in_a_turn_is_a_failure(world: BenchWorld, tmp_path: Path) -> None:
    """A proxy that has died: the client's kernel alone knows, and the load program goes on."""
    relay = (
        "sock.connect(sock.recvfrom(100, socket.MSG_PEEK)[1])\n"
        "out = socket.socket(type=socket.SOCK_DGRAM); out.connect((sys.argv[8], int(sys.argv[10])))\n"
        "out.send(sock.recv(100)); sock.send(out.recv(100)); sock.close()"
    )
    with pytest.raises(LoadError, match="nothing arrived"):
        measure_once(world, scenario("udp-bulk-64-1"), stand_in(tmp_path, relay), 0.01)


def test_a_damaged_datagram_is_noticed(world: BenchWorld) -> None:
    """The counter compares whole batches; one that differs, in content or in size, must not hide among them."""
    for bad in (b"pyproxx!" * 8, b"pyproxy!" * 7):
        world.datagrams("count")
        world.run(
            sys.executable, "-c",
            "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n"
            f"for data in [b'pyproxy!' * 8] * 5 + [{bad!r}] + [b'pyproxy!' * 8] * 5: s.sendto(data, {DATAGRAMS})",
            on=CLIENT,
        )  # fmt: skip
        with pytest.raises(LoadError, match="damaged"):
            counted(world, 64, 11)
