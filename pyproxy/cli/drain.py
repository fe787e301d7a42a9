"""`pyproxy drain`"""

from __future__ import annotations

import argparse

from pyproxy.cli.ask import ask, reported
from pyproxy.cli.parser import Parser
from pyproxy.errors import plain


def main(arguments: list[str]) -> int:
    """Run `pyproxy drain`; return its exit status."""
    options = Parser("drain").read(arguments)
    return reported(lambda: _drain(options))


def _drain(options: argparse.Namespace) -> None:
    for port in ask(options.run_dir, "POST", "/drain", {"port": options.port})["ports"]:
        print(f"{plain(port['name'])}: new clients are refused, {_staying(port['live'])}")


def _staying(live: int) -> str:
    return "1 connection stays" if live == 1 else f"{live} connections stay"
