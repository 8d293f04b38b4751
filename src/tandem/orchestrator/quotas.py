"""What is left of a project's quota while those who wait are looked at, one after the other."""

from __future__ import annotations

from tandem.orchestrator.resources import Amounts, minus


class Quota:
    """A project's books.

    Args:
        limit: The quota.
        unheld: What none of the project's jobs holds.
    """

    def __init__(self, limit: Amounts, unheld: dict[str, float]) -> None:
        self.limit = limit
        self.unheld = unheld
        self.left = unheld
        """What is for those who are still to be looked at."""
        self.first: str | None = None

    def take(self, amounts: Amounts) -> None:
        """One of the project's jobs starts."""
        self.unheld, self.left = minus(self.unheld, amounts), minus(self.left, amounts)
