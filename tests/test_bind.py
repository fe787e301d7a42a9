"""The host socket, and which address it has."""

from __future__ import annotations

import os
import socket

import pytest

from pyproxy.bind import host_socket
from pyproxy.config import PROTOCOLS, PublishedPort
from tests.support.parent import passed_socket


@pytest.mark.parametrize("proto", PROTOCOLS[:2])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_port_that_the_kernel_chose_is_told_and_what_was_asked_for_stays(host: str, proto: str) -> None:
    asked = PublishedPort(proto, host, 0, "172.19.0.2", 80)
    sock, bound = host_socket(asked, adopt=False)
    try:
        assert asked == PublishedPort(proto, host, 0, "172.19.0.2", 80)
        assert bound == asked.at(*sock.getsockname()[:2])
        assert bound.host_port
    finally:
        sock.close()


def test_a_socket_that_is_adopted_tells_its_address() -> None:
    with passed_socket("127.0.0.1", socket.SOCK_STREAM) as passed:
        asked = PublishedPort("tcp", "0.0.0.0", 1, "172.19.0.2", 80)
        sock, bound = host_socket(asked, adopt=True, listen_fd=os.dup(passed.fileno()))
        sock.close()
        assert (bound.host_ip, bound.host_port) == passed.getsockname()
        assert (asked.host_ip, asked.host_port) == ("0.0.0.0", 1)
