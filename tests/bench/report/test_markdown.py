"""The table in Markdown, and its numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report.compare import compare
from bench.report.markdown import (
    SECTION_BEGIN,
    SECTION_END,
    benchmark_section,
    markdown,
    readme_section,
    update_section,
)
from bench.report.rows import number, rows
from bench.results import read
from tests.support.bench import new_run

TREE = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.0123, "0.0123"),
        (0.298, "0.298"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (65_958.2, "65,958"),
    ],
)
def test_numbers_have_three_digits(value: float, words: str) -> None:
    assert number(value) == words


def test_the_report_compares_round_by_round_and_says_what_failed() -> None:
    run = new_run(
        tcp_connect={
            "pyproxy": [{"per_s": 200.0}, {"per_s": 150.0}, {"per_s": 210.0}],
            "docker-proxy": [{"per_s": 100.0}, {"per_s": 100.0}, {"per_s": 100.0}],
            "direct": [{"per_s": 400.0}, {"per_s": 400.0}, None],
        }
    )
    run.errors = {"tcp-connect": {"direct": "LoadError: hangs"}}
    [ours, base, limit] = rows(run)
    assert ours.to_base == pytest.approx((1.887, 1.5, 2.1, 3), rel=0.001)
    assert ours.to_limit == pytest.approx((0.433, 0.375, 0.5, 2), rel=0.001)
    assert base.to_base == (1.0, 1.0, 1.0, 3)
    assert limit.value.rounds == 2
    text = markdown(run)
    assert "| rate, more is better | pyproxy | 200 1/s | 1.50-2.10? | 0.38-0.50? |" in text
    assert "Failed: tcp-connect: direct: LoadError: hangs" in text


def test_of_extremes_no_ratio_is_told() -> None:
    cells = {"p50_us": 50.0, "p99_us": 100.0, "p999_us": 1000.0}
    run = new_run(udp_ping={"pyproxy": [cells] * 5, "docker-proxy": [cells] * 5})
    assert {row.name for row in rows(run) if row.to_base is not None} == {"p50_us", "p99_us"}
    assert "| p99.9, less is better | pyproxy | 1,000 us |  |  |" in markdown(run)
    assert {each.figure for each in compare(run, run, ["pyproxy"])} == {"p50_us", "p99_us"}


def test_the_report_says_who_could_not_hold_all_connections() -> None:
    held = {"pyproxy": 9_900.0, "docker-proxy": 3_317.0, "direct": 9_900.0}
    run = new_run(idle_10000={peer: [{"held": count}] for peer, count in held.items()})
    assert "Fewer: idle-10000: docker-proxy holds 3,317; a process may open" in markdown(run)
    assert "Fewer: idle-10000: pyproxy" not in markdown(run)


def test_the_report_says_which_versions_were_measured() -> None:
    run = new_run()
    assert "Versions" not in markdown(run)
    run.peers = {"docker-proxy": "Docker version 20.10.24", "direct": "", "docker-proxy-28": "version 28.5.2"}
    assert "- Versions: docker-proxy: Docker version 20.10.24; docker-proxy-28: version 28.5.2." in markdown(run)
    assert "\nVersions: docker-proxy: " in benchmark_section(run, "bench/results/run.json")


def test_a_page_is_changed_between_its_marks_only(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{SECTION_BEGIN}\nof yesterday\n{SECTION_END}\nafter\n")
    run = new_run(start={"pyproxy": [{"answer_p50_ms": 8.0}], "docker-proxy": [{"answer_p50_ms": 2.0}]})
    update_section(readme, benchmark_section(run, "bench/results/run.json"))
    text = readme.read_text()
    assert text.startswith(f"before\n{SECTION_BEGIN}\nRatios")
    assert text.endswith(f"{SECTION_END}\nafter\n")
    assert "| Start of one proxy | spawn to answer, p50, less is better | 4.00 (once) |" in text
    assert "of yesterday" not in text


def test_the_readme_has_ten_rows_of_the_kept_run_and_the_benchmark_page_has_all() -> None:
    kept = max((TREE / "bench/results").glob("*.json"))
    run = read(kept)
    readme, page = ((TREE / name).read_text() for name in ("README.md", "docs/benchmark.md"))
    assert f"{SECTION_BEGIN}\n{readme_section(run)}{SECTION_END}" in readme
    assert f"{SECTION_BEGIN}\n{benchmark_section(run, str(kept.relative_to(TREE)))}{SECTION_END}" in page
    _title, _rule, *rows_of_readme = [line for line in readme_section(run).splitlines() if line.startswith("| ")]
    assert len(rows_of_readme) == 10
