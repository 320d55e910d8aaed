"""Measure what conservative rewards, mean less k standard deviations, choose among answers.

    python benchmarks/conservative.py

The bundled prompts have four answers each, and *simulated* votes. A proxy head learns some labels of 162 prompts, with
a share of them turned round; a gold head has learnt all labels of all prompts. Of the 80 prompts that are left out,
`LABELS.NOISE.kK.gold` is the mean gold reward of the answer with the highest conservative reward, above the mean of the
prompt's answers, and `.gain` what k adds to it, with a 95 % interval over seeds. `.pairs` is the share of prompts that
make a pair for DPO, and `.right` the share of these of which gold says the same.
`--quick` takes one seed and few labels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from doubt import BUNDLED
from record import write_result
from reward_accuracy import read_labels_of_set

from rlhf_hitl.policy.model_pairs import make_model_pairs
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_votes
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.rendering import Conversation, measure_completion_lengths
from rlhf_hitl.reward.style import measure_style
from rlhf_hitl.reward.training.head_learning import learn_head
from rlhf_hitl.types import Completion, Prompt

#: Labels of the proxy, and the share of them that is turned round.
CASES = ((50, 0.0), (200, 0.0), (200, 0.25))
MULTIPLES = (0, 0.5, 1, 2)
HELD_OUT = 80


def train(cache: FeatureCache, pairs: list[LabelledPair], votes: np.ndarray) -> RewardModel:
    chats = [p.first for p in pairs] + [p.second for p in pairs]
    prompts = np.array([p.comparison.prompt.id for p in pairs])
    learnt = learn_head(
        cache.features(chats), measure_completion_lengths(chats), measure_style(chats), votes, prompts
    )  # fmt: skip
    model = RewardModel(cache, learnt.standardiser, learnt.head, backend="head", card={})
    model.novelty = learnt.novelty
    return model


def measure(
    cache: FeatureCache, pairs: list[LabelledPair], gold: dict[str, float], labels: int, noise: float, seed: int
) -> dict[str, float]:
    """Return the figures of one seed."""
    rng = np.random.default_rng(seed)
    prompts: dict[str, Prompt] = {p.comparison.prompt.id: p.comparison.prompt for p in pairs}
    left_out = set(rng.permutation(sorted(prompts))[:HELD_OUT].tolist())
    own = [p for p in pairs if p.comparison.prompt.id not in left_out]
    chosen = [own[i] for i in rng.permutation(len(own))[:labels]]
    votes = count_votes(chosen)
    turned = rng.random(len(votes)) < noise
    votes[turned] = votes[turned][:, ::-1]
    model = train(cache, chosen, votes)
    answers = {c.id: c for p in pairs for c in p.comparison.completions if c.prompt_id in left_out}
    of_prompt: dict[str, list[Completion]] = {}
    for c in answers.values():
        of_prompt.setdefault(c.prompt_id, []).append(c)
    chats = {i: [Conversation(prompts[i].messages, c.messages) for c in of] for i, of in of_prompt.items()}
    listed = [chat for of in chats.values() for chat in of]
    figures: dict[str, float] = {}
    for k in MULTIPLES:
        rewards, at, gains = model.conservative_rewards(listed, k, chats), 0, []
        for of in of_prompt.values():
            theirs = np.array([gold[c.id] for c in of])
            gains.append(theirs[np.argmax(rewards[at : at + len(of)])] - theirs.mean())
            at += len(of)
        made = make_model_pairs(
            model, [prompts[i] for i in of_prompt], list(answers.values()), least_margin=0.0, conservative=k
        )
        right = sum(gold[p.chosen.id] > gold[p.rejected.id] for p in made)
        figures |= {f"k{k}.gold": float(np.mean(gains)), f"k{k}.made": len(made), f"k{k}.agreed": right}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    seeds = list(range(1 if args.quick else args.seeds))
    pairs = read_labels_of_set(BUNDLED, None)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder) / "features", Backbone(args.backbone, max_length=64 if args.quick else 1024))
        best = train(cache, pairs, count_votes(pairs))
        chats = {p.label.first: p.first for p in pairs} | {p.label.second: p.second for p in pairs}
        gold = dict(zip(chats, best.rewards(list(chats.values())).tolist()))
        figures: dict[str, float | int | None] = {"prompts": HELD_OUT, "seeds": len(seeds)}
        for labels, noise in CASES[:1] if args.quick else CASES:
            found = [measure(cache, pairs, gold, labels, noise, seed) for seed in seeds]
            for k in MULTIPLES:
                gains = np.array([f[f"k{k}.gold"] - f["k0.gold"] for f in found])
                width = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
                made, agreed = (sum(f[f"k{k}.{what}"] for f in found) for what in ("made", "agreed"))
                name = f"{labels}.{noise:g}.k{k:g}"
                figures |= {
                    f"{name}.gold": float(np.mean([f[f"k{k}.gold"] for f in found])),
                    f"{name}.gain": float(gains.mean()),
                    f"{name}.gain.low": float(gains.mean() - width) if len(gains) > 1 else None,
                    f"{name}.gain.high": float(gains.mean() + width) if len(gains) > 1 else None,
                    f"{name}.pairs": made / (HELD_OUT * len(found)),
                    f"{name}.right": agreed / made if made else None,
                }
            print(
                labels,
                noise,
                {k: v for k, v in figures.items() if k.startswith(f"{labels}.{noise:g}")},
                file=sys.stderr,
            )
    notes = "Of the bundled set, whose votes are simulated; gold is a head that has learnt all of them."
    write_result("conservative", figures, seeds=seeds, notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
