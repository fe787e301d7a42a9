"""Batches from real sockets: who sent what, and what came as an aggregate."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import select
import socket
from collections.abc import Iterator

import pytest

from pyproxy.core.cmsg import PACKET_INFO4_SPACE, PACKET_INFO6_SPACE, local_address
from pyproxy.relay.batch import SLOTS, Batch
from pyproxy.sockopts import UDP_GRO, UDP_SEGMENT, ask_for_packet_info
from tests.support.proxy import PATIENCE_S
from tests.support.sockets import family_of


@pytest.fixture(scope="module")
def batch() -> Batch:
    """One for all tests, as it is one for all ports: what a test leaves behind must not reach the next."""
    return Batch()


@contextlib.contextmanager
def receiver(ip: str) -> Iterator[socket.socket]:
    with socket.socket(family_of(ip), socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        if ip in ("0.0.0.0", "::"):
            ask_for_packet_info(sock)
        sock.bind((ip, 0))
        yield sock


def sender(to: socket.socket, ip: str) -> socket.socket:
    sock = socket.socket(to.family, socket.SOCK_DGRAM)
    sock.connect((ip, to.getsockname()[1]))
    return sock


CASES = [("127.0.0.1", "127.0.0.1", 0), ("::1", "::1", 0), ("0.0.0.0", "127.0.0.1", PACKET_INFO4_SPACE),
         ("::", "::1", PACKET_INFO6_SPACE)]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("bound", "ip", "ancillary_bytes"), CASES)
def test_one_sender_has_one_name_in_a_batch_whatever_it_sends(
    batch: Batch, bound: str, ip: str, ancillary_bytes: int, seed: int
) -> None:
    chance = random.Random(seed)
    with receiver(bound) as sock, sender(sock, ip) as one, sender(sock, ip) as two:
        for _ in range(20):
            sent = []
            for _ in range(chance.randrange(1, 12)):
                by, segment = chance.choice([one, two]), chance.choice([0, 0, 100])
                by.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
                data = os.urandom(300 if segment else 50)
                by.send(data)
                sent.append((by, segment, data))
            count = batch.receive(sock.fileno())
            assert count == len(sent)
            segments = batch.segments(count, ancillary_bytes)
            names = batch.sender_keys(count, sock.family, segments, ancillary_bytes)
            assert segments is None or segments == [segment for _, segment, _ in sent]
            assert [bytes(batch.slots[each][:size]) for each, size in enumerate(batch.sizes(count))] == [
                data for _, _, data in sent
            ]
            assert [batch.sender(each) for each in range(count)] == [by.getsockname() for by, _, _ in sent]
            by_name = {name: by for name, (by, _, _) in zip(names, sent, strict=True)}
            assert [by_name[name] for name in names] == [by for by, _, _ in sent]
            assert len(by_name) == len({by for by, _, _ in sent})
            # One by itself is looked at without lists, and must be called the same.
            first = batch.only_size(ancillary_bytes)
            assert first == (None if sent[0][1] else len(sent[0][2]))
            assert (
                first is None or segments is not None or batch.only_sender_key(sock.family, ancillary_bytes) == names[0]
            )


def test_the_memory_of_a_burst_is_given_back(batch: Batch) -> None:
    def resident() -> int:
        """Kilobytes of the slots (proc_pid_smaps(5)): the mapping that their first byte is in."""
        at = ctypes.addressof(ctypes.c_char.from_buffer(batch.slots[0]))
        found = False
        with open("/proc/self/smaps") as mappings:
            for line in mappings:
                first, _, rest = line.partition(" ")
                if "-" in first and ":" not in first:
                    low, high = (int(number, 16) for number in first.split("-"))
                    found = low <= at < high
                elif found and first == "Rss:":
                    return int(rest.split()[0])
        raise AssertionError

    with receiver("127.0.0.1") as sock, sender(sock, "127.0.0.1") as client:
        for _ in range(100):
            client.send(b"x" * 100)
        assert batch.receive(sock.fileno()) == 100
        assert resident() >= 400
        batch.give_back()
        assert resident() < 100
        client.send(b"again")
        assert batch.receive(sock.fileno()) == 1
        assert bytes(batch.slots[0][:5]) == b"again"


def test_who_speaks_to_two_addresses_has_two_names(batch: Batch) -> None:
    with receiver("0.0.0.0") as sock, socket.socket(type=socket.SOCK_DGRAM) as client:
        for ip in ("127.0.0.1", "127.0.0.2"):
            client.sendto(b"x", (ip, sock.getsockname()[1]))
        assert batch.receive(sock.fileno()) == 2
        assert len(set(batch.sender_keys(2, socket.AF_INET, None, PACKET_INFO4_SPACE))) == 2
        assert [local_address(batch.ancillary(each)) for each in range(2)] == [
            socket.inet_aton("127.0.0.1"),
            socket.inet_aton("127.0.0.2"),
        ]


def test_more_than_a_batch_comes_in_order(batch: Batch) -> None:
    with receiver("127.0.0.1") as sock, sender(sock, "127.0.0.1") as client:
        sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20) if os.geteuid() == 0 else None
        total = SLOTS + 100 if os.geteuid() == 0 else 200
        for number in range(total):
            client.send(number.to_bytes(2))
        found: list[int] = []
        while len(found) < total:
            count = batch.receive(sock.fileno())
            found += [int.from_bytes(batch.slots[each][:2]) for each in range(count)]
        assert found == list(range(total))
        with pytest.raises(BlockingIOError):
            batch.receive(sock.fileno())


def test_an_error_of_the_socket_is_raised(batch: Batch) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with socket.socket(type=socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            sock.connect(gone.getsockname())
        sock.send(b"x")
        select.select([sock], [], [], PATIENCE_S)  # until the ICMP error is there
        with pytest.raises(ConnectionRefusedError):
            batch.receive(sock.fileno())
