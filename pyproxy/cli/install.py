"""`pyproxy install`: the systemd unit, and dockerd's daemon.json.

It and `pyproxy uninstall` show what they will change, as a difference, before they change it; and before that they
refuse what would not work. What fails half-way is taken back. Neither restarts dockerd, which may restart containers:
that is the administrator's moment to choose.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from pyproxy.cli import daemonjson, unit
from pyproxy.cli.changes import (
    DISABLE,
    DONE,
    ENABLE,
    RELOAD,
    Change,
    InstallError,
    command_step,
    make,
    read,
    refuse_without_rights,
    reported,
)
from pyproxy.cli.parser import Parser, words_of
from pyproxy.cli.verbs import ENGINE_OPTIONS, Verb

# What systemd gives the engine for an environment (systemd.exec(5)), or nearly.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

# An engine that only looks at its flags ends within a second.
_PATIENCE_S = 30.0

_ELSEWHERE = "install pyproxy elsewhere, as in: python3 -m venv /opt/pyproxy"


def main(arguments: list[str]) -> int:
    """Run `pyproxy install`; return its exit status."""
    options = Parser("install").read(arguments)
    return reported("install", lambda: _install(options))


def _install(options: argparse.Namespace) -> None:
    refuse_without_rights(options)
    changes = _installed(options)
    renewed = changes[0].before is not None
    made = make(
        options,
        changes,
        before=[command_step(undo=[RELOAD])],
        after=[command_step(RELOAD), command_step(ENABLE, undo=[] if renewed else [DISABLE])],
    )
    if changes[1] in made:
        print(DONE)
    elif made:
        print("Done. dockerd has it already.")
    if renewed and changes[0] in made:
        print("An engine that runs keeps its flags until: systemctl restart pyproxy (which resets its connections).")


def _installed(options: argparse.Namespace) -> list[Change]:
    programs = Path(sys.executable).parent
    program, stub = programs / "pyproxy", programs / "pyproxy-stub"
    unit_path, daemon_path = options.root / unit.PATH, options.root / daemonjson.PATH
    unit_now, daemon_now = read(unit_path), read(daemon_path)
    notes = unit.notes_of(unit_now) if unit_now is not None else None
    if unit_now is not None and notes is None:
        raise InstallError(f"{unit_path} is not pyproxy's: move it out of the way")
    arguments = _engine_arguments(options, unit_path, unit_now)
    _refuse_what_cannot_run(program, stub, arguments, whole=options.root == Path("/"))
    ours = json.dumps(str(stub))
    try:
        if daemonjson.value_of(daemon_now or "", daemonjson.SWITCH) == "false":
            raise InstallError(
                f'{daemon_path} has "{daemonjson.SWITCH}": false, so dockerd would never start a proxy: take that out'
                " first"
            )
        value = daemonjson.value_of(daemon_now or "")
        # Else this is an upgrade: what was there before all of it counts.
        if notes is None or value != notes.get("set"):
            blank = daemon_now is None or not daemon_now.strip()
            notes = {"blank": blank, "text": daemon_now if blank else None, "value": value}
        daemon_next = daemonjson.with_value(daemon_now or "", ours)
    except daemonjson.DaemonJsonError as exc:
        raise InstallError(f"{daemon_path}: {exc}: fix it first, as dockerd would not start with it either") from exc
    return [
        Change(unit_path, unit_now, unit.text_of(str(program), arguments, notes | {"set": ours})),
        Change(daemon_path, daemon_now, daemon_next),
    ]


def _engine_arguments(options: argparse.Namespace, unit_path: Path, unit_now: str | None) -> list[str]:
    """What is given now, and what the present unit has besides."""
    if unit_now is None or options.defaults:
        return words_of(ENGINE_OPTIONS, options)
    try:
        return words_of(ENGINE_OPTIONS, options, _Kept().read(unit.arguments_of(unit_now)))
    except ValueError as exc:
        raise InstallError(
            f"{unit_path}: ExecStart= has what this cannot keep: {exc}: take it out, or give --defaults to forget all"
        ) from exc


class _Kept(Parser):
    """Reads the engine's arguments in a unit. ValueError."""

    def __init__(self) -> None:
        super().__init__("install", Verb("", "", kept=ENGINE_OPTIONS))

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _refuse_what_cannot_run(program: Path, stub: Path, arguments: list[str], *, whole: bool) -> None:
    """InstallError for an engine that would not start. `whole`: it is this system's systemd that is to start it."""
    for path in (program, stub):
        if not os.access(path, os.X_OK):
            raise InstallError(f"{path} is not there: install pyproxy by pip, into a virtual environment of its own")
    if whole:
        # The program, its interpreter, the standard library and pyproxy itself.
        for found in (program, Path(sys.executable), Path(os.__file__), Path(__file__)):
            _refuse_what_the_unit_cannot_see(found)
    command = [str(program), "engine", "--check", *arguments]
    try:
        done = subprocess.run(
            command, env=_ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="backslashreplace", timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise InstallError(f"the engine would not start: {exc}") from exc
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"{shlex.join(command)} ends with status {done.returncode}"]
        raise InstallError(f"the engine would not start: {said[-1]}")


def _refuse_what_the_unit_cannot_see(path: Path) -> None:
    for each in {path.absolute(), path.resolve()}:
        if unit.is_hidden(each):
            raise InstallError(f"{each} is hidden from the engine's unit, as all temporary files are: {_ELSEWHERE}")
        for part in (each, *each.parents):
            found = part.stat()
            if not unit.is_open_to_the_unit(found.st_mode, found.st_uid, found.st_gid):
                raise InstallError(
                    f"{part} is closed to the engine's unit (owner {found.st_uid}, mode {found.st_mode & 0o7777:o}),"
                    f" whose root has no right to other users' files: {_ELSEWHERE}"
                )
