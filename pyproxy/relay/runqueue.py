"""Work that was interrupted so that others have their turn, and goes on after them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class RunQueue(deque[Callable[[], None]]):
    """What is to be called once, in order. False when it is empty."""

    def run(self, report: Callable[[Exception], None], most_s: float) -> None:
        """Call what is in it now, but not what is added meanwhile. After `most_s` the rest stays for the next time. An
        exception goes to `report`, and the others have their turn all the same.
        """
        end = time.perf_counter() + most_s
        for _ in range(len(self)):
            try:
                self.popleft()()
            except Exception as exc:  # a defect of ours, in one connection's turn
                report(exc)
            if time.perf_counter() > end:
                return
