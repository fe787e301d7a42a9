"""The event loop that the data path runs on, and what a process needs that serves many connections."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import traceback
from typing import Any

from pyproxy.log import Log


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """Return a new event loop: `uvloop`, `asyncio`, or `auto`, which is uvloop where it is installed."""
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one, as Go's runtime does: a connection takes two descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Refused where fs.nr_open has been lowered below the limit that was inherited: then the soft one has to do.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def report_defect(log: Log, context: dict[str, Any]) -> None:
    """What a loop's exception handler does with a defect of ours, in one connection's handler: say it whole, though not
    each time, and serve the others.
    """
    exc = context.get("exception")
    trace = "".join(traceback.format_exception(exc)) if isinstance(exc, BaseException) else ""
    text = f"internal error, please report it: {context.get('message')}\n{trace}".rstrip()
    log.warn(f"internal {type(exc)}", text)
