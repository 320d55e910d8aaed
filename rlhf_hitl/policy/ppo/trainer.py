"""PPO on accelerate: sample answers, score them with the reward model, and update a LoRA policy near its reference.

It runs in one process or in several under DDP (`accelerate launch`). FSDP and DeepSpeed are refused: they shard the
weights, and generation needs them whole.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.before_after import sample_before_and_after
from rlhf_hitl.policy.best_weights import BestWeights
from rlhf_hitl.policy.policy_folder import LOGS, get_checkpoint_folder, require_free_folder, save_policy
from rlhf_hitl.policy.ppo import math as ppo_math
from rlhf_hitl.policy.ppo.brakes import RunStopped, find_reason_to_stop
from rlhf_hitl.policy.ppo.checkpoints import PPOCheckpoints, PPOProgress
from rlhf_hitl.policy.ppo.config import MEMORY_SETTINGS, SCORING_MEMORY_SETTINGS, PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic, TokenFigures
from rlhf_hitl.policy.ppo.reference import Reference, fuse_reference
from rlhf_hitl.policy.ppo.rollouts import Rollouts, RolloutSampler
from rlhf_hitl.policy.ppo.sampling_policy import SamplingPolicy
from rlhf_hitl.policy.ppo.update import Experience, PPOUpdater
from rlhf_hitl.policy.rewards import ProblemFinder, RewardFunction, refuse_unread
from rlhf_hitl.policy.token_sampling import PromptReader
from rlhf_hitl.policy.training import (
    describe_training_inputs,
    explain_out_of_memory,
    make_policy_lora_config,
    refuse_heldout,
)
from rlhf_hitl.policy.training_prompts import read_training_prompts
from rlhf_hitl.policy.tuning_watch import TuningWatch
from rlhf_hitl.types import Prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PPOResult:
    """What a run has left.

    Attributes:
        folder: of the tuned policy.
        history: a row of figures for each step, and one of the policy after the last, which has no losses.
        stopped: why it stopped early; None if it did not.
    """

    folder: Path
    history: list[dict[str, float]]
    stopped: str | None = None

    @property
    def steps(self) -> int:
        """How many steps updated the policy."""
        return sum("updates" in figures for figures in self.history)


@dataclass(frozen=True)
class Measured:
    """Answers of the policy as it is, (n,) of this process, and what they show.

    Attributes:
        figures: of all processes.
        scaled: (n,) rewards in standard deviations.
        said: what the policy says of the answers' tokens; kl: (n, answer) from the reference.
    """

    figures: dict[str, float]
    rollouts: Rollouts
    scaled: Tensor
    said: TokenFigures
    kl: Tensor


def train_ppo(
    config: PPOConfig,
    prompts: Sequence[Prompt],
    reward: RewardFunction,
    find_problem: ProblemFinder | None = None,
    watch: TuningWatch | None = None,
    card: Mapping[str, Any] | None = None,
) -> PPOResult:
    """Tune a policy on prompts of the train split and write it to `config.output_dir`.

    Args:
        find_problem: says which prompts and answers the reward model cannot read. None: it reads all.
        watch: looks at each step's answers, in all processes, and stops the run where it hacks the reward.
        card: more of what the policy's card should say. By its `reward_model_id` and `conservative` a run that goes on
            from a checkpoint knows that its rewards are those from before.

    Raises:
        BadInput: a prompt may not be trained on or not be read, no prompt fits, `output_dir` is taken, the launcher
            shards weights, the first rewards are not finite, or memory is out.
    """
    return PPOTrainer(config, prompts, reward, find_problem, watch, card).run()


class PPOTrainer:
    """The training behind `train_ppo`. `model` can be examined afterwards."""

    def __init__(
        self,
        config: PPOConfig,
        prompts: Sequence[Prompt],
        reward: RewardFunction,
        find_problem: ProblemFinder | None = None,
        watch: TuningWatch | None = None,
        card: Mapping[str, Any] | None = None,
    ):
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import set_seed
        from peft import get_peft_model

        from rlhf_hitl.models import load_policy, load_tokenizer, resolve_dtype
        from rlhf_hitl.reward.training.full_config import refuse_missing_trackers

        self.config, self.card = config, card or {}
        self.watch = TuningWatch(None, gather=gather_object) if watch is None else watch
        self.out = require_free_folder(config.output_dir)
        refuse_heldout(prompts)
        trackers: list[Any] = config.report_to
        refuse_missing_trackers(trackers)
        AcceleratorState._reset_state()  # an earlier trainer of this process may have left another precision
        self.accelerator = Accelerator(
            mixed_precision="no",
            log_with=trackers or None,
            project_dir=str(get_checkpoint_folder(self.out) / LOGS) if trackers else None,
        )
        self._check_processes()
        set_seed(config.seed)
        self.tokenizer = load_tokenizer(config.model_name_or_path)
        reader = PromptReader(self.tokenizer)
        self.read = read_training_prompts(
            prompts,
            reader,
            find_problem,
            policy=config.model_name_or_path,
            max_prompt_tokens=config.max_prompt_tokens,
            max_new_tokens=config.max_new_tokens,
            skip_bad=config.skip_bad,
            watch=self.watch,
        )
        self.sampler = RolloutSampler(config, reader, self.read, reward, self.accelerator, find_problem)
        dtype = resolve_dtype(config.precision)
        base = load_policy(config.model_name_or_path, dtype).to(self.accelerator.device)  # type: ignore[arg-type]
        sampled = dtype if config.sampling_precision == "same" else resolve_dtype(config.sampling_precision)
        self.sampling_policy = SamplingPolicy(base, sampled)
        fused = fuse_reference(base)
        policy = get_peft_model(base, make_policy_lora_config(config.lora_r, config.lora_alpha))
        # Evaluation mode throughout: dropout would change the probability ratio where nothing has been updated.
        self.model = ActorCritic(policy, config.temperature, config.value_head).eval()  # type: ignore[arg-type]
        self.reference = Reference(self.model, fused)
        self.updater = PPOUpdater(config, self.model, self.accelerator)
        self.progress, self.best = PPOProgress(beta=config.kl_beta), BestWeights(self.model)
        self.accelerator.register_for_checkpointing(self.progress, self.watch)
        ids = [p.id for p in self.read.prompts]
        inputs = describe_training_inputs(config.model_name_or_path, {"prompts": ids}, self.card, self.watch)
        self.checkpoints = PPOCheckpoints(
            self.out, config, inputs, self.accelerator, self.model, self.progress, self.best
        )
        if trackers:
            given = dataclasses.asdict(config).items()  # TensorBoard takes no None and no list
            shown = {name: value if isinstance(value, int | float | str) else str(value) for name, value in given}
            self.accelerator.init_trackers("ppo", config=shown)

    def run(self) -> PPOResult:
        """Run the remaining steps and write the tuned policy: the last one, or the last good one if a brake acts."""
        from tqdm import tqdm

        config, accelerator, progress, stopped = self.config, self.accelerator, self.progress, None
        if config.resume:
            self.checkpoints.load_newest()
        else:
            self.checkpoints.delete_all()
        bar = tqdm(total=config.steps, initial=progress.step, desc="ppo", disable=not accelerator.is_main_process)
        with bar:
            for step in range(progress.step, config.steps + 1):
                is_over = step == config.steps  # what the last update has made of the policy is measured, too
                try:
                    figures = self.measure(step).figures if is_over else self.run_step(step)
                except RunStopped as e:
                    figures, stopped = e.figures, e.reason
                progress.history.append(figures)
                accelerator.log(figures, step=len(progress.history))
                bar.set_postfix({name: f"{figures[name]:.3f}" for name in ("reward", "kl", "empty")})
                if stopped is not None:
                    where = "after the last step" if is_over else f"step {step + 1}"
                    log.warning("%s: %s. The policy from before is kept", where, stopped)
                    self.best.restore()
                    break
                if not is_over:
                    progress.step += 1
                    bar.update()
                    if config.save_steps and progress.step % config.save_steps == 0:
                        self.checkpoints.save()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._save_policy(stopped)
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return PPOResult(self.out, progress.history, stopped)

    def run_step(self, step: int) -> dict[str, float]:
        """Sample answers, score them, estimate advantages, and update. Returns the figures of the step.

        Raises:
            RunStopped: the policy that was to be updated is not good, or the update failed.
            BadInput: the first step's rewards are not finite, or memory is out.
        """
        config, progress, measured = self.config, self.progress, self.measure(step)
        figures, rollouts, batch = measured.figures, measured.rollouts, measured.rollouts.batch
        mask, kl = batch.mask, measured.kl
        scores = measured.scaled - config.missing_eos_penalty * (1 - rollouts.ended)
        values = measured.said.values
        if step == 0:
            # Otherwise the first steps would only teach the value head how high the rewards are.
            mean = self._compute_mean(scores)
            self.model.value_bias.data.fill_(mean)
            values = (values + mean) * mask
        rewards = ppo_math.compute_token_rewards(scores, kl, batch.lengths, progress.beta)
        advantages, returns = ppo_math.compute_gae(rewards, values, mask, config.gamma, config.lam)
        figures |= {
            "reward_after_penalty": self._compute_mean(scores),
            "explained_variance": ppo_math.explained_variance(values, returns, mask, self._sum),
            "learning_rate": self.updater.compute_learning_rates(step)[0],
        }
        whitened = ppo_math.whiten(advantages, mask, reduce=self._sum)
        figures |= self.updater.update(Experience(batch, measured.said.logprobs, values, whitened, returns), step)
        self._check(find_reason_to_stop(figures, config), figures)
        if config.kl_target is not None:
            progress.beta = ppo_math.adapt_kl_coefficient(
                progress.beta,
                figures["kl"],
                target=config.kl_target,
                horizon=config.kl_horizon,
                answers=config.rollouts,
            )
        return figures

    def measure(self, step: int) -> Measured:
        """Sample the answers of a step, score and watch them, and keep the policy if it is good. Nothing is updated.

        Raises:
            RunStopped: the policy is not good.
            BadInput: the first step's rewards are not finite, or memory is out.
        """
        config, progress = self.config, self.progress
        rollouts = self.sampler.sample(self.model, self.sampling_policy, step)
        scaled = self._scale_rewards(rollouts, step)
        batch, mask = rollouts.batch, rollouts.batch.mask
        with explain_out_of_memory(*MEMORY_SETTINGS):
            said = rollouts.figures or self._evaluate(rollouts)
            reference = self.reference.compute_logprobs(batch, config.microbatch_tokens)
        kl = ppo_math.kl_k1(said.logprobs, reference) * mask
        tokens = self._sum(ppo_math.widen(mask.sum()[None]))[0]
        figures = {
            "reward": self._compute_mean(rollouts.rewards),
            "reward_scaled": self._compute_mean(scaled),
            "reward_std": progress.scale.spread,
            "kl": self._compute_mean(kl.sum(1)),
            "beta": progress.beta,
            "ended": self._compute_mean(rollouts.ended),
            "empty": self._compute_mean(rollouts.empty),
            "unreadable": self._compute_mean(rollouts.unreadable),
            "tokens": self._compute_mean(batch.lengths.float()),
            "entropy": float(self._sum(ppo_math.widen(said.entropy.sum()[None]))[0] / tokens),
        }
        self._check(find_reason_to_stop(figures, config), figures)
        with explain_out_of_memory(*SCORING_MEMORY_SETTINGS, needed="the policy, the reward model and the gold one"):
            seen = self.watch.observe(rollouts.prompts, rollouts.texts, rollouts.rewards.tolist(), figures)
        self._check(seen.stop, figures)
        if seen.is_best:
            self.best.keep()
        return Measured(figures, rollouts, scaled, said, kl)

    def _scale_rewards(self, rollouts: Rollouts, step: int) -> Tensor:
        """Return (n,) rewards in standard deviations, not finite where the reward is not.

        Raises:
            BadInput: a reward of the first step is not finite, or the reward model reads none of its answers.
        """
        rewards, scale = rollouts.rewards, self.progress.scale
        counts = torch.stack([(~rewards.isfinite()).sum().float(), rollouts.unreadable.sum()])
        bad, unreadable = map(int, self._sum(counts).tolist())
        if step == 0:
            refuse_unread(unreadable, self.config.rollouts)
            if bad:
                raise BadInput(
                    f"first step: {bad} of {self.config.rollouts} rewards not finite",
                    expected="a finite number for each answer",
                    fix="check the reward model",
                )
        if not bad:
            scale.add(rewards, self._sum)
        return scale.scale(rewards)

    def _check(self, reason: str | None, figures: dict[str, float]) -> None:
        if reason is not None:
            raise RunStopped(reason, figures)

    def _evaluate(self, rollouts: Rollouts) -> TokenFigures:
        """Return what the policy says of the answers before any update, in the precision of training."""
        batch, found = rollouts.batch, TokenFigures.zeros(rollouts.batch)
        rows = torch.arange(len(batch.lengths), device=batch.ids.device)
        for index in batch.split_rows(rows, self.config.microbatch_tokens):
            found.set_rows(index, self.model.evaluate(batch.select_rows(index)))
        return found

    def _save_policy(self, stopped: str | None) -> None:
        config, history = self.config, self.progress.history
        card = {
            "method": "ppo",
            "settings": dataclasses.asdict(config),
            "processes": self.accelerator.num_processes,
            "prompts": len(self.read.prompts),
            "too_long": self.read.too_long,
            **self._count_answers(),
            "stopped": stopped,
            "warnings": self.watch.warnings,
            **self.card,
            "left_out": self.read.left_out.as_dict(),
            "history": history,
        }
        merge = config.save == "merged"
        self.model.drop_critic()
        samples = sample_before_and_after(
            self.model.policy,
            self.tokenizer,
            self.read.prompts,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
        )
        save_policy(
            self.model.policy,
            self.tokenizer,
            self.out,
            base=config.model_name_or_path,
            merge=merge,
            card=card,
            prompts=self.read.prompts,
            samples=samples,
        )

    def _count_answers(self) -> dict[str, int]:
        """Count the answers of all rows of the history, under the names that RLOO and GRPO have for them."""
        each, history = self.config.rollouts, self.progress.history
        counts = {
            f"{name}_answers": sum(round(each * figures[name]) for figures in history)
            for name in ("empty", "unreadable")
        }
        cut_off = sum(round(each * (1 - figures["ended"])) for figures in history)
        return {"answers": each * len(history), **counts, "cut_off_answers": cut_off}

    def _check_processes(self) -> None:
        from accelerate import DistributedType

        kind, n = self.accelerator.distributed_type, self.accelerator.num_processes
        if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA):
            raise BadInput(
                f"accelerate launcher {kind.value}",
                expected="one process, or several under DDP",
                fix="launch with --multi_gpu, for sampling needs the policy whole on each device, or use train-rloo or "
                "train-grpo",
            )
        if self.config.minibatch % n:
            raise BadInput(
                f"minibatch {self.config.minibatch}",
                expected=f"a multiple of the {n} processes",
                fix="change minibatch",
            )

    def _sum(self, vector: Tensor) -> Tensor:
        """Sum a vector over all processes."""
        return self.accelerator.reduce(vector, reduction="sum")  # type: ignore[return-value]

    def _compute_mean(self, x: Tensor) -> float:
        """Return the mean of the elements of all processes."""
        total, n = self._sum(
            torch.stack([ppo_math.widen(n) for n in (x.sum(), torch.tensor(float(len(x)), device=x.device))])
        ).tolist()
        return total / n
