"""PPO on accelerate: sample answers, score them with the reward model, update a LoRA policy near its reference.

One process or many under DDP (`accelerate launch`). FSDP and DeepSpeed shard the weights that generation needs whole,
and are refused.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import place_folder
from rlhf_hitl.policy import ppo_math as maths
from rlhf_hitl.policy.actor_critic import ActorCritic, Batch, collate
from rlhf_hitl.policy.generation import Draw, Sampling, answer_text, draw_seed, eos_ids, prompt_ids, sample_ids
from rlhf_hitl.policy.ppo_config import PPOConfig
from rlhf_hitl.policy.training import checkpoints_of, free_folder, lora, refuse_heldout, save_policy
from rlhf_hitl.types import Message, Messages, Prompt

#: Rewards (n,) of conversations: `RewardModel.rewards`.
RewardFunction = Callable[[list[tuple[Messages, Messages]]], np.ndarray]


@dataclass(frozen=True)
class PPOResult:
    """Where the tuned policy is, and a step's figures a row."""

    folder: Path
    history: list[dict[str, float]]


@dataclass
class _Progress:
    """What a checkpoint holds besides weights, optimiser and random states."""

    step: int = 0
    beta: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return {"json": json.dumps(dataclasses.asdict(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in json.loads(state["json"]).items():
            setattr(self, name, value)


@dataclass(frozen=True)
class _Rollout:
    batch: Batch
    scores: Tensor  # (n,) the reward function's
    penalised: Tensor  # (n,) after what is taken off for a missing EOS
    ended: Tensor  # (n,) 1 where the answer came to its EOS


@dataclass(frozen=True)
class _Experience:
    """Rollouts with what the update needs, (n, answer) each; `values` and `logprobs` are from before the update."""

    batch: Batch
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def train_ppo(config: PPOConfig, prompts: Sequence[Prompt], reward: RewardFunction) -> PPOResult:
    """Tune a policy on prompts of the train split and write it to `config.out`.

    Raises:
        BadInput: prompts that may not be trained on, none that fit, an `out` that is taken, a launcher that shards.
    """
    return PPOTrainer(config, prompts, reward).run()


class PPOTrainer:
    """What `train_ppo` runs; `model` is there to be looked at afterwards."""

    def __init__(self, config: PPOConfig, prompts: Sequence[Prompt], reward: RewardFunction):
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import set_seed
        from peft import get_peft_model
        from transformers import get_scheduler

        from rlhf_hitl.models import load_policy, load_tokenizer, resolve_dtype

        self.config, self.out, self.reward = config, free_folder(config.out), reward
        refuse_heldout(prompts)
        trackers: list[Any] = [t for t in config.report_to.split(",") if t and t != "none"]
        AcceleratorState._reset_state()  # a trainer that ran in this process before may have left another precision
        self.accelerator = Accelerator(
            mixed_precision="no",
            log_with=trackers or None,
            project_dir=str(checkpoints_of(self.out)) if trackers else None,
        )
        self._check_processes()
        set_seed(config.seed)
        self.tokenizer = load_tokenizer(config.policy)
        self.prompts, self.ids, self.left_out = self._fitting(prompts)
        policy = get_peft_model(
            load_policy(config.policy, resolve_dtype(config.precision)), lora(config.lora_r, config.lora_alpha)
        )
        self.eos = eos_ids(policy, self.tokenizer)  # type: ignore[arg-type]
        self.pad = int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]
        # Evaluation mode all through: with dropout the probability ratio would differ from one with no update done.
        self.model = ActorCritic(policy, config.temperature).eval()  # type: ignore[arg-type]
        adapter = [p for name, p in self.model.trained().items() if not name.startswith("value_head")]
        head = list(self.model.value_head.parameters())
        self.groups = (adapter, head)
        optimizer = torch.optim.AdamW(
            [{"params": adapter, "lr": config.learning_rate}, {"params": head, "lr": config.value_learning_rate}],
            eps=1e-5,  # as the original PPO has it
            weight_decay=0.0,
        )
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        updates = config.steps * config.epochs * (config.rollouts // config.minibatch)
        self.scheduler = get_scheduler(config.schedule, self.optimizer.optimizer, 0, updates)
        self.progress = _Progress(beta=config.kl_beta)
        self.accelerator.register_for_checkpointing(self.scheduler, self.progress)
        self._hook_checkpoints()
        if trackers:
            self.accelerator.init_trackers("ppo", config=dataclasses.asdict(config))

    def run(self) -> PPOResult:
        from tqdm import tqdm

        config, accelerator = self.config, self.accelerator
        if config.resume:
            self._resume()
        bar = tqdm(total=config.steps, initial=self.progress.step, desc="ppo", disable=not accelerator.is_main_process)
        with bar:
            while self.progress.step < config.steps:
                figures = self._step(self.progress.step)
                self.progress.history.append(figures)
                self.progress.step += 1
                accelerator.log(figures, step=self.progress.step)
                bar.update()
                bar.set_postfix(reward=f"{figures['reward']:.3f}", kl=f"{figures['kl']:.3f}")
                if config.save_steps and self.progress.step % config.save_steps == 0:
                    self._checkpoint()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            card = {
                "method": "ppo",
                "settings": dataclasses.asdict(config),
                "processes": accelerator.num_processes,
                "prompts": len(self.prompts),
                "prompts_left_out": self.left_out,
                "history": self.progress.history,
            }
            save_policy(
                self.model.policy,
                self.tokenizer,
                self.out,
                base=config.policy,
                merge=config.save == "merged",
                card=card,
            )
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return PPOResult(self.out, self.progress.history)

    # One step: sample, score, weigh, update.

    def _step(self, step: int) -> dict[str, float]:
        config = self.config
        rollout = self._sample(step)
        batch, mask = rollout.batch, rollout.batch.mask
        logprobs, values, reference = self._look(batch)
        if step == 0:
            # Without it the first steps would only teach the head how high the rewards are.
            mean = self._mean(rollout.penalised)
            with torch.no_grad():
                self.model.value_head.bias.fill_(mean)
            values = values + mean
        kl = maths.kl_k1(logprobs, reference) * mask
        rewards = maths.token_rewards(rollout.penalised, kl, batch.lengths, self.progress.beta)
        advantages, returns = maths.gae(rewards, values, mask, config.gamma, config.lam)
        figures = {
            "reward": self._mean(rollout.scores),
            "reward_after_penalty": self._mean(rollout.penalised),
            "kl": self._mean(kl.sum(1)),
            "beta": self.progress.beta,
            "ended": self._mean(rollout.ended),
            "tokens": self._mean(batch.lengths.float()),
            "explained_variance": maths.explained_variance(values, returns, mask, self._sum),
            "learning_rate": self.scheduler.get_last_lr()[0],
        }
        white = maths.whiten(advantages, mask, reduce=self._sum)
        figures |= self._update(_Experience(batch, logprobs, values, white, returns), step)
        if config.kl_target is not None:
            self.progress.beta = maths.next_kl_coefficient(
                self.progress.beta,
                figures["kl"],
                target=config.kl_target,
                horizon=config.kl_horizon,
                answers=config.rollouts,
            )
        return figures

    def _sample(self, step: int) -> _Rollout:
        config = self.config
        sampling = Sampling(config.temperature, 1.0, config.max_new_tokens, config.seed)
        mine = [
            (place, index)
            for place, index in enumerate(self._chosen(step))
            if place % self.accelerator.num_processes == self.accelerator.process_index
        ]
        prompts = [self.prompts[index] for _, index in mine]
        ids = [self.ids[index] for _, index in mine]
        draws = [
            Draw(
                config.temperature,
                1.0,
                config.max_new_tokens,
                draw_seed(config.seed, p.id, sampling, place, attempt=step),
            )
            for p, (place, _) in zip(prompts, mine)
        ]
        answers = sample_ids(self.model.policy, ids, draws, eos=self.eos, pad=self.pad)  # type: ignore[arg-type]
        scores = self._scores(prompts, [answer_text(self.tokenizer, a, self.eos) for a in answers])
        ended = torch.tensor([float(a[-1] in self.eos) for a in answers])
        penalised = scores - config.missing_eos_penalty * (1 - ended)
        device = self.accelerator.device
        return _Rollout(
            collate(ids, answers, self.pad, device), scores.to(device), penalised.to(device), ended.to(device)
        )

    def _scores(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Tensor:
        """(n,) rewards. An answer without text has none of its own: it gets the least of the others'."""
        with_text = [i for i, text in enumerate(texts) if text]
        scores = torch.zeros(len(texts))
        if with_text:
            found = self.reward([(prompts[i].messages, (Message("assistant", texts[i]),)) for i in with_text])
            given = torch.as_tensor(np.asarray(found, dtype=np.float32))
            if given.shape != (len(with_text),) or not bool(torch.isfinite(given).all()):
                raise BadInput(
                    f"rewards of shape {tuple(given.shape)}",
                    expected=f"{len(with_text)} finite numbers",
                    fix="check the reward model",
                )
            scores += given.min()
            scores[with_text] = given
        return scores

    @torch.no_grad()
    def _look(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, values and the reference's log-probabilities, before any update."""
        shape = (len(batch.lengths), batch.answer_width)
        logprobs, values, reference = (torch.zeros(shape, device=batch.ids.device) for _ in range(3))
        for index in torch.arange(shape[0], device=batch.ids.device).split(self.config.microbatch):
            part = batch.rows(index)
            got, _, worth = self.model(part)
            logprobs[index, : part.answer_width], values[index, : part.answer_width] = got, worth
            reference[index, : part.answer_width] = self.model.reference_logprobs(part)
        return logprobs, values, reference

    def _update(self, seen: _Experience, step: int) -> dict[str, float]:
        """Every epoch goes through the rollouts in minibatches of a new order. Returns means over real tokens."""
        config, accelerator = self.config, self.accelerator
        n, share = len(seen.batch.lengths), config.minibatch // accelerator.num_processes
        totals = torch.zeros(6, dtype=torch.float64, device=accelerator.device)
        for epoch in range(config.epochs):
            order = np.random.default_rng((config.seed, step, epoch, accelerator.process_index)).permutation(n)
            for minibatch in torch.as_tensor(order, device=accelerator.device).split(share):
                tokens = float(self._sum(seen.batch.lengths[minibatch].sum()[None].double())[0])
                parts = minibatch.split(config.microbatch)
                for i, index in enumerate(parts):
                    last = i == len(parts) - 1
                    with _nothing() if last else accelerator.no_sync(self.wrapped):
                        loss, figures = self._loss(seen, index)
                        # DDP takes the mean over processes; what is wanted is the mean over all their tokens.
                        accelerator.backward(loss * accelerator.num_processes / tokens)
                    totals += figures
                for group in self.groups:
                    accelerator.clip_grad_norm_(group, config.max_grad_norm)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
        policy, value, entropy, clipped, moved, count = self._sum(totals).tolist()
        return {
            "policy_loss": policy / count,
            "value_loss": value / count,
            "entropy": entropy / count,
            "clip_fraction": clipped / count,
            "approx_kl": moved / count,
        }

    def _loss(self, seen: _Experience, index: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss over some rows' real tokens, and sums for the figures."""
        part = seen.batch.rows(index)
        mask, width = part.mask, part.answer_width
        old, values = seen.logprobs[index, :width], seen.values[index, :width]
        logprobs, entropy, worth = self.wrapped(part)
        policy, clipped = maths.policy_loss(logprobs, old, seen.advantages[index, :width], self.config.clip)
        value, _ = maths.value_loss(worth, values, seen.returns[index, :width], self.config.value_clip)
        moved = maths.kl_k3(old, logprobs.detach())
        sums = [(x.detach() * mask).sum().double() for x in (policy, value, entropy, clipped, moved)]
        return ((policy + value) * mask).sum(), torch.stack([*sums, mask.sum().double()])

    # Processes, prompts, checkpoints.

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

    def _fitting(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[list[int]], int]:
        ids = [(p, prompt_ids(self.tokenizer, p.messages)) for p in sorted(prompts, key=lambda p: p.id)]
        kept = [(p, i) for p, i in ids if len(i) <= self.config.max_prompt_tokens]
        if not kept:
            raise BadInput(
                f"{len(prompts)} prompts",
                expected=f"at least one of up to {self.config.max_prompt_tokens} tokens",
                fix="import prompts of the train split, or raise max_prompt_tokens",
            )
        return [p for p, _ in kept], [i for _, i in kept], len(ids) - len(kept)

    def _chosen(self, step: int) -> list[int]:
        """Indices of a step's prompts, over all processes: a fixed walk through shuffled rounds of all prompts."""
        n, wanted = len(self.prompts), self.config.rollouts
        picked = []
        for place in range(step * wanted, (step + 1) * wanted):
            lap, at = divmod(place, n)
            picked.append(int(np.random.default_rng((self.config.seed, lap)).permutation(n)[at]))
        return picked

    def _sum(self, vector: Tensor) -> Tensor:
        return self.accelerator.reduce(vector, reduction="sum")  # type: ignore[return-value]

    def _mean(self, x: Tensor) -> float:
        total, n = self._sum(
            torch.stack([x.sum().double(), torch.tensor(float(len(x))).double().to(x.device)])
        ).tolist()
        return total / n

    def _hook_checkpoints(self) -> None:
        """Checkpoints hold what is trained only: the frozen weights are the policy's own, and on disk already."""

        def save(models, weights, folder) -> None:
            weights.clear()
            if self.accelerator.is_main_process:
                self.model.save_trained(Path(folder))

        def load(models, folder) -> None:
            models.clear()
            self.model.load_trained(Path(folder))

        self.accelerator.register_save_state_pre_hook(save)
        self.accelerator.register_load_state_pre_hook(load)

    @property
    def _fingerprint(self) -> str:
        """The settings that a checkpoint must share with the run that goes on from it."""
        settings = dataclasses.asdict(self.config)
        for name in ("out", "resume", "report_to", "save", "save_steps"):
            del settings[name]
        settings |= {"processes": self.accelerator.num_processes, "prompts": [p.id for p in self.prompts]}
        return json.dumps(settings, sort_keys=True)

    def _checkpoint(self) -> None:
        folder = checkpoints_of(self.out)
        half, whole = folder / "writing", folder / f"step-{self.progress.step:06d}"
        if self.accelerator.is_main_process:
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            (half / "settings.json").write_text(self._fingerprint)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(half))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            place_folder(half, whole)
            for old in folder.glob("step-*"):
                if old != whole:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = sorted(checkpoints_of(self.out).glob("step-*"))
        if not found:
            return
        if (found[-1] / "settings.json").read_text() != self._fingerprint:
            raise BadInput(
                f"checkpoint {found[-1]}",
                expected="one of a run with the same settings, prompts and number of processes",
                fix="use the old settings, another out, or --no_resume",
            )
        self.accelerator.load_state(str(found[-1]))


def _nothing():
    from contextlib import nullcontext

    return nullcontext()
