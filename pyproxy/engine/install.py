"""`pyproxy install` and `pyproxy uninstall`: the systemd unit, and dockerd's daemon.json.

Both show what they will change, as a difference, before they change it. Neither restarts dockerd, which may restart
containers: that is the administrator's moment to choose.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyproxy.engine import daemonjson, unit

# dockerd's default (dockerd(8), --config-file), and where administrators' units belong (systemd.unit(5)).
_DAEMON_JSON = Path("etc/docker/daemon.json")
_UNIT = Path("etc/systemd/system") / unit.NAME

# sd_booted(3): systemd runs this machine.
_SYSTEMD_RUNS = Path("/run/systemd/system")


class InstallError(Exception):
    """Nothing was changed. The text says why and what to do."""


class Change(NamedTuple):
    """A file's text before and after; None: no such file."""

    path: Path
    before: str | None
    after: str | None


def install(arguments: list[str]) -> int:
    """`pyproxy install`"""
    return _run(
        "install",
        "Have systemd run the engine, and dockerd start its stub for each published port.",
        arguments,
        _installed,
        before=(),
        after=(("systemctl", "daemon-reload"), ("systemctl", "enable", "--now", unit.NAME)),
    )


def uninstall(arguments: list[str]) -> int:
    """`pyproxy uninstall`"""
    return _run(
        "uninstall",
        "Undo `pyproxy install`, exactly. Ports that stubs hold are served on, by a process each.",
        arguments,
        _uninstalled,
        before=(("systemctl", "disable", "--now", unit.NAME),),
        after=(("systemctl", "daemon-reload"),),
    )


def _run(
    name: str,
    about: str,
    arguments: list[str],
    changes_of: Callable[[Path], list[Change]],
    *,
    before: Sequence[Sequence[str]],
    after: Sequence[Sequence[str]],
) -> int:
    parser = argparse.ArgumentParser(f"pyproxy {name}", description=about)
    parser.add_argument("--dry-run", action="store_true", help="show the changes, and make none")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR",
                        help="another system's root directory; systemctl is then yours to call")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        changes = [change for change in changes_of(options.root) if change.before != change.after]
        if not changes:
            print("Nothing to change.")
            return 0
        for change in changes:
            sys.stdout.writelines(_difference(change))
        if options.dry_run:
            return 0
        _confirm(options)
        systemd = options.root == Path("/") and _SYSTEMD_RUNS.is_dir()
        _systemctl(before, really=systemd)
        for change in changes:
            _write(change)
        _systemctl(after, really=systemd)
    except InstallError as exc:
        print(f"pyproxy {name}: {exc}", file=sys.stderr)
        return 1
    print("Done. dockerd reads it when it starts: systemctl restart docker (which may restart containers).")
    return 0


def _installed(root: Path) -> list[Change]:
    programs = Path(sys.executable).parent
    program, stub = programs / "pyproxy", programs / "pyproxy-stub"
    for path in (program, stub):
        if not os.access(path, os.X_OK):
            raise InstallError(f"{path} is not there: install pyproxy by pip, into a virtual environment of its own")
    unit_path, daemon_path = root / _UNIT, root / _DAEMON_JSON
    unit_now, daemon_now = _read(unit_path), _read(daemon_path)
    notes = unit.notes_of(unit_now) if unit_now is not None else None
    if unit_now is not None and notes is None:
        raise InstallError(f"{unit_path} is not pyproxy's: move it out of the way")
    try:
        if notes is None:  # else this is an upgrade: what was there before all of it is what counts
            blank = daemon_now is None or not daemon_now.strip()
            value = None if blank else daemonjson.value_of(daemon_now or "")
            notes = {"blank": blank, "text": daemon_now if blank else None, "value": value}
        daemon_next = daemonjson.with_value(daemon_now or "", json.dumps(str(stub)))
    except daemonjson.DaemonJsonError as exc:
        raise InstallError(f"{daemon_path}: {exc}: mend it first, as dockerd would not start with it either") from exc
    return [
        Change(unit_path, unit_now, unit.text_of(str(program), notes)),
        Change(daemon_path, daemon_now, daemon_next),
    ]


def _uninstalled(root: Path) -> list[Change]:
    unit_path, daemon_path = root / _UNIT, root / _DAEMON_JSON
    unit_now, daemon_now = _read(unit_path), _read(daemon_path)
    if unit_now is None:
        return []
    notes = unit.notes_of(unit_now)
    if notes is None:
        raise InstallError(f"{unit_path} is not pyproxy's: remove it by hand, if you mean to")
    changes = [Change(unit_path, unit_now, None)]
    if daemon_now is None:
        return changes
    try:
        if notes["value"] is not None:
            daemon_next: str | None = daemonjson.with_value(daemon_now, notes["value"])
        else:
            daemon_next = daemonjson.without(daemon_now)
            if notes["blank"] and daemonjson.is_empty(daemon_next):
                daemon_next = notes["text"]
    except daemonjson.DaemonJsonError as exc:
        raise InstallError(f'{daemon_path}: {exc}: mend it first, or take "{daemonjson.KEY}" out by hand') from exc
    return [*changes, Change(daemon_path, daemon_now, daemon_next)]


def _read(path: Path) -> str | None:
    try:
        # Bytes, and no translation of line ends: they are to come back as they were.
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise InstallError(f"{path} cannot be read: {exc}: run this as root, or mend the file") from exc


def _difference(change: Change) -> list[str]:
    def lines(text: str | None) -> list[str]:
        return [line if line.endswith("\n") else f"{line}\n" for line in (text or "").splitlines(keepends=True)]

    old, new = (str(change.path) if text is not None else os.devnull for text in (change.before, change.after))
    return list(difflib.unified_diff(lines(change.before), lines(change.after), old, new))


def _confirm(options: argparse.Namespace) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise InstallError("nobody to ask: give --yes, or --dry-run to see the changes only")
    if input("Make these changes? [y/N] ").strip().lower() not in ("y", "yes"):
        raise InstallError("left as it is")


def _write(change: Change) -> None:
    """All at once, by a rename: whoever reads the file sees it before or after."""
    path = change.path
    try:
        if change.after is None:
            path.unlink()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.resolve()  # a link stays one
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(change.after.encode())
                mode, owner, group = 0o644, os.geteuid(), os.getegid()
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    mode, owner, group = found.st_mode & 0o7777, found.st_uid, found.st_gid
                os.fchmod(file.fileno(), mode)
                os.fchown(file.fileno(), owner, group)
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as exc:
        raise InstallError(f"{path} cannot be written: {exc}: run this as root") from exc


def _systemctl(commands: Sequence[Sequence[str]], *, really: bool) -> None:
    for command in commands:
        if not really:
            print(f"systemd does not run here; where it does: {shlex.join(command)}")
            continue
        try:
            done = subprocess.run(command, check=False)
        except OSError as exc:
            raise InstallError(f"{shlex.join(command)}: {exc}: run it by hand, then this again") from exc
        if done.returncode:
            raise InstallError(f"{shlex.join(command)} failed: see `systemctl status {unit.NAME}`, then run this again")


COMMANDS: dict[str, Callable[[list[str]], int]] = {"install": install, "uninstall": uninstall}
