"""The harness, as a load program sees it."""

from __future__ import annotations

from typing import Any, Protocol


class Harness(Protocol):
    """The harness, for sessions: it gives orders, and is to have an answer to each."""

    def fileno(self) -> int:
        """Readable when there is an order, or the session is to end."""

    def next_order(self) -> str | None:
        """Wait for an order; None means that the session is to end."""

    def answer(self, found: dict[str, Any]) -> None: ...
