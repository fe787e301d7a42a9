"""What runs on the client: the load programs by their names.

A program is a function whose arguments and result are JSON's. A program of one shot runs, and its result is its
answer. A session keeps its connections open, one session for each peer, and measures when the harness says so: peers
take turns. Contents are compared, counts are the receiver's.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.load.beside_bulk import beside_bulk
from bench.load.bulk import bulk
from bench.load.connect import connect
from bench.load.datagrams import burst, datagrams, sink
from bench.load.exchange import exchange
from bench.load.hold import fill, hold
from bench.load.ping import ping
from bench.load.probe import probe

ONE_SHOT: dict[str, Callable[..., dict[str, float]]] = {
    "probe": probe,
    "fill": fill,
    "burst": burst,
}

# These carry out one order after the other, answer each, and end when the harness says so.
SESSIONS: dict[str, Callable[..., None]] = {
    "exchange": exchange,
    "beside_bulk": beside_bulk,
    "connect": connect,
    "ping": ping,
    "hold": hold,
    "bulk": bulk,
    "datagrams": datagrams,
    "sink": sink,
}
