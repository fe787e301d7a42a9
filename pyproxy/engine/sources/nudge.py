"""A signal again, as a shell may have missed it.

A stub that is served waits in `read`. A shell checks for signals, then calls read(2). A signal that comes between the
two is noted by the shell's handler, but `read` blocks all the same: the trap runs only when the next signal comes, and
`docker stop`, which waits without limit, hangs until then. `wait` has no such gap (it is sigsuspend(2)), but needs a
child to wait for, which would cost every port 45 kB and a process.

So the engine sends further signals, nudges. The first comes soon, as most ports that are stopped early are those of
containers that fail at once. A nudge makes the shell check again, and opens the gap again: in bash for an instant, as
it checks inside `read`; in dash and busybox for as long as it takes to call `read` anew. For these two the last nudge
is SIGCHLD, after which they too check inside `read`: of the gap a few machine instructions are left.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque

from pyproxy.engine.slices import Slice
from pyproxy.engine.sources.stub import NUDGE, Stub

# Seconds after the engine's yes, and what is sent. The first is how long a missed stop takes. The others are guesses,
# late enough for a machine that is busy starting a hundred containers.
_PLAN = ((0.02, NUDGE), (0.3, NUDGE), (3.0, signal.SIGCHLD))


class Nudges:
    """Signals to come. No timer runs while there are none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # One queue for each step: as all wait equally long in it, the first is always the next.
        self._queues: list[deque[tuple[float, Stub]]] = [deque() for _ in _PLAN]
        self._timer: asyncio.TimerHandle | None = None

    def plan(self, stub: Stub) -> None:
        """Nudge `stub` from now on."""
        now = time.monotonic()
        for (after_s, _), queue in zip(_PLAN, self._queues, strict=True):
            queue.append((now + after_s, stub))
        self._arm(now)

    def _arm(self, now: float) -> None:
        if self._timer is None and (due := [queue[0][0] for queue in self._queues if queue]):
            self._timer = self._loop.call_later(max(0.0, min(due) - now), self._send)

    def _send(self) -> None:
        self._timer = None
        now = time.monotonic()
        step = Slice()  # after a take-over all stubs' times come at once
        for (_, number), queue in zip(_PLAN, self._queues, strict=True):
            while queue and queue[0][0] <= now and not step.over:
                _, stub = queue.popleft()
                if not stub.closed:
                    stub.signal(number)
        self._arm(now)
