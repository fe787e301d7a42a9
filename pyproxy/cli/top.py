"""`pyproxy top`: redrawn on a terminal, whole tables for anything else."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import Any

from pyproxy.cli.ask import ClientError, ask, reported
from pyproxy.cli.parser import Parser


def main(arguments: list[str]) -> int:
    """Run `pyproxy top`; return its exit status."""
    options = Parser("top").read(arguments)
    return reported(lambda: _top(options))


def _top(options: argparse.Namespace) -> None:
    # Its libraries are asked for when the command line is known to be right.
    from pyproxy.cli.tables import all_ports
    from pyproxy.cli.terminal import print_tables, watch

    def look() -> list[dict[str, Any]]:
        return all_ports(ask(options.run_dir, "GET", "/ports"))

    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        watch(look, options.sort, options.interval, options.count, ClientError)
    else:
        with contextlib.suppress(KeyboardInterrupt):  # which is how it is meant to end
            print_tables(look, options.sort, options.interval, options.count)
