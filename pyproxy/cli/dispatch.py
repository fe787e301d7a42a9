"""The subcommands: each is a module, imported only when it is the one, and what it lacks is named."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from pyproxy.cli.unit import MISCONFIGURED
from pyproxy.cli.verbs import VERBS
from pyproxy.errors import FlagError
from pyproxy.flags import did_you_mean, parse

# With pyproxy itself uvloop comes; it is missed where -loop asks for it.
_NEEDED = {"aiohttp", "prometheus_client", "rich", "uvloop"}

# 128 and the signal's number, as a shell has it.
_INTERRUPTED = 130


def main(name: str, arguments: list[str]) -> int:
    """Run `pyproxy NAME`, and return its exit status: 2 for what was typed wrong, 1 for what could not be done."""
    if name not in VERBS:
        print(f"pyproxy: {_unexpected(name)}\nSee pyproxy -help.", file=sys.stderr)
        return 2
    try:
        status: int = import_module(f"pyproxy.cli.{name}").main(arguments)
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


def _unexpected(name: str) -> str:
    if near := did_you_mean(name, list(VERBS)):
        return f"unexpected argument {name!r}{near}"
    try:
        parse([name])
    except FlagError as exc:
        return str(exc)
    raise AssertionError("what has no dash is no flag")
