"""Plots of a run: bars against docker-proxy, latency distributions, growth curves. PNG and SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.figure import Figure as Plot

from bench.report.rows import BASE, rows
from bench.results import Run
from bench.scenarios import FIGURES, SCENARIOS, Figure
from bench.stats import summarize

# One colour for each peer in every plot; ours stands out.
_COLOURS = {
    "pyproxy": "#d1495b",
    "docker-proxy": "#30638e",
    "direct": "#9aa0a6",
    "dnat": "#5f6368",
    "pyproxy-asyncio": "#e8a0aa",
    "pyproxy-engine": "#a4303f",
    "nginx": "#3a9e5c",
    "haproxy": "#edae49",
    "socat": "#8d6a9f",
    "socket-proxyd": "#00798c",
}


# docker-proxy of other versions.
_OTHER_VERSION = "#7ba7c9"


def colour(peer: str) -> str:
    return _COLOURS.get(peer, _OTHER_VERSION if peer.startswith(f"{BASE}-") else "#000000")


def draw_all(run: Run, folder: Path) -> list[Path]:
    """Draw what the run has figures for; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, plot in (("bars", _bars(run)), ("latency", _latency(run)), ("growth", _growth(run))):
        if plot is None:
            continue
        for ending in ("png", "svg"):
            path = folder / f"{name}.{ending}"
            plot.savefig(path, dpi=110, bbox_inches="tight")
            drawn.append(path)
        plt.close(plot)
    return drawn


def _bars(run: Run) -> Plot | None:
    """Each scenario's first figure as a ratio to docker-proxy's, so drawn that longer is better."""
    found = [row for row in rows(run, first_figures=True) if row.to_base is not None and row.peer != BASE]
    scenarios = list(dict.fromkeys(row.scenario for row in found))
    peers = list(dict.fromkeys(row.peer for row in found))
    if not scenarios:
        return None
    plot, axes = plt.subplots(figsize=(10, 0.6 + 0.16 * len(scenarios) * (len(peers) + 1.5)))
    step = len(peers) + 1.5
    for row in found:
        assert row.to_base is not None
        middle, *ends = (_goodness(row.figure, value) for value in row.to_base[:3])
        ends.sort()
        at = scenarios.index(row.scenario) * step + peers.index(row.peer)
        axes.barh(at, middle, height=0.9, color=colour(row.peer), label=row.peer,
                  xerr=[[max(0, middle - ends[0])], [max(0, ends[1] - middle)]], error_kw={"lw": 0.8})  # fmt: skip
    axes.axvline(1, color=colour(BASE), lw=1.5)
    axes.set_yticks([n * step + (len(peers) - 1) / 2 for n in range(len(scenarios))])
    axes.set_yticklabels([f"{s.title}\n{FIGURES[s.figures[0]].title}" for s in scenarios], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
    axes.set_xlabel("times as good as docker-proxy (the line at 1); longer is better; lines: its median's interval")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), loc="lower right", fontsize=8)
    return plot


def _goodness(figure: Figure, ratio: float) -> float:
    """Turned so that more is better."""
    return ratio if figure.more_is_better or not ratio else 1 / ratio


def _latency(run: Run) -> Plot | None:
    """Percentiles of every scenario that has them."""
    names = [s for s in SCENARIOS if s.name in run.cells and "p50_us" in s.figures]
    if not names:
        return None
    plot, grid = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3.4), squeeze=False, sharey=False)
    shares = {"p50_us": "50", "p90_us": "90", "p99_us": "99", "p999_us": "99.9"}
    for axes, scenario in zip(grid[0], names, strict=True):
        for peer in run.cells[scenario.name]:
            summaries = [summarize(run.values(scenario.name, peer, figure)) for figure in shares]
            points = [(share, s.median) for share, s in zip(shares.values(), summaries, strict=True) if s is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", ms=3, color=colour(peer), label=peer,
                          lw=2 if peer == "pyproxy" else 1)  # fmt: skip
        axes.set_yscale("log")
        axes.set_title(scenario.title.replace(", ", ",\n", 1), fontsize=8)
        axes.set_xlabel("percentile")
        axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("microseconds")
    grid[0][-1].legend(fontsize=7)
    plot.tight_layout()
    return plot


def _growth(run: Run) -> Plot | None:
    """How the first figure of a family changes with its size."""
    families = list(dict.fromkeys(s.family for s in SCENARIOS if s.family and s.name in run.cells))
    families = [f for f in families if sum(s.family == f and s.name in run.cells for s in SCENARIOS) > 1]
    if not families:
        return None
    columns = min(4, len(families))
    lines = -(-len(families) // columns)
    plot, grid = plt.subplots(lines, columns, figsize=(3.6 * columns, 3.0 * lines), squeeze=False)
    for axes, family in zip(grid.flat, families, strict=False):
        members = [s for s in SCENARIOS if s.family == family and s.name in run.cells]
        name = next(n for n in ("per_s", members[0].figures[0]) if n in members[0].figures and n in members[-1].figures)
        figure = FIGURES[name]
        for peer in dict.fromkeys(p for s in members for p in run.cells[s.name]):
            points = [
                (s.size, found.median * figure.scale)
                for s in members
                if (found := summarize(run.values(s.name, peer, name))) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", ms=3, color=colour(peer), label=peer,
                          lw=2 if peer == "pyproxy" else 1)  # fmt: skip
        axes.set_xscale("log")
        if figure.title.startswith(("to publish", "rate", "proportional")):
            axes.set_yscale("log")
        axes.set_title(f"{family}: {figure.title} [{figure.unit}]", fontsize=8)
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(families) :]:
        axes.axis("off")
    handles: dict[str, Artist] = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    plot.legend(list(handles.values()), list(handles.keys()), loc="lower right", fontsize=8)
    plot.tight_layout()
    return plot
