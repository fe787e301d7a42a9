"""Who makes way for whom among the streams of one process: bulk takes short turns while an answer may come. Pure.

After a message, which is a read that leaves room in the buffer, the next turns of bulk are a few short ones: the
message's answer may come any time, and would wait for the end of a long turn, 0.3 ms. What comes from where bulk goes
is mostly the bulk's own answer, which waits for nobody.
"""

from __future__ import annotations

# Bytes that bulk moves in one turn before other connections get theirs. With 16 MiB bulk takes a twentieth less CPU, at
# the same rate, and an exchange beside it has p99 0.71 times docker-proxy's instead of 0.50 (bench/NOTES.md).
TURN_BYTES = 1 << 20

# Where client and container have a processor each, an exchange beside a bulk stream in the same process has a p50 of
# 145 us with these two, instead of 770 (docker-proxy's 115), and the stream 0.7 times docker-proxy's rate instead of
# 1.2; 64 KiB would make it 110 us and 0.5, more turns only cost (bench/NOTES.md).
SHORT_TURN_BYTES = 1 << 17
SHORT_TURNS = 4


class Fairness:
    """`bulk_sinks`: where bulk goes now, as any hashable. `turns_cut_short`: how many so far were."""

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
