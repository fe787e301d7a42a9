"""The harness, as a load program sees it."""

from __future__ import annotations

from typing import Any, Protocol


class Harness(Protocol):
    """The harness, for programs that stay until they are told to end."""

    def fileno(self) -> int:
        """Readable when there is something to `heed`."""

    def heed(self) -> str | None:
        """Wait for a question or an order; None is to be let go."""

    def say(self, found: dict[str, Any]) -> None: ...
