"""What a model cannot read: counted by obstacle, named by prompt, and refused or left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum

from rlhf_hitl.errors import BadInput
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

SHOWN_PROMPTS = 3  # prompts named where there are many


class Obstacle(StrEnum):
    """What keeps a model from reading the answers to a prompt."""

    NO_TEXT = "an answer without text"
    TEMPLATE = "the chat template refuses the conversation"
    NOTHING_LEFT = "the chat template leaves nothing of an answer"
    SAME_TOKENS = "the model reads answers that differ as the same tokens"
    SAME_WHEN_CUT = "answers differ only beyond the tokens that the model reads"
    IMAGES = "the model reads no images"
    TOO_LONG = "with its images a conversation is longer than the model reads"


#: What is left out and counted without being asked for: long texts are cut anyway, which is said as well.
NEVER_REFUSED = (Obstacle.SAME_WHEN_CUT,)


class Unreadable(BadInput):
    """The answers to a prompt cannot be read, for what `obstacle` says."""

    def __init__(self, obstacle: Obstacle, prompt_id: str, value: str, *, expected: str, fix: str):
        self.obstacle, self.prompt_id = obstacle, prompt_id
        super().__init__(value, expected=expected, fix=fix)

    def about(self, what: str) -> Unreadable:
        """Return the same, said of a comparison."""
        return Unreadable(self.obstacle, self.prompt_id, f"{what}, {self.value}", expected=self.expected, fix=self.fix)

    def as_list(self) -> list[str]:
        """Return it as a list for JSON, which a column of a dataset can hold."""
        return [self.obstacle.name, self.prompt_id, self.value, self.expected, self.fix]

    @classmethod
    def of_list(cls, fields: Sequence[str]) -> Unreadable:
        name, prompt_id, value, expected, fix = fields
        return cls(Obstacle[name], prompt_id, value, expected=expected, fix=fix)

    def __reduce__(self):  # it goes from one process to another
        return Unreadable.of_list, (self.as_list(),)


class LeftOut:
    """What was left out because a model cannot read it, by obstacle.

    Args:
        what: the thing that is counted, such as `pair`.
    """

    def __init__(self, what: str, problems: Sequence[Unreadable] = ()):
        self.what = what
        self._first: dict[Obstacle, Unreadable] = {}
        self._prompts: dict[Obstacle, list[str]] = {}
        self._counts: dict[Obstacle, int] = {}
        for problem in problems:
            self.add(problem)

    def add(self, problem: Unreadable) -> None:
        obstacle = problem.obstacle
        self._first.setdefault(obstacle, problem)
        self._counts[obstacle] = self._counts.get(obstacle, 0) + 1
        prompts = self._prompts.setdefault(obstacle, [])
        if len(prompts) < SHOWN_PROMPTS and problem.prompt_id not in prompts:
            prompts.append(problem.prompt_id)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def count(self, obstacle: Obstacle) -> int:
        return self._counts.get(obstacle, 0)

    def as_dict(self) -> dict[str, dict]:
        """Return obstacle → how many, the first prompts, and what was wrong with the first."""
        return {
            obstacle.name.lower(): {
                "count": n, "reason": obstacle.value, "prompts": self._prompts[obstacle],
                "first": str(self._first[obstacle]),
            }
            for obstacle, n in self._counts.items()
        }  # fmt: skip

    def lines(self, but: Obstacle | None = None) -> list[str]:
        """Return one line for each obstacle but one, for people."""
        return [
            f"{say_count(n, self.what)} left out: {self._explain(obstacle)}"
            for obstacle, n in self._counts.items()
            if obstacle is not but
        ]

    def refuse(self, total: int) -> None:
        """Raise BadInput where anything was left out of `total` things, with the commonest obstacle.

        What is in `NEVER_REFUSED` is no reason.
        """
        counts = {obstacle: n for obstacle, n in self._counts.items() if obstacle not in NEVER_REFUSED}
        if not counts:
            return
        obstacle = max(counts, key=lambda r: counts[r])
        first, n = self._first[obstacle], counts[obstacle]
        others = sum(counts.values()) - n
        raise BadInput(
            f"{n:,} of {say_count(total, self.what)} ({self._name_prompts(obstacle)}): {obstacle.value}",
            expected=first.expected,
            fix=f"{first.fix}; with --skip-bad (skip_bad) the rest goes on without"
            + (f" them and {others:,} more that cannot be read" if others else " them"),
        )

    def refuse_or_warn(self, total: int, *, skip_bad: bool) -> None:
        """Raise BadInput as `refuse` does, or with `skip_bad` log what was left out."""
        if not skip_bad:
            self.refuse(total)
        for line in self.lines():
            log.warning("%s", line)

    def _explain(self, obstacle: Obstacle) -> str:
        said = f", {self._first[obstacle].expected}" if obstacle is Obstacle.TEMPLATE else ""
        return f"{obstacle.value} ({self._name_prompts(obstacle)}{said})"

    def _name_prompts(self, obstacle: Obstacle) -> str:
        shown, n = self._prompts[obstacle], self._counts[obstacle]
        more = " and others" if n > len(shown) else ""
        return f"prompt{'s' if len(shown) > 1 else ''} {', '.join(shown)}{more}"
