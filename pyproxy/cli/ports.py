"""`pyproxy ports`: a table, or the control API's own words."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from pyproxy.cli.ask import ask, reported
from pyproxy.cli.parser import Parser


def main(arguments: list[str]) -> int:
    """Run `pyproxy ports`; return its exit status."""
    options = Parser("ports").read(arguments)
    return reported(lambda: _ports(options))


def _ports(options: argparse.Namespace) -> None:
    if options.json:
        said = ask(options.run_dir, "GET", "/ports")
        print(json.dumps([*said["ports"], *said.get("draining", [])], indent=2))
        return
    from pyproxy.cli.tables import all_ports, ports_table

    found = all_ports(ask(options.run_dir, "GET", "/ports"))
    if not found:
        print("The engine serves no ports yet: those of containers that are started from now on will be here.")
        return
    # Piped, a table must not be cut to a terminal's columns.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(*ports_table(found, width), sep="\n")
