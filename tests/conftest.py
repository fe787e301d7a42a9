"""Fixtures: both event loops, for the program and for in-process tests."""

from __future__ import annotations

import asyncio
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
