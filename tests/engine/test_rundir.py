"""The run directory: whose it is, and which engine has it."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

from tests.support.engine import (
    HANGS_S,
    NOWHERE,
    Engine,
    free,
    running_engine,
    stub,
)
from tests.support.proxy import PATIENCE_S, PROGRAM


def test_a_second_engine_is_refused(engine: Engine, run_dir: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "engine", "--run-dir", str(run_dir)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    assert f"an engine runs already in {run_dir} (process {engine.pid})" in done.stderr
    assert "--replace" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_directory_that_is_not_ours_alone_is_refused(run_dir: Path) -> None:
    def refused() -> str:
        done = subprocess.run(
            [PROGRAM, "engine", "--run-dir", str(run_dir)],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    run_dir.mkdir(mode=0o700)
    run_dir.chmod(0o755)
    assert "chmod 700" in refused()
    if os.geteuid() == 0:
        run_dir.chmod(0o700)
        os.chown(run_dir, 65534, 65534)
        assert "belongs to user 65534" in refused()
    run_dir.rmdir()
    run_dir.write_text("")
    assert "is not a directory" in refused()
    run_dir.unlink()
    assert "No such file or directory".lower() in subprocess.run(
        [PROGRAM, "engine", "--run-dir", str(run_dir / "deep" / "er")],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    ).stderr  # fmt: skip


def test_the_run_directory_is_closed_to_others(engine: Engine, run_dir: Path) -> None:
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700


def test_a_pid_file_that_names_somebody_else_costs_no_time(run_dir: Path, shell: str) -> None:
    with running_engine(run_dir) as engine:
        engine.kill()
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        (run_dir / "pid").write_text(f"{stranger.pid:<20}\n")
        began = time.monotonic()
        with stub(shell, free(), NOWHERE) as child:
            assert child.first_answer() == b"0\n"
            assert time.monotonic() - began < HANGS_S / 2
            assert child.stop() == 0
        stranger.kill()
