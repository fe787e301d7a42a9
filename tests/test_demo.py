"""`make demo`, and what `make help` says of the Makefile."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.__main__ import WAYS, fault_of, verdict

TREE = Path(__file__).parents[1]
NUMBERS = {7: "seven", 8: "eight", 9: "nine"}


def test_the_demonstration_says_that_all_went_as_it_should() -> None:
    program = "import sys\nfrom tests.lab.__main__ import main\nsys.exit(main(bulk_s=1))"
    done = subprocess.run([sys.executable, "-c", program], cwd=TREE, capture_output=True, text=True, check=False)
    if "It needs root" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.splitlines()[-1] == "All of this is as it should be."
    moved = re.findall(r"([\d.]+) GB$", done.stdout, re.MULTILINE)
    assert len(moved) == 2
    # What iperf3 has counted, the proxies say too.
    totals = done.stdout.partition("What the proxies say of it:")[2]
    for received, way in zip(moved, ("up", "down"), strict=True):
        told = re.findall(rf"([\d.]+) ([MG])B {way}", totals)
        most_gb = max(float(number) / (1000 if unit == "M" else 1) for number, unit in told)
        assert most_gb == pytest.approx(float(received), rel=0.1, abs=0.1)


@pytest.mark.parametrize(
    ("expected", "carriers", "answer", "fault"),
    [
        ("pyproxy", ["pyproxy"], "this is daemon1", []),
        ("pyproxy", ["pyproxy"], "", ["a to b: no answer"]),
        ("pyproxy", [], "", ["a to b: carried by nobody, not by pyproxy"]),
        ("pyproxy", ["the kernel", "pyproxy"], "x", ["a to b: carried by the kernel and pyproxy, not by pyproxy"]),
        ("nobody: dropped by isolation", ["nobody: dropped by isolation"], "", []),
        ("nobody: dropped by isolation", ["nobody: dropped by isolation"], "x", ["a to b: an answer"]),
    ],
)
def test_what_is_not_as_it_should_be(expected: str, carriers: list[str], answer: str, fault: list[str]) -> None:
    assert fault_of("a to b", expected, carriers, answer) == fault


def test_a_fault_is_the_last_line() -> None:
    assert verdict(["a", "b"]) == "NOT as it should be: a; b"


def test_the_readme_counts_the_ways_as_the_demonstration_does() -> None:
    text = " ".join((TREE / "README.md").read_text().split())
    assert f"sends traffic in {NUMBERS[len(WAYS)]} ways" in text


def test_make_help_names_each_target() -> None:
    done = subprocess.run(["make", "help"], cwd=TREE, capture_output=True, text=True, check=True)
    [phony] = re.findall(r"^\.PHONY: (.*)$", (TREE / "Makefile").read_text(), re.MULTILINE)
    named = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("make ")}
    assert named == set(phony.split())
