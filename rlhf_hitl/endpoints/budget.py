"""The budget of an endpoint or a judge: a request is sent only where the most it can cost still fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from rlhf_hitl.errors import RlhfHitlError

TOKENS_PER_PRICE = 1_000_000
#: An image is so many tokens at most with the usual models (tiles of 512 pixels, a large picture in full detail).
MOST_TOKENS_OF_IMAGE = 3000
#: What a chat template adds to the texts of a request, at most.
TOKENS_OF_TEMPLATE = 64


class BudgetReached(RlhfHitlError):
    """The next request could pass the budget."""


@dataclass
class Budget:
    """What was spent and may be spent. Used by several threads.

    Args:
        limit: the most that all calls together may cost; None: no limit.
        price_in, price_out: for a million tokens of prompts and of answers.
        spent: what earlier calls cost.
        fix: what to do where it is reached.
    """

    limit: float | None
    price_in: float
    price_out: float
    spent: float = 0.0
    fix: str = "give a higher budget"
    _reserved: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def compute_cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / TOKENS_PER_PRICE

    def reserve(self, most_prompt_tokens: int, most_completion_tokens: int) -> float | None:
        """Set aside the most that a request can cost, and return it.

        Returns None where it fits only once requests that are under way have cost less than they could: ask again.

        Raises:
            BudgetReached: it could pass the limit.
        """
        most = self.compute_cost(most_prompt_tokens, most_completion_tokens)
        with self._lock:
            if self.limit is not None and self.spent + most > self.limit:
                raise BudgetReached(
                    f"budget {self.limit:g}: {self.spent:.4g} is spent, and the next request may cost {most:.4g} "
                    f"(up to {most_prompt_tokens:,} tokens of the prompt, one for each of its bytes, and "
                    f"{most_completion_tokens:,} of the answer, at their prices). Fix: {self.fix}"
                )
            if self.limit is not None and self.spent + self._reserved + most > self.limit:
                return None
            self._reserved += most
        return most

    def settle(self, reserved: float, cost: float) -> None:
        """Give back what was set aside for a request, and count what it cost."""
        with self._lock:
            self._reserved -= reserved
            self.spent += cost


def bound_tokens(texts: list[str], images: int = 0) -> int:
    """Return how many tokens texts are at most: every token of a byte-level vocabulary is one byte or more."""
    return sum(len(text.encode()) + TOKENS_OF_TEMPLATE for text in texts) + images * MOST_TOKENS_OF_IMAGE
