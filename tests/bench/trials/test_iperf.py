"""iperf3's output, recorded from version 3.12 and shortened to a few of its fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.trials.iperf import IperfError, bits_per_second

DATA = Path(__file__).parents[1] / "data"


def test_what_arrived_is_read_from_iperf3() -> None:
    assert bits_per_second((DATA / "iperf3.json").read_text()) == pytest.approx(13531758936.636986)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ((DATA / "iperf3-refused.json").read_text(), "unable to connect to server"),
        ("iperf3: parameter error", "printed no JSON"),
        ('{"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}}', "nothing arrived"),
        ('{"end": {}}', "nothing arrived"),
    ],
)
def test_an_iperf3_that_failed_is_an_error(output: str, complaint: str) -> None:
    with pytest.raises(IperfError, match=complaint):
        bits_per_second(output)
