"""The ten steps of a round of the loop. Each returns what later steps and the report need, as a JSON object."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.checks import check_raters
from rlhf_hitl.labels.kept_fits import fit_and_keep_labels
from rlhf_hitl.loop import tuning
from rlhf_hitl.loop.config import LoopConfig
from rlhf_hitl.loop.progress import PromotionProgress, ReviewProgress
from rlhf_hitl.loop.reward_model_cache import RewardModelCache
from rlhf_hitl.simulate import judge_queue
from rlhf_hitl.store import Store, queue
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons, list_prompts
from rlhf_hitl.store.judgments import read_judgments, read_store_revision
from rlhf_hitl.store.loop_steps import read_finished_steps
from rlhf_hitl.store.promotions import Promotion, list_comparisons_of_promotions
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.store.runs import record_run
from rlhf_hitl.types import Comparison, Completion, Prompt, Split

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel
    from rlhf_hitl.routing.pairing import ChosenPairs


class RoundSteps:
    """The steps of one round, as methods in the order in which they are done.

    Args:
        on_wait: called again and again while raters are at work; None lets simulated raters do the work.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        config: LoopConfig,
        round: int,
        reward_models: RewardModelCache,
        on_wait: Callable[[ReviewProgress | PromotionProgress], None] | None,
    ):
        self.store, self.settings, self.config, self.round = store, settings, config, round
        self.reward_models, self.on_wait = reward_models, on_wait
        self.seed = config.seed * 1000 + round

    def sample(self) -> dict[str, Any]:
        """Let the policy answer prompts of every split, and make comparisons of its answers."""
        from rlhf_hitl.policy.lineage import record_sources
        from rlhf_hitl.policy.sampled_comparisons import make_comparisons
        from rlhf_hitl.policy.sources import find_policy

        prompts = self._choose_prompts()
        policy, begins = self._find_starting_policy(), read_store_revision(self.store)
        source = f"round {self.round}"
        if (comparisons := list(find_comparisons(self.store, source=source))) == []:
            completions = self._sample_completions("sample", policy, prompts).completions
            record_sources(self.store, [find_policy(policy)])
            sampled = make_comparisons(prompts, completions, chosen=self._choose_pairs(prompts, completions))
            with self.store.write() as conn:
                insert_comparisons(self.store, conn, sampled, source=source)
            comparisons = list(find_comparisons(self.store, source=source))
        self._delete_journal("sample")
        # Of a loop that was killed before its store knew that this was done, judgments may be there already.
        if comparisons:
            begins = min(begins, self._find_first_judgment(comparisons) - 1)
        compared = {c.id for of in comparisons for c in of.completions}
        counts = {"prompts": len(prompts), "completions": len(compared), "comparisons": len(comparisons)}
        return {"settings": self.config.model_dump(mode="json"), "policy": policy, "begins": begins} | counts

    def route(self) -> dict[str, Any]:
        """Score and route what nobody has judged, with the newest reward model if there is one."""
        from rlhf_hitl.routing.router import RoutingConfig, route_pool
        from rlhf_hitl.routing.rules import RoutingRules
        from rlhf_hitl.routing.rules_file import load_rules
        from rlhf_hitl.routing.scoring import score_pool

        model = self.reward_models.get(self.round - 1)
        if model is None:
            return {"reason": "no reward model yet: raters judge everything"}
        scoring = score_pool(self.store, model)
        rules = RoutingRules() if self.config.routing is None else load_rules(self.config.routing, "routing:")
        # What the loop is told comes before what the rules say, and that before the loop's defaults.
        shares = ("max_error", "delta", "control_share")
        told = [name for name in shares if name in self.config.model_fields_set or getattr(rules, name) is None]
        config = RoutingConfig.from_rules(
            rules,
            **{name: getattr(self.config, name) for name in told},
            audit_share=self.config.audit_share,
            acquisition=self.config.acquisition,
            judges=self.config.judges,
            batch=self.config.judgments_per_round,
        )
        routing = route_pool(self.store, model, config, round=self.round)
        return {
            "reward_model_id": model.id,
            "scored": len(routing.decisions),  # by this attempt, or by one that was stopped
            "without_text": scoring.without_text,
            "left_out": scoring.left_out.as_dict(),
            "routes": routing.counts,
            "by_rule": routing.by_rule,
            "reason": routing.threshold.reason,
            "halted": list(routing.halted),
            "demanded": {name: of.reason for name, of in routing.demanded.items()},
            "advice": routing.threshold.advice,
            "acquisition": routing.gains.as_dict(),
            "judges_unheard": routing.acceptance.unheard,
            "confirmed": routing.confirmed,
        }

    def review(self) -> dict[str, Any]:
        """Let raters judge, most informative first, until there are enough or none is left."""
        # A round that an earlier version began counts from its routing.
        begins = self._read_result("sample" if "begins" in self._read_result("sample") else "route")["begins"]
        wanted = self.config.judgments_per_round
        if self.on_wait is None:
            judge_queue(self.store, wanted - self._count_judgments_since(begins))
        else:
            while (done := self._count_judgments_since(begins)) < wanted and self._has_open_places():
                self.on_wait(ReviewProgress(self.round, done, wanted))
        return {"judgments": self._count_judgments_since(begins), "wanted": wanted, "machine_seconds": 0.0}

    def label(self) -> dict[str, Any]:
        """Check the raters and fit the label model to all votes, for the queue and the pages."""
        findings = check_raters(self.store)  # first, for they decide how much votes weigh
        fit = fit_and_keep_labels(self.store, "raters")
        return {"findings": len(findings), "labels": fit.figures["labels"], "votes": fit.figures["votes"]}

    def train_reward(self) -> dict[str, Any]:
        """Train a new head on all human labels of the train split so far."""
        from rlhf_hitl.reward.backbone import Backbone
        from rlhf_hitl.reward.training.head_training import train_head

        model = train_head(
            self.store,
            Backbone(self.config.backbone),
            self.settings.workspace,
            skip_bad=self.config.skip_bad,
            label_model=self.config.label_model,
        )
        self.reward_models.add(model)
        return {"reward_model_id": model.id, "path": str(self.settings.workspace / "reward" / model.id), **model.card}

    def evaluate(self) -> dict[str, Any]:
        """Replay the new reward model on held-out labels, if there are any."""
        from rlhf_hitl.reward import model_card
        from rlhf_hitl.reward.evaluation.evaluate import NoLabelsToEvaluate, evaluate_reward_model
        from rlhf_hitl.reward.evaluation.storage import save_evaluation

        model = self._require_trained_model()
        name = f"round-{self.round}-{model.id}"
        try:
            evaluation, examples = evaluate_reward_model(
                model, self.store, name=name, label_model=self.config.label_model
            )
        except NoLabelsToEvaluate as e:
            return {"n": 0, "reason": str(e)}
        save_evaluation(self.settings.workspace / "evaluations" / name, evaluation, examples)
        model_card.add_evaluation_to_card(get_reward_model(self.store, model.id), evaluation)
        return evaluation.as_dict()

    def gate(self) -> dict[str, Any]:
        """Say whether the policy may be tuned on the new reward model: not where its held-out accuracy is shown to be
        below what the settings ask for."""
        evaluation, least = self._read_result("evaluate"), self.config.gate_accuracy
        if not evaluation["n"]:
            return {"passed": True, "reason": f"nothing shows how good the reward model is: {evaluation['reason']}"}
        accuracy = evaluation["accuracy"]
        passed = accuracy["high"] >= least
        said = f"held-out accuracy {accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%})"
        verdict = "not shown to be" if passed else "shown to be"
        return {"passed": passed, "reason": f"{said}, {verdict} below {least:.1%}"}

    def tune_with_dpo(self) -> dict[str, Any]:
        """Tune the policy on people's pairs and on pairs the reward model makes of completions sampled for this."""
        policy = self._find_starting_policy()
        if (reason := self._find_obstacle(self.config.dpo_pairs)) is not None:
            return {"policy": policy, "reason": reason}
        prompts = list_prompts(self.store, split=Split.TRAIN)
        random.Random(self.seed).shuffle(prompts)
        asked = prompts[: self.config.dpo_prompts]
        fresh = self._sample_completions("dpo", policy, asked) if asked else None
        name_folder, model = partial(self._name_policy_folder, "dpo"), self.reward_models.get(self.round)
        tuned = tuning.tune_with_dpo(
            self.store, self.config, policy, name_folder, model, fresh, round=self.round, seed=self.seed
        )
        self._delete_journal("dpo")
        return tuned

    def tune_with_ppo(self) -> dict[str, Any]:
        """Tune the policy that DPO left, on the rewards of the reward model."""
        policy = self._read_result("dpo")["policy"]
        if (reason := self._find_obstacle(self.config.ppo_steps)) is not None:
            return {"policy": policy, "reason": reason}
        name_folder, model = partial(self._name_policy_folder, "ppo"), self._require_trained_model()
        return tuning.tune_with_ppo(
            self.store, self.config, policy, name_folder, model, round=self.round, seed=self.seed
        )

    def promote(self) -> dict[str, Any]:
        """Have raters compare the tuned policy with the old one, blind, and promote it where they prefer it.

        Where that is not shown, the old policy is kept: it was rejected, or the prompts were too few to decide.
        """
        from rlhf_hitl.policy.promotion_votes import wait_for_decision

        before, after = self._find_starting_policy(), self._read_result("ppo")["policy"]
        began = time.monotonic()
        with record_run(self.store, "loop", round=self.round, step="promote"):  # without the time of raters
            opened = self._start_promotion(after, before)
        seconds = time.monotonic() - began
        if isinstance(opened, str):
            return {"policy": before, "promoted": False, "reason": opened, "machine_seconds": seconds}

        def let_raters_judge(promotion: Promotion) -> bool:
            if self.on_wait is None:
                return judge_queue(self.store, 1) > 0
            self.on_wait(PromotionProgress(self.round, promotion))
            return True

        found = wait_for_decision(self.store, opened.id, let_raters_judge)
        figures = ("outcomes", "judgments", "win_rate", "low", "high", "counts", "regressions", "simulated", "reason")
        return {
            "policy": after if found.is_promoted else before,
            "promoted": found.is_promoted,
            "promotion": found.id,
            "decision": found.decision.value,
            **{name: getattr(found, name) for name in figures},
            "length_controlled": found.length_controlled,
            "machine_seconds": seconds,
        }

    # What the steps share.

    def _read_result(self, step: str) -> dict[str, Any]:
        return read_finished_steps(self.store)[self.round, step]

    def _find_starting_policy(self) -> str:
        """Return the policy this round starts from: the last one promoted."""
        before = read_finished_steps(self.store).get((self.round - 1, "promote"))
        return before["policy"] if before else self.config.policy

    def _require_trained_model(self) -> RewardModel:
        model = self.reward_models.get(self.round)
        assert model is not None, "train_reward comes before"
        return model

    def _choose_prompts(self) -> list[Prompt]:
        """Return the prompts of this round: a random share of each split, the same on every run."""
        chosen = []
        for split in Split:
            prompts = list_prompts(self.store, split=split)
            random.Random(f"{self.seed}:{split}").shuffle(prompts)
            share = len(prompts) / max(1, len(list_prompts(self.store)))
            chosen += prompts[: max(1, round(self.config.prompts_per_round * share))]
        if not chosen:
            raise BadInput(
                f"store {self.store.safe_url} with 0 prompts",
                expected="prompts to answer",
                fix="run `rlhf-hitl quickstart --no-serve` or `rlhf-hitl import`",
            )
        return chosen

    def _sample_completions(self, step: str, policy: str, prompts: list[Prompt]) -> tuning.FreshAnswers:
        """Sample `completions_per_prompt` answers to each prompt, shared among the temperatures. Those that an attempt
        has left which was stopped are not drawn again, until `_delete_journal`."""
        from rlhf_hitl.policy.generation_run import draw_completions
        from rlhf_hitl.policy.sampling import share_among_temperatures
        from rlhf_hitl.policy.sources import find_policy

        samplings = share_among_temperatures(
            self.config.temperatures,
            self.config.completions_per_prompt,
            max_new_tokens=self.config.max_new_tokens,
            seed=self.seed,
        )
        drawn = draw_completions(
            find_policy(policy), prompts, samplings, self._name_journal_folder(step), skip_bad=self.config.skip_bad
        )
        return tuning.FreshAnswers(prompts, *drawn)

    def _name_journal_folder(self, step: str) -> Path:
        from rlhf_hitl.policy.draws import name_journal_folder

        return name_journal_folder(self.settings.workspace, self.store.safe_url, "loop", str(self.round), step)

    def _delete_journal(self, step: str) -> None:
        """Delete what a step keeps of its draws: all of it was used."""
        shutil.rmtree(self._name_journal_folder(step), ignore_errors=True)

    def _choose_pairs(self, prompts: list[Prompt], completions: list[Completion]) -> ChosenPairs:
        """Return the pairs that the rule chooses; none where pairs are drawn, or before there is a reward model."""
        from rlhf_hitl.routing.pairing import choose_pairs
        from rlhf_hitl.routing.router import CONTROL_CHOICES

        if self.config.pairing == "random" or (model := self.reward_models.get(self.round - 1)) is None:
            return {}
        most = self.config.control_share * CONTROL_CHOICES
        return choose_pairs(
            model,
            prompts,
            completions,
            self.config.pairing,
            per_prompt=self.config.pairs_per_prompt,
            is_control=lambda prompt: self.store.draw("pairing", prompt.id, CONTROL_CHOICES) < most,
            seed=self.seed,
        )

    def _start_promotion(self, new: str, old: str) -> Promotion | str:
        """Return the promotion of this round, opened now or by an attempt that was stopped; or why there is none."""
        from rlhf_hitl.policy.promotion import NoPrompts, PromotionSettings, start_promotion
        from rlhf_hitl.policy.sources import find_policy

        if new == old:
            return "nothing was tuned"
        settings = PromotionSettings(
            judged=self.config.gate_judgments,
            prompts=self.config.gate_prompts,
            least_gain=self.config.gate_gain,
            alpha=self.config.gate_alpha,
            beta=self.config.gate_beta,
            max_new_tokens=self.config.max_new_tokens,
            seed=self.seed,
        )
        try:
            return start_promotion(
                self.store,
                find_policy(new),
                find_policy(old),
                settings,
                workspace=self.settings.workspace,
                reward_model=self._require_trained_model(),
                simulated=self.on_wait is None,
                round=self.round,
                skip_bad=self.config.skip_bad,
            )
        except NoPrompts as e:
            return str(e)

    def _count_judgments_since(self, revision: int) -> int:
        of_promotions = list_comparisons_of_promotions(self.store)  # they were asked for something else
        return sum(
            not j.source
            for j in read_judgments(self.store, after=revision, current=False, repeats=False)
            if not j.supersedes and j.comparison_id not in of_promotions
        )

    def _has_open_places(self) -> bool:
        """Return whether a rater holds a place or could get one."""
        return any(lane.leased or (lane.free and not lane.paused) for lane in queue.count_places_by_lane(self.store))

    def _find_first_judgment(self, comparisons: Sequence[Comparison]) -> int:
        """Return the number of the first judgment of some comparisons; that of the next one where there is none."""
        ids = [c.id for c in comparisons]
        first = next(read_judgments(self.store, comparison_ids=ids, current=False, at_once=1), None)
        return read_store_revision(self.store) + 1 if first is None else first.seq

    def _find_obstacle(self, amount: int) -> str | None:
        """Return why nothing is tuned by so many pairs or steps on the reward model of this round; None where something
        is."""
        if not amount:
            return "switched off"
        gate = self._read_result("gate")
        return None if gate["passed"] else f"the gate stopped the reward model: {gate['reason']}"

    def _name_policy_folder(self, step: str, inputs: Mapping[str, Any]) -> Path:
        """Return a folder for a step's policy that no other store has written to.

        Of attempts at the step that were stopped, only what the one with the same inputs has left stays.
        """
        from rlhf_hitl.policy.policy_folder import get_checkpoint_folder

        policies = self.settings.workspace / "policies"
        own = f"round-{self.round}-{step}-{self.store.sign('policy folders', step)[:8]}-"
        out = policies / f"{own}{_digest(inputs)}"
        for folder in [*policies.glob(f"{own}*"), *policies.glob(f".{own}*")]:
            if folder not in (out, get_checkpoint_folder(out)):
                shutil.rmtree(folder)
        return out


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:8]
