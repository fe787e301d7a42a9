"""One TCP stream by iperf3, and its JSON, read."""

from __future__ import annotations

import json
from typing import Any

from bench.peers.peer import Running
from bench.trials.trial import GRACE_S, Figures
from bench.world import CLIENT, BenchWorld


class IperfError(Exception):
    """iperf3 reported an error, or moved nothing."""


def bits_per_second(output: str) -> float:
    """What arrived, by the receiver's count. IperfError if the run failed."""
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError as exc:
        raise IperfError(f"iperf3 printed no JSON: {output[:200]!r}") from exc
    if "error" in report:
        raise IperfError(f"iperf3: {report['error']}")
    received = report["end"].get("sum_received")
    if not received or not received["bytes"]:
        raise IperfError("iperf3: nothing arrived")
    return float(received["bits_per_second"])


def iperf(world: BenchWorld, running: Running) -> Figures:
    """One stream by a program that others know, to check our own against it. Whole seconds are all it knows."""
    ip, port = running.address
    client = ["iperf3", "-c", ip, "-p", str(port), "-J", "--connect-timeout", "3000", "-t", "1"]
    return {"bits_per_s": bits_per_second(world.run(*client, on=CLIENT, check=False, timeout_s=1 + GRACE_S))}
