"""PPO on accelerate: sample answers, score them with the reward model, and update a LoRA policy near its reference.

It runs in one process or in several under DDP (`accelerate launch`). FSDP and DeepSpeed are refused: they shard the
weights, and generation needs them whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.policy_folder import get_checkpoint_folder, require_free_folder, save_policy
from rlhf_hitl.policy.ppo import math as ppo_math
from rlhf_hitl.policy.ppo.checkpoints import PPOCheckpoints, PPOProgress
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.ppo.model import ActorCritic, RolloutBatch
from rlhf_hitl.policy.ppo.rollouts import ProblemFinder, RewardFunction, RolloutSampler
from rlhf_hitl.policy.ppo.update import Experience, PPOUpdater
from rlhf_hitl.policy.training import make_policy_lora_config, refuse_heldout
from rlhf_hitl.types import Prompt


@dataclass(frozen=True)
class PPOResult:
    """The folder of the tuned policy, and a row of figures for each step."""

    folder: Path
    history: list[dict[str, float]]


def train_ppo(
    config: PPOConfig, prompts: Sequence[Prompt], reward: RewardFunction, find_problem: ProblemFinder | None = None
) -> PPOResult:
    """Tune a policy on prompts of the train split and write it to `config.output_dir`.

    Args:
        find_problem: says which prompts the reward model cannot read. None: it reads all.

    Raises:
        BadInput: a prompt may not be trained on or not be read, no prompt fits, `out` is taken, or the launcher shards
            weights.
    """
    return PPOTrainer(config, prompts, reward, find_problem).run()


class PPOTrainer:
    """The training behind `train_ppo`. `model` can be examined afterwards."""

    def __init__(
        self,
        config: PPOConfig,
        prompts: Sequence[Prompt],
        reward: RewardFunction,
        find_problem: ProblemFinder | None = None,
    ):
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import set_seed
        from peft import get_peft_model

        from rlhf_hitl.models import load_policy, load_tokenizer, resolve_dtype
        from rlhf_hitl.reward.training.full_config import refuse_missing_trackers

        self.config, self.out = config, require_free_folder(config.output_dir)
        refuse_heldout(prompts)
        trackers: list[Any] = config.report_to
        refuse_missing_trackers(trackers)
        AcceleratorState._reset_state()  # an earlier trainer of this process may have left another precision
        self.accelerator = Accelerator(
            mixed_precision="no",
            log_with=trackers or None,
            project_dir=str(get_checkpoint_folder(self.out)) if trackers else None,
        )
        self._check_processes()
        set_seed(config.seed)
        self.tokenizer = load_tokenizer(config.model_name_or_path)
        self.sampler = RolloutSampler(config, self.tokenizer, prompts, reward, self.accelerator, find_problem)
        policy = get_peft_model(
            load_policy(config.model_name_or_path, resolve_dtype(config.precision)),
            make_policy_lora_config(config.lora_r, config.lora_alpha),
        )
        # Evaluation mode throughout: dropout would change the probability ratio where nothing has been updated.
        self.model = ActorCritic(policy, config.temperature).eval()  # type: ignore[arg-type]
        self.updater = PPOUpdater(config, self.model, self.accelerator)
        self.progress = PPOProgress(beta=config.kl_beta)
        self.accelerator.register_for_checkpointing(self.updater.scheduler, self.progress)
        self.checkpoints = PPOCheckpoints(
            self.out, config, self.sampler.prompts, self.accelerator, self.model, self.progress
        )
        if trackers:
            self.accelerator.init_trackers("ppo", config=dataclasses.asdict(config))

    def run(self) -> PPOResult:
        """Run the remaining steps and write the tuned policy."""
        from tqdm import tqdm

        config, accelerator = self.config, self.accelerator
        if config.resume:
            self.checkpoints.load_newest()
        bar = tqdm(total=config.steps, initial=self.progress.step, desc="ppo", disable=not accelerator.is_main_process)
        with bar:
            while self.progress.step < config.steps:
                figures = self.run_step(self.progress.step)
                self.progress.history.append(figures)
                self.progress.step += 1
                accelerator.log(figures, step=self.progress.step)
                bar.update()
                bar.set_postfix(reward=f"{figures['reward']:.3f}", kl=f"{figures['kl']:.3f}")
                if config.save_steps and self.progress.step % config.save_steps == 0:
                    self.checkpoints.save()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._save_policy()
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return PPOResult(self.out, self.progress.history)

    def run_step(self, step: int) -> dict[str, float]:
        """Sample answers, score them, estimate advantages, and update. Returns the figures of the step."""
        config = self.config
        rollouts = self.sampler.sample(self.model.policy, step)  # type: ignore[arg-type]
        batch, mask = rollouts.batch, rollouts.batch.mask
        logprobs, values, reference = self._evaluate(batch)
        if step == 0:
            # Otherwise the first steps would only teach the value head how high the rewards are.
            mean = self._compute_mean(rollouts.penalised)
            with torch.no_grad():
                self.model.value_head.bias.fill_(mean)
            values = values + mean
        kl = ppo_math.kl_k1(logprobs, reference) * mask
        rewards = ppo_math.compute_token_rewards(rollouts.penalised, kl, batch.lengths, self.progress.beta)
        advantages, returns = ppo_math.compute_gae(rewards, values, mask, config.gamma, config.lam)
        figures = {
            "reward": self._compute_mean(rollouts.rewards),
            "reward_after_penalty": self._compute_mean(rollouts.penalised),
            "kl": self._compute_mean(kl.sum(1)),
            "beta": self.progress.beta,
            "ended": self._compute_mean(rollouts.ended),
            "tokens": self._compute_mean(batch.lengths.float()),
            "explained_variance": ppo_math.explained_variance(values, returns, mask, self._sum),
            "learning_rate": self.updater.scheduler.get_last_lr()[0],
        }
        whitened = ppo_math.whiten(advantages, mask, reduce=self._sum)
        figures |= self.updater.update(Experience(batch, logprobs, values, whitened, returns), step)
        if config.kl_target is not None:
            self.progress.beta = ppo_math.adapt_kl_coefficient(
                self.progress.beta,
                figures["kl"],
                target=config.kl_target,
                horizon=config.kl_horizon,
                answers=config.rollouts,
            )
        return figures

    @torch.no_grad()
    def _evaluate(self, batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return (n, answer) log-probabilities, values and the reference's log-probabilities, before any update."""
        shape = (len(batch.lengths), batch.answer_width)
        logprobs, values, reference = (torch.zeros(shape, device=batch.ids.device) for _ in range(3))
        for index in torch.arange(shape[0], device=batch.ids.device).split(self.config.microbatch):
            part = batch.select_rows(index)
            width = part.answer_width
            logprobs[index, :width], _, values[index, :width] = self.model(part)
            reference[index, :width] = self.model.compute_reference_logprobs(part)
        return logprobs, values, reference

    def _save_policy(self) -> None:
        config = self.config
        card = {
            "method": "ppo",
            "settings": dataclasses.asdict(config),
            "processes": self.accelerator.num_processes,
            "prompts": len(self.sampler.prompts),
            "prompts_left_out": self.sampler.left_out,
            "left_out": self.sampler.unreadable.as_dict(),
            "history": self.progress.history,
        }
        merge = config.save == "merged"
        save_policy(self.model.policy, self.tokenizer, self.out, base=config.model_name_or_path, merge=merge, card=card)

    def _check_processes(self) -> None:
        from accelerate import DistributedType

        kind, n = self.accelerator.distributed_type, self.accelerator.num_processes
        if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA):
            raise BadInput(
                f"accelerate launcher {kind.value}",
                expected="one process, or several under DDP",
                fix="launch with --multi_gpu: sampling needs the policy whole on each device",
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
            torch.stack([x.sum().double(), torch.tensor(float(len(x))).double().to(x.device)])
        ).tolist()
        return total / n
