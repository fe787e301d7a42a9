"""`pyproxy ports`, `pyproxy top` and `pyproxy drain`: what a person asks the engine, by its control API."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pyproxy.engine.rundir import default_path

# An engine that serves answers in milliseconds.
_PATIENCE_S = 5.0


class ClientError(Exception):
    """The engine does not answer, or not as wished. The text says what to do."""


class Rates(NamedTuple):
    """Of one port, between two looks; bytes and connections (or flows) per second."""

    up_per_s: float
    down_per_s: float
    new_per_s: float


def ports(arguments: list[str]) -> int:
    """`pyproxy ports`"""
    parser = _parser("ports", "List the ports that the engine serves.")
    parser.add_argument("--json", action="store_true", help="the control API's own words")
    options = parser.parse_args(arguments)
    return _reported(lambda: _ports(options))


def top(arguments: list[str]) -> int:
    """`pyproxy top`"""
    parser = _parser("top", "Watch the ports: rates, connections, flows, errors. Ends with Ctrl-C.")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between looks (default 1)")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="end after N looks (default: never)")
    options = parser.parse_args(arguments)
    if options.interval <= 0:
        parser.error("--interval: give more than 0 seconds")
    return _reported(lambda: _top(options))


def drain(arguments: list[str]) -> int:
    """`pyproxy drain`"""
    parser = _parser(
        "drain", "Refuse new clients of a TCP port from now on; those that are connected stay. Its container goes on."
    )
    parser.add_argument("port", help="its number, as in 80 or 80/tcp, or its name as `pyproxy ports` has it")
    options = parser.parse_args(arguments)
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


def rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> Rates:
    """Between two descriptions of one port, `seconds` apart. Pure."""

    def each(name: str) -> float:
        return float((after["totals"][name] - before["totals"][name]) / seconds)

    return Rates(each("bytes_up"), each("bytes_down"), each("connections") + each("flows"))


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(str(self._path))


def _parser(name: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"pyproxy {name}", description=about)
    parser.add_argument("--run-dir", type=Path, default=default_path(), metavar="DIR",
                        help="the engine's (default: %(default)s)")  # fmt: skip
    return parser


def _reported(run: Any) -> int:
    try:
        run()
    except ClientError as exc:
        print(f"pyproxy: {exc}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `pyproxy ports | head`
        sys.stderr.close()
    return 0


def _ports(options: argparse.Namespace) -> None:
    found = ask(options.run_dir, "GET", "/ports")
    if options.json:
        print(json.dumps(found["ports"], indent=2))
        return
    table = Table("port", "container", "live", "so far", "up", "down", "failed", "process", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for port in sorted([*found["ports"], *found["draining"]], key=lambda port: (port["host_port"], port["name"])):
        totals = port["totals"]
        table.add_row(
            port["name"] + (" (draining)" if port["draining"] else ""),
            _container(port),
            str(port["live"]),
            str(totals["connections"] + totals["flows"]),
            _bytes(totals["bytes_up"]),
            _bytes(totals["bytes_down"]),
            str(_errors(totals)),
            str(port["pid"] or "-"),
        )
    _console().print(table)


def _top(options: argparse.Namespace) -> None:
    # Ctrl-C is how it is meant to end.
    signal.signal(signal.SIGINT, lambda _number, _frame: sys.exit(0))
    looks = 0
    before: dict[str, Any] = {}
    then = time.monotonic()
    console = _console()
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as screen:
        while not options.count or looks < options.count:
            if looks:
                time.sleep(max(0.0, then + options.interval - time.monotonic()))
            found = {port["name"]: port for port in ask(options.run_dir, "GET", "/ports")["ports"]}
            now = time.monotonic()
            table = _top_table(before, found, now - then if looks else 0.0)
            if screen is not None:
                screen.update(table, refresh=True)
            else:
                console.print(table)
            before, then = found, now
            looks += 1


def _top_table(before: dict[str, Any], found: dict[str, Any], seconds: float) -> Table:
    table = Table("port", "live", "new/s", "up/s", "down/s", "failed", "reset", "dropped", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = []
    for name, port in found.items():
        moving = rates(before[name], port, seconds) if name in before and seconds else Rates(0.0, 0.0, 0.0)
        rows.append((moving.up_per_s + moving.down_per_s, port["live"], name, moving))
    for _, live, name, moving in sorted(rows, key=lambda row: (-row[0], -row[1], row[2])):
        totals = found[name]["totals"]
        table.add_row(
            name,
            str(live),
            f"{moving.new_per_s:.0f}",
            _bytes(moving.up_per_s),
            _bytes(moving.down_per_s),
            str(totals["connections_failed"]),
            str(totals["connections_reset"]),
            str(totals["datagrams_dropped"]),
        )
    return table


def _drain(options: argparse.Namespace) -> None:
    for port in ask(options.run_dir, "POST", "/drain", {"port": options.port})["ports"]:
        print(f"{port['name']}: new clients are refused, {port['live']} connections stay")


def _console() -> Console:
    # Piped, a table must not be cut to a terminal's 80 columns.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _container(port: dict[str, Any]) -> str:
    ip = port["container_ip"]
    return f"[{ip}]:{port['container_port']}" if ":" in ip else f"{ip}:{port['container_port']}"


def _errors(totals: dict[str, int]) -> int:
    return totals["connections_failed"] + totals["connections_timed_out"] + totals["datagrams_dropped"]


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


COMMANDS: dict[str, Any] = {"ports": ports, "top": top, "drain": drain}


def main(name: str, arguments: Sequence[str]) -> int:
    """Run one of `COMMANDS`; return its exit status."""
    status: int = COMMANDS[name](list(arguments))
    return status
