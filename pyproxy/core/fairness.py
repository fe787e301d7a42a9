"""How bulk and messages share one process: bulk takes short turns while the answer to a message may come. Pure.

A message is a read that leaves room in the buffer. The next few turns of bulk after a message are short: the answer may
come at any time, and would wait for the end of a long turn, 0.3 ms. A message from a socket that receives bulk has no
such effect: mostly it answers that bulk, and nobody waits for it.
"""

from __future__ import annotations

# Bytes that bulk moves in one turn before other connections get theirs. With 16 MiB bulk takes a twentieth less CPU, at
# the same rate, and an exchange beside it has p99 0.71 times docker-proxy's instead of 0.50 (bench/NOTES.md).
TURN_BYTES = 1 << 20

# An exchange beside a bulk stream in the same process, where client and container have a processor each, and that
# stream's rate, to docker-proxy's (bench/NOTES.md). More than four turns only cost.
#
#     short turns     p50       rate
#     none            770 us    1.2
#     of 128 KiB      145 us    0.7
#     of 64 KiB       110 us    0.5
#     docker-proxy    115 us    1
SHORT_TURN_BYTES = 1 << 17
SHORT_TURNS = 4


class Fairness:
    """`bulk_sinks`: what receives bulk now, any hashables. `turns_cut_short`: how many turns have been, so far."""

    __slots__ = ("bulk_sinks", "short_turns_left", "turns_cut_short")

    def __init__(self) -> None:
        self.bulk_sinks: set[object] = set()
        self.short_turns_left = 0
        self.turns_cut_short = 0

    def message_read(self, source: object) -> None:
        """A read from `source` has left room in the buffer."""
        if source not in self.bulk_sinks:
            self.short_turns_left = SHORT_TURNS

    def turn_bytes(self) -> int:
        """How much the turn of bulk that begins now may move."""
        if not self.short_turns_left:
            return TURN_BYTES
        self.short_turns_left -= 1
        return SHORT_TURN_BYTES

    def turn_used_up(self, turn_bytes: int) -> None:
        """A turn of bulk has moved all that it might."""
        if turn_bytes < TURN_BYTES:
            self.turns_cut_short += 1
