"""iperf3's JSON, read. Pure."""

from __future__ import annotations

import json
from typing import Any


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
