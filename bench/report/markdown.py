"""The table in Markdown: the whole of it, and the parts that README.md and docs/benchmark.md show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from bench.report.remarks import circumstances, failures, legend, remarks
from bench.report.rows import BASE, Row, number, ratio, rows
from bench.results import Run
from bench.scenarios import SCENARIOS

SECTION_BEGIN = "<!-- figures: begin -->"
SECTION_END = "<!-- figures: end -->"

# The README's ten rows, as scenario and figure: what users ask for first, the worst of them included.
README_ROWS = (
    ("tcp-bulk-up-1", "bits_per_s"),
    ("tcp-bulk-up-1", "cpu_s_per_gb"),
    ("tcp-exchange-64-1", "p50_us"),
    ("tcp-exchange-64-100", "per_s"),
    ("tcp-connect", "per_s"),
    ("udp-bulk-64-1", "delivered_per_s"),
    ("udp-burst", "lost"),
    ("idle-1000", "pss_each"),
    ("ports-1000", "publish_s"),
    ("ports-1000", "pss_each"),
)
README_PEERS = ("pyproxy", "pyproxy-engine", "direct", "nginx", "haproxy")


def markdown(run: Run) -> str:
    """The whole table."""
    lines = [
        "| scenario | figure | peer | median | to docker-proxy | to direct |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows(run):
        unit = f" {row.figure.unit}" if row.figure.unit else ""
        value = number(row.value.median * row.figure.scale) + unit
        words = row.scenario.title + (" (noisy)" if row.noisy else "")
        better = "more" if row.figure.more_is_better else "less"
        cells = [
            words,
            f"{row.figure.title}, {better} is better",
            row.peer,
            value,
            ratio(row.to_base),
            ratio(row.to_limit),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in remarks(run)), ""])


def readme_section(run: Run) -> str:
    """The README's table: `README_ROWS` of `README_PEERS`, as ratios to docker-proxy's."""
    peers = [peer for peer in README_PEERS if peer in run.peers]
    base = run.peers.get(BASE, "")
    return "\n".join(
        [
            f"Ratios to docker-proxy{f' ({base})' if base else ''}:",
            "",
            *_ratio_table(run, peers, README_ROWS),
            "",
        ]
    )


def benchmark_section(run: Run, source: str) -> str:
    """The whole table, for docs/benchmark.md: the first two figures of each scenario, as ratios to docker-proxy's."""
    peers = [peer for peer in run.peers if peer not in (BASE, "pyproxy-asyncio")]
    wanted = [(scenario.name, name) for scenario in SCENARIOS for name in scenario.figures[:2]]
    return "\n".join(
        [
            f"Ratios to docker-proxy: {legend(run)}.",
            "",
            *_ratio_table(run, peers, wanted),
            "",
            *circumstances(run),
            "",
            *failures(run),
            f"All figures: `{source}`.",
            "",
        ]
    )


def _ratio_table(run: Run, peers: Sequence[str], wanted: Collection[tuple[str, str]]) -> list[str]:
    """A line for each figure that is wanted, as (scenario, figure); pyproxy's with its interval."""
    lines = [f"| | figure | {' | '.join(peers)} |", f"| --- | --- |{' ---: |' * len(peers)}"]
    by_key: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows(run):
        if (row.scenario.name, row.name) in wanted:
            by_key.setdefault((row.scenario.title, row.figure.title), {})[row.peer] = row
    for (words, figure), found in by_key.items():
        if not any(row.to_base for row in found.values()):
            continue  # docker-proxy failed there, which the remarks say
        any_row = next(iter(found.values()))
        better = "more" if any_row.figure.more_is_better else "less"
        cells = [
            (ratio(found[peer].to_base) if peer == "pyproxy" else f"{found[peer].to_base.median:.2f}")  # type: ignore[union-attr]
            if peer in found and found[peer].to_base is not None
            else ""
            for peer in peers
        ]
        lines.append(f"| {words} | {figure}, {better} is better | {' | '.join(cells)} |")
    return lines


def update_section(page: Path, section: str) -> None:
    """Replace what stands between the two marks. ValueError if they are not there."""
    text = page.read_text()
    begin, end = text.index(SECTION_BEGIN), text.index(SECTION_END)
    page.write_text(f"{text[:begin]}{SECTION_BEGIN}\n{section}{text[end:]}")
