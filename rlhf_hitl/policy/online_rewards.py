"""Our reward as TRL's online trainers call it: from token ids to numbers, with what was seen counted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.nn import Module
from transformers import TrainerCallback

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.policy.best_weights import BestWeights
from rlhf_hitl.policy.reward_scale import RewardScale
from rlhf_hitl.policy.rewards import ProblemFinder, RewardFunction, refuse_unread, score_answers
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.policy.tuning_watch import TuningWatch
from rlhf_hitl.types import Prompt
from rlhf_hitl.wording import say_count

#: What is counted of answers: fields of `AnswersSeen`.
COUNTS = ("answers", "empty", "unreadable", "cut_off")
#: The file in a checkpoint that keeps what was seen until then.
SEEN_FILE = "answers_seen.json"


@dataclass
class AnswersSeen:
    """Counts of the answers of all processes and steps so far, and the scale of their rewards.

    Attributes:
        empty: answers without text. unreadable: answers that the reward model cannot read, scored as empty ones.
        cut_off: answers that did not reach an EOS.
    """

    answers: int = 0
    empty: int = 0
    unreadable: int = 0
    cut_off: int = 0
    scale: RewardScale = field(default_factory=RewardScale)

    def as_dict(self) -> dict[str, float]:
        return {
            "answers": self.answers,
            "empty_answers": self.empty,
            "unreadable_answers": self.unreadable,
            "cut_off_answers": self.cut_off,
            "reward_mean": self.scale.mean,
            "reward_std": self.scale.deviation,
        }


class RewardCallable:
    """A reward function for TRL's online trainers, in standard deviations of the rewards so far (`RewardScale`).

    TRL's RLOO subtracts `beta` x KL from the reward, and rewards have no unit that one `beta` would fit.

    Each answer is decoded and rendered as everywhere here, whatever the reward model's own tokenizer. An answer without
    text is scored like any other, and so is, as an empty one, what the reward model cannot read.

    Args:
        prompts: id → prompt, of all rows.
        reward: returns rewards of conversations.
        find_problem: returns why the reward model cannot read answers. None: it reads all.
        eos: the token ids that end an answer.
        watch: sees the answers, and says when to stop; `on_best` is called where no earlier step was better.
        missing_eos_penalty: subtracted from the reward of an answer that none of them ends, in standard deviations.
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

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        prompt_id: Sequence[str],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """Return the rewards of this process's answers in standard deviations, less the penalty.

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
        counts = np.array([len(texts), sum(not text for text in texts), unreadable.sum(), cut_off.sum()])
        # In the order of the processes: all have the same figures.
        for name, n in zip(COUNTS, np.sum(gather_object([counts]), axis=0).tolist()):
            setattr(self.seen, name, getattr(self.seen, name) + n)
        refuse_unread(self.seen.unreadable, self.seen.answers)
        self.seen.scale.add(torch.tensor(gather_object(rewards.tolist()), dtype=torch.float64), lambda own: own)
        log_metric("reward_before_penalty", float(rewards.mean()))
        log_metric("ended", 1 - float(cut_off.mean()))
        log_metric("unreadable", float(unreadable.mean()))
        self._let_watch(asked, texts, rewards, [len(ids) for ids in completion_ids], log_metric)
        scaled = self.seen.scale.scale(torch.from_numpy(rewards)).numpy()
        return (scaled - self.missing_eos_penalty * cut_off).tolist()

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


class RewardKeeper(TrainerCallback):
    """Stops a training that the watch wants stopped, or whose KL explodes, and keeps in the checkpoints what reward and
    watch have seen, so that a resumed run goes on as if it had not been stopped.

    Args:
        max_kl: in nats an answer.
    """

    def __init__(self, reward: RewardCallable, max_kl: float):
        self.reward, self.max_kl = reward, max_kl
        self.best: BestWeights | None = None
        self._candidate: BestWeights | None = None  # of the best step so far, whose KL is not known yet

    def watch_over(self, model: Module) -> None:
        """Keep the weights of the best step, at first those of now: of a model that is whole in each process."""

        def propose() -> None:
            self._candidate = BestWeights(model)

        propose()
        self._accept()
        self.reward.on_best = propose

    def _accept(self) -> None:
        """Keep the candidate."""
        self.best, self._candidate = self._candidate or self.best, None

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Hear of KL and entropy, which are known after the answers have been scored."""
        if not logs or "loss" not in logs:  # the summary at the end of a training
            return
        figures = {name: float(logs[name]) for name in ("kl", "entropy") if name in logs}
        if "kl" in figures:  # of a token
            figures["kl"] *= float(logs.get("completions/mean_length", 1.0))
        self.reward.watch.add_figures(figures)
        if figures.get("kl", 0.0) <= self.max_kl:
            self._accept()
            return
        self._candidate = None
        control.should_training_stop = True
        kl = f"{figures['kl']:.1f} nats an answer, more than max_kl {self.max_kl:g}"
        self.reward.stopped = self.reward.stopped or f"the KL from the reference is {kl}"

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.reward.stopped is not None:
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self.reward.stopped is not None and self.best is not None:
            self._accept()  # steps that were not logged, and no KL that was too large
            self.best.restore()

    def on_save(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            seen = {"answers": dataclasses.asdict(self.reward.seen), "watch": self.reward.watch.state_dict()}
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_text_atomically(folder / SEEN_FILE, json.dumps(seen))
            if self.best is not None:
                self.best.save(folder)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if not args.resume_from_checkpoint:
            return
        folder = Path(args.resume_from_checkpoint)
        seen = json.loads((folder / SEEN_FILE).read_text(encoding="utf-8"))
        scale = RewardScale(**seen["answers"].pop("scale"))
        self.reward.seen = AnswersSeen(**seen["answers"], scale=scale)
        self.reward.watch.load_state_dict(seen["watch"])
        if self.best is not None:
            self.best.load(folder)
