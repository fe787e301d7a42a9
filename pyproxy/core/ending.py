"""How a connection ends: half-close and reset, decided. Pure; `connection.py` obeys.

A connection has two directions, each with a source and a sink. What happened to one direction, and how the other
stands, decide what to do:

    this direction           other open         other ended        other cut
    END                      SHUT_DOWN, ended   CLOSE              FLUSH, cut
    SINK_FAILED              DRAIN, cut         FLUSH_BACK, cut    RESET
    SOURCE_FAILED            FLUSH, cut         FLUSH, cut         FLUSH, cut

END: the source has finished. SOURCE_FAILED: the source was reset, or timed out. In both cases all that it sent before
has been handed to the sink's kernel. SINK_FAILED: the sink was reset, so this direction is cut. What the sink sent
before may still be in our kernel, and belongs to the other end: DRAIN, then FLUSH.

The kernel reports the sink's error once, on the write; a read after that looks like an orderly end. Hence FLUSH in
END's last column: a cut-off transfer must never look complete.

FLUSH: reset both sides once the sink's far kernel has acknowledged all (`flush.py`). FLUSH_BACK: the same for the
source. The other direction has sent it everything, its end included, and as on a direct connection the source reads
that before it sees the reset.
"""

from __future__ import annotations

# How a direction stands.
OPEN, ENDED, CUT = range(3)

# What a relay reports: what it wants next, or how it has ended. READ: until its source is readable there is nothing to
# do. WRITE: the same for its sink. YIELD: there is more to do, after others have had their turn.
READ, WRITE, YIELD, END, SOURCE_FAILED, SINK_FAILED = range(6)
# What a direction wants that has ended, or has not begun: nothing.
CLOSED = 6

# What to do.
SHUT_DOWN, CLOSE, RESET, DRAIN, FLUSH, FLUSH_BACK = range(6)


def decide(event: int, other: int) -> tuple[int, int]:
    """Return how this direction stands from now on, and what to do, given how the `other` direction stands."""
    if event == END and other != CUT:
        return ENDED, SHUT_DOWN if other == OPEN else CLOSE
    if event == SINK_FAILED:
        return CUT, {OPEN: DRAIN, ENDED: FLUSH_BACK, CUT: RESET}[other]
    return CUT, FLUSH
