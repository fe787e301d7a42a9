"""How to get the libraries that the engine needs, for this installation: the answer depends on where it came from."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# Not `pyproxy`: on PyPI that is another project.
DISTRIBUTION = "pyproxyd"

_TREE = Path(__file__).parents[2]


def how_to_get(extra: str) -> str:
    """The command that installs pyproxy's `extra` into the interpreter that runs this."""
    # A virtual environment need not have a pip: then another's does it.
    pip = [sys.executable, "-m", "pip"] if find_spec("pip") else ["pip", "--python", sys.executable]
    return shlex.join([*pip, "install", *requirement(extra, _origin(), _TREE)])


def requirement(extra: str, origin: str | None, tree: Path) -> list[str]:
    """What pip is to install: from where this installation came. `origin` is its direct_url.json, None for one from an
    index, "" for none: run in a source tree, `tree`, without being installed. Pure, but for a look at what is there.
    """
    if origin is None:
        return [f"{DISTRIBUTION}[{extra}]"]
    # https://packaging.python.org/specifications/direct-url-data-structure/
    found: dict[str, Any] = json.loads(origin) if origin else {"url": tree.as_uri(), "dir_info": {"editable": True}}
    url: str = found["url"]
    if "vcs_info" in found:
        info = found["vcs_info"]
        return [f"{DISTRIBUTION}[{extra}] @ {info['vcs']}+{url}@{info['commit_id']}"]
    if "dir_info" not in found:
        return [f"{DISTRIBUTION}[{extra}] @ {url}"]
    clone = Path(unquote(urlsplit(url).path))
    if not (clone / "pyproject.toml").exists():
        return [f".[{extra}]"]  # it has been moved or removed since: from a clone, wherever that is
    return [*(["--editable"] if found["dir_info"].get("editable") else []), f"{clone}[{extra}]"]


def _origin() -> str | None:
    try:
        return distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
