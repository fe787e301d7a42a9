"""Man pages have all that is in the tables, and nothing in them offends who formats them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyproxy import __version__
from pyproxy.cli.help import described
from pyproxy.cli.manual import main, pages
from pyproxy.cli.verbs import VERBS
from pyproxy.flags import OPTIONS, SWITCH, Option

PAGES = pages()

needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed here")


def formatted(name: str) -> str:
    """As a person reads it, on a line of any length."""
    command = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=10000n", "-rIN=0"]
    done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=True)
    return done.stdout


def head(option: Option, dashes: str) -> str:
    short = f"-{option.short}, " if option.short else ""
    return f"{short}{dashes}{option.name}" + ("" if option.kind == SWITCH else f" {option.value}")


@needs_groff
def test_the_page_of_pyproxy_has_each_option_and_each_subcommand() -> None:
    lines = [line.strip() for line in formatted("pyproxy.1").splitlines()]
    for option in OPTIONS.values():
        words = f"{head(option, '-')} {described(option)}"
        # On one line where the name is short.
        assert words in [" ".join(f"{a} {b}".split()) for a, b in zip(lines, [*lines[1:], ""], strict=True)], words
    text = " ".join(" ".join(lines).split())
    for name, verb in VERBS.items():
        assert f"{name} {verb.summary}" in text


@needs_groff
@pytest.mark.parametrize("name", [name for name in VERBS if name != "help"])
def test_the_page_of_a_subcommand_has_each_of_its_options(name: str) -> None:
    text = " ".join(formatted(f"pyproxy-{name}.1").split())
    verb = VERBS[name]
    assert f"pyproxy-{name} - {verb.summary} SYNOPSIS pyproxy {name} [flags]" in text
    assert verb.about in text
    for option in verb.all_options:
        assert f"{head(option, '--')} {described(option)} " in text
    assert f"pyproxy {__version__} " in text


@needs_groff
@pytest.mark.parametrize("name", PAGES)
def test_groff_has_no_warning(name: str) -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-z"]
    done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed here")
@pytest.mark.parametrize("name", PAGES)
def test_mandoc_has_no_warning(name: str) -> None:
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning"], input=PAGES[name], capture_output=True, text=True, check=False
    )
    # A page that says when it was made would be another each time.
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def test_pages_are_written_into_a_folder(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pyproxy.cli.manual", tmp_path / "man"], check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "man").iterdir()} == PAGES
    assert len(PAGES) == len(VERBS)
    main(tmp_path / "man")  # what is there already is replaced


def test_no_line_of_a_page_is_a_request_by_chance() -> None:
    known = (".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".BR", ".RI", ".EX", ".EE", ".br", ".nh", ".ad", '.\\"')
    for text in PAGES.values():
        for line in text.splitlines():
            assert not line.startswith("'")
            assert not line.startswith(".") or line.split()[0] in known
