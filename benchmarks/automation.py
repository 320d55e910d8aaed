"""Measure automation under a bound: what is accepted of comparisons, and how often the promise is broken.

    python benchmarks/automation.py --data ../shared/data --workspace DIR

Real votes (MT-Bench, LLMFAO): each label is predicted by a head that saw nothing of its prompt
(`out_of_fold.py`). A resample draws as many prompts as the set has, with replacement, whole; their labels choose the
threshold, and the truth is the set itself: so the error of what is accepted is known, and a threshold that breaks the
bound is counted. Labels are majorities of people that prefer a side. Beside it: an oracle that knows all errors, and
confidence 0.8 with no test. The cascade hears GPT-4's recorded votes where the head is not sure enough: what they add
is fitted to the labels of half the prompts and read on the other half, and the other way round. Beside it the head
alone and GPT-4 alone.

Power: 250 labels, delta 0.1, and the accepted share over the oracle's, for simulated judges that are right in 0.7 to
0.9, and real labels drawn one by one. Whether a judge is over- or underconfident changes nothing, for the test reads
confidences as an order only; judges whose order is noisy, or says nothing, and labels that come five to a prompt are
drawn, too. `power.with_training` adds 1,000 training labels out of fold.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from labels_judge import JUDGE, VOTES, join_judge
from out_of_fold import load_out_of_fold
from record import write_result
from scipy.optimize import brentq
from scipy.special import expit

from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.labels.votes import read_votes
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.routing.threshold import choose_threshold
from rlhf_hitl.stats.logistic import fit_logistic
from rlhf_hitl.store import Store, people

SETS, BOUNDS = ("mt_bench", "llmfao"), (0.1, 0.05)
DELTA, FIXED = 0.1, 0.8
LABELS, MORE_LABELS = 250, 1000
ACCURACIES, POWER_BOUNDS = (0.7, 0.75, 0.8, 0.85, 0.9), (0.2, 0.15)
POPULATION = 50_000


@dataclass(frozen=True)
class Labels:
    """What a judge says of labels with a preference: (n,) each. `prompt` numbers the prompts."""

    confidence: np.ndarray
    wrong: np.ndarray
    prompt: np.ndarray

    def take(self, some: np.ndarray, prompt: np.ndarray | None = None) -> Labels:
        return Labels(self.confidence[some], self.wrong[some], self.prompt[some] if prompt is None else prompt)

    def find_share(self, threshold: float) -> tuple[float, float]:
        """Return the share accepted from a threshold on, and their error (0 where none is)."""
        accepted = self.confidence >= threshold
        return float(accepted.mean()), float(self.wrong[accepted].mean()) if accepted.any() else 0.0

    def find_oracle_share(self, max_error: float) -> float:
        """Return the largest share that a threshold can accept with so small an error."""
        order = np.argsort(-self.confidence, kind="stable")
        c, errors = self.confidence[order], self.wrong[order].cumsum() / np.arange(1, len(order) + 1)
        good = np.flatnonzero((errors <= max_error) & np.append(c[1:] != c[:-1], True))
        return float(good[-1] + 1) / len(c) if len(good) else 0.0


@dataclass(frozen=True)
class Votes:
    """A set's pairs with a preference, (n,) each: the head's logit of the first side, whether raters prefer it, GPT-4's
    vote (1 first, -1 second, 0 none or a tie), and the prompt's number."""

    logits: np.ndarray
    first: np.ndarray
    judge: np.ndarray
    prompt: np.ndarray


def read_set(args: argparse.Namespace, name: str, folder: Path) -> Votes:
    backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
    limit, folds = (120, 2) if args.quick else (None, 5)
    workspace = Path(args.workspace) if args.workspace else folder
    pairs, p = load_out_of_fold(Path(args.data), name, workspace, backbone=backbone, limit=limit, folds=folds)
    judged = read_judge(Path(args.data), folder) if name == "mt_bench" else {}
    decided = [i for i, pair in enumerate(pairs) if pair.label.preferred is not None]
    chosen = [
        judged.get((label.comparison_id, label.first, label.second)) for label in (pairs[i].label for i in decided)
    ]
    return Votes(
        np.log(p[decided, 0] / p[decided, 2]),
        np.array([pairs[i].label.preferred == pairs[i].label.first for i in decided], float),
        np.array([0 if c is None else c for c in chosen], float),
        np.unique([pairs[i].comparison.prompt.family for i in decided], return_inverse=True)[1],
    )


def read_judge(data: Path, folder: Path) -> dict[tuple[str, str, str], int]:
    """Return comparison, first, second (either order) → GPT-4's choice: 1, -1 or 0."""
    join_judge(data, folder / "judge.jsonl")
    chosen = {}
    with Store.open(f"sqlite:///{folder}/judge.db", create=True) as store:
        import_path(store, data / VOTES)
        import_path(store, folder / "judge.jsonl")
        names = {r.id for r in people.list_raters(store) if r.name.endswith(f":{JUDGE}")}
        for comparison_id, votes in read_votes(store, judges_measure=True):
            for vote in votes:
                if vote.rater_id in names:
                    a, b = (i for group in vote.ranking for i in group)
                    said = 0 if len(vote.ranking) == 1 else 1
                    chosen |= {(comparison_id, a, b): said, (comparison_id, b, a): -said}
    return chosen


def judge_by(logits: np.ndarray, votes: Votes) -> Labels:
    """Return what a choice by logits of the first side (NaN: none) comes to."""
    wrong = np.where(logits == 0, 0.5, (logits > 0) != (votes.first > 0.5)).round()
    return Labels(expit(np.abs(logits)), wrong, votes.prompt)


def draw_prompts(prompt: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of as many prompts as there are, drawn with replacement, and the number of the draw of each."""
    order = np.argsort(prompt, kind="stable")
    of = np.split(order, np.flatnonzero(np.diff(prompt[order])) + 1)
    drawn = [of[i] for i in rng.integers(len(of), size=len(of))]
    return np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(d) for d in drawn])


def measure_set(labels: Labels, name: str, resamples: int, rng: np.random.Generator) -> dict[str, float]:
    figures: dict[str, float] = {f"{name}.labels": len(labels.wrong), f"{name}.error": float(labels.wrong.mean())}
    fixed = labels.find_share(FIXED)
    figures |= {f"{name}.fixed.coverage": fixed[0], f"{name}.fixed.error": fixed[1]}
    samples = [draw_prompts(labels.prompt, rng) for _ in range(resamples)]
    for max_error in BOUNDS:
        percent = round(100 * max_error)
        found = []
        for some, prompt in samples:
            c, w = labels.confidence[some], labels.wrong[some]
            found.append(labels.find_share(choose_threshold(c, w, prompt, max_error=max_error, delta=DELTA).value))
        shares, errors = np.array(found).T
        figures |= {
            f"{name}.coverage_at_{percent}": float(shares.mean()),
            f"{name}.oracle_at_{percent}": labels.find_oracle_share(max_error),
            f"{name}.violations_at_{percent}": float((errors > max_error).mean()),
        }
    return figures


def measure_cascade(votes: Votes, resamples: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the shares that the head, GPT-4, and both in a cascade answer, and how often the bound breaks."""
    half = rng.permutation(votes.prompt.max() + 1)[votes.prompt] % 2 == 0
    both = np.stack([votes.logits, votes.judge], 1)
    together, judge = np.zeros(len(half)), np.zeros(len(half))
    for part in (half, ~half):  # each half is read with what the other shows
        worth = np.maximum(fit_logistic(both[part], votes.first[part], votes.prompt[part]).coefficients, 0)
        together[~part] = both[~part] @ worth
        worth = fit_logistic(both[part, 1:], votes.first[part], votes.prompt[part]).coefficients
        judge[~part] = both[~part, 1:] @ worth
    silent = votes.judge == 0
    head = judge_by(votes.logits, votes)
    # As `routing.cascade` does it: GPT-4 makes the head's choice surer, and never another.
    confirmed = np.where(silent, 0.0, expit(together * np.sign(votes.logits)))
    ways = {
        "head": head,
        "gpt4": judge_by(np.where(silent, np.nan, judge), votes),
        "cascade": Labels(np.maximum(head.confidence, confirmed), head.wrong, head.prompt),
    }
    figures: dict[str, float] = {"cascade.gpt4_votes": int((~silent).sum())}
    samples = [draw_prompts(votes.prompt, rng) for _ in range(resamples)]
    for max_error in BOUNDS:
        for way, said in ways.items():
            shares, broken, asked = [], [], []
            for some, prompt in samples:
                c, w = said.confidence[some], said.wrong[some]
                value = choose_threshold(c, w, prompt, max_error=max_error, delta=DELTA).value
                share, error = said.find_share(value)
                shares.append(share)
                broken.append(error > max_error)
                asked.append(1 - head.find_share(value)[0])
            key = "cascade." if way == "cascade" else f"cascade.{way}_alone."
            percent = round(100 * max_error)
            figures[f"{key}coverage_at_{percent}"] = float(np.mean(shares))
            figures[f"{key}violations_at_{percent}"] = float(np.mean(broken))
            if way == "cascade":
                figures[f"{key}asked_at_{percent}"] = float(np.mean(asked))
    return figures


def make_judge(accuracy: float, rng: np.random.Generator, *, noise: float = 0.0) -> Labels:
    """Return a large population that a simulated judge is right about so often: the logit of its answers is normal, and
    its confidence calibrated, or with noise added to it."""
    z = np.abs(rng.normal(size=POPULATION))
    scale = float(brentq(lambda s: expit(s * z).mean() - accuracy, 0.01, 50))  # type: ignore[arg-type]
    wrong = (rng.random(POPULATION) > expit(scale * z)).astype(float)
    confidence = expit(scale * (z + noise * rng.normal(size=POPULATION)))
    return Labels(confidence, wrong, np.arange(POPULATION))


def measure_power(
    populations: Sequence[Labels],
    labels: int,
    splits: int,
    max_error: float,
    rng: np.random.Generator,
    per_prompt: int = 1,
) -> tuple[float, float]:
    """Return the mean over populations of the accepted share over the oracle's, and the largest share broken.

    Args:
        per_prompt: labels of a prompt, which are all alike: as bad for the test as can be.
    """
    gained, broken = [], []
    for population in populations:
        oracle, found = population.find_oracle_share(max_error), []
        for _ in range(splits):
            drawn = np.repeat(rng.integers(len(population.wrong), size=labels // per_prompt), per_prompt)
            prompt = np.repeat(np.arange(labels // per_prompt), per_prompt)
            sample = population.take(drawn, prompt)
            chosen = choose_threshold(sample.confidence, sample.wrong, prompt, max_error=max_error, delta=DELTA)
            found.append(population.find_share(chosen.value))
        shares, errors = np.array(found).T
        broken.append(float((errors > max_error).mean()))
        if oracle > 0:
            gained.append(float(shares.mean()) / oracle)
    return float(np.mean(gained)) if gained else 0.0, max(broken)


def measure_all_power(real: dict[str, Labels], splits: int, rng: np.random.Generator) -> dict[str, float]:
    calibrated = [make_judge(a, rng) for a in ACCURACIES]
    noisy = [make_judge(a, rng, noise=1.0) for a in ACCURACIES]
    figures: dict[str, float] = {}
    worst = 0.0
    for max_error in POWER_BOUNDS:
        percent = round(100 * max_error)
        flat = [
            Labels(p.confidence, (rng.random(POPULATION) < 1.01 * max_error).astype(float), p.prompt)
            for p in calibrated
        ]
        ways = {
            "power": (calibrated, LABELS, 1),
            "power.with_training": (calibrated, LABELS + MORE_LABELS, 1),
            "power.noisy": (noisy, LABELS, 1),
            "power.clustered": (calibrated, LABELS, 5),
            "power.flat": (flat[:1], LABELS, 1),
        } | {f"power.{name}": ([labels], LABELS, 1) for name, labels in real.items()}
        for key, (populations, labels, per_prompt) in ways.items():
            share, broken = measure_power(populations, labels, splits, max_error, rng, per_prompt)
            if key != "power.flat":
                figures[f"{key}.share_at_{percent}"] = share
            figures[f"{key}.broken_at_{percent}"] = broken
            worst = max(worst, broken)
    return figures | {"power.broken": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the sets of votes.")
    parser.add_argument("--workspace", help="The folder to keep features in, so that a second run reuses them.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    resamples = 10 if args.quick else args.resamples
    rng = np.random.default_rng(args.seed)
    figures: dict[str, float | int | None] = {"delta": DELTA, "resamples": resamples}
    real: dict[str, Labels] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SETS:
            votes = read_set(args, name, Path(folder))
            real[name] = judge_by(votes.logits, votes)
            figures |= measure_set(real[name], name, resamples, rng)
            if name == "mt_bench":
                figures |= measure_cascade(votes, resamples, rng)
    for max_error in BOUNDS:
        percent = round(100 * max_error)
        for key in ("coverage", "oracle"):
            figures[f"{key}_at_{percent}"] = float(np.mean([figures[f"{name}.{key}_at_{percent}"] for name in SETS]))  # type: ignore[misc]
    figures["violations"] = max(v for k, v in figures.items() if "violations_at" in k and v is not None)
    figures |= measure_all_power(real, resamples, rng)
    notes = (
        "coverage_at_N: share of labels with a preference accepted at an error of at most N %, mean of the sets; "
        "violations: the largest share of resamples in which what is accepted breaks the bound. power.*: "
        "the accepted share over the oracle's, mean of five simulated judges; clustered: five labels of a prompt, all "
        "alike; flat: a confidence that says nothing, with an error just above the bound; power.broken is the largest "
        "share of splits that break the bound, of all these."
    )
    write_result("automation", figures, seeds=[args.seed], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
