"""The subcommands' command lines: read by argparse, but written as in `flags.py` (`-x v`, `-x=v`, `--x v`, `--x=v`),
and with a guess at what was meant. Also the engine's options, which `pyproxy install` takes too and keeps in the unit.

Exit status 2 for what was typed wrong; 1 is for what could not be done.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from pyproxy.errors import plain
from pyproxy.flags import DEFAULT_BUSY_POLL_US, LOOPS, busy_poll_us, did_you_mean, seconds

# There are no single-letter options but -h, so that two letters after one dash are the beginning of a long one.
_ONE_DASH = re.compile(r"-[A-Za-z][\w-]")


class Parser(argparse.ArgumentParser):
    """Of `pyproxy NAME`. Use `read`."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(
            f"pyproxy {name}",
            description=about,
            epilog="Flags are written -x or --x, with their values after a space or a =.",
            allow_abbrev=False,
        )

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


def typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse `type`: what `read` returns; its ValueError is told to the user, after the text that it is about."""

    def checked(text: str) -> Any:
        try:
            return read(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{text!r}: {exc}") from exc

    return checked


def metrics_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:9100`, `[::1]:9100`, or `:9100`, every address: host "". ValueError says what is accepted."""
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65_536):
        raise ValueError("give ADDRESS:PORT, such as 127.0.0.1:9100, or :9100 for every address")
    return host.strip("[]"), int(port)


def _loop(text: str) -> str:
    if text not in LOOPS:
        raise ValueError(f"give {', '.join(LOOPS[:-1])} or {LOOPS[-1]}")
    return text


class Option(NamedTuple):
    """Of the engine, with a value that `read` makes of its text."""

    name: str
    read: Callable[[str], Any]
    default: Any
    metavar: str
    help: str


ENGINE_OPTIONS = (
    Option("drain", seconds, 30.0, "S",
           "how long established connections may go on when another engine takes over, in seconds or with a unit, as"
           " 5m (default 30)"),
    Option("drain-unpublished", seconds, 0.0, "S",
           "how long they may go on when their port is unpublished; 0 resets them at once, as docker-proxy does"
           " (default 0)"),
    Option("metrics", metrics_address, None, "ADDRESS:PORT",
           "serve /metrics for Prometheus on this TCP address too; :PORT is every address. It is always on the"
           " control socket"),
    Option("busy-poll", busy_poll_us, DEFAULT_BUSY_POLL_US, "USEC",
           "while client and container answer each other quickly, ask the kernel for more events for this many"
           f" microseconds before sleeping; 0: never (default {DEFAULT_BUSY_POLL_US})"),
    Option("loop", _loop, "auto", "NAME",
           "event loop: uvloop, asyncio, or auto, which is uvloop where installed (default auto)"),
)  # fmt: skip


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """For `pyproxy engine`: values as the engine uses them."""
    for name, read, default, metavar, text in ENGINE_OPTIONS:
        parser.add_argument(f"--{name}", type=typed(read), default=default, metavar=metavar, help=text)


def add_engine_options_as_text(parser: argparse.ArgumentParser) -> None:
    """For `pyproxy install`: checked, but kept as they were typed, for `engine_arguments`."""

    def kept(read: Callable[[str], Any]) -> Callable[[str], str]:
        return typed(lambda text: (read(text), text)[1])

    group = parser.add_argument_group("flags of the engine, kept in its unit, by later installations too")
    for name, read, _, metavar, text in ENGINE_OPTIONS:
        group.add_argument(f"--{name}", type=kept(read), metavar=metavar, help=text)


def engine_arguments(*found: argparse.Namespace) -> list[str]:
    """What was given, as arguments of `pyproxy engine`; the first of `found` that has an option counts."""
    words = []
    for name in (option.name for option in ENGINE_OPTIONS):
        given = [text for each in found if (text := getattr(each, name.replace("-", "_"))) is not None]
        words += [f"--{name}={text}" for text in given[:1]]
    return words
