"""The subcommands' command lines: argparse's, but made from `verbs.py` and written as `flags.py` has it (`-x v`,
`-x=v`, `--x v`, `--x=v`), with a guess at what was meant.

Exit status 2 for what was typed wrong; 1 is for what could not be done.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pyproxy.cli.help import described
from pyproxy.cli.verbs import KEPT, VERBS, Verb
from pyproxy.errors import plain
from pyproxy.flags import CHOICE, ENDPOINT, FOLDER, NUMBER, SECONDS, SWITCH, Option, did_you_mean, is_decimal, one_of
from pyproxy.flags import seconds as seconds_of

# There are no single-letter options but -h, so that two letters after one dash are the beginning of a long one.
_ONE_DASH = re.compile(r"-[A-Za-z][\w-]")


class Parser(argparse.ArgumentParser):
    """Of `pyproxy NAME`. Use `read`."""

    def __init__(self, name: str, verb: Verb | None = None) -> None:
        verb = verb or VERBS[name]
        super().__init__(
            f"pyproxy {name}",
            description=verb.about,
            epilog="Flags are written -x or --x, with their values after a space or a =.",
            allow_abbrev=False,
        )
        if verb.argument is not None:
            self.add_argument(verb.argument.name, help=described(verb.argument), type=typed(verb.argument))
        for option in verb.options:
            _add(self, option)
        if verb.kept:
            group = self.add_argument_group(KEPT[:1].lower() + KEPT[1:])
            for option in verb.kept:
                _add_as_text(group, option)

    def read(self, arguments: list[str]) -> argparse.Namespace:
        """What `parse_args` returns. Ends the process after -help, and with `error`."""
        found, unknown = self.parse_known_args([f"-{word}" if _ONE_DASH.match(word) else word for word in arguments])
        if unknown:
            name = unknown[0].partition("=")[0]
            known = list(self._option_string_actions)
            self.error(f"unknown argument {name}{did_you_mean(name, known) if name.startswith('-') else ''}")
        return found

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and end."""
        self.exit(2, f"{self.prog}: {plain(message)}\nSee {self.prog} -help.\n")


def value_of(option: Option, text: str) -> Any:
    """The value that is meant by what was typed. ValueError says what would do."""
    return _READERS.get(option.kind, _text)(option, text)


def typed(option: Option) -> Callable[[str], Any]:
    """An argparse `type`: its complaint is told to the user, after the text that it is about."""

    def checked(text: str) -> Any:
        try:
            return value_of(option, text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{text!r}: {exc}") from exc

    return checked


def words_of(options: tuple[Option, ...], *found: argparse.Namespace) -> list[str]:
    """What was given of `options` that are kept as text, as arguments; the first of `found` that has one counts."""
    words = []
    for name in (option.name for option in options):
        given = [text for each in found if (text := getattr(each, name.replace("-", "_"))) is not None]
        words += [f"--{name}={text}" for text in given[:1]]
    return words


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    name, text = f"--{option.name}", _escaped(option)
    if option.kind == SWITCH:
        parser.add_argument(name, action="store_true", help=text)
        return
    default = Path(str(option.default)) if option.kind == FOLDER and option.default is not None else option.default
    parser.add_argument(name, type=typed(option), default=default, metavar=option.value, help=text)


def _add_as_text(group: argparse._ArgumentGroup, option: Option) -> None:
    """Checked, but kept as it was typed, for `words_of`."""

    def kept(text: str) -> str:
        typed(option)(text)
        return text

    group.add_argument(f"--{option.name}", type=kept, metavar=option.value, help=_escaped(option))


def _escaped(option: Option) -> str:
    return described(option).replace("%", "%%")  # argparse formats it


def _text(_option: Option, text: str) -> str:
    return text


def _folder(_option: Option, text: str) -> Path:
    return Path(text)


def _seconds(option: Option, text: str) -> float:
    if (value := seconds_of(text)) < option.lowest:
        raise ValueError(f"give {option.lowest} s or more")
    return value


def _number(option: Option, text: str) -> int:
    if not is_decimal(text) or not option.lowest <= int(text) <= option.highest:
        raise ValueError(f"give {option.unit or 'a whole number'} from {option.lowest} to {option.highest}")
    return int(text)


def _choice(option: Option, text: str) -> str:
    if text not in option.choices:
        raise ValueError(f"give {one_of(option.choices)}")
    return text


def _endpoint(_option: Option, text: str) -> tuple[str, int]:
    """`127.0.0.1:9100`, `[::1]:9100`, or `:9100`, every address: host ""."""
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65_536):
        raise ValueError("give ADDRESS:PORT, such as 127.0.0.1:9100, or :9100 for every address")
    return host.strip("[]"), int(port)


_READERS: dict[int, Callable[[Option, str], Any]] = {
    FOLDER: _folder,
    SECONDS: _seconds,
    NUMBER: _number,
    CHOICE: _choice,
    ENDPOINT: _endpoint,
}
