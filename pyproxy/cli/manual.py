"""Man pages, made from the tables in `flags.py` and `verbs.py`: roff, with the macros of man(7).

`python -m pyproxy.cli.manual DIR` writes pyproxy.1, and a page for each subcommand: pyproxy-drain.1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pyproxy import __version__
from pyproxy.cli.help import ABOUT, EXAMPLE, FLAGS, NOTES, SECTIONS, described
from pyproxy.cli.verbs import HELP, KEPT, VERBS, Verb
from pyproxy.flags import CHOICE, SWITCH, Option

_SUMMARY = "carries the traffic of a published container port"

# In this order: the first is in the others.
_ESCAPES = {"\\": "\\(rs", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}

_EXIT_STATUS = (
    ("0", "It was stopped by SIGINT or SIGTERM, or has done what it was asked to do."),
    ("1", "It could not be done: stderr, or the system log, says why."),
    ("2", "Something was typed wrong."),
)


def pages() -> dict[str, str]:
    """The text of each page, by its file's name."""
    verbs = {f"pyproxy-{name}.1": _verb_page(name, verb) for name, verb in VERBS.items() if name != "help"}
    return {"pyproxy.1": _main_page(), **verbs}


def main(folder: Path) -> None:
    """Write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)


def _main_page() -> str:
    lines = _head("pyproxy", _SUMMARY)
    lines += [".SH SYNOPSIS", ".B pyproxy", f".RI [ {_escaped('flags')} ]", ".br"]
    lines += [".B pyproxy", ".I subcommand", f".RI [ {_escaped('flags')} ]"]
    lines += [".SH DESCRIPTION", _text(ABOUT), ".PP", _text(NOTES), ".SH OPTIONS", _text(FLAGS)]
    for heading, note, options in SECTIONS:
        lines += [f".SS {_escaped(heading)}"] if heading else []
        lines += [_text(f"{note[0].upper()}{note[1:]}.")] if note else []
        lines += [line for option in options for line in _option(option, "-")]
    lines += [".SH SUBCOMMANDS"]
    for name, verb in VERBS.items():
        lines += [".TP", f".B {_escaped(name)}", _text(f"{verb.summary}{_see(name)}")]
    lines += [".SH EXIT STATUS"]
    lines += [line for status, words in _EXIT_STATUS for line in (".TP", f".B {status}", _text(words))]
    lines += [".SH EXAMPLE", ".EX", _escaped(EXAMPLE), ".EE"]
    return _page(lines + _see_also(name for name in VERBS if name != "help"))


def _verb_page(name: str, verb: Verb) -> str:
    lines = _head(f"pyproxy-{name}", verb.summary)
    lines += [".SH SYNOPSIS", f".B pyproxy {_escaped(name)}", f".RI [ {_escaped('flags')} ]"]
    lines += [f".I {_escaped(verb.argument.value)}"] if verb.argument is not None else []
    lines += [".SH DESCRIPTION", _text(verb.about)]
    if verb.argument is not None:
        lines += [".TP", f".I {_escaped(verb.argument.value)}", _text(described(verb.argument))]
    lines += [".SH OPTIONS", _text(FLAGS)]
    lines += [line for option in (*verb.options, HELP) for line in _option(option, "--")]
    if verb.kept:
        lines += [f".SS {_escaped(KEPT)}", *(line for option in verb.kept for line in _option(option, "--"))]
    return _page([*lines, ".SH SEE ALSO", ".BR pyproxy (1)"])


def _head(name: str, summary: str) -> list[str]:
    return [
        ".\\\" Made from pyproxy's tables of options and subcommands: pyproxy/cli/manual.py.",
        f'.TH {name.upper()} 1 "" "pyproxy {__version__}" "User Commands"',
        # Words are not broken: most that are long are to be typed.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(summary)}",
    ]


def _page(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _option(option: Option, dashes: str) -> Iterable[str]:
    names = [f"-{option.short}"] if option.short else []
    bold = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in (*names, f"{dashes}{option.name}"))
    value = "" if option.kind == SWITCH else f" {_value(option)}"
    return ".TP", bold + value, _text(described(option))


def _value(option: Option) -> str:
    """Words to choose from as they are typed, a word that stands for another in italics."""
    if option.kind == CHOICE and option.value == "|".join(option.choices):
        return "|".join(f"\\fB{_escaped(choice)}\\fR" for choice in option.choices)
    return f"\\fI{_escaped(option.value)}\\fR"


def _see(name: str) -> str:
    return "" if name == "help" else f" (see pyproxy-{name}(1))"


def _see_also(names: Iterable[str]) -> list[str]:
    pages = [f".BR pyproxy\\-{_escaped(name)} (1)" for name in names]
    return [".SH SEE ALSO", *(f"{page}," for page in pages[:-1]), *pages[-1:]]


def _text(text: str) -> str:
    """A paragraph. The lines it comes in are not kept."""
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    """What can be typed stays as it is typed (groff_man_style(7)), and no line is a request by its beginning."""
    for letter, escape in _ESCAPES.items():
        text = text.replace(letter, escape)
    return f"\\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    main(Path(sys.argv[1]))
