"""The engine's figures for Prometheus. Taken at once in the event loop, written out elsewhere (`control.py`).

A port's series end with it; those of the engine itself only ever grow, until it ends or another takes over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pyproxy.core.counters import Counters
from pyproxy.engine.core import Engine

# https://prometheus.io/docs/instrumenting/exposition_formats/, what generate_latest writes.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_MEANING = {
    "bytes_up": "Bytes that containers' kernels have taken from clients",
    "bytes_down": "Bytes that clients' kernels have taken from containers",
    "connections": "Connections accepted",
    "connections_failed": "Connections whose container refused, could not be reached, or took too long",
    "connections_reset": "Connections ended by a reset from either side",
    "connections_timed_out": "Connections ended by one of the limits",
    "datagrams_up": "Datagrams sent to containers",
    "datagrams_down": "Datagrams sent to clients",
    "datagrams_dropped": "Datagrams that the kernel would not take",
    "datagrams_unreachable": "ICMP errors that came back from containers",
    "flows": "UDP flows begun",
    "flows_expired": "UDP flows ended by silence",
    "flows_evicted": "UDP flows ended in favour of newer ones",
    "out_of_descriptors": "Times that a client had to wait for a descriptor",
}


class Snapshot(NamedTuple):
    """What the engine had to say at one moment. `ports`: protocol, host address, live connections or flows, totals."""

    ports: list[tuple[str, str, int, Counters]]
    refused: int
    garbage: int
    started: float


def snapshot(engine: Engine) -> Snapshot:
    ports = [
        (port.published.proto, port.name.partition("/")[2], port.live, port.totals().plus(0, 0))
        for port in engine.ports
    ]
    return Snapshot(ports, engine.refused, engine.garbage, engine.started)


def text_of(taken: Snapshot) -> bytes:
    """The exposition format's text."""
    registry = CollectorRegistry()
    registry.register(_Figures(taken))
    ProcessCollector(namespace="pyproxy", registry=registry)
    return generate_latest(registry)


class _Figures:
    """prometheus_client's collector of one snapshot."""

    def __init__(self, taken: Snapshot) -> None:
        self._taken = taken

    def collect(self) -> Iterator[Metric]:
        taken = self._taken
        yield GaugeMetricFamily("pyproxy_ports", "Ports served", value=len(taken.ports))
        yield GaugeMetricFamily("pyproxy_start_time_seconds", "When the engine started", value=taken.started)
        yield CounterMetricFamily("pyproxy_requests_refused", "Requests left to the stub itself", value=taken.refused)
        yield CounterMetricFamily("pyproxy_requests_garbage", "Lines that were no requests", value=taken.garbage)
        live = GaugeMetricFamily("pyproxy_port_live", "Connections or flows now", labels=("proto", "host"))
        for proto, host, now, _ in taken.ports:
            live.add_metric((proto, host), now)
        yield live
        for name in Counters.__slots__:
            meaning = _MEANING.get(name, name.replace("_", " ").capitalize())
            family = CounterMetricFamily(f"pyproxy_port_{name}", meaning, labels=("proto", "host"))
            for proto, host, _, counters in taken.ports:
                family.add_metric((proto, host), getattr(counters, name))
            yield family
