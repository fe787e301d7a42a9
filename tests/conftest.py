"""Fixtures: both event loops, for the program and for in-process tests."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest
import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio runs each asynchronous test once on each."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_flag(request: pytest.FixtureRequest) -> str:
    """The program's flag for each loop."""
    return f"-loop={request.param}"


def pytest_configure() -> None:
    """Have the programs under test start with no signal ignored: `nohup make test &` leaves SIGHUP and SIGINT so, and a
    shell can never trap what was ignored when it was started. A handler that does nothing ignores it here alone.
    """
    # The interpreter's own are left: subprocess undoes them (restore_signals).
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
