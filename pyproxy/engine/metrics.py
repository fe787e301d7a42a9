"""The engine's figures for Prometheus.

A port's series end with the port. The engine's own counters only ever grow, and go on in an engine that takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pyproxy.core.counters import Counters
from pyproxy.engine.engine import Engine
from pyproxy.engine.slices import sliced

# https://prometheus.io/docs/instrumenting/exposition_formats/, what generate_latest writes.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# What each of the counters means, as `/openapi.json` says it too.
MEANINGS = {
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


_PORT = "pyproxy_port_"


async def exposition(engine: Engine) -> list[bytes]:
    """The exposition format's text, in parts.

    The engine's own values, one each, are written by prometheus_client. Those of ports, perhaps a hundred thousand, are
    written here in steps: in one go they take most of a second. A thread would not help: the data path would have to
    wait for the interpreter after each of its system calls.
    """
    await engine.predecessors.refresh()
    live: list[str] = []
    totals: dict[str, list[str]] = {name: [] for name in Counters.__slots__}
    async for port in sliced(engine.ports):
        labels = f'{{proto="{port.published.proto}",host="{_escaped(port.name.partition("/")[2])}"}}'
        live.append(f"{_PORT}live{labels} {port.live}\n")
        counters = port.counters()
        for name, lines in totals.items():
            lines.append(f"{_PORT}{name}_total{labels} {getattr(counters, name)}\n")
    parts = [_of_engine(engine), *_family(f"{_PORT}live", "gauge", "Connections or flows now", live)]
    for name, lines in totals.items():
        parts += _family(f"{_PORT}{name}_total", "counter", MEANINGS[name], lines)
        await asyncio.sleep(0)
    return parts


def _of_engine(engine: Engine) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Figures(engine))
    ProcessCollector(namespace="pyproxy", registry=registry)
    return generate_latest(registry)


def _family(name: str, kind: str, meaning: str, lines: list[str]) -> list[bytes]:
    return [f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n".encode(), "".join(lines).encode()]


def _escaped(label: str) -> str:
    """An address may have a zone, which is an interface's name: anything but a slash and white space."""
    return label.replace("\\", "\\\\").replace('"', '\\"')


class _Figures:
    """prometheus_client's collector of what the engine has one of."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine = self._engine
        draining = sum(port.live for port in engine.ports.leaving) + engine.predecessors.live
        yield GaugeMetricFamily("pyproxy_ports", "Ports served", value=len(engine.ports))
        yield GaugeMetricFamily("pyproxy_start_time_seconds", "When the engine started", value=engine.started)
        yield GaugeMetricFamily(
            "pyproxy_draining_live", "Connections and flows of ports unpublished, or of earlier engines", value=draining
        )
        yield CounterMetricFamily(
            "pyproxy_requests_refused", "Requests left to the stub itself", value=engine.stubs.refused
        )
        yield CounterMetricFamily("pyproxy_requests_garbage", "Lines that were no requests", value=engine.stubs.garbage)
