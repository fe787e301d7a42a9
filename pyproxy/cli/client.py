"""`pyproxy ports`, `pyproxy top` and `pyproxy drain`: what a person asks the engine, by its control API."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyproxy.cli.options import Parser, typed
from pyproxy.engine.rundir import default_path
from pyproxy.errors import plain
from pyproxy.flags import seconds

# An engine that serves answers in milliseconds.
_PATIENCE_S = 5.0

_SHORTEST_INTERVAL_S = 0.05


class ClientError(Exception):
    """The engine does not answer, or answers with an error. The text says what to do."""


def ports(arguments: list[str]) -> int:
    """`pyproxy ports`"""
    parser = _parser("ports", "List the ports that the engine serves.")
    parser.add_argument("--json", action="store_true", help="what the control API answers, as JSON")
    options = parser.read(arguments)
    return _reported(lambda: _ports(options))


def top(arguments: list[str]) -> int:
    """`pyproxy top`"""
    from pyproxy.cli.tables import ORDERS

    parser = _parser("top", "Watch the ports: rates, connections, flows, errors. Ends with q or Ctrl-C.")
    parser.add_argument("--interval", type=typed(_interval), default=1.0, metavar="S",
                        help="seconds between two updates (default 1)")  # fmt: skip
    parser.add_argument("--count", type=typed(_count), default=0, metavar="N",
                        help="end after N updates; 0: never (default 0)")  # fmt: skip
    parser.add_argument("--sort", choices=ORDERS, default="traffic", help="what comes first (default traffic)")
    options = parser.read(arguments)
    return _reported(lambda: _top(options))


def drain(arguments: list[str]) -> int:
    """`pyproxy drain`"""
    parser = _parser(
        "drain", "Refuse new clients of a TCP port from now on. Connected ones stay, and the container goes on running."
    )
    parser.add_argument("port", help="its number, as in 80 or 80/tcp, or its name as `pyproxy ports` has it")
    options = parser.read(arguments)
    return _reported(lambda: _drain(options))


def ask(run_dir: Path, method: str, path: str, body: object = None) -> Any:
    """One request to the engine, and what it answers. ClientError."""
    connection = _UnixConnection(run_dir / "control")
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        said = json.loads(answer.read())
    except FileNotFoundError as exc:
        raise ClientError(f"no engine in {run_dir}: start `pyproxy engine`, or name its --run-dir") from exc
    except ConnectionRefusedError as exc:
        raise ClientError(f"the engine in {run_dir} has ended: start `pyproxy engine`") from exc
    except PermissionError as exc:
        raise ClientError(f"{run_dir} is another user's: run this as the user of the engine, perhaps root") from exc
    except TimeoutError as exc:
        raise ClientError(f"the engine in {run_dir} does not answer: see its log") from exc
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise ClientError(f"the engine in {run_dir} does not answer as it should: {exc}") from exc
    finally:
        connection.close()
    if answer.status >= 400:
        raise ClientError(said.get("error", f"the engine answers {answer.status}"))
    return said


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(str(self._path))


def _parser(name: str, about: str) -> Parser:
    parser = Parser(name, about)
    parser.add_argument("--run-dir", type=Path, default=default_path(), metavar="DIR",
                        help="the engine's run directory (default: %(default)s)")  # fmt: skip
    return parser


def _interval(text: str) -> float:
    # Each look is work for the engine too.
    if (value := seconds(text)) < _SHORTEST_INTERVAL_S:
        raise ValueError(f"give {_SHORTEST_INTERVAL_S} s or more")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError("give a whole number")
    return int(text)


def _reported(run: Callable[[], None]) -> int:
    try:
        run()
    except ClientError as exc:
        print(f"pyproxy: {plain(str(exc))}", file=sys.stderr)
        return 1
    return 0


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


def _top(options: argparse.Namespace) -> None:
    from pyproxy.cli.tables import all_ports
    from pyproxy.cli.top import print_tables, watch

    def look() -> list[dict[str, Any]]:
        return all_ports(ask(options.run_dir, "GET", "/ports"))

    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        watch(look, options.sort, options.interval, options.count, ClientError)
    else:
        with contextlib.suppress(KeyboardInterrupt):  # which is how it is meant to end
            print_tables(look, options.sort, options.interval, options.count)


def _drain(options: argparse.Namespace) -> None:
    for port in ask(options.run_dir, "POST", "/drain", {"port": options.port})["ports"]:
        print(f"{plain(port['name'])}: new clients are refused, {_staying(port['live'])}")


def _staying(live: int) -> str:
    return "1 connection stays" if live == 1 else f"{live} connections stay"


COMMANDS: dict[str, Any] = {"ports": ports, "top": top, "drain": drain}


def main(name: str, arguments: Sequence[str]) -> int:
    """Run one of `COMMANDS`; return its exit status."""
    status: int = COMMANDS[name](list(arguments))
    return status
