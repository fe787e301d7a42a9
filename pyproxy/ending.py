"""How a connection ends: half-close and reset, decided. Pure; `connection.py` obeys.

A connection has two directions, each with a source and a sink. What happened to one direction, and how the other
stands, decide what to do:

    this direction           other open         other ended   other cut
    END                      SHUT_DOWN, ended   CLOSE         RESET
    SINK_FAILED              DRAIN, cut         RESET         RESET
    SOURCE_FAILED            RESET              RESET         RESET

END: the source has finished. SOURCE_FAILED: the source was reset, or timed out. In both cases all that it said before
has been handed to the sink's kernel. SINK_FAILED: the sink was reset, so this direction is cut, but what the sink said
before may still lie in our kernel and belongs to the other end: drain it, then reset. The sink's error is told to us
once, on the write; a read that follows it looks like an orderly end, hence RESET in END's last column: a cut-off
transfer must never look complete.
"""

from __future__ import annotations

# How a direction stands.
OPEN, ENDED, CUT = range(3)

# What a relay reports. WAIT and MORE are no ending: nothing to do until the next event, or until the next turn.
WAIT, MORE, END, SOURCE_FAILED, SINK_FAILED = range(5)

# What to do.
SHUT_DOWN, CLOSE, RESET, DRAIN = range(4)


def decide(event: int, other: int) -> tuple[int, int]:
    """Return how this direction stands from now on, and what to do, given how the `other` direction stands."""
    if event == END and other != CUT:
        return ENDED, SHUT_DOWN if other == OPEN else CLOSE
    if event == SINK_FAILED and other == OPEN:
        return CUT, DRAIN
    return CUT, RESET
