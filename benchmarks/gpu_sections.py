"""The sections of `gpu.py`: each is a function of a `Scene` that returns figures.

They use the parts of this project that need torch, transformers, peft and accelerate alone (`reward.shared_prefix`,
`reward.losses`, the arithmetic and the model of PPO), so that they run where nothing else is installed. Sections that
need more import it themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from device_speed import count_forward_flops, read_peak_gib, repeat
from gpu_scene import Figures, Scene, locate_policy, require
from gpu_trl_sections import measure_trl_dpo, measure_trl_ppo, measure_trl_reward
from random_models import read_bundled_prompts
from torch.nn.functional import logsigmoid

from rlhf_hitl.reward import shared_prefix
from rlhf_hitl.reward.losses import davidson_luce_loss


def run_trees(model: Any, trees: list[list[list[int]]]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the last states (tokens, hidden) of a row of trees, and where each conversation's tokens are in it."""
    packed = shared_prefix.pack_trees(trees)
    ids, positions = packed.ids.to(model.device), packed.positions.to(model.device)
    states = model(**shared_prefix.build_model_inputs(model, ids, positions, packed.trees)).last_hidden_state[0]
    return states, [path.to(model.device) for path in packed.paths()]


def check_precision(scene: Scene) -> Figures:
    """Rewards by a bf16 model beside those by fp32: how far they are apart, and how many pairs change their order."""
    shape = replace(scene.shape, layers=min(scene.shape.layers, 12))
    trees = [tree for seed in range(2 if scene.quick else 8) for tree in scene.draw_trees(4, seed)]
    head = torch.randn(shape.hidden, generator=torch.Generator().manual_seed(1)) / shape.hidden**0.5
    found: dict[torch.dtype, tuple[torch.Tensor, torch.Tensor]] = {}
    state: dict[str, torch.Tensor] | None = None
    figures: Figures = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = scene.build(shape, torch.float32, "AutoModel", attn_implementation="sdpa").eval()
        if state is None:
            state = model.state_dict()
        model.load_state_dict(state)
        model = model.to(dtype)
        if not shared_prefix.supports_trees(model):
            raise RuntimeError(f"trees do not run in {dtype}")
        with torch.inference_mode():
            states, paths = run_trees(model, trees)
            last = torch.stack([states[path[-1]] for path in paths]).float()
            alone = torch.stack(
                [
                    model(torch.tensor([chat], device=model.device), use_cache=False).last_hidden_state[0, -1]
                    for tree in trees
                    for chat in tree
                ]
            ).float()
        name = str(dtype).removeprefix("torch.")
        figures[f"precision.{name}.trees_difference"] = float((last - alone).norm() / alone.norm())
        found[dtype] = last, last @ head.to(last.device)
    (exact, rewards), (rough, rough_rewards) = found[torch.float32], found[torch.bfloat16]
    margins, rough_margins = (r[::2] - r[1::2] for r in (rewards, rough_rewards))
    return figures | {
        "precision.states_difference": float((rough - exact).norm() / exact.norm()),
        "precision.rewards_difference": float((rough_rewards - rewards).std() / rewards.std()),
        "precision.order_kept": float((margins.sign() == rough_margins.sign()).float().mean()),
        "precision.pairs": len(margins),
    }


def check_attention(scene: Scene) -> Figures:
    """FlexAttention over trees beside SDPA over each conversation alone: states, gradients, and the time of both."""
    if scene.device == "cpu":
        torch.compiler.set_stance("force_eager")  # to compile for a CPU takes a minute
    shape = replace(scene.shape, layers=2)
    trees = scene.draw_trees(2)
    figures: Figures = {}
    for dtype in (torch.float32,) if scene.quick else (torch.float32, torch.bfloat16):
        plain = scene.build(shape, dtype, "AutoModel", attn_implementation="sdpa").eval()
        flex = scene.build(shape, dtype, "AutoModel", attn_implementation=shared_prefix.FLEX).eval()
        flex.load_state_dict(plain.state_dict())
        name = f"attention.{str(dtype).removeprefix('torch.')}"
        chats = [torch.tensor([chat], device=plain.device) for tree in trees for chat in tree]
        last = torch.cat([plain(chat, use_cache=False).last_hidden_state[0, -1:] for chat in chats])
        with torch.set_grad_enabled(scene.device != "cpu"):  # there FlexAttention has no backward pass
            states, paths = run_trees(flex, trees)
        flexed = torch.stack([states[path[-1]] for path in paths])
        figures[f"{name}.states_difference"] = float((flexed - last).float().norm() / last.float().norm())
        if scene.device == "cpu":
            figures[f"{name}.gradients_difference"] = None
            continue
        weights = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)).to(last)
        for of in (last, flexed):
            (of * weights).sum().backward()
        difference, size = (
            torch.stack([x.float().norm() for x in of]).norm()
            for of in (
                [p.grad - q.grad for p, q in zip(plain.parameters(), flex.parameters()) if p.grad is not None],
                [p.grad for p in plain.parameters() if p.grad is not None],
            )
        )
        figures[f"{name}.gradients_difference"] = float(difference / size)
    if scene.device == "cpu":
        return figures
    row = scene.draw_trees(scene.pairs, seed=3)
    for implementation in ("sdpa", shared_prefix.FLEX):
        model = scene.build(shape, scene.dtype, "AutoModel", attn_implementation=implementation)
        if implementation == "sdpa" and not shared_prefix.supports_trees(model):
            raise RuntimeError("trees do not run under sdpa")

        def step(model: Any = model) -> None:
            run_trees(model, row)[0].float().square().mean().backward()
            model.zero_grad()

        n, seconds = repeat(step, scene.seconds)
        tokens = sum(sum(shared_prefix.measure_tree(tree)) for tree in row)
        figures[f"attention.{implementation}.tokens_per_s"] = tokens * n / seconds
    return figures


def measure_features(scene: Scene) -> Figures:
    """Features for a head: a frozen model reads pairs as trees, no logits."""
    model = scene.build(scene.shape, scene.dtype, "AutoModel", attn_implementation="sdpa").eval()
    if not shared_prefix.supports_trees(model):
        raise RuntimeError("trees do not run")
    trees = scene.draw_trees(scene.pairs)

    @torch.inference_mode()
    def step() -> None:
        states, paths = run_trees(model, trees)
        torch.stack([states[path].float().mean(0) for path in paths]).cpu()

    n, seconds = repeat(step, scene.seconds)
    tokens = sum(sum(shared_prefix.measure_tree(tree)) for tree in trees)
    flops = count_forward_flops(scene.shape, tokens, scene.prompt + scene.answer)
    return scene.report("features", n, seconds, flops, pairs=len(trees), tokens=tokens)


def measure_reward(scene: Scene) -> Figures:
    """Full reward training: fp32 weights under bf16 autocast, AdamW, gradient checkpointing, pairs as trees."""
    model = scene.build(scene.shape, torch.float32, "AutoModel", attn_implementation="sdpa")
    if not shared_prefix.supports_trees(model):
        raise RuntimeError("trees do not run")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    head = torch.nn.Linear(scene.shape.hidden, 1, bias=False, device=scene.device)
    torch.nn.init.zeros_(head.weight)
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], 1e-5, fused=True)
    trees, losses = scene.draw_trees(scene.pairs), list[float]()
    ranks = torch.tensor([[0, 1]] * len(trees), device=scene.device)

    def step() -> None:
        with torch.autocast(scene.device, torch.bfloat16, enabled=not scene.quick):
            states, paths = run_trees(model, trees)
        rewards = head(torch.stack([states[path[-1]] for path in paths]).float()).view(-1, 2)
        loss = davidson_luce_loss(rewards, ranks, []).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())

    n, seconds = repeat(step, scene.seconds)
    if not losses[-1] < losses[0]:
        raise RuntimeError(f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} on pairs that repeat")
    tokens = sum(sum(shared_prefix.measure_tree(tree)) for tree in trees)
    flops = 3 * count_forward_flops(scene.shape, tokens, scene.prompt + scene.answer)
    return scene.report("reward", n, seconds, flops, pairs=len(trees), tokens=tokens)


def import_actor_critic() -> tuple[Any, Any, Any]:
    """Return the model of PPO, its collator and its formulas: the one place where they are imported from."""
    from rlhf_hitl.policy.ppo import math as ppo_math
    from rlhf_hitl.policy.ppo.batches import collate_rollouts
    from rlhf_hitl.policy.ppo.model import ActorCritic

    return ActorCritic, collate_rollouts, ppo_math


def measure_dpo(scene: Scene) -> Figures:
    """DPO of a LoRA on bf16 weights, the adapter switched off as the reference, in plain torch."""
    ActorCritic, collate, _ = import_actor_critic()
    model = ActorCritic(scene.add_lora(scene.build(scene.shape, scene.dtype)), 1.0).to(scene.device).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    pairs, losses = max(2, scene.pairs // 4), list[float]()
    trees = scene.draw_trees(pairs)
    trunks = [shared_prefix.measure_tree(tree)[0] for tree in trees]
    prompts = [tree[0][:trunk] for tree, trunk in zip(trees, trunks) for _ in range(2)]
    answers = [chat[trunk:] for tree, trunk in zip(trees, trunks) for chat in tree]
    batch = collate(prompts, answers, 0, scene.device)

    def step() -> None:
        reference = model.compute_reference_logprobs(batch)
        ratios = ((model(batch)[0] - reference) * batch.mask).sum(1).view(-1, 2)
        loss = -logsigmoid(0.1 * (ratios[:, 0] - ratios[:, 1])).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())

    n, seconds = repeat(step, scene.seconds)
    if not losses[-1] < losses[0]:
        raise RuntimeError(f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} on pairs that repeat")
    tokens, of_answers = batch.ids.numel(), batch.ids.shape[0] * (batch.answer_width + 1)
    # Forward of the reference, forward, and backward through frozen weights.
    flops = 3 * count_forward_flops(scene.shape, tokens, batch.ids.shape[1], of_answers)
    return scene.report("dpo", n, seconds, flops, pairs=pairs, tokens=tokens)


def measure_ppo(scene: Scene) -> Figures:
    """A step of PPO by its parts: sampling, evaluation by policy and reference, and the update."""
    ActorCritic, collate, ppo_math = import_actor_critic()
    policy = scene.add_lora(scene.build(scene.shape, scene.dtype))
    model = ActorCritic(policy, 1.0).to(scene.device).eval()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5)
    episodes, width = 4 * scene.pairs, scene.answer // 2
    rng = np.random.default_rng(0)
    prompts = rng.integers(8, 500, (episodes, scene.prompt // 2)).tolist()
    seconds_of: dict[str, float] = dict.fromkeys(("sample", "evaluate", "update"), 0.0)

    def timed(name: str, do: Callable[[], Any]) -> Any:
        result: list[Any] = []
        seconds_of[name] += repeat(lambda: result.append(do()), 0, warm_up=0)[1]
        return result[0]

    def sample() -> Any:
        ids = torch.tensor(prompts, device=scene.device)
        with torch.no_grad():
            out = policy.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=width, do_sample=True, top_k=0,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        return collate(prompts, out[:, ids.shape[1] :].tolist(), 0, scene.device)

    @torch.no_grad()
    def evaluate(batch: Any) -> list[Any]:
        parts = torch.arange(episodes, device=scene.device).split(scene.pairs)
        found = []
        for index in parts:
            part = batch.select_rows(index)
            out = model(part)
            found.append((part, out[0], out[-1], model.compute_reference_logprobs(part)))
        return found

    def update(found: list[Any]) -> None:
        for part, old, values, reference in found:
            rewards = ppo_math.compute_token_rewards(
                torch.rand(len(part.lengths), device=scene.device), old - reference, part.lengths, 0.05
            )
            advantages, returns = ppo_math.compute_gae(rewards, values, part.mask, 1.0, 0.95)
            out = model(part)
            losses = ppo_math.policy_loss(out[0], old, ppo_math.whiten(advantages, part.mask), 0.2)[0]
            losses = losses + ppo_math.value_loss(out[-1], values, returns, 0.5)[0]
            ((losses * part.mask).sum() / part.mask.sum()).backward()
            optimiser.step()
            optimiser.zero_grad()

    def step() -> None:
        batch = timed("sample", sample)
        found = timed("evaluate", lambda: evaluate(batch))
        timed("update", lambda: update(found))

    step()
    seconds_of.update(dict.fromkeys(seconds_of, 0.0))
    n, seconds = repeat(step, scene.seconds, warm_up=0)
    length = len(prompts[0]) + width
    # Sampling computes each token once, and evaluation and update three times more and one backward pass.
    forward = count_forward_flops(scene.shape, episodes * length, length, episodes * width)
    made = scene.report("ppo", n, seconds, 5 * forward, episodes=episodes, tokens=episodes * width)
    return made | {f"ppo.{name}_share": of / sum(seconds_of.values()) for name, of in seconds_of.items()}


def measure_train_ppo(scene: Scene) -> Figures:
    """The whole trainer, `train_ppo`, from a folder to a folder."""
    require("pydantic_settings", "sqlalchemy", "alembic", "platformdirs")
    from ppo_race import Meter, Run, score_answer
    from tuned_policies import make_prompt, tune_with_ppo

    episodes, steps = 2 * scene.pairs, 2 if scene.quick else 3
    meter = Meter(steps * episodes)

    def reward(chats: list[Any]) -> np.ndarray:
        meter.read(len(chats))
        return np.array([score_answer(chat.completion[-1].content) for chat in chats], np.float32)

    out = str(scene.folder / "tuned")
    texts = read_bundled_prompts()[:64]
    tune_with_ppo(
        [make_prompt(text) for text in texts], reward, output_dir=out, model_name_or_path=str(locate_policy(scene)),
        steps=steps, rollouts=episodes, minibatch=scene.pairs, max_prompt_tokens=1024,
        max_new_tokens=scene.answer // 2, missing_eos_penalty=0.0, lora_r=16, lora_alpha=32, save="adapter",
        precision="float32" if scene.quick else "bfloat16",
    )  # fmt: skip
    run = Run(out, out, texts, steps, episodes, 1, 1, 1, 1e-4, 0.05, 16, 32, 0, episodes, 1.0)
    told = meter.report(run)
    return {"train_ppo.episodes_per_s": told["episodes"] / told["seconds"], "train_ppo.peak_gib": read_peak_gib()}


#: By name: the section, and the most seconds that it may take.
SECTIONS: dict[str, tuple[Callable[[Scene], Figures], float]] = {
    "precision": (check_precision, 90),
    "attention": (check_attention, 150),
    "features": (measure_features, 90),
    "reward": (measure_reward, 90),
    "dpo": (measure_dpo, 90),
    "ppo": (measure_ppo, 90),
    "train_ppo": (measure_train_ppo, 90),
    "trl_ppo": (measure_trl_ppo, 90),
    "trl_reward": (measure_trl_reward, 90),
    "trl_dpo": (measure_trl_dpo, 90),
}
