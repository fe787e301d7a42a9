"""Completion, in the shells that it is for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyproxy.cli.completion import contexts, script
from pyproxy.cli.verbs import ORDERS, VERBS
from pyproxy.flags import CHOICE, FOLDER, OPTIONS, SWITCH
from tests.cli.root import pyproxy
from tests.support.proxy import PATIENCE_S

SHELLS = VERBS["completion"].argument.choices if VERBS["completion"].argument else ()
VALUED = [(context.name, option) for context in contexts() for option in context.options if option.kind != SWITCH]


def run(shell: str, program: str, *arguments: str, folder: Path | None = None) -> list[str]:
    done = subprocess.run(
        [shell, *arguments, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=folder
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def in_bash(words: Sequence[str], folder: Path | None = None) -> list[str]:
    """What bash offers for the last of these words, as readline parts them. `compopt` works only in a completion, so
    that here a function stands for it.
    """
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"{script('bash')}\ncompopt() {{ :; }}\nCOMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}\n"
        "_pyproxy\n((${#COMPREPLY[@]} == 0)) || printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return run("bash", program, "--norc", folder=folder)


def in_fish(line: str) -> list[str]:
    done = run("fish", f"{script('fish')}\ncomplete -C '{line}'", "--no-config")
    return [offered.split("\t")[0] for offered in done]


def names_of(context: str, dashes: str) -> set[str]:
    options = next(each.options for each in contexts() if each.name == context)
    short = {f"-{option.short}" for option in options if option.short and dashes == "-"}
    return short | {f"{dashes}{option.name}" for option in options}


def command(context: str, *words: str) -> list[str]:
    return ["pyproxy", *([context] if context else []), *words]


needs_fish = pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed here")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(shell: str) -> None:
    done = pyproxy("completion", shell)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", script(shell))


@pytest.mark.parametrize(("arguments", "complaint"), [(["tcsh"], "'tcsh': give bash, zsh or fish"), ([], "shell")])
def test_a_shell_that_is_not_known_is_refused(arguments: list[str], complaint: str) -> None:
    done = pyproxy("completion", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


@pytest.mark.parametrize("dashes", ["-", "--"])
@pytest.mark.parametrize("context", [context.name for context in contexts()])
def test_bash_offers_each_option_where_it_belongs(context: str, dashes: str) -> None:
    assert set(in_bash(command(context, dashes))) == names_of(context, dashes)
    assert set(in_bash(command(context, f"{dashes}h"))) == {
        name for name in names_of(context, dashes) if name.startswith(f"{dashes}h")
    }


def test_bash_offers_subcommands_first_and_only_there() -> None:
    assert in_bash(["pyproxy", ""]) == list(VERBS)
    assert in_bash(["pyproxy", "dr"]) == ["drain"]
    assert in_bash(["pyproxy", "-proto", "tcp", ""]) == []
    assert in_bash(["pyproxy", "help", ""]) == [name for name in VERBS if name != "help"]
    assert in_bash(["pyproxy", "nonsense", ""]) == []
    assert in_bash(["pyproxy", "nonsense", "-"]) == []


@pytest.mark.parametrize("style", [["-{}", ""], ["--{}", ""], ["-{}", "=", ""], ["--{}", "="]], ids="".join)
@pytest.mark.parametrize(("context", "option"), VALUED, ids=lambda each: each if isinstance(each, str) else each.name)
def test_bash_offers_what_an_option_takes_and_no_files(
    context: str, option: object, style: list[str], tmp_path: Path
) -> None:
    (tmp_path / "folder with spaces").mkdir()
    (tmp_path / "file").touch()
    found = next(each for name, each in VALUED if (name, each) == (context, option))
    expected = list(found.choices) if found.kind == CHOICE else []
    if found.kind == FOLDER:
        expected = ["folder with spaces"]
    assert in_bash(command(context, *(word.format(found.name) for word in style)), tmp_path) == expected


def test_bash_offers_nothing_for_the_port_to_drain() -> None:
    assert in_bash(["pyproxy", "drain", ""]) == []
    assert in_bash(["pyproxy", "drain", "8"]) == []
    assert in_bash(["pyproxy", "drain", "80", ""]) == []
    assert in_bash(["pyproxy", "completion", "z"]) == ["zsh"]


def test_bash_completes_for_the_program_whatever_its_path() -> None:
    assert run("bash", f"{script('bash')}\ncomplete -p pyproxy", "--norc") == ["complete -F _pyproxy pyproxy"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed here")
def test_the_script_for_bash_is_clean() -> None:
    done = subprocess.run(
        ["shellcheck", "--shell=bash", "-"], input=script("bash"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_scripts_have_each_option_and_each_subcommand(shell: str) -> None:
    """Where those shells are not installed, this is all that is seen of it."""
    text = script(shell)
    for name in OPTIONS:
        assert (f"'--{name}" if shell == "zsh" else f"-l {name} ") in text
    for name, verb in VERBS.items():
        for option in verb.all_options:
            assert (f"'--{option.name}" if shell == "zsh" else f"'{name}'\" -l {option.name} ") in text
        assert (f"'{name}:" if shell == "zsh" else f"-a {name} ") in text


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed here")
def test_zsh_takes_the_script() -> None:
    assert run("zsh", f"compdef() {{ print $* }}\n{script('zsh')}", "-f") == ["_pyproxy pyproxy"]


@needs_fish
def test_fish_offers_what_may_come_next() -> None:
    assert set(in_fish("pyproxy ")) == set(VERBS)
    assert set(in_fish("pyproxy --ho")) == {"--host-ip", "--host-port"}
    assert in_fish("pyproxy drain ") == []
    assert set(in_fish("pyproxy drain --r")) == {"--run-dir"}
    assert set(in_fish("pyproxy top -sort ")) == set(ORDERS)
    assert in_fish("pyproxy -host-port ") == []
    assert set(in_fish("pyproxy completion ")) == set(SHELLS)
