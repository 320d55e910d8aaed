"""Our reward as TRL's online trainers call it: from token ids to numbers, with what was seen counted."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch.nn import Module
from transformers import TrainerCallback

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.policy.best_weights import BestWeights
from rlhf_hitl.policy.rewards import ProblemFinder, RewardFunction, refuse_unread, score_answers
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.policy.tuning_watch import TuningWatch
from rlhf_hitl.types import Prompt
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

#: After so many answers with one and the same reward there is a warning.
ANSWERS_BEFORE_WARNING = 32
#: The file in a checkpoint that keeps what was seen until then.
SEEN_FILE = "answers_seen.json"


@dataclass
class AnswersSeen:
    """Counts of the answers of all processes so far, and the mean and spread of their rewards (Welford's, merged as by
    Chan, Golub & LeVeque 1979).

    Attributes:
        empty: answers without text. unreadable: answers that the reward model cannot read, scored as empty ones.
        cut_off: answers that did not reach an EOS.
        mean, squares: of the rewards, and the sum of their squared deviations from it.
    """

    answers: int = 0
    empty: int = 0
    unreadable: int = 0
    cut_off: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.answers) if self.answers else 0.0

    def add(self, other: AnswersSeen) -> None:
        total = self.answers + other.answers
        if not other.answers:
            return
        difference = other.mean - self.mean
        self.squares += other.squares + difference**2 * self.answers * other.answers / total
        self.mean += difference * other.answers / total
        self.answers = total
        for name in ("empty", "unreadable", "cut_off"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, float]:
        return {
            "answers": self.answers,
            "empty_answers": self.empty,
            "unreadable_answers": self.unreadable,
            "cut_off_answers": self.cut_off,
            "reward_mean": self.mean,
            "reward_std": self.std,
        }


class RewardCallable:
    """A reward function for TRL's online trainers.

    Each answer is decoded and rendered as everywhere here, whatever the reward model's own tokenizer. An answer without
    text is scored like any other, and so is, as an empty one, what the reward model cannot read.

    Args:
        prompts: id → prompt, of all rows.
        reward: returns rewards of conversations.
        find_problem: returns why the reward model cannot read answers. None: it reads all.
        eos: the token ids that end an answer.
        watch: sees the answers, and says when to stop; `on_best` is called where no earlier step was better.
        missing_eos_penalty: subtracted from the reward of an answer that none of them ends, in standard deviations of
            the rewards so far: rewards have no unit that a fixed number would fit.
    """

    __name__ = "reward_model"  # TRL's name of its column of figures

    def __init__(
        self,
        prompts: Mapping[str, Prompt],
        reward: RewardFunction,
        find_problem: ProblemFinder | None,
        reader: PromptReader,
        eos: set[int],
        missing_eos_penalty: float,
        watch: TuningWatch | None = None,
    ):
        self.prompts, self.reward, self.find_problem = prompts, reward, find_problem
        self.reader, self.eos, self.missing_eos_penalty = reader, eos, missing_eos_penalty
        self.watch = TuningWatch(None, gather=gather_object) if watch is None else watch
        self.on_best: Callable[[], None] = lambda: None
        self.stopped: str | None = None
        self.seen = AnswersSeen()
        self._has_warned = False

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        prompt_id: Sequence[str],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """Return the rewards of this process's answers, less the penalty.

        Raises:
            BadInput: a reward is not a finite number, or the reward model has read none of the answers so far.
        """
        asked = [self.prompts[i] for i in prompt_id]
        texts = [self.reader.decode(ids, self.eos) for ids in completion_ids]
        rewards, unreadable = score_answers(asked, texts, self.reward, self.find_problem)
        if bad := int((~np.isfinite(rewards)).sum()):
            raise BadInput(
                f"{say_count(bad, 'reward')} of {len(rewards)} not finite",
                expected="a finite number for each answer",
                fix="check the reward model",
            )
        cut_off = np.array([not ids or ids[-1] not in self.eos for ids in completion_ids])
        empty = sum(not text for text in texts)
        here = AnswersSeen(len(texts), empty, int(unreadable.sum()), int(cut_off.sum()))
        here.mean = float(rewards.mean())
        here.squares = float(((rewards - here.mean) ** 2).sum())
        for of_process in gather_object([here]):  # in the order of the processes: all have the same figures
            self.seen.add(of_process)
        refuse_unread(self.seen.unreadable, self.seen.answers)
        self._warn_of_constant_rewards()
        log_metric("reward_before_penalty", here.mean)
        log_metric("ended", 1 - float(cut_off.mean()))
        log_metric("unreadable", float(unreadable.mean()))
        self._let_watch(asked, texts, rewards, [len(ids) for ids in completion_ids], log_metric)
        return (rewards - self.missing_eos_penalty * self.seen.std * cut_off).tolist()

    def _let_watch(
        self,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        rewards: np.ndarray,
        lengths: Sequence[int],
        log_metric: Callable[[str, float], None],
    ) -> None:
        figures = {"tokens": float(np.mean(gather_object(list(lengths))))}
        seen = self.watch.observe(prompts, texts, rewards, figures)
        for name, value in figures.items():
            log_metric(name, value)
        self.stopped = self.stopped or seen.stop
        if seen.is_best and self.stopped is None:
            self.on_best()

    def _warn_of_constant_rewards(self) -> None:
        seen = self.seen
        if self._has_warned or seen.answers < ANSWERS_BEFORE_WARNING or seen.std > 1e-6 * max(1.0, abs(seen.mean)):
            return
        self._has_warned = True
        said = f"all {seen.answers:,} answers so far have the reward {seen.mean:.4g}"
        log.warning("%s: nothing can be learnt from them. Check the reward model, or raise temperature", said)


class RewardKeeper(TrainerCallback):
    """Stops a training that the watch wants stopped, or whose KL explodes, and keeps in the checkpoints what reward and
    watch have seen, so that a resumed run goes on as if it had not been stopped.

    Args:
        max_kl: in nats an answer.
    """

    def __init__(self, reward: RewardCallable, max_kl: float):
        self.reward, self.max_kl = reward, max_kl
        self.best: BestWeights | None = None

    def watch_over(self, model: Module) -> None:
        """Keep the weights of the best step: of a model that is whole in each process."""
        self.best = BestWeights(model)
        self.reward.on_best = self.best.keep

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Hear of KL and entropy, which are known after the answers have been scored."""
        if not logs or ("kl" not in logs and "entropy" not in logs):
            return
        figures = {name: float(logs[name]) for name in ("kl", "entropy") if name in logs}
        if "kl" in figures:  # of a token
            figures["kl"] *= float(logs.get("completions/mean_length", 1.0))
        self.reward.watch.add_figures(figures)
        if not figures.get("kl", 0.0) <= self.max_kl and self.reward.stopped is None:
            kl = f"{figures['kl']:.1f} nats an answer, more than max_kl {self.max_kl:g}"
            self.reward.stopped = f"the KL from the reference is {kl}"
            control.should_training_stop = True

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.reward.stopped is not None:
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.reward.stopped is not None and self.best is not None:
            self.best.restore()

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            seen = {"answers": dataclasses.asdict(self.reward.seen), "watch": self.reward.watch.state_dict()}
            folder = self._find_folder(args, state)
            write_text_atomically(folder / SEEN_FILE, json.dumps(seen))
            if self.best is not None:
                self.best.save(folder)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step:
            folder = self._find_folder(args, state)
            seen = json.loads((folder / SEEN_FILE).read_text(encoding="utf-8"))
            self.reward.seen = AnswersSeen(**seen["answers"])
            self.reward.watch.load_state_dict(seen["watch"])
            if self.best is not None:
                self.best.load(folder)

    @staticmethod
    def _find_folder(args, state) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}"
