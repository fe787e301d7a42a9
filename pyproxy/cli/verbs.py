"""THE table of subcommands: what each is for and what it takes. Dispatch, help, man pages and completion are made from
it. Each is the module of its name in this folder, with `main(arguments) -> exit status`. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from pyproxy.flags import BUSY_POLL, CHOICE, ENDPOINT, FOLDER, LOOP, NUMBER, SECONDS, SWITCH, TEXT, Option


class Verb(NamedTuple):
    """`summary`: a line of the list of subcommands; `about`: the beginning of its own help. `argument`: what it takes
    besides flags. `kept`: flags of the engine, which go into its unit as they were typed.
    """

    summary: str
    about: str
    options: tuple[Option, ...] = ()
    argument: Option | None = None
    kept: tuple[Option, ...] = ()

    @property
    def all_options(self) -> tuple[Option, ...]:
        """Without -help, which each has."""
        return (*self.options, *self.kept)


HELP = Option("help", SWITCH, False, "", "print this text", short="h")

KEPT = "Flags of the engine, kept in its unit, by later installations too"

_DEFAULT_RUN_DIR = "default /run/pyproxy; for others than root, pyproxy in $XDG_RUNTIME_DIR"

_RUN_DIR = Option("run-dir", FOLDER, None, "DIR", "the engine's run directory", default_words=_DEFAULT_RUN_DIR)

ENGINE_OPTIONS = (
    Option("drain", SECONDS, 30.0, "S",
           "how long established connections may go on when another engine takes over, in seconds or with a unit, as"
           " 5m"),
    Option("drain-unpublished", SECONDS, 0.0, "S",
           "how long they may go on when their port is unpublished; 0 resets them at once, as docker-proxy does"),
    Option("metrics", ENDPOINT, None, "ADDRESS:PORT",
           "serve /metrics for Prometheus on this TCP address too; :PORT is every address. It is always on the control"
           " socket"),
    BUSY_POLL,
    LOOP,
)  # fmt: skip

# What `pyproxy top` sorts by: the key to press for it is its first letter.
ORDERS = ("traffic", "live", "up", "down", "failed", "name")

# Each look is work for the engine too.
_SHORTEST_INTERVAL_S = 0.05

_CHANGES = (
    Option("dry-run", SWITCH, False, "", "show the changes, and make none"),
    Option("yes", SWITCH, False, "", "do not ask"),
    Option("root", FOLDER, "/", "DIR", "root directory of another system; you then call systemctl there yourself"),
)

VERBS = {
    "engine": Verb(
        "serve every published port of this host in one process",
        "Serve every published port of this host in one process. For that dockerd has to start pyproxy-stub instead of"
        " docker-proxy, which `pyproxy install` sets up. Ports of containers that are started from then on are served"
        " here.",
        (
            Option("run-dir", FOLDER, None, "DIR",
                   "run directory; for stubs to find it, dockerd needs PYPROXY_RUN_DIR=DIR in its environment",
                   default_words=_DEFAULT_RUN_DIR),
            Option("replace", SWITCH, False, "",
                   "take over from the engine that runs, without refusing a client"),
            Option("check", SWITCH, False, "",
                   "check the flags, and that what it needs is installed; then end"),
            *ENGINE_OPTIONS,
        ),
    ),
    "ports": Verb(
        "list the ports that the engine serves",
        "List the ports that the engine serves.",
        (_RUN_DIR, Option("json", SWITCH, False, "", "what the control API answers, as JSON")),
    ),
    "top": Verb(
        "watch what moves through the engine's ports",
        "Watch the ports: rates, connections, flows, errors. Ends with q or Ctrl-C.",
        (
            _RUN_DIR,
            Option("interval", SECONDS, 1.0, "S", "seconds between two updates", lowest=_SHORTEST_INTERVAL_S),
            Option("count", NUMBER, 0, "N", "end after N updates; 0: never", highest=999_999_999),
            Option("sort", CHOICE, "traffic", "ORDER", f"what comes first: {', '.join(ORDERS)}", choices=ORDERS),
        ),
    ),
    "drain": Verb(
        "refuse new clients of a port, keep the others",
        "Refuse new clients of a TCP port from now on. Connected ones stay, and the container goes on running.",
        (_RUN_DIR,),
        Option("port", TEXT, None, "PORT", "its number, as in 80 or 80/tcp, or its name as `pyproxy ports` has it"),
    ),
    "install": Verb(
        "have systemd run the engine, and dockerd use it",
        "Have systemd run the engine, and dockerd start its stub for each published port.",
        (
            *_CHANGES,
            Option("defaults", SWITCH, False, "",
                   "drop the engine's flags that earlier installations were given"),
        ),
        kept=ENGINE_OPTIONS,
    ),
    "uninstall": Verb(
        "undo what install did",
        "Undo `pyproxy install`, exactly. Ports that stubs hold are served on, by one process each. A"
        " userland-proxy-path that somebody has changed since is left as it is.",
        _CHANGES,
    ),
    "completion": Verb(
        "print the completion script for bash, zsh or fish",
        "Print a script that has a shell complete pyproxy's subcommands and flags. bash: source <(pyproxy completion"
        " bash). zsh: save it as _pyproxy in a directory of $fpath. fish: save it as"
        " ~/.config/fish/completions/pyproxy.fish.",
        argument=Option("shell", CHOICE, None, "SHELL", "bash, zsh or fish", choices=("bash", "zsh", "fish")),
    ),
}  # fmt: skip
VERBS["help"] = Verb(
    "print this text, or that of a subcommand: pyproxy help drain",
    "Print what pyproxy does and takes, or what a subcommand does and takes.",
    argument=Option("subcommand", CHOICE, None, "SUBCOMMAND", "which", choices=tuple(VERBS), default_words="optional"),
)
