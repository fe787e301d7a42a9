"""The command line, in the syntax of Go's flag package, because dockerd writes it for a Go program.

`-x v`, `-x=v`, `--x v` and `--x=v` are the same; a boolean flag takes a value only with `=`; a later flag wins.
Parsed here and not by argparse: argparse has no such syntax, and importing it takes longer than the whole of
what happens before dockerd's answer. Pure: arguments in, `Settings` out. Source: pkg.go.dev/flag.
"""

from __future__ import annotations

from pyproxy.errors import FlagError, StartError
from pyproxy.published import PROTOCOLS, PublishedPort, parse_address

# The flow table's cap. 16,384 flows are 16,384 descriptors; with a 4,096-byte socket each that is the order of
# memory a host can spare for one port under a spoofed flood. A guess at "enough for any honest use": at the
# 90 s idle limit it takes 180 new clients a second, sustained, to reach it.
DEFAULT_UDP_MAX_FLOWS = 16_384

# Most of a short round trip is going to sleep and being woken (bench/NOTES.md). Longer than a container needs to answer
# a small request, shorter than anybody's sleep is worth.
DEFAULT_BUSY_POLL_US = 60

LOOPS = ("auto", "uvloop", "asyncio")

USAGE = f"""\
pyproxy carries the traffic of one published container port: clients connect to the host address, pyproxy
relays to the container address. Stop it with Ctrl-C.

Example:
  pyproxy -host-port 1234 -container-ip 172.19.0.2 -container-port 1234

Usage: pyproxy [flags]
  -proto tcp|udp|sctp    protocol (default tcp)
  -host-ip IP            address to serve; 0.0.0.0 is every IPv4 address, :: every IPv6 one (default 0.0.0.0)
  -host-port N           port to serve, 1 to 65535; 0 takes any free port and says which (required)
  -container-ip IP       the container's address, IPv4 or IPv6 whatever -host-ip is (default 0.0.0.0: this host)
  -container-port N      the container's port, 1 to 65535 (required)
  -use-listen-fd         serve the socket that the parent passes as descriptor 4, instead of binding one

Limits (seconds; 0: no limit):
  -connect-timeout S     give up dialing the container; 0 leaves it to the kernel, about 130 s (default 0)
  -idle-timeout S        end a TCP or SCTP connection on which nothing has moved (default 0)
  -half-closed-timeout S end a TCP connection of which one side has finished and nothing has moved (default 0)
  -udp-max-flows N       at most this many UDP clients at once; the longest silent goes first, at least 1
                         (default {DEFAULT_UDP_MAX_FLOWS})

Other:
  -busy-poll USEC        look for more to do for this long before sleeping, while answers come that fast; 0: never
                         (default {DEFAULT_BUSY_POLL_US})
  -workers N             at most this many processes while a TCP port keeps one busy and the machine has a processor to
                         spare, or messages wait for bulk; 1: never more than one, 0: as many as processors, 4 at most
                         (default 0)
  -loop NAME             event loop: uvloop, asyncio, or auto, which is uvloop where installed (default auto)
  -v, -version           print the version
  -h, -help              print this text

UDP flows end 90 s after their last datagram in either direction. SIGUSR1 logs what has gone through so far.
Messages go to stderr; where that is /dev/null, as under dockerd, to the system log as "pyproxy".
"""

_BOOLEANS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)

_TEXT, _NUMBER, _SECONDS, _BOOLEAN = range(4)

_FLAGS: dict[str, tuple[int, str | int | float | bool]] = {
    "proto": (_TEXT, "tcp"),
    "host-ip": (_TEXT, "0.0.0.0"),
    "host-port": (_NUMBER, -1),
    "container-ip": (_TEXT, "0.0.0.0"),
    "container-port": (_NUMBER, -1),
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
    """Read and check the arguments that follow the program's name.

    FlagError for what Go's flag package would refuse, StartError for a value that no port can be served with.
    """
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
        _whole(values, "host-port", lowest=0, highest=65_535, required=not settings.use_listen_fd),
        parse_address(str(values["container-ip"]), "-container-ip"),
        _whole(values, "container-port", lowest=1, highest=65_535, required=True),
    )
    settings.limits = Limits(
        float(values["connect-timeout"]), float(values["idle-timeout"]), float(values["half-closed-timeout"])
    )
    settings.udp_max_flows = _whole(values, "udp-max-flows", lowest=1, highest=1_000_000, required=True)
    settings.busy_poll_s = _whole(values, "busy-poll", lowest=0, highest=1000, required=True) / 1e6
    settings.workers = _whole(values, "workers", lowest=0, highest=64, required=True)
    settings.loop = _one_of(values, "loop", LOOPS)
    return settings


def _read(arguments: list[str]) -> dict[str, str | int | float | bool]:
    values = {name: default for name, (_, default) in _FLAGS.items()}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        name = argument[2:] if argument.startswith("--") else argument[1:]
        if not argument.startswith("-") or not name:
            raise FlagError(f"unexpected argument {argument!r}: every argument is a flag or a flag's value")
        if name[0] in "-=":
            raise FlagError(f"bad flag syntax: {argument}")
        name, equals, text = name.partition("=")
        if name not in _FLAGS:
            raise FlagError(f"flag provided but not defined: -{name}")
        kind = _FLAGS[name][0]
        if kind == _BOOLEAN:
            values[name] = _boolean(name, text) if equals else True
            continue
        if not equals:
            if position == len(arguments):
                raise FlagError(f"flag needs an argument: -{name}")
            text = arguments[position]
            position += 1
        values[name] = text if kind == _TEXT else _number(name, text, kind)
    return values


def _boolean(name: str, text: str) -> bool:
    if text not in _BOOLEANS:
        raise FlagError(f"invalid boolean value {text!r} for -{name}: give true or false")
    return _BOOLEANS[text]


def _number(name: str, text: str, kind: int) -> int | float:
    # Decimal only. Go would read 010 as 8 and 0x50 as 80: for a port both are likelier a slip than a wish.
    digits = text[1:] if text[:1] in ("-", "+") else text
    whole, dot, fraction = digits.partition(".")
    if not (whole.isascii() and whole.isdigit()) or (len(whole) > 1 and whole[0] == "0") or len(whole) > 9:
        raise FlagError(f"invalid value {text!r} for flag -{name}: give a decimal number")
    if kind == _NUMBER:
        if dot:
            raise FlagError(f"invalid value {text!r} for flag -{name}: give a whole number")
        return int(text)
    if dot and not (fraction.isascii() and fraction.isdigit()):
        raise FlagError(f"invalid value {text!r} for flag -{name}: give seconds, such as 30 or 0.5")
    if text[0] == "-":
        raise StartError(f"-{name} {text} is negative: give seconds, or 0 for no limit")
    return float(text)


def _whole(values: dict[str, str | int | float | bool], name: str, *, lowest: int, highest: int, required: bool) -> int:
    value = values[name]
    assert isinstance(value, int)
    if value == -1 and _FLAGS[name][1] == -1:
        if required:
            raise StartError(f"-{name} is missing: give a number from {lowest} to {highest}")
        return 0
    if not lowest <= value <= highest:
        raise StartError(f"-{name} {value} is out of range: give a number from {lowest} to {highest}")
    return value


def _one_of(values: dict[str, str | int | float | bool], name: str, known: tuple[str, ...]) -> str:
    value = str(values[name])
    if value not in known:
        raise StartError(f"-{name} {value!r} is not known: give {', '.join(known[:-1])} or {known[-1]}")
    return value
