"""What a person asks the engine, by its control API."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyproxy.engine.rundir import default_path
from pyproxy.errors import plain

# An engine that serves answers in milliseconds.
_PATIENCE_S = 5.0


_START = "start it (`systemctl start pyproxy`, or `pyproxy engine`)"


class ClientError(Exception):
    """The engine does not answer, or answers with an error. The text says what to do."""


def ask(run_dir: Path | None, method: str, path: str, body: object = None) -> Any:
    """One request to the engine, and what it answers. `run_dir` None: where engines are by default. ClientError."""
    run_dir = run_dir or default_path()
    connection = _UnixConnection(run_dir / "control")
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        said = json.loads(answer.read())
    except FileNotFoundError as exc:
        raise ClientError(f"no engine in {run_dir}: {_START}, or name its --run-dir") from exc
    except ConnectionRefusedError as exc:
        raise ClientError(f"the engine in {run_dir} has ended: {_START}") from exc
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


def reported(run: Callable[[], None]) -> int:
    """Run it and return its exit status; a ClientError is told to the user."""
    try:
        run()
    except ClientError as exc:
        print(f"pyproxy: {plain(str(exc))}", file=sys.stderr)
        return 1
    return 0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(str(self._path))
