"""Errors that say why asking stopped. All earlier answers are in the journal, and the same call goes on from there."""

from __future__ import annotations


class AskingError(Exception):
    """Base of the errors that stop the asking of models."""


class EndpointError(AskingError):
    """The endpoint cannot be asked at all: no key, a wrong key, no money, or only failures."""


class JournalError(AskingError):
    """The journal is damaged, or another process writes to it."""


class BudgetSpent(AskingError):  # noqa: N818
    """The next request could cost more than is left of the budget.

    Args:
        spent_usd: what was paid, plus the worst case of requests whose answers were never received.
        next_usd: the worst case of the next request.
        left: how many requests are not asked yet.
    """

    def __init__(self, spent_usd: float, budget_usd: float, next_usd: float, left: int = 0) -> None:
        super().__init__(spent_usd, budget_usd, next_usd, left)
        self.spent_usd, self.budget_usd, self.next_usd, self.left = spent_usd, budget_usd, next_usd, left

    def __str__(self) -> str:
        return (
            f"the budget is spent: {self.spent_usd:.4f} of {self.budget_usd:.4f} USD, and the next request may cost "
            f"{self.next_usd:.4f}; {self.left} requests of this step are not asked yet. What was answered is kept: "
            "raise budget_usd and run the same command again"
        )


class LimitReached(AskingError):  # noqa: N818
    """The allowed number of new requests was reached. ``left``: how many are not asked yet."""

    def __init__(self, limit: int, left: int = 0) -> None:
        super().__init__(limit, left)
        self.limit, self.left = limit, left

    def __str__(self) -> str:
        return (
            f"asked {self.limit} new requests, as --limit says; {self.left} of this step are not asked yet. What was answered is "
            "kept: run the same command again to go on"
        )
