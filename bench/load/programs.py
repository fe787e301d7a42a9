"""What runs on the client: the load programs by their names.

A program is a function whose arguments and result are JSON's. Those that stay stand ready with their connections open,
one program for each peer, and take turns: as the harness says. Contents are compared, counts are the receiver's.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.load.beside_bulk import beside_bulk
from bench.load.bulk import bulk
from bench.load.connect import connect
from bench.load.datagrams import burst, datagrams, sink
from bench.load.exchange import exchange
from bench.load.hold import fill, hold
from bench.load.knock import knock
from bench.load.ping import ping

PROGRAMS: dict[str, Callable[..., dict[str, float]]] = {
    "knock": knock,
    "fill": fill,
    "burst": burst,
}

# These do, and say, what they are asked, and end when they are let go.
STAYING: dict[str, Callable[..., None]] = {
    "exchange": exchange,
    "beside_bulk": beside_bulk,
    "connect": connect,
    "ping": ping,
    "hold": hold,
    "bulk": bulk,
    "datagrams": datagrams,
    "sink": sink,
}
