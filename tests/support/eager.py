"""pyproxy that starts workers under any load at all, from SIGUSR2 on. A processor to spare, and a load that takes one,
are nothing that a test could arrange. With NO_LOOP_FOR_WORKERS in its environment no worker gets an event loop.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import signal

from pyproxy.__main__ import main
from pyproxy.core.load import Policy
from pyproxy.relay.loop import new_loop
from pyproxy.solo import serve as solo
from pyproxy.solo.workers import Pace

_policy = Policy(window_s=0, saturated=-1, busy=-1, to_spare=float("inf"), to_spare_for_new=float("inf"))


def _begin(*_: object) -> None:
    _policy.to_spare = _policy.to_spare_for_new = float("-inf")


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if os.getpid() != _first:
        raise OSError(errno.EMFILE, "no descriptor for a loop")
    return new_loop(name)


_first = os.getpid()

if __name__ == "__main__":
    if "NO_LOOP_FOR_WORKERS" in os.environ:
        vars(solo)["new_loop"] = _new_loop
    signal.signal(signal.SIGUSR2, _begin)
    solo.serve = functools.partial(solo.serve, policy=_policy, pace=Pace(rounds=2, idle_s=0.1))
    main()
