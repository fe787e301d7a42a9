"""Out of descriptors, an engine can still say no."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from tests.support.engine import (
    HANGS_S,
    free,
    is_stub,
    running_engine,
    stub,
)
from tests.support.parent import exchange_tcp
from tests.support.sockets import echo, serving


def test_an_engine_out_of_descriptors_says_no_and_serves_on(run_dir: Path) -> None:
    with (
        running_engine(run_dir, prefix=("prlimit", "--nofile=50:50")) as engine,
        serving(echo) as backend,
        contextlib.ExitStack() as stack,
    ):
        children = []
        began = time.monotonic()
        for _ in range(30):
            child = stack.enter_context(stub("sh", address := free(), backend))
            assert child.first_answer() == b"0\n"
            children.append((child, address))
        assert time.monotonic() - began < HANGS_S  # not one of them had to wait for its time to run out
        solo = [child for child, _ in children if not is_stub(child.pid)]
        assert 0 < len(solo) < len(children)
        assert "too many open files" in engine.await_line("left to a process of its own")
        # Ports that go give back what others need.
        for child, _ in children[:10]:
            assert child.stop() == 0
        assert exchange_tcp(children[10][1]) == b"over and back"
        with stub("sh", free(), backend) as child:
            assert child.first_answer() == b"0\n"
            assert is_stub(child.pid)
            assert child.stop() == 0
        for child, _ in children[10:]:
            assert child.stop() == 0
