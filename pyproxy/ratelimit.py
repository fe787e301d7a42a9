"""How often a message of one kind may be said: a refusing backend is worth a line, not a flood. Pure."""

from __future__ import annotations

# One line per kind in this time. A guess: short enough that a person who watches the log sees that it goes on,
# long enough that a flood of a thousand refusals a second is six lines a minute.
INTERVAL_S = 10.0


class RateLimit:
    """Lets the first message of a kind through, then one per `interval_s`, and says how many it held back."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._said: dict[str, tuple[float, int]] = {}

    def admit(self, kind: str, now: float) -> int | None:
        """None: hold this one back. Else: say it; the number is how many like it were held back since the last."""
        said = self._said.get(kind)
        if said is not None and now - said[0] < self._interval_s:
            self._said[kind] = (said[0], said[1] + 1)
            return None
        self._said[kind] = (now, 0)
        return said[1] if said is not None else 0
