"""The command line, in the syntax of Go's flag package, because dockerd writes it for a Go program.

`-x v`, `-x=v`, `--x v` and `--x=v` are the same; a boolean flag takes a value only with `=`; a later flag wins.
Parsed here and not by argparse: argparse has no such syntax, and importing it takes longer than the whole of
what happens before dockerd's answer. Pure: arguments in, `Settings` out. Source: pkg.go.dev/flag.

THE table of options is here too: help, man page and completion are made from it (`cli/`), and the subcommands' options
are written as it is (`cli/verbs.py`).
"""

from __future__ import annotations

from pyproxy.config import (
    DEFAULT_BUSY_POLL_US,
    DEFAULT_UDP_MAX_FLOWS,
    PROTOCOLS,
    Limits,
    PublishedPort,
    Settings,
)
from pyproxy.endpoint import parse_address
from pyproxy.errors import FlagError, plain

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing would cost a start-up 8 ms
    from collections.abc import Callable
    from typing import Final

    Value = str | int | float | bool | None

# Next to a wait of a millisecond, going to sleep costs little: spinning for longer only keeps a processor from others.
_MOST_BUSY_POLL_US = 1000

# Limits are looked at four times within their length (listener.py), each time over all connections: with ten thousand
# of them some 3 ms, so that at this length it is a tenth of a processor. A guess at "shorter than anybody needs".
SHORTEST_LIMIT_S = 0.1

# What an option's value is. SECONDS: as `seconds` reads it. SWITCH: there is none. The last three are for
# subcommands alone.
ADDRESS, CHOICE, NUMBER, SECONDS, SWITCH, ENDPOINT, FOLDER, TEXT = range(8)


class Option:
    """A flag: its name, what kind of value it takes, what goes for that in a help text, and what it means.

    `default` None: there is none. `default_words`: what a help text says of the default, if not the value itself.
    `lowest` and `highest` are a NUMBER's, `choices` a CHOICE's. `short`: another name, of one letter. `unit`: what a
    NUMBER counts. Not `Frozen`: there are many of them at each start-up, which would take that 0.1 ms longer.
    """

    __slots__ = (
        "choices",
        "default",
        "default_words",
        "highest",
        "kind",
        "lowest",
        "meaning",
        "name",
        "short",
        "unit",
        "value",
    )

    def __init__(
        self,
        name: str,
        kind: int,
        default: Value,
        value: str,
        meaning: str,
        *,
        default_words: str = "",
        lowest: float = 0,
        highest: int = 0,
        choices: tuple[str, ...] = (),
        short: str = "",
        unit: str = "",
    ) -> None:
        self.name: Final = name
        self.kind: Final = kind
        self.default: Final = default
        self.value: Final = value
        self.meaning: Final = meaning
        self.default_words: Final = default_words
        self.lowest: Final = lowest
        self.highest: Final = highest
        self.choices: Final = choices
        self.short: Final = short
        self.unit: Final = unit


PORT_OPTIONS = (
    Option("proto", CHOICE, "tcp", "tcp|udp|sctp", "protocol", choices=PROTOCOLS),
    Option("host-ip", ADDRESS, "0.0.0.0", "IP", "address to serve; 0.0.0.0 is every IPv4 address, :: every IPv6 one"),
    Option("host-port", NUMBER, None, "N", "port to serve, 1 to 65535; 0 takes any free port and says which",
           highest=65_535, default_words="required"),
    Option("container-ip", ADDRESS, "0.0.0.0", "IP",
           "the container's address, IPv4 or IPv6 whatever -host-ip is", default_words="default 0.0.0.0: this host"),
    Option("container-port", NUMBER, None, "N", "the container's port, 1 to 65535",
           lowest=1, highest=65_535, default_words="required"),
    Option("use-listen-fd", SWITCH, False, "",
           "serve the socket that the parent passes as descriptor 4, instead of binding one"),
)  # fmt: skip

LIMIT_OPTIONS = (
    Option("connect-timeout", SECONDS, 0.0, "S",
           "give up connecting to the container after this time; 0 leaves it to the kernel, about 130 s",
           lowest=SHORTEST_LIMIT_S),
    Option("idle-timeout", SECONDS, 0.0, "S",
           "end a TCP or SCTP connection on which nothing has moved for this time", lowest=SHORTEST_LIMIT_S),
    Option("half-closed-timeout", SECONDS, 0.0, "S",
           "end a TCP connection of which one side has finished and on which nothing has moved for this time",
           lowest=SHORTEST_LIMIT_S),
    Option("udp-max-flows", NUMBER, DEFAULT_UDP_MAX_FLOWS, "N",
           "at most this many UDP clients at once, 1 or more; the one that has been silent longest makes room for a new"
           " one",
           lowest=1, highest=1_000_000),
)  # fmt: skip

BUSY_POLL = Option(
    "busy-poll", NUMBER, DEFAULT_BUSY_POLL_US, "USEC",
    "while client and container answer each other quickly, ask the kernel for more events for this many microseconds"
    " before sleeping; 0: never",
    highest=_MOST_BUSY_POLL_US, unit="microseconds",
)  # fmt: skip

LOOP = Option(
    "loop", CHOICE, "auto", "NAME", "event loop: uvloop, asyncio, or auto, which is uvloop where installed",
    choices=("auto", "uvloop", "asyncio"),
)  # fmt: skip

OTHER_OPTIONS = (
    BUSY_POLL,
    Option("workers", NUMBER, 0, "N",
           "at most this many processes for a TCP port. One is added while the port keeps a processor busy and another"
           " is idle, or while small messages wait for bulk transfers; 1: none is added, 0: as many as processors, 4 at"
           " most", highest=64),
    LOOP,
    Option("version", SWITCH, False, "", "print the version", short="v"),
    Option("help", SWITCH, False, "", "print this text", short="h"),
)  # fmt: skip

OPTIONS = {option.name: option for option in (*PORT_OPTIONS, *LIMIT_OPTIONS, *OTHER_OPTIONS)}

_NAMED = OPTIONS | {option.short: option for option in OTHER_OPTIONS if option.short}

_BOOLEANS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)

# Units of Go's time.ParseDuration, in seconds.
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

# Longer than any host stays up, and small enough for a clock's arithmetic to be exact.
_MOST_SECONDS = 1e9


_NO_FLAG = ": every argument is a flag or its value, or first a subcommand"


class NoPortError(FlagError):
    """The command line asks for no port, but for what `wanted` says: "help" or "version"."""

    def __init__(self, wanted: str) -> None:
        super().__init__(f"-{wanted} asks for no port")
        self.wanted = wanted


def parse(arguments: list[str]) -> Settings:
    """Read and check the arguments that follow the program's name. FlagError says in one line what is wrong;
    NoPortError, that nothing is, but that no port is to be served.
    """
    values = _read(arguments)
    for wanted in ("help", "version"):
        if values[wanted]:
            raise NoPortError(wanted)
    adopts = bool(values["use-listen-fd"])
    port = PublishedPort(
        _one_of(values, "proto"),
        parse_address(str(values["host-ip"]), "-host-ip"),
        # A socket that the parent bound has its port already: dockerd repeats it, a person need not.
        _whole(values, "host-port", missing=0 if adopts else None),
        parse_address(str(values["container-ip"]), "-container-ip"),
        _whole(values, "container-port"),
    )
    limits = [_seconds(values, name) for name in ("connect-timeout", "idle-timeout", "half-closed-timeout")]
    return Settings(
        port,
        use_listen_fd=adopts,
        limits=Limits(*limits),
        udp_max_flows=_whole(values, "udp-max-flows"),
        busy_poll_s=_whole(values, "busy-poll") / 1e6,
        workers=_whole(values, "workers"),
        loop=_one_of(values, "loop"),
    )


def seconds(text: str) -> float:
    """`30`, `0.5`, or with units, as Go writes durations: `300ms`, `5m`, `1h30m`. ValueError says what is accepted."""
    total, rest = 0.0, text
    while rest:
        number = _leading(rest, "0123456789.")
        unit = _leading(rest[len(number) :], "nu\u00b5\u03bcmsh")
        alone = number == text and text.isascii()
        if not any(c.isdigit() for c in number) or number.count(".") > 1 or not (alone or unit in _UNITS):
            break
        total += float(number) * (1.0 if alone else _UNITS[unit])
        rest = rest[len(number) + len(unit) :]
    if rest or not text or total >= _MOST_SECONDS:
        raise ValueError("give seconds, such as 30 or 0.5, or a unit, such as 300ms, 5m or 1h30m")
    return total


def did_you_mean(text: str, known: list[str], dash: str = "") -> str:
    """`: did you mean drain?`, where one of `known` is close to what was typed, or nothing."""
    from difflib import get_close_matches  # 5 ms, once something is wrong

    near = get_close_matches(text.replace("_", "-").lower(), known, n=1)
    return f": did you mean {dash}{near[0]}?" if near else ""


def _read(arguments: list[str]) -> dict[str, Value]:
    values = {name: option.default for name, option in OPTIONS.items()}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        name, equals, text = _split(argument)
        option = _NAMED[name]
        if option.kind == SWITCH:
            values[option.name] = _boolean(name, text) if equals else True
            continue
        if not equals:
            if position == len(arguments):
                raise FlagError(f"flag needs an argument: -{name}")
            text = arguments[position]
            position += 1
        values[option.name] = _READERS[option.kind](option, text)
    return values


def _split(argument: str) -> tuple[str, str, str]:
    """The name of an option that there is, `=` or nothing, and what follows it. FlagError."""
    name = argument[2:] if argument.startswith("--") else argument[1:]
    if not argument.startswith("-") or not name:
        near = did_you_mean(argument, list(_NAMED), "-")
        raise FlagError(f"unexpected argument {argument!r}{near or _NO_FLAG}")
    if name[0] in "-=":
        raise FlagError(f"bad flag syntax: {plain(argument)}")
    name, equals, text = name.partition("=")
    if name not in _NAMED:
        raise FlagError(f"flag provided but not defined: -{plain(name)}{did_you_mean(name, list(_NAMED), '-')}")
    return name, equals, text


def _boolean(name: str, text: str) -> bool:
    if text not in _BOOLEANS:
        raise FlagError(f"invalid boolean value {text!r} for -{name}: give true or false")
    return _BOOLEANS[text]


def _text(_option: Option, text: str) -> str:
    return text


def _number(option: Option, text: str) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not is_decimal(digits):
        wish = "whole" if digits.replace(".", "", 1).isdigit() else "decimal"
        raise FlagError(f"invalid value {text!r} for flag -{option.name}: give a {wish} number")
    return int(text)


def _duration(option: Option, text: str) -> float:
    name, shortest = option.name, option.lowest
    negative = text[:1] == "-"
    try:
        value = seconds(text[1:] if text[:1] in ("-", "+") else text)
    except ValueError as exc:
        raise FlagError(f"invalid value {text!r} for flag -{name}: {exc}") from exc
    if negative and value:
        raise FlagError(f"-{name} {text} is negative: give seconds, or 0 for no limit")
    if 0 < value < shortest:
        raise FlagError(f"-{name} {text} is too short: give {shortest} s or more, or 0 for no limit")
    return value


_READERS: dict[int, Callable[[Option, str], Value]] = {
    ADDRESS: _text,
    CHOICE: _text,
    NUMBER: _number,
    SECONDS: _duration,
}


def is_decimal(digits: str) -> bool:
    """Whether a number is written as Go would print it, and is no longer than any that an option takes."""
    # Go would read 010 as 8 and 0x50 as 80: for a port both are more likely slips than meant.
    return digits.isascii() and digits.isdigit() and (digits[0] != "0" or digits == "0") and len(digits) <= 9


def _leading(text: str, letters: str) -> str:
    """What `text` begins with, of these letters."""
    return text[: len(text) - len(text.lstrip(letters))]


def _whole(values: dict[str, Value], name: str, *, missing: int | None = None) -> int:
    value, option = values[name], OPTIONS[name]
    wish = f"give a number from {option.lowest} to {option.highest}"
    if value is None:
        if missing is None:
            raise FlagError(f"-{name} is missing: {wish}")
        return missing
    assert isinstance(value, int)
    if not option.lowest <= value <= option.highest:
        raise FlagError(f"-{name} {value} is out of range: {wish}")
    return value


def _seconds(values: dict[str, Value], name: str) -> float:
    value = values[name]
    assert isinstance(value, float)
    return value


def _one_of(values: dict[str, Value], name: str) -> str:
    value, choices = str(values[name]), OPTIONS[name].choices
    if value not in choices:
        raise FlagError(f"-{name} {value!r} is not known: give {one_of(choices)}")
    return value


def one_of(choices: tuple[str, ...]) -> str:
    """`tcp, udp or sctp`."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}"
