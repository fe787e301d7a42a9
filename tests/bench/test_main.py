"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.__main__ import choose_scenarios
from bench.scenarios import SCENARIOS
from bench.world import BenchWorld
from tests.support.bench import scenario

TREE = Path(__file__).parents[2]


def test_a_quick_run_is_brief_where_scenarios_are_named_too() -> None:
    (whole,) = choose_scenarios(["udp-bulk-64-100"], quick=False)
    (brief,) = choose_scenarios(["udp-bulk-64-100"], quick=True)
    assert whole == scenario("udp-bulk-64-100")
    assert brief.begin is whole.begin_quick is not whole.begin
    assert all(each.quick for each in choose_scenarios([], quick=True))
    assert choose_scenarios([], quick=False) == SCENARIOS


def test_a_quick_run_end_to_end(tmp_path: Path, world: BenchWorld) -> None:
    assert world
    flags = [
        "--quick",
        "--rounds",
        "1",
        "--seconds",
        "0.01",
        "--scenario",
        "tcp-exchange-64-1",
        "--scenario",
        "udp-ping",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", *flags, "--output", str(tmp_path), "--peer", "pyproxy"],
        capture_output=True, text=True, check=False, cwd=TREE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TCP request and response, 64 B, 1 connection" in done.stdout
    [path] = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert not found["errors"]
    assert set(found["cells"]) == {"tcp-exchange-64-1", "udp-ping"}
    assert {"pyproxy", "direct"} <= set(found["cells"]["udp-ping"])
    assert found["cells"]["tcp-exchange-64-1"]["pyproxy"][0]["p50_us"] > 0
    assert path.with_suffix(".md").exists()
    assert {each.name for each in path.with_suffix("").iterdir()} >= {"latency.png", "latency.svg"}
