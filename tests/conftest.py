"""Fixtures: both event loops, for the program and for in-process tests; an engine, a port that it serves, and the
shells that run stubs.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.support.engine import SHELLS, Engine, free, running_engine, stub
from tests.support.sockets import echo, serving


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio runs each asynchronous test once on each."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_flag(request: pytest.FixtureRequest) -> str:
    """The program's flag for each loop."""
    return f"-loop={request.param}"


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run directory that stubs find. Not pytest's own, whose paths are too long for a UNIX socket's address."""
    with tempfile.TemporaryDirectory(prefix="pyproxy-") as folder:
        path = Path(folder) / "run"
        monkeypatch.setenv("PYPROXY_RUN_DIR", str(path))
        yield path


@pytest.fixture
def engine(run_dir: Path) -> Iterator[Engine]:
    with running_engine(run_dir) as running:
        yield running


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pytest_configure() -> None:
    """Have the programs under test start with no signal ignored: `nohup make test &` leaves SIGHUP and SIGINT so, and a
    shell can never trap what was ignored when it was started. A handler that does nothing ignores it here alone.
    """
    # The interpreter's own are left: subprocess undoes them (restore_signals).
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


@pytest.fixture
def port(engine: Engine) -> Iterator[tuple[str, int]]:
    """A port before an echo server, held by a stub."""
    with serving(echo) as backend, stub("sh", address := free(), backend) as child:
        assert child.first_answer() == b"0\n"
        yield address
        assert child.stop() == 0
