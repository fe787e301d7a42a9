"""pyproxy that starts workers under any load at all, from SIGUSR2 on. A processor to spare, and a load that takes one,
are nothing that a test could arrange.
"""

from __future__ import annotations

import signal

from pyproxy import poller, workers
from pyproxy.__main__ import main


def _begin(*_: object) -> None:
    workers._TO_SPARE = workers._TO_SPARE_FOR_NEW = float("-inf")


poller._ROUNDS = 2
workers._WINDOW_S = 0
workers._SATURATED = -1
workers._TO_SPARE = workers._TO_SPARE_FOR_NEW = float("inf")
workers._IDLE_S = 0.1

if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _begin)
    main()
