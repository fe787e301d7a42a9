"""One JSON file per run: what was measured, on what, and every round's figures."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.world import CONGESTION_CONTROL

# Raised when a reader of older files would misread newer ones.
SCHEMA = 4


@dataclass
class Run:
    """A run. `cells[scenario][peer]` is a list of rounds, each the figures by name, or None where it failed or was
    not measured (`run.takes_part`). Scenarios differ in how many rounds they have, unless `rounds` says how many.
    """

    started: str
    command: str
    rounds: int | None
    seconds: float
    quick: bool
    machine: dict[str, Any]
    peers: dict[str, str] = field(default_factory=dict)  # name: version
    skipped: dict[str, str] = field(default_factory=dict)  # name: why
    cells: dict[str, dict[str, list[dict[str, float] | None]]] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)  # scenario, peer: the last error
    disturbed: int = 0  # measurements during which other programs were busy, each time they were made
    interrupted: bool = False
    took_s: dict[str, list[float]] = field(default_factory=dict)  # scenario: seconds of each of its rounds, all in all
    schema: int = SCHEMA

    def values(self, scenario: str, peer: str, figure: str) -> list[float | None]:
        """A figure of each round, None where it failed. Rounds of different peers correspond by position."""
        rounds = self.cells.get(scenario, {}).get(peer, [])
        return [cell.get(figure) if cell is not None else None for cell in rounds]


class ResultsError(Exception):
    """A file that is not a run of this schema."""


def write(run: Run, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(run), indent=1) + "\n")


def read(path: Path) -> Run:
    try:
        found = json.loads(path.read_text())
        if found["schema"] != SCHEMA:
            raise ResultsError(f"{path} has schema {found['schema']}, this program reads {SCHEMA}: measure again")
        return Run(**found)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ResultsError(f"{path} is not a result of `python -m bench run`: {exc}") from exc


def machine(tree: Path) -> dict[str, Any]:
    """What the figures were measured on, and of which state of the code."""
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "kernel": platform.release(),
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "python": platform.python_version(),
        "uvloop": _version("uvloop"),
        "congestion_control": CONGESTION_CONTROL,
        "commit": _git(tree, ["rev-parse", "--short", "HEAD"]),
        "changed": bool(_git(tree, ["status", "--porcelain", "--untracked-files=no"])),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git(tree: Path, arguments: Sequence[str]) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
