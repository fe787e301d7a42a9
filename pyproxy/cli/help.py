"""`pyproxy help`, and what `pyproxy -help` prints: made from the tables in `flags.py` and `verbs.py`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable

from pyproxy.cli.verbs import VERBS
from pyproxy.errors import plain
from pyproxy.flags import (
    LIMIT_OPTIONS,
    OTHER_OPTIONS,
    PORT_OPTIONS,
    SHORTEST_LIMIT_S,
    SWITCH,
    Option,
    did_you_mean,
)

EXAMPLE = "pyproxy -host-port 1234 -container-ip 172.19.0.2 -container-port 1234"

ABOUT = """\
pyproxy carries the traffic of one published container port: clients connect to the host address, pyproxy
relays to the container address. Stop it with Ctrl-C.
"""

FLAGS = "Flags are written -x or --x, with their values after a space or a =."

# The table in sections, each with its heading, and what goes for all of it.
SECTIONS = (
    ("", "", PORT_OPTIONS),
    ("Limits", f"seconds, or with a unit: 1.5, 300ms, 5m, 1h30m; at least {SHORTEST_LIMIT_S} s; 0: no limit",
     LIMIT_OPTIONS),
    ("Other", "", OTHER_OPTIONS),
)  # fmt: skip

NOTES = """\
UDP flows end 90 s after their last datagram in either direction. SIGUSR1 logs what has gone through so far.
Messages go to stderr; where that is /dev/null, as under dockerd, to the system log as "pyproxy".
"""

_WIDTH = 112
_INDENT = 25


def main(arguments: list[str]) -> int:
    """Run `pyproxy help`, which takes anything for its own help."""
    name = (arguments or ["help"])[0]
    if name == "help" or name.startswith("-"):
        print(usage(), end="")
        return 0
    if name not in VERBS:
        mend = did_you_mean(name, list(VERBS)) or f": give one of {', '.join(VERBS)}"
        print(f"pyproxy help: no subcommand '{plain(name)}'{mend}", file=sys.stderr)
        return 2
    from pyproxy.cli.parser import Parser

    Parser(name).print_help()
    return 0


def usage() -> str:
    """The help of pyproxy itself."""
    lines = [*ABOUT.splitlines(), "", "Example:", f"  {EXAMPLE}", "", "Usage: pyproxy [flags]"]
    lines += ["       pyproxy subcommand [flags]", "", FLAGS]
    for heading, note, options in SECTIONS:
        lines += ["", f"{heading} ({note}):" if note else f"{heading}:"] if heading else []
        lines += [line for option in options for line in _entry(_spelled(option), described(option))]
    lines += ["", "Subcommands:"]
    lines += [line for name, verb in VERBS.items() for line in _entry(name, verb.summary)]
    return "\n".join([*lines, "", NOTES])


def nothing_said() -> str:
    """To `pyproxy` alone."""
    return (f"nothing to do: name a published port, as in\n  {EXAMPLE}\nor a subcommand: {', '.join(VERBS)}.\n").rstrip(
        "\n"
    )


def described(option: Option) -> str:
    """What it means, and its default: `the container's port (required)`."""
    default = option.default_words
    if not default and option.kind != SWITCH and option.default is not None:
        default = f"default {option.default:g}" if isinstance(option.default, float) else f"default {option.default}"
    return f"{option.meaning} ({default})" if default else option.meaning


def _spelled(option: Option) -> str:
    short = f"-{option.short}, " if option.short else ""
    return f"{short}-{option.name} {option.value}".rstrip()


def _entry(head: str, text: str) -> Iterable[str]:
    first = f"  {head:{_INDENT - 3}} "
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=" " * _INDENT, break_on_hyphens=False
    )  # fmt: skip
