"""Whether two runs agree."""

from __future__ import annotations

import pytest
from rich.console import Console

from bench.report.compare import compare, print_comparison
from bench.report.table import print_table
from bench.results import Run
from tests.support.bench import new_run


def test_two_runs_are_compared_ratio_by_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    def run(rate: float, p50: float) -> Run:
        ours, base = {"per_s": rate, "p50_us": p50}, {"per_s": 100.0, "p50_us": 100.0}
        return new_run(tcp_connect={"pyproxy": [ours] * 5, "docker-proxy": [base] * 5, "direct": [base] * 5})

    first, second = run(100.0, 100.0), run(80.0, 120.0)
    [rate, p50] = compare(first, second, ["pyproxy"])
    assert (rate.figure, rate.first.median, rate.second.median, rate.agree, rate.is_primary) == (
        "per_s", 1.0, 0.8, False, True,
    )  # fmt: skip
    assert not p50.is_primary
    assert [each.agree for each in compare(first, run(87.0, 115.0), ["pyproxy", "docker-proxy"])] == [True, True]
    assert {each.peer for each in compare(first, second, ["direct", "pyproxy"])} == {"direct", "pyproxy"}
    print_comparison(first, second, ["pyproxy"], Console(width=200))
    assert "primary figures (bold): 0 of 1 that both tell agree within 15%" in capsys.readouterr().out


def test_a_peers_name_is_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[b]:smile:[/b]"
    run = new_run(tcp_connect={peer: [{"per_s": 1.0, "p50_us": 1.0}] * 5 for peer in (name, "docker-proxy")})
    print_table(run, Console(width=200))
    print_comparison(run, run, [name, "docker-proxy"], Console(width=200))
    said = capsys.readouterr().out
    assert said.count(name) >= 2


def test_what_both_runs_tell_is_counted_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    def run(rates: list[float], p99: float) -> Run:
        ours = [{"per_s": rate, "p99_us": p99} for rate in rates]
        return new_run(tcp_connect={"pyproxy": [*ours], "docker-proxy": [{"per_s": 1.0, "p99_us": 1.0}] * len(ours)})

    sure, unsure = run([1.0] * 5, 1.0), run([1.0, 1.2, 1.5, 1.8, 2.0], 1.1)
    assert [(each.both_certain, each.agree) for each in compare(sure, unsure, ["pyproxy"])] == [
        (False, True),
        (True, True),
    ]
    far = run([3.0, 4.0, 5.0, 6.0, 7.0], 1.2)
    assert [(each.both_certain, each.agree) for each in compare(sure, far, ["pyproxy"])] == [
        (False, False),
        (True, False),
    ]
    print_comparison(sure, unsure, ["pyproxy"], Console(width=200))
    said = capsys.readouterr().out
    assert "primary figures (bold): 1 of 1 that both tell agree within 15%; 1 of 1 others meet" in said
    assert "1.00-2.00?" in said
