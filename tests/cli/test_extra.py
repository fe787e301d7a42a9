"""Where the libraries come from that a subcommand needs."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pyproxy import __version__
from pyproxy.cli import unit
from pyproxy.cli.extra import DISTRIBUTION, requirement
from tests.support.engine import (
    Engine,
    publish,
)
from tests.support.proxy import PATIENCE_S

TREE = Path(__file__).parents[2]


@pytest.mark.parametrize(("missing", "name", "status"), [
    ("aiohttp", "engine", unit.MISCONFIGURED),
    ("prometheus_client", "engine", unit.MISCONFIGURED),
    ("rich", "ports", 1),
    ("rich", "top", 1),
])  # fmt: skip
def test_a_missing_library_is_named_with_the_mend(missing: str, name: str, status: int) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from pyproxy.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, name], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == status
    mend = f"{sys.executable} -m pip install --editable '{TREE}[engine]'"
    assert done.stderr == f"pyproxy {name} needs {missing}, which is not installed: {mend}\n"


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, ["pyproxyd[engine]"]),
        ("", ["--editable", f"{TREE}[engine]"]),
        ({"url": TREE.as_uri(), "dir_info": {}}, [f"{TREE}[engine]"]),
        ({"url": TREE.as_uri(), "dir_info": {"editable": True}}, ["--editable", f"{TREE}[engine]"]),
        ({"url": "file:///no/such/clone", "dir_info": {}}, [".[engine]"]),
        (
            {"url": "https://host/p.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            ["pyproxyd[engine] @ git+https://host/p.git@abc"],
        ),
        (
            {"url": "https://host/p.whl", "archive_info": {}},
            ["pyproxyd[engine] @ https://host/p.whl"],
        ),
    ],
)
def test_libraries_come_from_where_pyproxy_came(origin: dict[str, Any] | str | None, wanted: list[str]) -> None:
    assert requirement("engine", json.dumps(origin) if isinstance(origin, dict) else origin, TREE) == wanted


def test_the_distribution_has_a_name_of_its_own() -> None:
    """`pyproxy` is somebody else's on PyPI."""
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION == "pyproxyd"
    assert version(DISTRIBUTION) == __version__


def test_json_and_drain_need_no_library(engine: Engine) -> None:
    publish(engine)
    program = "import sys; sys.modules['rich'] = None; from pyproxy.__main__ import main; main()"
    command = [sys.executable, "-c", program]
    for arguments in (["ports", "--json"], ["drain", "80"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert "not installed" not in done.stderr
