"""The loop: one trip round the figure after another, each step done once, stopped and resumed at any point.

A round is a list of steps. A finished step leaves its result in the store; a loop that starts again skips what is
finished and goes on. A step that was cut off is done anew, so each step must bear being done twice.
"""

from __future__ import annotations

import math
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.simulate import review as let_simulated_raters_review
from rlhf_hitl.store import Store, queue
from rlhf_hitl.store.comparisons import insert_comparisons, list_prompts
from rlhf_hitl.store.judgments import read_judgments, store_revision
from rlhf_hitl.store.loop_steps import finish_step, read_finished_steps
from rlhf_hitl.store.reward_models import get_reward_model, list_reward_models
from rlhf_hitl.types import Completion, Prompt, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel


class LoopConfig(BaseModel):
    """What a round does and how much of it. `configs/loop.yaml` shows every field."""

    model_config = ConfigDict(extra="forbid")

    policy: str = "smollm2-135m-instruct"
    backbone: str = "smollm2-135m-instruct"
    prompts_per_round: int = Field(default=12, ge=1)
    completions_per_prompt: int = Field(default=4, ge=2)
    max_new_tokens: int = Field(default=32, ge=1)
    temperatures: tuple[float, ...] = Field(default=(0.7, 1.0), min_length=1)
    judgments_per_round: int = Field(default=160, ge=1)
    max_error: float = Field(default=0.2, gt=0, lt=1)
    delta: float = Field(default=0.1, gt=0, lt=1)
    control_share: float = Field(default=0.15, ge=0, le=1)
    dpo_pairs: int = Field(default=12, ge=0)  # 0: no DPO
    dpo_prompts: int = Field(default=6, ge=0)  # prompts sampled afresh for pairs of the reward model; 0: people's only
    ppo_steps: int = Field(default=2, ge=0)  # 0: no PPO
    ppo_rollouts: int = Field(default=8, ge=2)
    gate_prompts: int = Field(default=6, ge=1)
    seed: int = 0


@dataclass(frozen=True)
class Waiting:
    """What a round without simulated raters waits for."""

    round: int
    done: int
    wanted: int

    def __str__(self) -> str:
        return f"round {self.round}: {self.done} of {self.wanted} judgments; raters make them at `rlhf-hitl serve`"


class Loop:
    """Runs rounds on a store.

    Args:
        waits: called while people are at work, again and again; None: simulated raters do the work.
        tells: called with a line for each step that begins or was finished before.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        config: LoopConfig,
        *,
        waits: Callable[[Waiting], None] | None,
        tells: Callable[[str], None],
    ):
        self.store, self.settings, self.config, self.waits, self.tells = store, settings, config, waits, tells
        self.round = 0
        self._models: dict[str, RewardModel] = {}
        self.steps: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("sample", self.sample),
            ("route", self.route),
            ("review", self.review),
            ("train_reward", self.train_reward),
            ("evaluate", self.evaluate),
            ("dpo", self.dpo),
            ("ppo", self.ppo),
            ("promote", self.promote),
        ]

    def run(self, rounds: int) -> dict[tuple[int, str], dict[str, Any]]:
        """Run until `rounds` rounds are finished in this store; returns every step's result."""
        for self.round in range(1, rounds + 1):
            for name, step in self.steps:
                if (self.round, name) in read_finished_steps(self.store):
                    self._refuse_other_settings(name)
                    continue
                self.tells(f"round {self.round}: {name}")
                start = time.monotonic()
                result = step()
                # A wait for people is theirs, not the machine's.
                seconds = result.pop("machine_seconds", time.monotonic() - start)
                last = name == self.steps[-1][0]
                finish_step(self.store, self.round, name, result, seconds, last=last)
        return read_finished_steps(self.store)

    # The steps, in order. Each returns what later steps and the report need.

    def sample(self) -> dict[str, Any]:
        """The policy answers prompts of every split; its answers become comparisons."""
        from rlhf_hitl.policy.sampled_comparisons import make_comparisons

        prompts = self._drawn_prompts()
        policy = self.policy()
        completions = self._sampled(policy, prompts)
        found = make_comparisons(prompts, completions)
        with self.store.write() as conn:
            new = insert_comparisons(self.store, conn, found, source=f"round {self.round}")
        counts = {"prompts": len(prompts), "completions": len(completions), "comparisons": new}
        return {"settings": self.config.model_dump(mode="json"), "policy": policy} | counts

    def route(self) -> dict[str, Any]:
        """The newest reward model, where there is one, scores what nobody has judged and routes it."""
        from rlhf_hitl.routing.router import Policy, route_pool, score_pool

        begins = store_revision(self.store)
        model = self._reward_model(self.round - 1)
        if model is None:
            return {"begins": begins, "reason": "no reward model yet: raters judge everything"}
        scored = score_pool(self.store, model)
        policy = Policy(self.config.max_error, self.config.delta, self.config.control_share)
        routed = route_pool(self.store, model, policy, round=self.round)
        return {
            "begins": begins,
            "reward_model_id": model.id,
            "scored": scored.n,
            "without_text": scored.without_text,
            "routes": routed.counts,
            "reason": routed.threshold.reason,
        }

    def review(self) -> dict[str, Any]:
        """Raters judge, most informative first, until the round has its judgments or the queue is empty."""
        begins = self._result("route")["begins"]
        wanted = self.config.judgments_per_round
        if self.waits is None:
            left = wanted - self._judgments_since(begins)
            let_simulated_raters_review(self.store, left)
        else:
            while (done := self._judgments_since(begins)) < wanted and self._has_work():
                self.waits(Waiting(self.round, done, wanted))
        return {"judgments": self._judgments_since(begins), "wanted": wanted, "machine_seconds": 0.0}

    def train_reward(self) -> dict[str, Any]:
        """All human labels of the train split so far teach a new head."""
        from rlhf_hitl.reward.features import Backbone
        from rlhf_hitl.reward.training.train import train_head

        model = train_head(self.store, Backbone(self.config.backbone), self.settings.workspace)
        self._models[model.id] = model
        return {"reward_model_id": model.id, "path": str(self.settings.workspace / "reward" / model.id), **model.card}

    def evaluate(self) -> dict[str, Any]:
        """The new reward model is replayed on held-out labels, where there are any."""
        from rlhf_hitl.reward import evaluation_record, model_card
        from rlhf_hitl.reward.evaluation.evaluate import NothingToReplay, evaluate

        model = self._reward_model(self.round)
        assert model is not None, "train_reward comes before"
        name = f"round-{self.round}-{model.id}"
        try:
            found, examples = evaluate(model, self.store, name=name)
        except NothingToReplay as e:
            return {"n": 0, "reason": str(e)}
        evaluation_record.save(self.settings.workspace / "evaluations" / name, found, examples)
        model_card.note(Path(get_reward_model(self.store, model.id).path), found)
        return found.as_dict()

    def dpo(self) -> dict[str, Any]:
        """DPO on people's pairs, and on pairs the reward model makes of answers sampled for this alone."""
        from rlhf_hitl.policy.dpo import DPOSettings, train_dpo
        from rlhf_hitl.policy.dpo_pairs import collect_dpo_pairs

        if not self.config.dpo_pairs:
            return {"policy": self.policy(), "reason": "switched off"}
        prompts = list_prompts(self.store, split=Split.TRAIN)
        random.Random(self._seed()).shuffle(prompts)
        fresh = self._sampled(self.policy(), prompts[: self.config.dpo_prompts]) if self.config.dpo_prompts else []
        model = self._reward_model(self.round)
        pairs = collect_dpo_pairs(self.store, model, fresh, limit=self.config.dpo_pairs, seed=self._seed())
        out = self._folder("dpo")
        settings = DPOSettings(policy=self.policy(), out=str(out), max_length=512)
        result = train_dpo(settings, pairs)
        return {"policy": str(out), "pairs": len(pairs), **result}

    def ppo(self) -> dict[str, Any]:
        """PPO from where DPO ended, with the reward model as the judge."""
        from rlhf_hitl.policy.ppo import train_ppo
        from rlhf_hitl.policy.ppo_config import PPOConfig

        start = self._result("dpo")["policy"]
        if not self.config.ppo_steps:
            return {"policy": start, "reason": "switched off"}
        model = self._reward_model(self.round)
        assert model is not None, "train_reward comes before"
        out = self._folder("ppo")
        config = PPOConfig(
            policy=start,
            out=str(out),
            steps=self.config.ppo_steps,
            rollouts=self.config.ppo_rollouts,
            minibatch=self.config.ppo_rollouts,
            microbatch=math.gcd(self.config.ppo_rollouts, 4),
            max_new_tokens=self.config.max_new_tokens,
            seed=self._seed(),
        )
        prompts = list_prompts(self.store, split=Split.TRAIN)
        result = train_ppo(config, prompts, lambda chats: model.rewards(chats, keep=False))
        return {"policy": str(out), "steps": len(result.history), "last": result.history[-1]}

    def promote(self) -> dict[str, Any]:
        """The tuned policy takes over where its answers to held-out prompts are worth more than its predecessor's.

        The judge is the reward model it was tuned on, so this gate stops a broken policy, not an over-optimised one:
        that takes raters.
        """
        from rlhf_hitl.policy.generation import sample_completions
        from rlhf_hitl.policy.sampling import Sampling

        before, after = self.policy(), self._result("ppo")["policy"]
        if before == after:
            return {"policy": before, "promoted": False, "reason": "nothing was tuned"}
        model = self._reward_model(self.round)
        assert model is not None, "train_reward comes before"
        prompts = list_prompts(self.store, split=Split.HELDOUT)
        random.Random(self._seed()).shuffle(prompts)
        prompts = prompts[: self.config.gate_prompts]
        sampling = Sampling(temperature=0.7, max_new_tokens=self.config.max_new_tokens, seed=self._seed())
        by_id = {p.id: p for p in prompts}
        means: list[float | None] = []  # None: a policy that answers nothing
        for policy in (before, after):
            completions = sample_completions(policy, prompts, [sampling])
            chats = [(by_id[c.prompt_id].messages, c.messages) for c in completions if c.text.strip()]
            means.append(float(model.rewards(chats, keep=False).mean()) if chats else None)
        promoted = means[1] is not None and (means[0] is None or means[1] > means[0])
        return {
            "policy": after if promoted else before,
            "promoted": promoted,
            "heldout_reward_before": means[0],
            "heldout_reward_after": means[1],
            "prompts": len(prompts),
        }

    def policy(self) -> str:
        """The policy this round starts from: the last one promoted."""
        before = read_finished_steps(self.store).get((self.round - 1, "promote"))
        return before["policy"] if before else self.config.policy

    def _drawn_prompts(self) -> list[Prompt]:
        """Prompts of this round: each split in its own share, at random, the same on every run."""
        drawn = []
        for split in Split:
            prompts = list_prompts(self.store, split=split)
            random.Random(f"{self._seed()}:{split}").shuffle(prompts)
            share = len(prompts) / max(1, len(list_prompts(self.store)))
            drawn += prompts[: max(1, round(self.config.prompts_per_round * share))]
        if not drawn:
            raise BadInput(
                f"store {self.store.safe_url} with 0 prompts",
                expected="prompts to answer",
                fix="run `rlhf-hitl quickstart --no-serve` or `rlhf-hitl import`",
            )
        return drawn

    def _reward_model(self, round: int) -> RewardModel | None:
        """The reward model that a round trained; before the first, the newest in the store, if there is one."""
        from rlhf_hitl.reward.model import load

        trained = read_finished_steps(self.store).get((round, "train_reward"))
        if trained is None:
            known = list_reward_models(self.store)
            if not known:
                return None
            record = known[-1]
        else:
            record = get_reward_model(self.store, trained["reward_model_id"])
        if record.id not in self._models:
            self._models[record.id] = load(record.path, self.settings.workspace / "features")
        return self._models[record.id]

    def _result(self, step: str) -> dict[str, Any]:
        return read_finished_steps(self.store)[self.round, step]

    def _judgments_since(self, revision: int) -> int:
        return sum(
            not j.source
            for j in read_judgments(self.store, after=revision, current=False, repeats=False)
            if not j.supersedes
        )

    def _has_work(self) -> bool:
        return any(lane.leased or (lane.free and not lane.paused) for lane in queue.by_lane(self.store))

    def _sampled(self, policy: str, prompts: list[Prompt]) -> list[Completion]:
        """`completions_per_prompt` answers to each prompt, shared among the temperatures."""
        from rlhf_hitl.policy.generation import sample_completions
        from rlhf_hitl.policy.sampling import share_among_temperatures

        samplings = share_among_temperatures(
            self.config.temperatures,
            self.config.completions_per_prompt,
            max_new_tokens=self.config.max_new_tokens,
            seed=self._seed(),
        )
        return sample_completions(policy, prompts, samplings)

    def _folder(self, step: str) -> Path:
        """A new folder for a step's policy: never one that another store, loop or try has written to."""
        return self.settings.workspace / "policies" / f"round-{self.round}-{step}-{uuid.uuid4().hex[:8]}"

    def _refuse_other_settings(self, step: str) -> None:
        """A round that was begun under other settings is not finished under these."""
        if step != "sample" or (self.round, self.steps[-1][0]) in read_finished_steps(self.store):
            return
        begun, now = self._result("sample")["settings"], self.config.model_dump(mode="json")
        if changed := [k for k in now if begun.get(k) != now[k]]:
            raise BadInput(
                f"{changed[0]} = {now[changed[0]]!r} in round {self.round}",
                expected=f"{begun.get(changed[0])!r}, as the round was begun with",
                fix="finish the round with the old settings; new ones can begin with the next round",
            )

    def _seed(self) -> int:
        return self.config.seed * 1000 + self.round
