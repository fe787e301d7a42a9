"""The figures for Prometheus."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.engine import (
    LOCAL,
    client_of,
    free,
    running_engine,
    stub,
)
from tests.support.parent import free_port
from tests.support.proxy import PATIENCE_S, pyproxy
from tests.support.sockets import echo, serving


def test_metrics_are_prometheus_to_read_on_both_addresses(run_dir: Path) -> None:
    number = free_port(LOCAL, socket.SOCK_STREAM)
    with (
        running_engine(run_dir, "--metrics", f"{LOCAL}:{number}"),
        serving(echo) as backend,
        stub("sh", address := free(), backend) as child,
    ):
        assert child.first_answer() == b"0\n"
        with client_of(address):
            tcp = http.client.HTTPConnection(LOCAL, number, timeout=PATIENCE_S)
            unix = socket.socket(socket.AF_UNIX)
            unix.connect(str(run_dir / "control"))
            local = http.client.HTTPConnection("engine", timeout=PATIENCE_S)
            local.sock = unix
            for connection in (tcp, local):
                connection.request("GET", "/metrics")
                answer = connection.getresponse()
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                samples = {
                    (sample.name, sample.labels.get("host")): sample.value
                    for family in text_string_to_metric_families(answer.read().decode())
                    for sample in family.samples
                }
                host = f"{LOCAL}:{address[1]}"
                assert samples["pyproxy_ports", None] == 1
                assert samples["pyproxy_port_live", host] == 1
                assert samples["pyproxy_port_connections_total", host] == 1
                assert samples["pyproxy_port_bytes_up_total", host] == 1
                assert samples["pyproxy_process_open_fds", None] > 10
            tcp.request("GET", "/ports")
            assert tcp.getresponse().status == 404  # to the network, figures alone
            tcp.close()
            local.close()
        assert child.stop() == 0


def test_a_metrics_address_in_use_is_said(run_dir: Path) -> None:
    with socket.create_server((LOCAL, 0)) as taken:
        done = pyproxy("engine", "--run-dir", str(run_dir), "--metrics", f"{LOCAL}:{taken.getsockname()[1]}")
    assert done.returncode == 1
    assert "--metrics" in done.stderr


def test_a_metrics_port_alone_is_on_every_address(run_dir: Path) -> None:
    number = free_port(LOCAL, socket.SOCK_STREAM)
    with running_engine(run_dir, "-metrics", f":{number}"):
        for host in (LOCAL, "127.0.0.2", "::1"):
            connection = http.client.HTTPConnection(host, number, timeout=PATIENCE_S)
            connection.request("GET", "/metrics")
            assert connection.getresponse().status == 200
            connection.close()
