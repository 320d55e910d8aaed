"""The tables of the tuning of policies, for `figures.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def draw_vs_trl_ppo(f: dict[str, Any]) -> str:
    ways = {
        "ours": "rlhf_hitl",
        "theirs": "TRL, a step's answers at once",
        "theirs.small": "TRL, answers in minibatches",
        "theirs.lora_critic": "TRL, the same with a LoRA on its value model",
    }
    rows = "".join(
        f"| {name} | {f[f'{way}.episodes_per_processor_s']:.2f} | {f[f'{way}.episodes_per_s']:.2f} | "
        f"{f[f'{way}.peak_mb']:,.0f} | {f[f'{way}.growth_mb']:,.0f} |\n"
        for way, name in ways.items()
    )
    return (
        "| SmolLM2-135M | episodes a processor-second | a second | peak memory (MB) | of it above the imports |\n"
        "| --- | ---: | ---: | ---: | ---: |\n" + rows + "\n"
        f"rlhf_hitl trains {f['episodes_ratio']:.1f} times the episodes a processor-second in "
        f"{f['memory_ratio']:.0%} of the memory. On a model of 1M weights, "
        f"{f['small.episodes_ratio']:.1f} times, it reaches a reward of "
        f"{f['ours.reward']:.3f} on held-out prompts and TRL {f['theirs.reward']:.3f} (untuned: "
        f"{f['base.reward']:.3f}), each at the best of three learning rates: {f['reward_gain']:+.3f} "
        f"({f['reward_gain.low']:+.3f} to {f['reward_gain.high']:+.3f}) over {f['seeds']} seeds. The machine's load "
        f"average was {f['load']:.0f}.\n"
    )


def draw_gpu(f: dict[str, Any]) -> str:
    def show(key: str, form: str) -> str:
        value = f.get(key)
        return "" if value is None else f"{value:{form}}"

    names = {
        "features": ("features for a head", "pairs"),
        "reward": ("full reward training", "pairs"),
        "trl_reward": ("TRL's `RewardTrainer`", "pairs"),
        "dpo": ("DPO, plain torch", "pairs"),
        "trl_dpo": ("TRL's `DPOTrainer`", "pairs"),
        "ppo": ("PPO, a step by its parts", "episodes"),
        "train_ppo": ("PPO, `train_ppo`", "episodes"),
        "trl_ppo": ("TRL's `PPOTrainer`", "episodes"),
    }
    rows = "".join(
        f"| {name} | {show(f'{key}.pairs_per_s', '.1f')} | {show(f'{key}.episodes_per_s', '.1f')} | "
        f"{show(f'{key}.mfu', '.0%')} | {show(f'{key}.peak_gib', '.1f')} |\n"
        for key, (name, unit) in names.items()
        if f.get(f"{key}.{unit}_per_s") is not None
    )
    checks = {
        "precision.rewards_difference": "rewards in bf16, difference by that of the rewards among themselves",
        "precision.order_kept": "pairs whose order bf16 keeps",
        "attention.float32.states_difference": "FlexAttention's states beside SDPA's, fp32",
        "attention.float32.gradients_difference": "its gradients, fp32",
        "attention.bfloat16.states_difference": "its states, bf16",
        "attention.bfloat16.gradients_difference": "its gradients, bf16",
    }
    checked = "".join(f"| {name} | {f[key]:.2g} |\n" for key, name in checks.items() if f.get(key) is not None)
    return (
        "| 1B weights, random | pairs/s | episodes/s | MFU | peak (GiB) |\n| --- | ---: | ---: | ---: | ---: |\n"
        + rows
        + "\n| check | found |\n| --- | ---: |\n"
        + checked
        + f"\n{f['sections_done']} sections were done, {f['sections_skipped']} skipped, "
        f"{f['sections_failed']} failed.\n"
    )


def draw_scale(f: dict[str, Any]) -> str:
    methods = {
        "features": "features for a head", "reward": "full reward training", "dpo": "DPO", "ppo": "PPO",
        "grpo": "RLOO, GRPO",
    }  # fmt: skip
    places = {"one": "one GPU", "ddp": "DDP", "fsdp2": "FSDP2", "zero3": "ZeRO-3", "vllm": "FSDP2 and vLLM"}

    def make_cell(key: str) -> str:
        value = f.get(f"{key}.gb")
        if value is None:
            return "–"
        return f"{value:,.0f}" if value <= f["device_gb"] else f"~~{value:,.0f}~~"

    def make_row(size: str, method: str) -> str:
        cells = " | ".join(make_cell(f"{size}.{method}.{place}") for place in places)
        fits = [place for place in places if (f.get(f"{size}.{method}.{place}.gb") or 1e9) <= f["device_gb"]]
        hours = f[f"{size}.{method}.hours_{'one' if fits[:1] == ['one'] else 'eight'}"] if fits else None
        time = "" if hours is None else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
        return f"| {size.upper()} | {methods[method]} | {cells} | {time} |\n"

    checks = [key.removeprefix("check.").removesuffix(".measured_mb") for key in f if key.endswith(".measured_mb")]
    checked = "".join(
        f"| {name} | {f[f'check.{name}.estimated_mb']:,.0f} | {f[f'check.{name}.measured_mb']:,.0f} |\n"
        for name in checks
    )
    return (
        f"| GB a GPU | | {' | '.join(places.values())} | time of 10,000 |\n| --- | --- |{' ---: |' * 6}\n"
        + "".join(make_row(size, method) for size in ("1b", "8b", "70b") for method in methods)
        + f"\nStruck out is what does not fit into {f['device_gb']:.0f} GB; – is what does not run. The time is that "
        "of 10,000 pairs or episodes on one GPU where that is enough, else on eight.\n\n"
        "| check on a CPU, fp32 (MB) | estimated | measured |\n| --- | ---: | ---: |\n" + checked + "\n"
        f"The estimate is off by {f['memory_estimate_error.mean']:.0%} in the mean and by "
        f"{f['memory_estimate_error']:.0%} at most.\n"
    )


def draw_real_tuning(f: dict[str, Any]) -> str:
    names = {
        "ppo": "PPO on the reward alone",
        "ppo_watched": "PPO with the watch head",
        "dpo": "DPO on the best and worst of four answers",
    }

    def say(method: str, gain: str) -> str:
        value, low, high = (f[f"{method}.{gain}{end}"] for end in ("", ".low", ".high"))
        return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"

    rows = "".join(
        f"| {name} | {say(method, 'reward_gain')} | {say(method, 'gold_gain')} | {f[f'{method}.watch_reward']:.2f} | "
        f"{f[f'{method}.after.words']:.0f} | {f.get(f'{method}.updates', '')} |\n"
        for method, name in names.items()
        if f"{method}.gold_gain" in f  # each takes an hour
    )
    accuracies = ", ".join(f"{name} {f[f'{name}.accuracy']:.0%}" for name in ("proxy", "watch", "gold"))
    return (
        f"| on {f['prompts']} held-out prompts, {f['samples']} answers each | reward it was tuned on | gold head "
        "| watch head, prompts of the tuning | words | steps |\n| --- | ---: | ---: | ---: | ---: | ---: |\n"
        f"| before | | | | {f['before.words']:.0f} | |\n" + rows + "\n"
        "Gains are in standard deviations of each reward over the answers before, with 95 % intervals. Of the "
        f"held-out pairs the heads order so many as people did: {accuracies}. The watch head likes best: "
        f"{names[list(names)[f['method']]]}.\n"
    )


def draw_real_tuning_samples(f: dict[str, Any]) -> str:
    def clean(text: str) -> str:
        return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

    return "| prompt | before | after |\n| --- | --- | --- |\n" + "".join(
        f"| {clean(s['prompt'])} | {clean(s['before'])} ({s['reward_before']:.2f}) | "
        f"{clean(s['after'])} ({s['reward_after']:.2f}) |\n"
        for s in f["samples"]
    )


def draw_generation(f: dict[str, Any]) -> str:
    names = {
        "k1": "one answer to a prompt",
        "k4": "four answers to a prompt",
        "eos": "four answers, as long as they come",
    }
    rows = "".join(
        f"| {name} | {f[f'{key}.ours.tokens_per_s']:.0f} | {f[f'{key}.generate.tokens_per_s']:.0f} | "
        f"{f[f'{key}.tokens_ratio']:.2f} ({f[f'{key}.tokens_ratio.low']:.2f} to "
        f"{f[f'{key}.tokens_ratio.high']:.2f}) |\n"
        for key, name in names.items()
    )
    return (
        f"| {f['rows']} rows side by side, {f['new_tokens']} new tokens | tokens a second | `model.generate` | ratio "
        "(worst and best turn) |\n| --- | ---: | ---: | ---: |\n" + rows
    )


def draw_ppo_toy(f: dict[str, Any]) -> str:
    return (
        "| a toy task whose optimum is known | |\n| --- | ---: |\n"
        f"| share of the optimum, mean (worst seed) | {f['optimal_share']:.1%} ({f['optimal_share.low']:.1%}) |\n"
        f"| KL with a high weight, nats an answer (with a low one) | {f['kl_high_weight']:.3f} "
        f"({f['kl_low_weight']:.1f}) |\n"
        f"| estimated less exact KL, in its standard errors | {f['kl_error']:.2f} |\n"
    )


def draw_ppo_value_head(f: dict[str, Any]) -> str:
    def say(kind: str, name: str) -> str:
        return f"{f[f'{kind}.{name}']:.2f} ± {f[f'{kind}.{name}.se']:.2f}"

    names = ("explained_variance", "explained_early", "reward_gain")
    return (
        "| `value_head` | explained, last 15 of 50 steps | explained, steps 6 to 20 | gain in reward |\n"
        "| --- | ---: | ---: | ---: |\n"
        + "".join(
            f"| `{kind}` | {' | '.join(say(kind, name) for name in names)} |\n"
            for kind in ("linear", "mlp", "shared", "critic")
        )
    )


def draw_conservative(f: dict[str, Any]) -> str:
    def make_row(case: str, k: str) -> str:
        labels, noise = case.split(".", 1)
        name = f"{case}.k{k}"
        gain = (
            ""
            if k == "0"
            else f"{f[f'{name}.gain']:+.2f} ({f[f'{name}.gain.low']:+.2f} to {f[f'{name}.gain.high']:+.2f})"
        )
        right = "" if f[f"{name}.right"] is None else f"{f[f'{name}.right']:.0%}"
        turned = f", {float(noise):.0%} turned round" if float(noise) else ""
        return f"| {labels}{turned} | {k} | {f[f'{name}.gold']:.2f} | {gain} | {f[f'{name}.pairs']:.0%} | {right} |\n"

    cases = dict.fromkeys(name.rsplit(".k", 1)[0] for name in f if ".k" in name)
    return (
        f"Of {f['prompts']:.0f} left-out prompts of the bundled set with four answers each (*simulated* votes, "
        f"{f['seeds']:.0f} seeds):\n\n"
        "| labels learnt | k | gold reward of the best by the conservative reward | change by k | prompts with a pair "
        "| of these right by gold |\n| --- | ---: | ---: | ---: | ---: | ---: |\n"
        + "".join(make_row(case, k) for case in cases for k in ("0", "0.5", "1", "2"))
    )


def draw_promotion(f: dict[str, Any]) -> str:
    rates = ("40", "45", "50", "55", "60")
    kinds = (
        ("votes alone", "", "wrong.votes_alone"),
        (f"with predictions ({f['correlation']:.2f})", "_ppi", "wrong_ppi"),
        (f"with better ones ({f['correlation.all_pairs']:.2f})", "_ppi.all_pairs", "wrong_ppi.all_pairs"),
        ("with a model that is wrong", "_ppi.wrong_way", "wrong_ppi.wrong_way"),
    )
    rows = "".join(
        f"| {name} | "
        + " | ".join(f"{f[f'size_share{kind}.at_{rate}'] * f['fixed_size']:.0f}" for rate in rates)
        + f" | {f[f'size_share{kind}']:.0%} | {f[wrong]:.1%} | {f[f'power{kind}']:.0%} |\n"
        for name, kind, wrong in kinds
    )
    return (
        "| true win rate | " + " | ".join(f"{rate} %" for rate in rates) + " | share | wrong | promoted at 60 % |\n"
        "| --- |" + " ---: |" * (len(rates) + 3) + "\n" + rows + "\n"
        f"Outcomes until a decision, the mean of {f['runs']:,} *simulated* promotions with a least gain of 0.1. A test "
        f"of a fixed size takes {f['fixed_size']}; *share* is the mean over win rates from 40 to 60 % by that. *Wrong* "
        "is the largest share that is promoted at 50 % or less. In brackets: how predictions correlate with single "
        "votes, which are those of a head for MT-Bench within one pair of policies, and over all pairs of policies. "
        f"With predictions, {f['fresh']} prompts that nobody judges come with each that is judged (`--prompts`). "
        f"Predictions bring the share to 45 % from a correlation of about {f['needed_correlation']:.2f} on. With a "
        f"least gain of 0.05 and the same win rates, a test of a fixed size takes {f['gain_5.fixed_size']}, and the "
        f"shares are {f['gain_5.size_share']:.0%} and {f['gain_5.size_share_ppi']:.0%}.\n"
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "conservative": draw_conservative,
    "generation": draw_generation,
    "gpu": draw_gpu,
    "ppo_toy": draw_ppo_toy,
    "ppo_value_head": draw_ppo_value_head,
    "promotion": draw_promotion,
    "real_tuning": draw_real_tuning,
    "real_tuning_samples": draw_real_tuning_samples,
    "scale": draw_scale,
    "vs_trl_ppo": draw_vs_trl_ppo,
}
