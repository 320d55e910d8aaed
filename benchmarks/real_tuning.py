"""Tune SmolLM2-135M on what people voted for, on a CPU, and see whether its answers to held-out prompts are better.

    python benchmarks/real_tuning.py --data ../shared/data --folder DIR --minutes 60

The prompts of a set of people's votes are split: of two fifths the votes train a head, the reward that the policy is
tuned on; of a fifth each they train the watch and the gold head, which read other layers (or, with `--gold-backbone`,
another model); the last fifth is held out of all of it. Before and after, the policy answers the held-out prompts with
the same seeds, several times each. `reward_gain` and `gold_gain` are the mean differences in units of the standard
deviation of each reward over the answers before, and their 95 % intervals are of a bootstrap over prompts. `.accuracy`
says what each head is worth: the held-out pairs that it orders as people did. An empty answer, of which no head reads
anything, has the lowest reward that either policy got.

There are several ways to tune (`--methods`): `ppo`, which looks at the reward alone; `ppo_watched`, which the watch
head stops where it falls; and `dpo` on the best and worst of four answers. The figures without a prefix are those of
the way whose answers to prompts of the tuning the watch head likes best; the gold head, which says how good it is, has
no part in the tuning, the stop or the choice. A run that is out
of `--minutes` stops after a checkpoint, and goes on when the same command is run again: features, answers and the steps
of PPO are kept in `--folder`. What some prompts were answered before and after goes to
`results/real_tuning_samples.json`.
`--quick` reads few labels, and tunes `--backbone` for two steps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from record import write_result
from reward_accuracy import SETS, list_chats, read_labels_of_set
from tuned_policies import sample_answers, tune_with_dpo, tune_with_ppo

from rlhf_hitl.files import atomic_file
from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_votes
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.rendering import Conversation, measure_completion_lengths
from rlhf_hitl.reward.style import measure_style
from rlhf_hitl.reward.training.head_learning import learn_head
from rlhf_hitl.types import Message, Prompt, Split

SHARES = {"proxy": 0.4, "watch": 0.2, "gold": 0.2, "heldout": 0.2}
METHODS = ("ppo", "ppo_watched", "dpo")
SAMPLES = 6  # prompts whose answers are published
CHOICE_PROMPTS = 64  # of the tuning, by whose answers a method is chosen


class OutOfTime(Exception):
    """The minutes are over. What has been done is kept."""


@dataclass(frozen=True)
class Work:
    """The folder that keeps a run, and until when it may work."""

    folder: Path
    deadline: float

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def keep(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what was computed once, as JSON."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            self.check_time()
            value = compute()
            with atomic_file(path) as draft:
                draft.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))


def split_prompts(pairs: Sequence[LabelledPair], seed: int) -> dict[str, list[LabelledPair]]:
    """Return the pairs of each part; all pairs of a prompt's family are in one."""
    names, family = np.unique([p.comparison.prompt.family for p in pairs], return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    ends = np.round(np.cumsum(list(SHARES.values()))[:-1] * len(names)).astype(int)
    parts = dict(zip(SHARES, np.split(shuffled, ends)))
    return {part: [p for p, at in zip(pairs, family) if at in set(of.tolist())] for part, of in parts.items()}


def train_reward(pairs: Sequence[LabelledPair], backbone: Backbone, features: Path) -> RewardModel:
    chats = list_chats(pairs)
    cache = FeatureCache(features, backbone)
    families = np.array([p.comparison.prompt.family for p in pairs])
    learnt = learn_head(
        cache.features(chats), measure_completion_lengths(chats), measure_style(chats), count_votes(pairs), families
    )
    return RewardModel(cache, learnt.standardiser, learnt.head, backend="head", card={})


def measure_accuracy(model: RewardModel, pairs: Sequence[LabelledPair]) -> float:
    """Return the share of decided pairs that a model orders as people did."""
    decided = [p for p in pairs if p.label.preferred is not None]
    first, second = model.rewards([p.first for p in decided]), model.rewards([p.second for p in decided])
    prefers_first = np.array([p.label.preferred == p.label.first for p in decided])
    return float(((first > second) == prefers_first).mean())


def list_prompts(pairs: Sequence[LabelledPair], tokenizer: Any, most_tokens: int) -> list[Prompt]:
    """Return the prompts of pairs that end with the user and fit, each once, as prompts that may be trained on."""
    prompts = {p.comparison.prompt.id: p.comparison.prompt for p in pairs}
    fitting = []
    for prompt in (prompts[i] for i in sorted(prompts)):
        chat = [{"role": m.role, "content": m.content} for m in prompt.messages]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        if prompt.messages[-1].role == "user" and len(ids) <= most_tokens:
            fitting.append(replace(prompt, split=Split.TRAIN))
    return fitting


def score(model: RewardModel, prompts: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
    """Return the rewards (n,) of answers, nan for empty ones."""
    rewards = np.full(len(answers), np.nan)
    there = [i for i, text in enumerate(answers) if text]
    if there:
        chats = [Conversation(prompts[i].messages, (Message("assistant", answers[i]),)) for i in there]
        rewards[there] = model.rewards(chats, keep=False)
    return rewards


def bootstrap_mean(values: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """Return the 95 % interval of a mean over prompts (n,), by the percentiles of a bootstrap."""
    at = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    low, high = np.percentile(values[at].mean(1), [2.5, 97.5])
    return float(low), float(high)


def tune(
    method: str, args: argparse.Namespace, work: Work, prompts: list[Prompt], model: RewardModel, watch: RewardModel
) -> Path:
    """Return the folder of the policy that a method has tuned, which it does where it is not there yet."""
    out = work.folder / method
    if out.exists():
        return out
    scale = work.keep("scale", lambda: float(np.std(score_train(model, args, prompts))))
    shared = {"output_dir": str(out), "model_name_or_path": args.backbone, "lora_r": 16, "lora_alpha": 32}
    if method != "dpo":

        def reward(chats: list[Conversation]) -> np.ndarray:
            work.check_time()
            return model.rewards(chats, keep=False) / np.float32(scale or 1)

        is_watched = method == "ppo_watched"
        history = tune_with_ppo(
            prompts, reward, partial(watch.rewards, keep=False) if is_watched else None, **shared, steps=args.steps,
            # Several answers to a prompt tell earlier where reward and gold lead.
            rollouts=args.rollouts, answers_per_prompt=4 if is_watched else 1, minibatch=args.rollouts // 2, epochs=2,
            max_prompt_tokens=args.prompt_tokens, max_new_tokens=args.new_tokens, learning_rate=args.learning_rate,
            kl_beta=0.05, save_steps=2, seed=args.seed, resume=True,
        )  # fmt: skip
        work.keep(f"history_{method}", lambda: history)
        return out
    pairs = work.keep("dpo_pairs", lambda: make_pairs(args, work, prompts, model))
    by_id = {p.id: p for p in prompts}
    tune_with_dpo(
        [(by_id[i], good, bad, margin) for i, good, bad, margin in pairs], **shared, learning_rate=args.learning_rate,
        max_length=args.prompt_tokens + args.new_tokens + 16, per_device_train_batch_size=4, seed=args.seed,
    )  # fmt: skip
    return out


def score_train(model: RewardModel, args: argparse.Namespace, prompts: list[Prompt]) -> np.ndarray:
    """Return the rewards of untuned answers to a few prompts of the tuning, empty ones left out."""
    few = prompts[:32]
    rewards = score(model, few, sample_answers(args.backbone, few, max_new_tokens=args.new_tokens, seed=args.seed))
    return rewards[~np.isnan(rewards)]


def make_pairs(args: argparse.Namespace, work: Work, prompts: list[Prompt], model: RewardModel) -> list[Any]:
    """Return prompt id, best and worst answer of four, and their margin, for as many prompts as PPO would sample."""
    chosen = prompts[: max(2, args.steps * args.rollouts // 4)]
    answers, rewards = [], []
    for i in range(4):
        work.check_time()
        answers.append(sample_answers(args.backbone, chosen, max_new_tokens=args.new_tokens, seed=1000 * (i + 1)))
        rewards.append(score(model, chosen, answers[-1]))
    made = []
    for prompt, texts, of in zip(chosen, zip(*answers), np.array(rewards).T):
        if np.isnan(of).sum() < 3 and np.nanmax(of) > np.nanmin(of):
            best, worst = int(np.nanargmax(of)), int(np.nanargmin(of))
            made.append([prompt.id, texts[best], texts[worst], float(of[best] - of[worst])])
    return made


def answer_all(policy: str | Path, args: argparse.Namespace, work: Work, prompts: list[Prompt]) -> list[list[str]]:
    """Return answers to prompts, (samples, prompts)."""
    answers = []
    for i in range(args.samples):
        work.check_time()
        answers.append(sample_answers(policy, prompts, max_new_tokens=args.new_tokens, seed=10_000 * (args.seed + i)))
    return answers


def compare(
    model: RewardModel, name: str, prompts: list[Prompt], before: list[list[str]], after: list[list[str]]
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Return the figures of a reward, and the rewards before and after, (samples, prompts)."""
    old, new = (np.array([score(model, prompts, answers) for answers in of]) for of in (before, after))
    lowest = min(np.nanmin(old), np.nanmin(new))
    old, new = np.nan_to_num(old, nan=lowest), np.nan_to_num(new, nan=lowest)
    gains = (new - old).mean(0) / old.std()
    low, high = bootstrap_mean(gains)
    figures = {name: float(gains.mean()), f"{name}.low": low, f"{name}.high": high}
    return figures | {f"{name}.wins": float((new > old).mean() + (new == old).mean() / 2)}, old, new


def run(args: argparse.Namespace, work: Work) -> None:
    tokenizer = load_tokenizer(args.backbone)
    pairs = read_labels_of_set(Path(args.data) / SETS[args.set], args.labels)
    parts = split_prompts(pairs, args.seed)
    layers = Backbone(args.backbone).layers  # at half, two thirds and five sixths
    backbones = {
        "proxy": Backbone(args.backbone, layer=layers[len(layers) // 2], max_length=args.max_length),
    }
    backbones |= dict.fromkeys(
        ("watch", "gold"),
        Backbone(args.gold_backbone, max_length=args.max_length)
        if args.gold_backbone
        else Backbone(args.backbone, layer=[layers[0], layers[-1]], pooling="mean", max_length=args.max_length),
    )
    models = {}
    for name, backbone in backbones.items():
        work.check_time()
        models[name] = train_reward(parts[name], backbone, work.folder / "features")
    figures: dict[str, float | int | None] = {
        f"{name}.accuracy": measure_accuracy(model, parts["heldout"]) for name, model in models.items()
    }
    figures |= {f"{name}.labels": len(of) for name, of in parts.items()}
    train, heldout = (list_prompts(parts[part], tokenizer, args.prompt_tokens) for part in ("proxy", "heldout"))
    heldout = heldout[: args.prompts]
    before = work.keep("before", lambda: answer_all(args.backbone, args, work, heldout))
    figures |= describe_answers("before", before)
    found: dict[str, tuple[dict[str, float], list[list[str]], np.ndarray, np.ndarray]] = {}
    for method in args.methods:
        policy = tune(method, args, work, train, models["proxy"], models["watch"])
        after = work.keep(f"after_{method}", lambda m=method, p=policy: answer_all(p, args, work, heldout))
        of_proxy, old, new = compare(models["proxy"], "reward_gain", heldout, before, after)
        of_gold, *_ = compare(models["gold"], "gold_gain", heldout, before, after)
        found[method] = of_proxy | of_gold | describe_answers("after", after), after, old, new
        liked = work.keep(f"liked_{method}", lambda p=policy: measure_training(p, args, train, models["watch"]))
        figures |= {f"{method}.{name}": value for name, value in (found[method][0] | {"watch_reward": liked}).items()}
        figures |= describe_history(work.folder / f"history_{method}.json", method)
    method = max(found, key=lambda m: float(figures[f"{m}.watch_reward"] or 0))
    of_method, after, old, new = found[method]
    figures |= of_method | {"prompts": len(heldout), "samples": args.samples, "train_prompts": len(train)}
    figures |= {"steps": args.steps, "method": METHODS.index(method)}
    notes = (
        f"SmolLM2-135M, LoRA, votes of {args.set}, at most {args.new_tokens} new tokens; gains in standard deviations "
        "of the reward over the answers before; gold: a head of other votes and other layers, which took no part. "
        f"Without a prefix: {method}, chosen by the watch head on prompts of the tuning."
    )
    write_result("real_tuning", figures, seeds=[args.seed], notes=notes, quick=args.quick)
    samples = [
        {
            "prompt": prompt.messages[-1].content,
            "before": before[0][i],
            "after": after[0][i],
            "reward_before": float(old[0, i]),
            "reward_after": float(new[0, i]),
        }
        for i, prompt in enumerate(heldout[:SAMPLES])  # the first by id, which is a hash: none is chosen
    ]
    if not args.quick:
        write_result("real_tuning_samples", {"samples": samples}, seeds=[args.seed], notes=notes, quick=False)  # type: ignore[dict-item]


def measure_training(policy: Path, args: argparse.Namespace, prompts: list[Prompt], watch: RewardModel) -> float:
    """Return what the watch head says of a policy's answers to prompts of the tuning."""
    few = prompts[-CHOICE_PROMPTS:]
    return float(np.nanmean(score(watch, few, sample_answers(policy, few, max_new_tokens=args.new_tokens, seed=7))))


def describe_history(path: Path, method: str) -> dict[str, float]:
    """Return how many steps PPO updated the policy, and how far it came from the reference."""
    if not path.exists():
        return {}
    history = json.loads(path.read_text(encoding="utf-8"))
    return {f"{method}.updates": sum("updates" in row for row in history), f"{method}.kl": history[-1]["kl"]}


def describe_answers(name: str, answers: list[list[str]]) -> dict[str, float]:
    texts = [text for of in answers for text in of]
    words = [len(text.split()) for text in texts]
    return {
        f"{name}.empty": float(np.mean([not text for text in texts])),
        f"{name}.words": float(np.mean(words)),
        f"{name}.distinct": len(set(texts)) / len(texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the sets.")
    parser.add_argument("--set", choices=list(SETS), default="hh")
    parser.add_argument("--backbone", default="smollm2-135m-instruct", help="The policy, which the heads read, too.")
    parser.add_argument("--gold-backbone", help="Another model for the gold head to read.")
    parser.add_argument("--folder", type=Path, help="Keeps the run, so that it can go on.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--labels", type=int, default=1500, help="Of the set, by comparison id, which is a hash.")
    parser.add_argument("--max-length", type=int, default=512, help="Tokens that the heads read.")
    parser.add_argument("--prompts", type=int, default=100, help="Held-out prompts.")
    parser.add_argument("--samples", type=int, default=4, help="Answers to each.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=192)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        quick = {"labels": 80, "max_length": 64, "prompts": 6, "samples": 2, "steps": 2, "rollouts": 4, "new_tokens": 8}
        vars(args).update(quick | {"prompt_tokens": 400})
    folder = args.folder or Path(tempfile.mkdtemp(prefix="real_tuning_"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        run(args, Work(folder, time.monotonic() + 60 * args.minutes))
    except OutOfTime:
        sys.exit(f"the {args.minutes:g} minutes are over: run the same command with --folder {folder} to go on")
    finally:
        if args.folder is None and args.quick:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
