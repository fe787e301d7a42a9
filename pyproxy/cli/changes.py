"""Changes to a system's files and services: shown as a difference, asked for, made, and taken back if one fails."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyproxy.cli import daemonjson, unit

# sd_booted(3): systemd runs this machine.
_SYSTEMD_RUNS = Path("/run/systemd/system")

DONE = "Done. dockerd reads it when it starts: systemctl restart docker (which may restart containers)."

RELOAD = ("systemctl", "daemon-reload")
ENABLE = ("systemctl", "enable", "--now", unit.NAME)
DISABLE = ("systemctl", "disable", "--now", unit.NAME)


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
        if read(change.path) != change.before:
            raise InstallError(f"{change.path} has just been changed by somebody else: run this again")
        _write(change.path, change.after)

    def undo() -> None:
        if read(change.path) == change.after != change.before:
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


def reported(name: str, run: Callable[[], None]) -> int:
    try:
        run()
    except InstallError as exc:
        print(f"pyproxy {name}: {exc}", file=sys.stderr)
        return 1
    return 0


def make(options: argparse.Namespace, changes: list[Change], *, before: list[Step], after: list[Step]) -> list[Change]:
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


def refuse_without_rights(options: argparse.Namespace) -> None:
    for path in (options.root / unit.PATH, options.root / daemonjson.PATH):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        if not options.dry_run and not os.access(there, os.W_OK):
            raise InstallError(f"{path} is not yours to change: run this as root, or with --dry-run")


def _refuse_without_answer(options: argparse.Namespace) -> None:
    if not options.yes and not sys.stdin.isatty():
        raise InstallError("nobody to ask: give --yes, or --dry-run to see the changes only")


def read(path: Path) -> str | None:
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
        answer = _answer_to("Make these changes? [y/N] ")
    except KeyboardInterrupt as exc:
        print()  # the cursor is behind the question
        raise InstallError("nothing is changed") from exc
    if not answer:
        print()
    if answer.strip().lower() not in ("y", "yes"):
        raise InstallError("nothing is changed")


def _answer_to(question: str) -> str:
    """A line, or nothing at the end of the input. KeyboardInterrupt."""
    print(question, end="", flush=True)
    read, write = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(write)
    try:
        # A signal that comes just before a read would wait with it for the next key.
        select.select([sys.stdin, read], [], [])
        return sys.stdin.readline()
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


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
