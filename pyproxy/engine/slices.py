"""Long work in short steps. The engine has one thread: while it does one thing, every client waits.

Between two steps the event loop has its turn, and with it the data path. Anything may have changed after that: code
that works through a list of ports checks whether each is still served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

# How long a step may take: what the poller allows itself between two looks at the loop's other readers.
SLICE_S = 2e-3

T = TypeVar("T")


class Slice:
    """The time of one step, from its construction on."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = time.perf_counter() + SLICE_S

    @property
    def over(self) -> bool:
        return time.perf_counter() > self._end


async def sliced(items: Iterable[T]) -> AsyncIterator[T]:
    """`items`, one after the other, with a turn of the loop whenever a step is over. `items` itself must not change."""
    step = Slice()
    for item in items:
        yield item
        if step.over:
            await asyncio.sleep(0)
            step = Slice()
