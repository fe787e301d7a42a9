"""iperf3's JSON, read. Pure."""

from __future__ import annotations

import json
from typing import Any


class IperfError(Exception):
    """iperf3 reported an error, or moved nothing."""


def bits_per_second(output: str, *, both_ways: bool = False) -> float:
    """What arrived, by the receiver's count; of both directions, if `both_ways`. IperfError if the run failed."""
    try:
        report: dict[str, Any] = json.loads(output)
    except ValueError as exc:
        raise IperfError(f"iperf3 printed no JSON: {output[:200]!r}") from exc
    if "error" in report:
        raise IperfError(f"iperf3: {report['error']}")
    end = report["end"]
    keys = ["sum_received", "sum_received_bidir_reverse"] if both_ways else ["sum_received"]
    total = 0.0
    for key in keys:
        if key not in end or not end[key]["bytes"]:
            raise IperfError(f"iperf3: nothing arrived ({key})")
        total += end[key]["bits_per_second"]
    return total


def received_bytes(output: str, *, both_ways: bool = False) -> int:
    """Bytes that arrived, as above."""
    bits_per_second(output, both_ways=both_ways)
    end = json.loads(output)["end"]
    keys = ["sum_received", "sum_received_bidir_reverse"] if both_ways else ["sum_received"]
    return sum(int(end[key]["bytes"]) for key in keys)
