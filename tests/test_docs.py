"""The pages for readers: their links lead somewhere, and they name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyproxy.cli.verbs import ENGINE_OPTIONS
from pyproxy.core.counters import Counters
from pyproxy.flags import OPTIONS

TREE = Path(__file__).parents[1]
PAGES = sorted([*TREE.glob("*.md"), *TREE.glob("docs/*.md")])
API_SOURCES = (TREE / "pyproxy/engine").rglob("*.py")

# Of dockerd's own command line, which `pyproxy -help` explains.
NO_SETTINGS = {
    "proto", "host-ip", "host-port", "container-ip", "container-port", "use-listen-fd", "v", "version", "h", "help",
}  # fmt: skip


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_page_on_operating_names_each_setting() -> None:
    text = (TREE / "docs/operating.md").read_text()
    for name in OPTIONS.keys() - NO_SETTINGS:
        assert f"| `-{name} " in text, name
    for option in ENGINE_OPTIONS:
        assert f"`--{option.name} {option.value}`" in text, option.name


def test_the_page_on_operating_names_each_figure() -> None:
    text = (TREE / "docs/operating.md").read_text()
    for name in Counters.__slots__:
        assert f"{name}_total`" in text, name


def test_the_page_on_the_control_api_names_each_request() -> None:
    text = (TREE / "docs/control-api.md").read_text()
    routes = re.findall(r'web\.(get|post|delete)\("([^"]+)"', "".join(p.read_text() for p in API_SOURCES))
    assert routes
    for method, path in routes:
        assert f"`{method.upper()} {path.replace('{proto}', 'PROTO').replace('{address}', 'ADDRESS')}`" in text, path
