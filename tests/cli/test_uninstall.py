"""`pyproxy uninstall`: what was installed is undone exactly, and what others have changed since stays."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.root import DAEMON, UNIT, files_below, pyproxy, root
from tests.support.engine import STUB
from tests.support.proxy import PATIENCE_S, PROGRAM

__all__ = ["root"]


ODD_LAYOUTS = [
    None,
    "",
    "{}",
    "{ }\n",
    '{"debug":true}',
    '{\n    "debug": true\n}\n',
    '{\r\n\t"log-opts": {"max-size": "10m"},\r\n\t"hosts": ["fd://"]\r\n}',
    '\n{"a": "\\u007d }",\n "dns": [\n  "10.0.0.1"]  \n\n}\n\n',
]


@pytest.mark.parametrize("before", ODD_LAYOUTS)
def test_install_sets_the_key_keeps_the_rest_and_uninstall_undoes_it_exactly(root: Path, before: str | None) -> None:
    if before is not None:
        (root / DAEMON).write_bytes(before.encode())
        (root / DAEMON).chmod(0o640)
    untouched = files_below(root)
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 0, done.stderr
    found = json.loads((root / DAEMON).read_text())
    assert found.pop("userland-proxy-path") == STUB
    assert found == json.loads(before or "{}")
    if before is not None:
        assert stat.S_IMODE((root / DAEMON).stat().st_mode) == 0o640
    assert f"ExecStart={PROGRAM} engine\n" in (root / UNIT).read_text()
    assert pyproxy("install", "--yes", "--root", str(root)).stdout == "Nothing to change.\n"
    done = pyproxy("uninstall", "--yes", "--root", str(root))
    assert done.returncode == 0, done.stderr
    assert files_below(root) == untouched
    assert pyproxy("uninstall", "--yes", "--root", str(root)).stdout == "Nothing to change.\n"


def test_a_proxy_path_that_was_there_comes_back(root: Path) -> None:
    before = '{"userland-proxy-path": "/opt/other" , "debug": false}\n'
    (root / DAEMON).write_text(before)
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    assert json.loads((root / DAEMON).read_text()) == {"userland-proxy-path": STUB, "debug": False}
    assert pyproxy("uninstall", "--yes", "--root", str(root)).returncode == 0
    assert (root / DAEMON).read_text() == before


@pytest.mark.parametrize("since", ['{"userland-proxy-path": "/opt/other"}', "{}"])
@pytest.mark.parametrize("before", [None, '{"userland-proxy-path": "/opt/first"}'])
def test_a_proxy_path_that_was_set_since_is_not_taken_back(root: Path, before: str | None, since: str) -> None:
    if before is not None:
        (root / DAEMON).write_text(before)
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    (root / DAEMON).write_text(since)
    done = pyproxy("uninstall", "--yes", "--root", str(root))
    assert done.returncode == 0
    assert (root / DAEMON).read_text() == since
    assert not (root / UNIT).exists()
    assert ('is "/opt/other" now, which is not ours: it stays.' in done.stdout) == ("other" in since)


def test_a_proxy_path_that_was_set_since_comes_back_after_another_installation(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    (root / DAEMON).write_text(since := '{"userland-proxy-path": "/opt/other"}')
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    assert json.loads((root / DAEMON).read_text()) == {"userland-proxy-path": STUB}
    assert pyproxy("uninstall", "--yes", "--root", str(root)).returncode == 0
    assert (root / DAEMON).read_text() == since


def test_what_others_have_changed_in_the_meantime_stays(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    found = json.loads((root / DAEMON).read_text()) | {"debug": True}
    (root / DAEMON).write_text(json.dumps(found, indent=4))
    assert pyproxy("uninstall", "--yes", "--root", str(root)).returncode == 0
    assert json.loads((root / DAEMON).read_text()) == {"debug": True}


def test_uninstall_needs_no_more_than_pyproxy_itself(root: Path) -> None:
    assert pyproxy("install", "--yes", "--root", str(root)).returncode == 0
    program = (
        "import sys\nfor name in ('aiohttp', 'prometheus_client', 'rich'): sys.modules[name] = None\n"
        "from pyproxy.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "uninstall", "--yes", "--root", str(root)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert files_below(root) == {}
