"""The help has all that is in the tables."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pyproxy.cli.help import SECTIONS, described, usage
from pyproxy.cli.verbs import ENGINE_OPTIONS, ORDERS, VERBS
from pyproxy.flags import BUSY_POLL, LOOP, OPTIONS, SWITCH
from tests.cli.root import pyproxy


def joined(text: str) -> str:
    """Without the ends of lines."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_has_each_option_with_its_value_its_meaning_and_its_default(name: str) -> None:
    option = OPTIONS[name]
    short = f"-{option.short}, " if option.short else ""
    assert f"{short}-{name} {option.value}".rstrip() + f" {described(option)} " in joined(usage()) + " "


def test_each_option_is_in_one_section_of_the_help() -> None:
    assert [option for _, _, options in SECTIONS for option in options] == list(OPTIONS.values())


@pytest.mark.parametrize("name", VERBS)
def test_the_help_has_each_subcommand(name: str) -> None:
    assert f"\n  {name:22} {VERBS[name].summary}\n" in usage()


def test_help_is_no_wider_than_it_was() -> None:
    assert max(map(len, usage().splitlines())) <= 112


@pytest.mark.parametrize("name", [name for name in VERBS if name != "help"])
def test_the_help_of_a_subcommand_has_each_of_its_options(name: str) -> None:
    verb, said = VERBS[name], pyproxy("help", name).stdout
    for option in verb.all_options:
        assert f"\n  --{option.name}{'' if option.kind == SWITCH else ' ' + option.value}" in said
        assert described(option) in joined(said)
    if verb.argument is not None:
        assert described(verb.argument) in joined(said)
    assert joined(verb.about) in joined(said)


def test_what_engine_and_solo_share_is_said_once() -> None:
    shared = [option for option in ENGINE_OPTIONS if option.name in OPTIONS]
    assert shared == [BUSY_POLL, LOOP]
    assert all(OPTIONS[option.name] is option for option in shared)


def test_help_needs_no_library() -> None:
    program = (
        "import sys\nfor name in ('aiohttp', 'prometheus_client', 'rich', 'uvloop'): sys.modules[name] = None\n"
        "from pyproxy.__main__ import main; main()"
    )
    for arguments in (["-help"], *(["help", name] for name in VERBS)):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout


def test_top_has_a_key_for_each_order() -> None:
    assert len({order[0] for order in ORDERS}) == len(ORDERS)
