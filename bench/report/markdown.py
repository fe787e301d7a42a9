"""The table in Markdown: the whole of it, and the part that the README shows."""

from __future__ import annotations

from pathlib import Path

from bench.report.remarks import circumstances, failures, legend, remarks
from bench.report.rows import BASE, Row, number, ratio, rows
from bench.results import Run
from bench.scenarios import FIGURES

README_BEGIN = "<!-- figures: begin -->"
README_END = "<!-- figures: end -->"


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


def readme_section(run: Run, source: str) -> str:
    """The README's table: the first two figures of each scenario, as ratios to docker-proxy's."""
    peers = [peer for peer in run.peers if peer not in (BASE, "pyproxy-asyncio")]
    lines = [
        f"Ratios to docker-proxy: {legend(run)}.",
        "",
        f"| | figure | {' | '.join(peers)} |",
        f"| --- | --- |{' ---: |' * len(peers)}",
    ]
    by_key: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows(run):
        if row.figure in [FIGURES[name] for name in row.scenario.figures[:2]]:
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
    return "\n".join([*lines, "", *circumstances(run), "", *failures(run), f"All figures: `{source}`.", ""])


def update_readme(readme: Path, section: str) -> None:
    """Replace what stands between the two marks. ValueError if they are not there."""
    text = readme.read_text()
    begin, end = text.index(README_BEGIN), text.index(README_END)
    readme.write_text(f"{text[:begin]}{README_BEGIN}\n{section}{text[end:]}")
