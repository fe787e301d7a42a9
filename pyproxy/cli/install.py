"""`pyproxy install` and `pyproxy uninstall`: the systemd unit, and dockerd's daemon.json.

Both show what they will change, as a difference, before they change it; and before that they refuse what would not
work. What fails half-way is taken back. Neither restarts dockerd, which may restart containers: that is the
administrator's moment to choose.
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
from typing import NamedTuple, NoReturn

from pyproxy.cli import daemonjson, unit
from pyproxy.cli.options import Parser, add_engine_options_as_text, engine_arguments
from pyproxy.errors import plain

# dockerd's default (dockerd(8), --config-file), and where administrators' units belong (systemd.unit(5)).
_DAEMON_JSON = Path("etc/docker/daemon.json")
_UNIT = Path("etc/systemd/system") / unit.NAME

# sd_booted(3): systemd runs this machine.
_SYSTEMD_RUNS = Path("/run/systemd/system")


# What systemd gives the engine for an environment (systemd.exec(5)), or nearly.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

# An engine that only looks at its flags ends within a second.
_PATIENCE_S = 30.0

_ELSEWHERE = "install pyproxy elsewhere, as in: python3 -m venv /opt/pyproxy"


class InstallError(Exception):
    """It was not done. The text says why, what to do, and, if anything is different from before, what."""


class Change(NamedTuple):
    """A file's text before and after; None: no such file."""

    path: Path
    before: str | None
    after: str | None


class Step(NamedTuple):
    """One thing to do; `undo` takes back what was done of it, also if that was only a part. Both: InstallError.

    `words`: for a person who has to do it by hand.
    """

    do: Callable[[], None]
    undo: Callable[[], None]
    words: str = ""


def install(arguments: list[str]) -> int:
    """`pyproxy install`"""
    parser = _parser("install", "Have systemd run the engine, and dockerd start its stub for each published port.")
    parser.add_argument("--defaults", action="store_true",
                        help="drop the engine's flags that earlier installations were given")  # fmt: skip
    add_engine_options_as_text(parser)
    options = parser.read(arguments)
    return _reported("install", lambda: _install(options))


def uninstall(arguments: list[str]) -> int:
    """`pyproxy uninstall`"""
    parser = _parser("uninstall", "Undo `pyproxy install`, exactly. Ports that stubs hold are served on, by one process"
                     " each. A userland-proxy-path that somebody has set since stays.")  # fmt: skip
    options = parser.read(arguments)
    return _reported("uninstall", lambda: _uninstall(options))


def carry_out(steps: Sequence[Step]) -> None:
    """Do all of them, or take back what was done. InstallError: why, and what could not be taken back."""
    begun: list[Step] = []
    try:
        for step in steps:
            begun.append(step)
            step.do()
    except (InstallError, KeyboardInterrupt) as exc:
        why = str(exc) or "interrupted"
        if left := _taken_back(begun):
            raise InstallError(f"{why}; and this could not be taken back: {'; '.join(left)}") from exc
        raise InstallError(f"{why}; nothing is changed") from exc


def file_step(change: Change) -> Step:
    """Write, and put back. What somebody else has written meanwhile is left alone, both times."""
    made = [folder for folder in change.path.parents if not folder.exists()]

    def do() -> None:
        if _read(change.path) != change.before:
            raise InstallError(f"{change.path} has just been changed by somebody else: run this again")
        _write(change.path, change.after)

    def undo() -> None:
        if _read(change.path) == change.after != change.before:
            _write(change.path, change.before)
        for folder in made:
            with contextlib.suppress(OSError):  # not made, or not empty
                folder.rmdir()

    return Step(do, undo)


def command_step(*do: Sequence[str], undo: Sequence[Sequence[str]] = ()) -> Step:
    """Run these commands."""

    def run(commands: Sequence[Sequence[str]]) -> None:
        for command in commands:
            _command(command)

    return Step(lambda: run(do), lambda: run(undo), "; ".join(shlex.join(command) for command in do))


def _parser(name: str, about: str) -> Parser:
    parser = Parser(name, about)
    parser.add_argument("--dry-run", action="store_true", help="show the changes, and make none")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR",
                        help="root directory of another system; you then call systemctl there yourself")  # fmt: skip
    return parser


def _reported(name: str, run: Callable[[], None]) -> int:
    try:
        run()
    except InstallError as exc:
        print(f"pyproxy {name}: {exc}", file=sys.stderr)
        return 1
    return 0


def _install(options: argparse.Namespace) -> None:
    _refuse_without_rights(options)
    changes = _installed(options)
    renewed = changes[0].before is not None
    reload, enable = ("systemctl", "daemon-reload"), ("systemctl", "enable", "--now", unit.NAME)
    disable = ("systemctl", "disable", "--now", unit.NAME)
    made = _make(
        options,
        changes,
        before=[command_step(undo=[reload])],
        after=[command_step(reload), command_step(enable, undo=[] if renewed else [disable])],
    )
    if changes[1] in made:
        print("Done. dockerd reads it when it starts: systemctl restart docker (which may restart containers).")
    elif made:
        print("Done. dockerd has it already.")
    if renewed and changes[0] in made:
        print("An engine that runs keeps its flags until: systemctl restart pyproxy (which resets its connections).")


def _uninstall(options: argparse.Namespace) -> None:
    _refuse_without_rights(options)
    changes = _uninstalled(options.root)
    reload, enable = ("systemctl", "daemon-reload"), ("systemctl", "enable", "--now", unit.NAME)
    disable = ("systemctl", "disable", "--now", unit.NAME)
    if _make(options, changes, before=[command_step(disable, undo=[reload, enable])], after=[command_step(reload)]):
        print("Done. dockerd reads it when it starts: systemctl restart docker (which may restart containers).")


def _make(options: argparse.Namespace, changes: list[Change], *, before: list[Step], after: list[Step]) -> list[Change]:
    """Show the changes, ask, and make them; return those that were made."""
    changes = [change for change in changes if change.before != change.after]
    if not changes:
        print("Nothing to change.")
        return []
    if not options.dry_run:
        _refuse_without_answer(options)
    for change in changes:
        sys.stdout.writelines(_difference(change))
    sys.stdout.flush()  # before what systemctl says
    if options.dry_run:
        return []
    _confirm(options)
    if options.root != Path("/") or not _SYSTEMD_RUNS.is_dir():
        carry_out([file_step(change) for change in changes])
        words = [step.words for step in (*before, *after) if step.words]
        print(f"systemd does not run here; where it does: {'; '.join(words)}")
    else:
        carry_out([*before, *(file_step(change) for change in changes), *after])
    return changes


def _installed(options: argparse.Namespace) -> list[Change]:
    programs = Path(sys.executable).parent
    program, stub = programs / "pyproxy", programs / "pyproxy-stub"
    unit_path, daemon_path = options.root / _UNIT, options.root / _DAEMON_JSON
    unit_now, daemon_now = _read(unit_path), _read(daemon_path)
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
        if notes is None or value != notes.get(
            "set"
        ):  # else this is an upgrade: what was there before all of it counts
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
        return engine_arguments(options)
    try:
        words = unit.arguments_of(unit_now)
        return engine_arguments(options, _Kept("install", "").read(words))
    except ValueError as exc:
        raise InstallError(
            f"{unit_path}: ExecStart= has what this cannot keep: {exc}: take it out, or give --defaults to forget all"
        ) from exc


class _Kept(Parser):
    """Reads the engine's arguments in a unit. ValueError."""

    def __init__(self, name: str, about: str) -> None:
        super().__init__(name, about)
        add_engine_options_as_text(self)

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


def _refuse_without_rights(options: argparse.Namespace) -> None:
    for path in (options.root / _UNIT, options.root / _DAEMON_JSON):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        if not options.dry_run and not os.access(there, os.W_OK):
            raise InstallError(f"{path} is not yours to change: run this as root, or with --dry-run")


def _refuse_without_answer(options: argparse.Namespace) -> None:
    if not options.yes and not sys.stdin.isatty():
        raise InstallError("nobody to ask: give --yes, or --dry-run to see the changes only")


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


def _read(path: Path) -> str | None:
    try:
        # Bytes, and no translation of line ends: they are to come back as they were.
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise InstallError(f"{path} cannot be read: {exc}: run this as root, or fix the file") from exc


def _difference(change: Change) -> list[str]:
    def lines(text: str | None) -> list[str]:
        return [line if line.endswith("\n") else f"{line}\n" for line in (text or "").splitlines(keepends=True)]

    old, new = (str(change.path) if text is not None else os.devnull for text in (change.before, change.after))
    return list(difflib.unified_diff(lines(change.before), lines(change.after), old, new))


def _confirm(options: argparse.Namespace) -> None:
    if options.yes:
        return
    try:
        answer = input("Make these changes? [y/N] ")
    except (EOFError, KeyboardInterrupt) as exc:
        print()  # the cursor is behind the question
        raise InstallError("nothing is changed") from exc
    if answer.strip().lower() not in ("y", "yes"):
        raise InstallError("nothing is changed")


def _taken_back(begun: list[Step]) -> list[str]:
    """Undo them, the last one first; return what went wrong."""
    left = []
    for step in reversed(begun):
        try:
            step.undo()
        except InstallError as exc:
            left.append(str(exc))
    return left


def _write(path: Path, text: str | None) -> None:
    """All at once, by a rename: whoever reads the file sees it before or after. None: no such file."""
    try:
        if text is None:
            path.unlink()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.resolve()  # a link stays one
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(text.encode())
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
        raise InstallError(f"{path} cannot be written: {exc}") from exc


def _command(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, check=False)
    except OSError as exc:
        raise InstallError(f"{shlex.join(command)}: {exc}") from exc
    if done.returncode:
        hint = f" (see journalctl -u {unit.NAME})" if command[0] == "systemctl" else ""
        raise InstallError(f"{shlex.join(command)} failed with status {done.returncode}{hint}")


COMMANDS: dict[str, Callable[[list[str]], int]] = {"install": install, "uninstall": uninstall}
