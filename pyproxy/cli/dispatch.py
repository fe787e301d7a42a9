"""The subcommands: what each needs is imported only when it is the one, and what is missing is named."""

from __future__ import annotations

import os
import sys

from pyproxy.cli.unit import MISCONFIGURED
from pyproxy.errors import plain
from pyproxy.flags import SUBCOMMANDS, USAGE, did_you_mean

# With pyproxy itself uvloop comes; it is missed where -loop asks for it.
_NEEDED = {"aiohttp", "prometheus_client", "rich", "uvloop"}

# 128 and the signal's number, as a shell has it.
_INTERRUPTED = 130


def main(name: str, arguments: list[str]) -> int:
    """Run `pyproxy NAME`, and return its exit status: 2 for what was typed wrong, 1 for what could not be done."""
    try:
        status = _run(name, arguments)
        sys.stdout.flush()
        return status
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        from pyproxy.cli.extra import how_to_get

        print(f"pyproxy {name} needs {missing}, which is not installed: {how_to_get('engine')}", file=sys.stderr)
        return MISCONFIGURED if name == "engine" else 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `pyproxy ports | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python has yet to write
        return 0


def _run(name: str, arguments: list[str]) -> int:
    if name == "help":
        return _help(arguments)
    if name == "engine":
        from pyproxy.cli import engine

        return engine.main(arguments)
    if name in ("install", "uninstall"):
        from pyproxy.cli import install

        return install.COMMANDS[name](arguments)
    from pyproxy.cli import client

    return client.main(name, arguments)


def _help(arguments: list[str]) -> int:
    name = (arguments or ["help"])[0]
    if name in SUBCOMMANDS and name != "help":
        return main(name, ["--help"])
    if name != "help" and not name.startswith("-"):
        known = ", ".join(SUBCOMMANDS)
        mend = did_you_mean(name, list(SUBCOMMANDS)) or f": give one of {known}"
        print(f"pyproxy help: no subcommand '{plain(name)}'{mend}", file=sys.stderr)
        return 2
    print(USAGE, end="")
    return 0
