"""The command line, in the syntax of Go's flag package, because dockerd writes it for a Go program.

`-x v`, `-x=v`, `--x v` and `--x=v` are the same; a boolean flag takes a value only with `=`; a later flag wins.
Parsed here and not by argparse: argparse has no such syntax, and importing it takes longer than the whole of
what happens before dockerd's answer. Pure: arguments in, `Settings` out. Source: pkg.go.dev/flag.

The subcommands' flags are argparse's (`cli/options.py`), written in the same ways and read by the same functions.
"""

from __future__ import annotations

from pyproxy.errors import FlagError, plain
from pyproxy.published import PROTOCOLS, PublishedPort, parse_address

# The flow table's cap. 16,384 flows are 16,384 descriptors; with a 4,096-byte socket each that is the order of
# memory a host can spare for one port under a spoofed flood. A guess at "enough for any honest use": at the
# 90 s idle limit it takes 180 new clients a second, sustained, to reach it.
DEFAULT_UDP_MAX_FLOWS = 16_384

# Most of a short round trip is going to sleep and being woken (bench/NOTES.md). This is longer than a container takes
# to answer a small request, and too short to keep a processor from others.
DEFAULT_BUSY_POLL_US = 60
# Next to a wait of a millisecond, going to sleep costs little: spinning for longer only keeps a processor from others.
_MOST_BUSY_POLL_US = 1000

# Limits are looked at four times within their length (listener.py), each time over all connections: with ten thousand
# of them some 3 ms, so that at this length it is a tenth of a processor. A guess at "shorter than anybody needs".
_SHORTEST_LIMIT_S = 0.1

LOOPS = ("auto", "uvloop", "asyncio")

# A first argument that is one of these is a subcommand; everything else is dockerd's command line.
SUBCOMMANDS = {
    "engine": "serve every published port of this host in one process",
    "ports": "list the ports that the engine serves",
    "top": "watch what moves through them",
    "drain": "refuse new clients of a port, keep the others",
    "install": "have systemd run the engine, and dockerd use it",
    "uninstall": "undo what install did",
    "help": "print this text, or that of a subcommand: pyproxy help drain",
}

_LISTED = "\n".join(f"  {name:22} {what}" for name, what in SUBCOMMANDS.items())

_EXAMPLE = "pyproxy -host-port 1234 -container-ip 172.19.0.2 -container-port 1234"

# The answer to `pyproxy` without arguments.
NOTHING_SAID = f"""\
nothing to do: name a published port, as in
  {_EXAMPLE}
or a subcommand: {", ".join(SUBCOMMANDS)}."""

USAGE = f"""\
pyproxy carries the traffic of one published container port: clients connect to the host address, pyproxy
relays to the container address. Stop it with Ctrl-C.

Example:
  {_EXAMPLE}

Usage: pyproxy [flags]
       pyproxy subcommand [flags]

Flags are written -x or --x, with their values after a space or a =.
  -proto tcp|udp|sctp    protocol (default tcp)
  -host-ip IP            address to serve; 0.0.0.0 is every IPv4 address, :: every IPv6 one (default 0.0.0.0)
  -host-port N           port to serve, 1 to 65535; 0 takes any free port and says which (required)
  -container-ip IP       the container's address, IPv4 or IPv6 whatever -host-ip is (default 0.0.0.0: this host)
  -container-port N      the container's port, 1 to 65535 (required)
  -use-listen-fd         serve the socket that the parent passes as descriptor 4, instead of binding one

Limits (seconds, or with a unit: 1.5, 300ms, 5m, 1h30m; at least {_SHORTEST_LIMIT_S} s; 0: no limit):
  -connect-timeout S     give up connecting to the container after this time; 0 leaves it to the kernel, about 130 s
                         (default 0)
  -idle-timeout S        end a TCP or SCTP connection on which nothing has moved for this time (default 0)
  -half-closed-timeout S end a TCP connection of which one side has finished and on which nothing has moved for this
                         time (default 0)
  -udp-max-flows N       at most this many UDP clients at once, 1 or more; the one that has been silent longest makes
                         room for a new one (default {DEFAULT_UDP_MAX_FLOWS})

Other:
  -busy-poll USEC        while client and container answer each other quickly, ask the kernel for more events for this
                         many microseconds before sleeping; 0: never (default {DEFAULT_BUSY_POLL_US})
  -workers N             at most this many processes for a TCP port. One is added while the port keeps a processor busy
                         and another is idle, or while small messages wait for bulk transfers; 1: none is added,
                         0: as many as processors, 4 at most (default 0)
  -loop NAME             event loop: uvloop, asyncio, or auto, which is uvloop where installed (default auto)
  -v, -version           print the version
  -h, -help              print this text

Subcommands:
{_LISTED}

UDP flows end 90 s after their last datagram in either direction. SIGUSR1 logs what has gone through so far.
Messages go to stderr; where that is /dev/null, as under dockerd, to the system log as "pyproxy".
"""

_BOOLEANS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)

_TEXT, _NUMBER, _SECONDS, _BOOLEAN = range(4)

# Units of Go's time.ParseDuration, in seconds.
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

# Longer than any host stays up, and small enough for a clock's arithmetic to be exact.
_MOST_SECONDS = 1e9

_Value = str | int | float | bool | None

_FLAGS: dict[str, tuple[int, _Value]] = {
    "proto": (_TEXT, "tcp"),
    "host-ip": (_TEXT, "0.0.0.0"),
    "host-port": (_NUMBER, None),
    "container-ip": (_TEXT, "0.0.0.0"),
    "container-port": (_NUMBER, None),
    "use-listen-fd": (_BOOLEAN, False),
    "connect-timeout": (_SECONDS, 0.0),
    "idle-timeout": (_SECONDS, 0.0),
    "half-closed-timeout": (_SECONDS, 0.0),
    "udp-max-flows": (_NUMBER, DEFAULT_UDP_MAX_FLOWS),
    "busy-poll": (_NUMBER, DEFAULT_BUSY_POLL_US),
    "workers": (_NUMBER, 0),
    "loop": (_TEXT, "auto"),
    "v": (_BOOLEAN, False),
    "version": (_BOOLEAN, False),
    "h": (_BOOLEAN, False),
    "help": (_BOOLEAN, False),
}


class Limits:
    """Time limits of connections, in seconds; 0 is no limit (for `connect_s`: the kernel's own)."""

    __slots__ = ("connect_s", "half_closed_s", "idle_s")

    def __init__(self, connect_s: float = 0.0, idle_s: float = 0.0, half_closed_s: float = 0.0) -> None:
        self.connect_s = connect_s
        self.idle_s = idle_s
        self.half_closed_s = half_closed_s


class Settings:
    """A checked command line. `wants` is "serve", "help" or "version"; `port` is set only for "serve"."""

    __slots__ = ("busy_poll_s", "limits", "loop", "port", "udp_max_flows", "use_listen_fd", "wants", "workers")

    def __init__(self, wants: str) -> None:
        self.wants = wants
        self.port: PublishedPort
        self.use_listen_fd = False
        self.limits = Limits()
        self.udp_max_flows = DEFAULT_UDP_MAX_FLOWS
        self.busy_poll_s = 0.0
        self.workers = 0
        self.loop = "auto"


def parse(arguments: list[str]) -> Settings:
    """Read and check the arguments that follow the program's name. FlagError says in one line what is wrong."""
    values = _read(arguments)
    if values["h"] or values["help"]:
        return Settings("help")
    if values["v"] or values["version"]:
        return Settings("version")
    settings = Settings("serve")
    settings.use_listen_fd = bool(values["use-listen-fd"])
    settings.port = PublishedPort(
        _one_of(values, "proto", PROTOCOLS),
        parse_address(str(values["host-ip"]), "-host-ip"),
        # A socket that the parent bound has its port already: dockerd repeats it, a person need not.
        _whole(values, "host-port", lowest=0, highest=65_535, missing=0 if settings.use_listen_fd else None),
        parse_address(str(values["container-ip"]), "-container-ip"),
        _whole(values, "container-port", lowest=1, highest=65_535),
    )
    settings.limits = Limits(
        _seconds(values, "connect-timeout"), _seconds(values, "idle-timeout"), _seconds(values, "half-closed-timeout")
    )
    settings.udp_max_flows = _whole(values, "udp-max-flows", lowest=1, highest=1_000_000)
    settings.busy_poll_s = _whole(values, "busy-poll", lowest=0, highest=_MOST_BUSY_POLL_US) / 1e6
    settings.workers = _whole(values, "workers", lowest=0, highest=64)
    settings.loop = _one_of(values, "loop", LOOPS)
    return settings


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


def busy_poll_us(text: str) -> int:
    """Microseconds. ValueError says what is accepted."""
    if not _is_decimal(text) or not int(text) <= _MOST_BUSY_POLL_US:
        raise ValueError(f"give microseconds from 0, which is never, to {_MOST_BUSY_POLL_US}")
    return int(text)


def did_you_mean(text: str, known: list[str], dash: str = "") -> str:
    """`: did you mean drain?`, where one of `known` is close to what was typed, or nothing."""
    from difflib import get_close_matches  # 5 ms, once something is wrong

    near = get_close_matches(text.replace("_", "-").lower(), known, n=1)
    return f": did you mean {dash}{near[0]}?" if near else ""


def _read(arguments: list[str]) -> dict[str, _Value]:
    values = {name: default for name, (_, default) in _FLAGS.items()}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        name = argument[2:] if argument.startswith("--") else argument[1:]
        if not argument.startswith("-") or not name:
            raise FlagError(_unexpected(argument, first=position == 1))
        if name[0] in "-=":
            raise FlagError(f"bad flag syntax: {plain(argument)}")
        name, equals, text = name.partition("=")
        if name not in _FLAGS:
            raise FlagError(f"flag provided but not defined: -{plain(name)}{did_you_mean(name, list(_FLAGS), '-')}")
        kind = _FLAGS[name][0]
        if kind == _BOOLEAN:
            values[name] = _boolean(name, text) if equals else True
            continue
        if not equals:
            if position == len(arguments):
                raise FlagError(f"flag needs an argument: -{name}")
            text = arguments[position]
            position += 1
        values[name] = text if kind == _TEXT else _number(name, text) if kind == _NUMBER else _duration(name, text)
    return values


def _unexpected(argument: str, *, first: bool) -> str:
    # dockerd's command line begins with a flag, so a first word that is none was meant as a subcommand.
    near = did_you_mean(argument, list(SUBCOMMANDS)) if first else ""
    near = near or did_you_mean(argument, list(_FLAGS), "-")
    return f"unexpected argument {argument!r}{near or ': every argument is a flag or its value, or first a subcommand'}"


def _boolean(name: str, text: str) -> bool:
    if text not in _BOOLEANS:
        raise FlagError(f"invalid boolean value {text!r} for -{name}: give true or false")
    return _BOOLEANS[text]


def _number(name: str, text: str) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not _is_decimal(digits):
        wish = "whole" if digits.replace(".", "", 1).isdigit() else "decimal"
        raise FlagError(f"invalid value {text!r} for flag -{name}: give a {wish} number")
    return int(text)


def _duration(name: str, text: str) -> float:
    negative = text[:1] == "-"
    try:
        value = seconds(text[1:] if text[:1] in ("-", "+") else text)
    except ValueError as exc:
        raise FlagError(f"invalid value {text!r} for flag -{name}: {exc}") from exc
    if negative and value:
        raise FlagError(f"-{name} {text} is negative: give seconds, or 0 for no limit")
    if 0 < value < _SHORTEST_LIMIT_S:
        raise FlagError(f"-{name} {text} is too short: give {_SHORTEST_LIMIT_S} s or more, or 0 for no limit")
    return value


def _is_decimal(digits: str) -> bool:
    # Go would read 010 as 8 and 0x50 as 80: for a port both are more likely slips than meant.
    return digits.isascii() and digits.isdigit() and (digits[0] != "0" or digits == "0") and len(digits) <= 9


def _leading(text: str, letters: str) -> str:
    """What `text` begins with, of these letters."""
    return text[: len(text) - len(text.lstrip(letters))]


def _whole(values: dict[str, _Value], name: str, *, lowest: int, highest: int, missing: int | None = None) -> int:
    value = values[name]
    if value is None:
        if missing is None:
            raise FlagError(f"-{name} is missing: give a number from {lowest} to {highest}")
        return missing
    assert isinstance(value, int)
    if not lowest <= value <= highest:
        raise FlagError(f"-{name} {value} is out of range: give a number from {lowest} to {highest}")
    return value


def _seconds(values: dict[str, _Value], name: str) -> float:
    value = values[name]
    assert isinstance(value, float)
    return value


def _one_of(values: dict[str, _Value], name: str, known: tuple[str, ...]) -> str:
    value = str(values[name])
    if value not in known:
        raise FlagError(f"-{name} {value!r} is not known: give {', '.join(known[:-1])} or {known[-1]}")
    return value
