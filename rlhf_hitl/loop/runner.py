"""Run rounds of the loop so that each step is done once, however often the loop is stopped and started.

A round is a list of steps. A finished step leaves its result in the store, and a loop that starts again skips it. A
step that was interrupted is done again, so every step must be safe to repeat. What takes long goes on where it was:
answers are kept in journals, and DPO and PPO have checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import hold_alone
from rlhf_hitl.loop.config import LoopConfig
from rlhf_hitl.loop.progress import PromotionProgress, ReviewProgress
from rlhf_hitl.loop.reward_model_cache import RewardModelCache
from rlhf_hitl.loop.steps import RoundSteps
from rlhf_hitl.store import Store
from rlhf_hitl.store.loop_steps import finish_step, read_finished_steps
from rlhf_hitl.store.runs import record_run

#: The steps of a round in their order: the name in the store, and the method that does it.
STEPS: tuple[tuple[str, Callable[[RoundSteps], dict[str, Any]]], ...] = (
    ("sample", RoundSteps.sample),
    ("route", RoundSteps.route),
    ("review", RoundSteps.review),
    ("label", RoundSteps.label),
    ("train_reward", RoundSteps.train_reward),
    ("evaluate", RoundSteps.evaluate),
    ("gate", RoundSteps.gate),
    ("dpo", RoundSteps.tune_with_dpo),
    ("ppo", RoundSteps.tune_with_ppo),
    ("promote", RoundSteps.promote),
)
LAST_STEP = STEPS[-1][0]


class Loop:
    """Runs rounds on a store.

    Args:
        on_wait: called again and again while raters are at work; None lets simulated raters do the work.
        on_step: called with a line at the start of each step.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        config: LoopConfig,
        *,
        on_wait: Callable[[ReviewProgress | PromotionProgress], None] | None,
        on_step: Callable[[str], None],
    ):
        self.store, self.settings, self.config, self.on_wait, self.on_step = store, settings, config, on_wait, on_step
        self._reward_models = RewardModelCache(store, settings.workspace)

    def run(self, rounds: int) -> dict[tuple[int, str], dict[str, Any]]:
        """Run until `rounds` rounds are finished in this store. Returns the result of every step by (round, step).

        Raises:
            BadInput: an unfinished round was begun with other settings.
            RlhfHitlError: another process runs this loop.
        """
        lock = self.settings.workspace / f"loop-{self.store.sign('loop', 'lock')[:8]}.lock"
        with hold_alone(lock, what="one loop on this store"):
            return self._run(rounds)

    def _run(self, rounds: int) -> dict[tuple[int, str], dict[str, Any]]:
        for round in range(1, rounds + 1):
            if (round, LAST_STEP) in read_finished_steps(self.store):
                continue  # perhaps by an earlier version, whose rounds had fewer steps
            steps = self.make_round_steps(round)
            for name, do_step in STEPS:
                if (round, name) in read_finished_steps(self.store):
                    if name == "sample":
                        self._refuse_other_settings(round)
                    continue
                self.on_step(f"round {round}: {name}")
                start = time.monotonic()
                # Where people work the machine does not: a promotion records what it does before they begin.
                waits = do_step in (RoundSteps.review, RoundSteps.promote)
                with nullcontext() if waits else record_run(self.store, "loop", round=round, step=name):
                    result = do_step(steps)
                for halted in result.get("halted", ()):
                    self.on_step(f"round {round}: nothing is accepted: {halted}")
                # The time of a step that waited for raters is not the machine's: the step says so.
                seconds = result.pop("machine_seconds", time.monotonic() - start)
                finish_step(self.store, round, name, result, seconds, last=name == LAST_STEP)
        return read_finished_steps(self.store)

    def make_round_steps(self, round: int) -> RoundSteps:
        """Return the steps of a round, to be done in the order of `STEPS`."""
        return RoundSteps(self.store, self.settings, self.config, round, self._reward_models, self.on_wait)

    def _refuse_other_settings(self, round: int) -> None:
        """Raise BadInput if a round that is not finished was begun with other settings than these."""
        finished = read_finished_steps(self.store)
        if (round, LAST_STEP) in finished:
            return
        former, current = finished[round, "sample"]["settings"], self.config.model_dump(mode="json")
        # A setting that an earlier version did not have has not changed.
        if changed := [k for k in current if former.get(k, current[k]) != current[k]]:
            raise BadInput(
                f"{changed[0]} = {current[changed[0]]!r} in round {round}",
                expected=f"{former.get(changed[0])!r}, as when the round began",
                fix="finish the round with the old settings; new ones can begin with the next round",
            )
