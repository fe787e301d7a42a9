"""What is changed is shown and asked for before, and all of it is taken back if a part fails."""

from __future__ import annotations

import os
import pty
import subprocess
import tempfile
from pathlib import Path

import pytest

from pyproxy.cli import changes
from tests.cli.root import DAEMON, UNIT, bare_installation, files_below, pyproxy, root
from tests.support.engine import STUB
from tests.support.proxy import PATIENCE_S, PROGRAM

__all__ = ["root"]


def test_a_command_that_fails_takes_everything_back_in_the_opposite_order(tmp_path: Path) -> None:
    """systemctl is what fails in earnest; that takes a machine that systemd runs."""
    path, log = tmp_path / "unit", tmp_path / "log"

    def noted(word: str) -> list[str]:
        return ["sh", "-c", f"echo {word} $(cat {path} 2>/dev/null) >>{log}"]

    steps = [
        changes.command_step(undo=[noted("reload")]),
        changes.file_step(changes.Change(path, None, "text")),
        changes.command_step(noted("enable"), ["false"], undo=[noted("disable")]),
    ]
    with pytest.raises(changes.InstallError, match=r"^false failed with status 1; nothing is changed$"):
        changes.carry_out(steps)
    assert log.read_text().splitlines() == ["enable text", "disable text", "reload"]
    assert not path.exists()


def test_what_cannot_be_taken_back_is_named(tmp_path: Path) -> None:
    steps = [changes.command_step(["false"], undo=[["sh", "-c", "exit 3"]])]
    with pytest.raises(changes.InstallError) as failed:
        changes.carry_out(steps)
    assert str(failed.value) == (
        "false failed with status 1; and this could not be taken back: sh -c 'exit 3' failed with status 3"
    )


def test_what_somebody_else_writes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text("theirs")
    with pytest.raises(changes.InstallError, match="has just been changed by somebody else: run this again"):
        changes.carry_out([changes.file_step(changes.Change(path, "as it was read", "ours"))])
    assert path.read_text() == "theirs"


def test_what_was_written_is_taken_back_when_the_rest_fails(root: Path) -> None:
    (root / DAEMON).symlink_to(root / "no/such/folder/daemon.json")
    done = pyproxy("install", "--yes", "--root", str(root))
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert done.stderr.endswith("; nothing is changed\n")
    assert files_below(root) == {}
    assert not (root / "etc/systemd").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else, which takes root")
def test_who_may_not_write_is_told_before_anything_is_shown(root: Path) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        # Not with the interpreter of the tests: it may be in root's home.
        program = bare_installation(Path(folder) / "bare", "/usr/bin/python3")
        done = subprocess.run(
            [*nobody, program, "install", "--root", folder], capture_output=True, text=True, timeout=PATIENCE_S,
            check=False, cwd="/", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "is not yours to change: run this as root, or with --dry-run" in done.stderr


def test_a_dry_run_shows_the_change_and_makes_none(root: Path) -> None:
    (root / DAEMON).write_text('{\n  "debug": true\n}\n')
    untouched = files_below(root)
    done = pyproxy("install", "--dry-run", "--root", str(root))
    assert done.returncode == 0
    assert files_below(root) == untouched
    lines = done.stdout.splitlines()
    assert "+Restart=always" in lines
    assert '+  "debug": true,' in lines
    assert f'+  "userland-proxy-path": "{STUB}"' in lines


def test_without_somebody_to_ask_nothing_is_changed(root: Path) -> None:
    done = pyproxy("install", "--root", str(root))
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert files_below(root) == {}


@pytest.mark.parametrize(("answer", "made"), [("y", True), ("n", False), ("", False)])
def test_a_person_is_asked_after_the_change_was_shown(root: Path, answer: str, made: bool) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([PROGRAM, "install", "--root", str(root)], stdin=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said, _ = process.communicate(timeout=PATIENCE_S)
    os.close(ours)
    assert said.index(b"+Restart=always") < said.index(b"Make these changes?")
    assert (root / UNIT).exists() == made


@pytest.mark.parametrize("key", [b"\x04", b"\x03"], ids=["Ctrl-D", "Ctrl-C"])
def test_who_leaves_at_the_question_has_changed_nothing(root: Path, key: bytes) -> None:
    ours, theirs = pty.openpty()
    # Ctrl-C is a signal only on a terminal that is the session's.
    command = ["setsid", "--ctty", PROGRAM, "install", "--root", str(root)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        said = ""
        while "Make these changes?" not in said:
            said += os.read(ours, 1 << 16).decode()
        os.write(ours, key)
        assert process.wait(PATIENCE_S) == 1
        said += os.read(ours, 1 << 16).decode()
        os.close(theirs)
    os.close(ours)
    assert said.splitlines()[-1] == "pyproxy install: nothing is changed"
    assert "Traceback" not in said
    assert files_below(root) == {}
