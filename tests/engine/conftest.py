"""An engine inside the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.engine.engine import Engine, Options
from pyproxy.engine.rundir import RunDir
from pyproxy.log import Log


@pytest.fixture
def core(run_dir: Path) -> Iterator[Engine]:
    """Its loop runs only when a test has it run."""
    loop = asyncio.new_event_loop()
    directory = RunDir(run_dir)
    directory.lock()
    engine = Engine(loop, directory, Options(), Log("engine"))
    yield engine
    engine.stubs.stop_reading()
    engine.stubs.close()
    engine.poller.close()
    directory.close()
    loop.close()
