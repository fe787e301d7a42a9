"""`pyproxy uninstall`: what `pyproxy install` did is undone, exactly; what somebody else has changed since stays."""

from __future__ import annotations

import argparse
from pathlib import Path

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
from pyproxy.cli.parser import Parser
from pyproxy.errors import plain


def main(arguments: list[str]) -> int:
    """Run `pyproxy uninstall`; return its exit status."""
    options = Parser("uninstall").read(arguments)
    return reported("uninstall", lambda: _uninstall(options))


def _uninstall(options: argparse.Namespace) -> None:
    refuse_without_rights(options)
    changes = _uninstalled(options.root)
    if make(options, changes, before=[command_step(DISABLE, undo=[RELOAD, ENABLE])], after=[command_step(RELOAD)]):
        print(DONE)


def _uninstalled(root: Path) -> list[Change]:
    unit_path, daemon_path = root / unit.PATH, root / daemonjson.PATH
    unit_now, daemon_now = read(unit_path), read(daemon_path)
    if unit_now is None:
        return []
    notes = unit.notes_of(unit_now)
    if notes is None:
        raise InstallError(f"{unit_path} is not pyproxy's: remove it by hand, if you mean to")
    changes = [Change(unit_path, unit_now, None)]
    if daemon_now is None:
        return changes
    try:
        value = daemonjson.value_of(daemon_now)
        if value != notes.get("set"):
            if value is not None:
                print(f'{daemon_path}: "{daemonjson.KEY}" is {plain(value)} now, which is not ours: it stays.')
            return changes
        if notes["value"] is not None:
            daemon_next: str | None = daemonjson.with_value(daemon_now, notes["value"])
        else:
            daemon_next = daemonjson.without(daemon_now)
            if notes["blank"] and daemonjson.is_empty(daemon_next):
                daemon_next = notes["text"]
    except daemonjson.DaemonJsonError as exc:
        raise InstallError(f'{daemon_path}: {exc}: fix it first, or take "{daemonjson.KEY}" out by hand') from exc
    return [*changes, Change(daemon_path, daemon_now, daemon_next)]
