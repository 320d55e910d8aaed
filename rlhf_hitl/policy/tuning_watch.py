"""Watches a tuning for reward hacking: a second reward model, the gold one, scores the same answers, and stops it.

It stops where what raises the reward is shown to lower the gold reward, or where gold has fallen while the reward rose.
Without a gold model nothing stops; what else gives hacking away (lengths, repeats, diversity, entropy, answers without
text) is measured at each step and warned of.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.rewards import ProblemFinder, RewardFunction, make_answer, make_readable
from rlhf_hitl.stats.over_optimisation import compare_means, measure_direction
from rlhf_hitl.store import Store
from rlhf_hitl.types import Prompt

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.reward.rendering import Conversation

log = logging.getLogger(__name__)

#: Returns the lists of all processes as one.
Gather = Callable[[list[Any]], list[Any]]

#: Standard errors from which on a direction, and a fall from the best of all windows, are taken for shown. They are
#: looked at in every step, and the best of many windows is best by luck, too: two would stop every long run.
SHOWN, FALLEN = 3.5, 5.0
#: Answers of a step that are compared with each other where each prompt has one.
GROUP = 4
#: What is warned of: figure → (the factor to its mean in the first window, what that looks like).
WARNED_OF = {
    "tokens": ((0.4, 2.5), "answers have {now:.0f} tokens, and had {was:.0f}"),
    "entropy": ((0.3, math.inf), "the entropy of a token is {now:.2f} nats, and was {was:.2f}"),
    "distinct": ((0.5, math.inf), "of all answers {now:.0%} are different from each other, and {was:.0%} were"),
}
#: What is warned of whatever it was before: figure → (the most of it, what that looks like).
TOO_MUCH = {
    "kl": (20.0, "answers are {now:.1f} nats from the reference"),
    "repeated": (0.3, "{now:.0%} of what answers say they have said before"),
    "empty": (0.5, "{now:.0%} of the answers have no text"),
}


@dataclass(frozen=True)
class WatchArguments:
    """Arguments of a training script: what watches it."""

    gold_reward_model: str = field(
        default="",
        metadata={
            "help": "Id or folder of a second reward model, which stops the tuning where its rewards fall while those "
            "of the first rise. Train it on other prompts: `train-reward --half`."
        },
    )
    watch_window: int = field(default=128, metadata={"help": "Answers over which the watch takes its means."})

    def __post_init__(self) -> None:
        if self.watch_window < 16:
            raise BadInput(f"watch_window {self.watch_window}", expected="16 or more", fix="raise watch_window")

    def open_watch(self, store: Store, proxy: RewardModel, gather: Gather = lambda own: own) -> TuningWatch:
        """Return the watch over a tuning on the rewards of `proxy`. Raises NotFound where the gold model is missing."""
        if not self.gold_reward_model:
            return TuningWatch(None, self.watch_window, gather)
        from rlhf_hitl.reward.registry import open_reward_model

        gold = open_reward_model(store, self.gold_reward_model, load_settings().workspace)
        if gold.id == proxy.id:
            raise BadInput(
                f"gold_reward_model {self.gold_reward_model}",
                expected="another model than reward_model: it would never disagree",
                fix="train one on other prompts: `rlhf-hitl train-reward --half second`",
            )
        if gold.seen is None or proxy.seen is None or gold.seen.train & proxy.seen.train:
            log.warning(
                "the gold model may have learnt from the same prompts as the other: what fools one may fool both"
            )

        def score(chats: Sequence[Conversation]) -> np.ndarray:
            # What the gold model cannot read, the other may have read: it stops no training.
            return gold.rewards(make_readable(chats, gold.find_problem)[0], keep=False)

        return TuningWatch(score, self.watch_window, gather, gold.id, gold.find_problem)


@dataclass(frozen=True)
class WatchedStep:
    """One step's answers of all processes. `gold` is empty without a gold model; `prompts` numbers the prompts."""

    rewards: list[float]
    gold: list[float]
    prompts: list[int]
    figures: dict[str, float]


@dataclass(frozen=True)
class Sighting:
    """What the watch says of a step: why to stop, if it is to stop, and whether no earlier step was better."""

    stop: str | None
    is_best: bool


class TuningWatch:
    """Sees the answers of each step, and says when to stop.

    Directions are told best from several answers to a prompt in a step: what differs between prompts raises reward and
    gold alike, and hides what differs between answers.

    All processes of a training have one, and hear the same.

    Args:
        gold: scores conversations; None: nothing stops the tuning.
        gather: makes one list of those of all processes.
        gold_model_id: whose scores they are, for the record.
        find_problem: says why the gold model cannot read answers to a prompt, for those that read prompts. None: it
            reads all.

    Attributes:
        warnings: what was warned of, each once.
    """

    def __init__(
        self,
        gold: RewardFunction | None,
        window: int = 128,
        gather: Gather = lambda own: own,
        gold_model_id: str | None = None,
        find_problem: ProblemFinder | None = None,
    ):
        self.gold, self.window, self.gather, self.gold_model_id = gold, window, gather, gold_model_id
        self.find_problem = find_problem
        self.warnings: list[str] = []
        self._steps: list[WatchedStep] = []
        self._best: tuple[int, int] | None = None  # the window with the most gold among those that have been compared
        self._compared = 0  # windows that end by here have been

    def observe(
        self,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        rewards: Sequence[float] | np.ndarray,
        figures: dict[str, float],
    ) -> Sighting:
        """Look at one step's answers of this process, and add what is measured to the step's figures.

        Args:
            texts: the answers; an empty one is an answer, too.
            rewards: (n,) what the tuning makes larger, in the reward model's units.
            figures: the step's, of all processes; `tokens`, `entropy` and `kl` among them are watched.
        """
        gold = self._score(prompts, texts)
        own = [
            (float(reward), of_gold, prompt.id, text)
            for reward, of_gold, prompt, text in zip(rewards, gold, prompts, texts)
        ]
        answers = self.gather(own)
        number = {name: i for i, name in enumerate(dict.fromkeys(prompt for _, _, prompt, _ in answers))}
        said = [text for *_, text in answers]
        figures |= {
            "empty": float(np.mean([not text.strip() for text in said])),
            "repeated": float(np.mean([measure_repetition(text) for text in said])),
            "distinct": len(set(said)) / len(said),
        }
        if self.gold is not None:
            figures["gold"] = float(np.mean([of_gold for _, of_gold, *_ in answers]))
        step = WatchedStep(
            [reward for reward, *_ in answers],
            [of_gold for _, of_gold, *_ in answers] if self.gold is not None else [],
            [number[prompt] for *_, prompt, _ in answers],
            {name: figures[name] for name in (*WARNED_OF, *TOO_MUCH) if name in figures},
        )
        self._steps.append(step)
        self._warn()
        return Sighting(None, True) if self.gold is None else self._judge(figures)

    def add_figures(self, figures: Mapping[str, float]) -> None:
        """Add to the newest step what is known of it only afterwards, such as its KL and entropy."""
        if self._steps:
            self._steps[-1].figures.update({name: figures[name] for name in (*WARNED_OF, *TOO_MUCH) if name in figures})

    def _score(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        if self.gold is None:
            return [0.0] * len(texts)
        scored = np.asarray(self.gold([make_answer(p, t) for p, t in zip(prompts, texts)]), dtype=float)
        if not np.isfinite(scored).all():
            raise BadInput("a gold reward that is no number", expected="finite numbers", fix="check gold_reward_model")
        return scored.tolist()

    def _judge(self, figures: dict[str, float]) -> Sighting:
        """Compare the newest window with what came before."""
        start = self._find_window_before(len(self._steps))
        if start is None:
            return Sighting(None, True)
        now = self._steps[start:]
        gold, reward = _join(now, "gold"), _join(now, "rewards")
        direction = measure_direction(reward, gold, self._number_groups(now))
        figures["gold_correlation"] = direction.correlation
        best = self._find_best_window(start)
        if direction.z < -SHOWN:
            found = f"correlation {direction.correlation:.2f} over the last {len(gold):,} answers"
            return Sighting(f"what raises the reward lowers the gold reward: {found}", False)
        if best is None:
            return Sighting(None, True)
        gold_then, reward_then = _join(best, "gold"), _join(best, "rewards")
        if compare_means(gold_then, gold) < -FALLEN and reward.mean() > reward_then.mean():
            fell = f"the gold reward fell from {gold_then.mean():.3f} to {gold.mean():.3f}"
            return Sighting(f"{fell} as the reward rose", False)
        return Sighting(None, bool(gold.mean() >= gold_then.mean()))

    def _number_groups(self, steps: Sequence[WatchedStep]) -> np.ndarray:
        """Return numbers of answers that are compared: those to one prompt in one step; or, where most prompts have one
        answer, some of a step, for then differences between prompts cannot be told from those between answers."""
        answers = sum(len(step.prompts) for step in steps)
        by_prompt = 2 * sum(len(set(step.prompts)) for step in steps) <= answers
        numbers = [
            (i, prompt if by_prompt else place // GROUP)
            for i, step in enumerate(steps)
            for place, prompt in enumerate(step.prompts)
        ]
        return np.unique(np.array(numbers), axis=0, return_inverse=True)[1].reshape(-1)

    def _find_window_before(self, end: int) -> int | None:
        """Return where the shortest run of steps begins that ends before `end` and has a window's answers."""
        answers = 0
        for start in reversed(range(end)):
            answers += len(self._steps[start].rewards)
            if answers >= self.window:
                return start
        return None

    def _find_best_window(self, end: int) -> list[WatchedStep] | None:
        """Return the window with the highest gold among those that end by `end`, which grows from call to call."""
        for stop in range(self._compared + 1, end + 1):
            start = self._find_window_before(stop)
            if start is not None and (
                self._best is None
                or _join(self._steps[start:stop], "gold").mean() > _join(self._steps[slice(*self._best)], "gold").mean()
            ):
                self._best = start, stop
        self._compared = max(self._compared, end)
        return None if self._best is None else self._steps[slice(*self._best)]

    def _warn(self) -> None:
        start = self._find_window_before(len(self._steps))
        if start is None:
            return
        ends = range(1, len(self._steps) + 1)
        first = self._steps[: next(i for i in ends if self._find_window_before(i) is not None)]
        now = self._steps[start:]
        for name, ((least, most), text) in WARNED_OF.items():
            was, is_now = _mean(first, name), _mean(now, name)
            if was is not None and is_now is not None and not least * was <= is_now <= most * was:
                self._say(name, text.format(now=is_now, was=was))
        for name, (most, text) in TOO_MUCH.items():
            is_now = _mean(now, name)
            if is_now is not None and is_now > most:
                self._say(name, text.format(now=is_now))

    def _say(self, about: str, text: str) -> None:
        if not any(warning.startswith(f"{about}: ") for warning in self.warnings):
            self.warnings.append(f"{about}: {text} (step {len(self._steps)})")
            log.warning("%s", self.warnings[-1])

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as plain JSON."""
        return {"steps": [asdict(step) for step in self._steps], "warnings": self.warnings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = [WatchedStep(**step) for step in state["steps"]]
        self.warnings = list(state["warnings"])


def _mean(steps: Sequence[WatchedStep], name: str) -> float | None:
    """Return the mean of a figure over the steps that have it; None where none has."""
    values = [step.figures[name] for step in steps if name in step.figures]
    return float(np.mean(values)) if values else None


def _join(steps: Sequence[WatchedStep], name: str) -> np.ndarray:
    return np.concatenate([getattr(step, name) for step in steps])


def measure_repetition(text: str, n: int = 3) -> float:
    """Return the share of a text's runs of `n` words that it has said before, 0 to 1; 0 for shorter texts.

    Welleck et al. 2020, "Neural text generation with unlikelihood training" (seq-rep-n). A text without spaces, such as
    a Chinese one, is read by its characters, `2 n` at a time.
    """
    words: Sequence[str] = text.split()
    if len(words) * 12 < len(text):
        words, n = text, 2 * n
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
