"""Which subcommand is meant, and what is said where none is."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest

from pyproxy.cli.verbs import VERBS
from tests.cli.root import pyproxy


@pytest.mark.parametrize("name", VERBS)
def test_each_subcommand_is_the_module_of_its_name(name: str) -> None:
    assert find_spec(f"pyproxy.cli.{name}") is not None
    assert callable(import_module(f"pyproxy.cli.{name}").main)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("drian", "unexpected argument 'drian': did you mean drain?"),
        ("version", "unexpected argument 'version': did you mean -version?"),
        ("80:8080", "unexpected argument '80:8080': every argument is a flag or its value, or first a subcommand"),
        ("", "unexpected argument '': every argument is a flag or its value, or first a subcommand"),
        ("\x1b[2J", "unexpected argument '\\x1b[2J': "),
        # Modules of the folder that are no subcommands.
        ("verbs", "unexpected argument 'verbs': "),
    ],
)
def test_what_is_no_subcommand_is_refused_with_a_guess(name: str, complaint: str) -> None:
    done = pyproxy(name, "80")
    assert (done.returncode, done.stdout) == (2, "")
    first, hint = done.stderr.splitlines()
    assert first.startswith(f"pyproxy: {complaint}")
    assert hint == "See pyproxy -help."


def test_nothing_at_all_is_answered_with_what_there_is() -> None:
    done = pyproxy()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pyproxy: nothing to do: name a published port, as in\n  pyproxy -host-port 1234 ")
    assert all(f" {name}" in done.stderr for name in VERBS)
