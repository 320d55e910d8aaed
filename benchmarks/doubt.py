"""Measure a head's temperature and its doubt away from home.

    python benchmarks/doubt.py --data ../shared/data --workspace DIR

Five sets: people's votes of MT-Bench and LLMFAO, GPT-4's votes on the same answers of each, and the bundled set, whose
votes are *simulated*. Each is cross-validated over prompts, in `--seeds` repeats of `FOLDS` folds. `nll_change` is the
negative log likelihood per vote of the head less that with T = 1, the worst of all sets and repeats; `.doubt` is with
temperature and doubt less with neither; `.calibration` and `.both` are with the temperature that the calibration split
would set, alone or together with the training labels, less that with T = 1.

Then a head learns half of the prompts of one set, and is asked about a quarter of them that it has not learnt and
about another set; the threshold is set on the last quarter. `elsewhere_auc` is the area under the curve of "is from
elsewhere" by uncertainty, the mean over ordered pairs of sets; `shifted_error` the highest share, over these, of
wrong ones among the accepted at alpha = 0.2 of a pool that is half from elsewhere, where what looks unlike the training
prompts is not accepted; `home_barred` is how many of those at home are barred by that. `.without` is by the posterior
alone, and nothing is barred.
`--quick` reads few labels, cut to 64 tokens.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
from record import write_result
from reward_accuracy import SETS, list_chats, read_labels_of_set
from scipy.stats import rankdata

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import calibrate_temperature
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_votes
from rlhf_hitl.reward.novelty import join_pair
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.reward.style import measure_style
from rlhf_hitl.reward.training.head_learning import LearntHead, learn_head
from rlhf_hitl.routing.elsewhere import Bar, choose_bar, summarise_home
from rlhf_hitl.routing.threshold import choose_threshold
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE

FOLDS, CALIBRATION = 5, 6  # one prompt in five is held out, and of the others one in six is left to calibration
ALPHA, DELTA = 0.2, 0.1
BUNDLED = Path(__file__).parent.parent / "rlhf_hitl" / "bundled" / "set.jsonl"


@dataclass(frozen=True)
class Pairs:
    """The labelled pairs of a set: features and lengths (2n, ...), votes (n, 9), prompts (n,)."""

    features: np.ndarray
    lengths: np.ndarray
    styles: np.ndarray
    votes: np.ndarray
    prompts: np.ndarray

    def select(self, rows: np.ndarray) -> Pairs:
        both = np.r_[rows, rows + len(self.votes)]
        return Pairs(self.features[both], self.lengths[both], self.styles[both], self.votes[rows], self.prompts[rows])

    def with_votes(self, votes: np.ndarray) -> Pairs:
        """Return the pairs that somebody else voted on, with those votes (n, 9)."""
        other = Pairs(self.features, self.lengths, self.styles, votes, self.prompts)
        return other.select(np.flatnonzero(votes.sum(1) > 0))

    @property
    def counts(self) -> np.ndarray:
        return self.votes.sum(1) - self.votes[:, TIE]

    @property
    def shares(self) -> np.ndarray:
        first = self.votes[:, :TIE].sum(1)
        return np.divide(first, self.counts, out=np.full(len(first), 0.5), where=self.counts > 0)


def predict(learnt: LearntHead, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return margins and the standard deviations that moderate them, each (n,)."""
    differences = learnt.standardiser.differences(pairs.features, pairs.lengths)
    return learnt.head.margins(differences, measure_novelty(learnt, pairs))


def measure_novelty(learnt: LearntHead, pairs: Pairs) -> np.ndarray | None:
    return None if learnt.novelty is None else join_pair(*np.split(learnt.novelty(pairs.features), 2))


def measure_uncertainties(learnt: LearntHead, pairs: Pairs) -> np.ndarray:
    """Return the uncertainties (n,) that scores have."""
    return learnt.head.uncertainties(predict(learnt, pairs)[1], measure_novelty(learnt, pairs))


def learn(pairs: Pairs) -> LearntHead:
    return learn_head(pairs.features, pairs.lengths, pairs.styles, pairs.votes, pairs.prompts)


def compute_loss(head: Head, margins: np.ndarray, stds: np.ndarray, pairs: Pairs) -> float:
    p = np.clip(head.probabilities(margins, stds), 1e-12, 1 - 1e-12)
    return -float((pairs.counts * (pairs.shares * np.log(p) + (1 - pairs.shares) * np.log1p(-p))).sum())


def measure_temperature(pairs: Pairs, seed: int, folds: int) -> dict[str, float]:
    """Return the loss per vote without a temperature, and how the ways to set one change it, by cross-validation."""
    names, prompt = np.unique(pairs.prompts, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    losses, total = {"plain": 0.0, "ours": 0.0, "calibration": 0.0, "both": 0.0, "doubt": 0.0}, 0.0
    for k in range(min(folds, FOLDS)):
        others = np.delete(shuffled, np.s_[k::FOLDS])
        held_out = pairs.select(np.flatnonzero(np.isin(prompt, shuffled[k::FOLDS])))
        calibration = pairs.select(np.flatnonzero(np.isin(prompt, others[::CALIBRATION])))
        fitting = np.isin(prompt, others) & ~np.isin(prompt, others[::CALIBRATION])
        learnt = learn(pairs.select(np.flatnonzero(fitting)))
        own, held = predict(learnt, calibration), predict(learnt, held_out)
        weight = calibration.counts * learnt.head.vote_weight
        by_calibration = calibrate_temperature(learnt.head, *own, calibration.shares, calibration.prompts, weight)
        heads = {"plain": learnt.head.with_temperature(1.0), "ours": learnt.head, "calibration": by_calibration}
        # Both would be a little of each: their likelihoods multiply, so the logs of their temperatures lie between.
        between = np.sqrt(learnt.head.temperature * by_calibration.temperature)
        heads["both"] = learnt.head.with_temperature(float(between))
        for name, head in heads.items():
            losses[name] += compute_loss(head, *held, held_out)
        without = replace(learnt, novelty=None)
        losses["doubt"] -= compute_loss(heads["plain"], *predict(without, held_out), held_out)
        total += held_out.counts.sum()
        print(f"temperature {learnt.head.temperature:.2f}", file=sys.stderr)
    plain, doubt = losses["plain"] / total, (losses["ours"] + losses["doubt"]) / total
    return {
        "plain": plain, "doubt": doubt,
        **{name: losses[name] / total - plain for name in ("ours", "calibration", "both")},
    }  # fmt: skip


def measure_shift(home: Pairs, elsewhere: Pairs, seed: int) -> dict[str, float]:
    """Return `auc`, the area under the curve of "is from elsewhere" by uncertainty, and of a pool that is half from
    elsewhere `accepted`, the share that is accepted, and `error`, the share of wrong ones among these; `.without`:
    without the doubt, as heads were before."""
    rng = np.random.default_rng(seed)
    names, prompt = np.unique(home.prompts, return_inverse=True)
    shuffled = rng.permutation(len(names))
    learnt = learn(home.select(np.flatnonzero(~np.isin(prompt, shuffled[::2]))))
    tested, own = (home.select(np.flatnonzero(np.isin(prompt, shuffled[k::4]))) for k in (0, 2))
    size = min(len(own.votes), len(elsewhere.votes))
    own = own.select(rng.choice(len(own.votes), size, replace=False))
    other = elsewhere.select(rng.choice(len(elsewhere.votes), size, replace=False))
    figures = {}
    for suffix, head in (("", learnt), (".without", replace(learnt, novelty=None))):
        ranks = rankdata(np.concatenate([measure_uncertainties(head, part) for part in (own, other)]))
        area = (ranks[size:].sum() - size * (size + 1) / 2) / size**2
        usual = () if suffix else summarise_home(measure_uncertainties(head, tested), head.head.usual_uncertainties)
        bar = choose_bar(usual, np.concatenate([measure_uncertainties(head, part) for part in (own, other)]))
        confidence, wrong, prompts = judge(head, tested, bar)
        known = np.isfinite(confidence)
        labels = confidence[known], wrong[known], prompts[known]
        threshold = choose_threshold(*labels, max_error=ALPHA, delta=DELTA, elsewhere=bar.elsewhere)
        pool = [judge(head, part, bar) for part in (own, other)]
        barred = [float(np.isneginf(part[0]).mean()) for part in pool]
        confidence, wrong = (np.concatenate([part[i] for part in pool]) for i in (0, 1))
        accepted = confidence >= threshold.value
        error = float(wrong[accepted].mean()) if accepted.any() else 0.0
        figures |= {f"auc{suffix}": float(area), f"accepted{suffix}": float(accepted.mean()), f"error{suffix}": error}
        if not suffix:
            figures |= {"elsewhere_estimate": bar.elsewhere, "home_barred": barred[0], "elsewhere_barred": barred[1]}
    return figures


def judge(learnt: LearntHead, pairs: Pairs, bar: Bar) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return confidences, whether the model is wrong, and prompts, of the pairs on which votes have a majority.

    What is above the bar has a confidence of minus infinity, as it is never accepted.
    """
    margins, stds = predict(learnt, pairs)
    p = learnt.head.probabilities(margins, stds)
    decided = (pairs.counts > 0) & (pairs.shares != 0.5)
    wrong = ((p > 0.5) != (pairs.shares > 0.5)).astype(float)
    confidence = np.maximum(p, 1 - p)
    confidence[measure_uncertainties(learnt, pairs) > bar.value] = -np.inf
    return confidence[decided], wrong[decided], pairs.prompts[decided]


def read_gpt4_votes(data: Path, name: str, pairs: list[LabelledPair]) -> np.ndarray:
    """Return GPT-4's vote on each pair, (n, 9); none where it was not asked."""
    places: dict[tuple, tuple[int, bool]] = {}
    for i, pair in enumerate(pairs):
        tags, comparison = pair.comparison.prompt.tags, pair.comparison
        sides = [comparison.find_completion(c).policy for c in (pair.label.first, pair.label.second)]
        turn = 1 + (len(comparison.completions[0].messages) > 1 or len(comparison.prompt.messages) > 1)
        key = (tags["question_id"], turn) if name == "mt_bench" else (tags["slug"],)
        places[(*key, *sides)], places[(*key, *sides[::-1])] = (i, False), (i, True)
    votes = np.zeros((len(pairs), 9))
    for key, winner in _list_gpt4_votes(data, name):
        if (found := places.get(key)) is not None:
            outcome = {"first": FIRST_UNGRADED, "second": SECOND_UNGRADED}.get(winner, TIE)
            votes[found[0], 2 * TIE - outcome if found[1] else outcome] += 1
    return votes


def _list_gpt4_votes(data: Path, name: str):
    if name == "mt_bench":
        for line in (data / "mt_bench/gpt4_pair_votes.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            winner = {"model_a": "first", "model_b": "second"}.get(row["winner"], "tie")
            yield (str(row["question_id"]), row["turn"], row["model_a"], row["model_b"]), winner
        return
    texts = {}
    for line in (data / "llmfao/pairs-crowd.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts[str(row["prompt"]), str(row["model_x"]), str(row["model_y"])] = row
    with (data / "llmfao/gpt4-crowd-comparisons.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            winner = {"left": "first", "right": "second"}.get(row["winner"], "tie")
            text = texts.get((row["prompt"], row["model_x"], row["model_y"]), {})
            yield (text.get("slug"), row["left"], row["right"]), winner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the sets.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--workspace", help="The folder to keep features in.")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    data, seeds = Path(args.data), list(range(1 if args.quick else args.seeds))
    sets: dict[str, Pairs] = {}
    with tempfile.TemporaryDirectory() as folder:
        backbone = Backbone(args.backbone, max_length=64 if args.quick else args.max_length)
        cache = FeatureCache(Path(args.workspace or folder) / "features", backbone)
        paths = {name: data / SETS[name] for name in ("mt_bench", "llmfao")} | {"bundled": BUNDLED}
        for name, path in paths.items():
            pairs = read_labels_of_set(path, 80 if args.quick else None)
            chats = list_chats(pairs)
            sets[name] = Pairs(
                cache.features(chats), measure_completion_lengths(chats), measure_style(chats), count_votes(pairs),
                np.array([p.comparison.prompt.family for p in pairs]),
            )  # fmt: skip
            if name != "bundled":
                sets[f"{name}_gpt4"] = sets[name].with_votes(read_gpt4_votes(data, name, pairs))
    figures: dict[str, float | int | None] = {}
    changes: dict[str, list[float]] = {"ours": [], "doubt": [], "calibration": [], "both": []}
    for name, pairs in sets.items():
        found = [measure_temperature(pairs, seed, 1 if args.quick else FOLDS) for seed in seeds]
        figures |= {f"{name}.labels": len(pairs.votes), f"{name}.nll": float(np.mean([f["plain"] for f in found]))}
        for way, of_all in changes.items():
            of_all += [f[way] for f in found]
            suffix = "" if way == "ours" else f".{way}"
            figures[f"{name}.nll_change{suffix}"] = float(np.mean([f[way] for f in found]))
        print(name, found, file=sys.stderr)
    figures |= {
        "nll_change": max(changes["ours"]), "nll_change.mean": float(np.mean(changes["ours"])),
        "nll_change.doubt": max(changes["doubt"]), "nll_change.doubt.mean": float(np.mean(changes["doubt"])),
        "nll_change.calibration": max(changes["calibration"]), "nll_change.both": max(changes["both"]),
        "nll_change.calibration.mean": float(np.mean(changes["calibration"])),
        "nll_change.both.mean": float(np.mean(changes["both"])),
    }  # fmt: skip
    shifts: dict[str, list[float]] = {}
    people = ["mt_bench", "llmfao", "bundled"]
    for home, elsewhere in permutations(people, 2):
        found = [measure_shift(sets[home], sets[elsewhere], seed) for seed in seeds]
        for key in found[0]:
            mean = float(np.mean([f[key] for f in found]))
            figures[f"{home}.{elsewhere}.{key}"] = mean
            shifts.setdefault(key, []).append(mean)
        print(home, elsewhere, found, file=sys.stderr)
    figures |= {
        "elsewhere_auc": float(np.mean(shifts["auc"])), "elsewhere_auc.min": min(shifts["auc"]),
        "elsewhere_auc.without": float(np.mean(shifts["auc.without"])), "shifted_error": max(shifts["error"]),
        "home_barred": float(np.mean(shifts["home_barred"])), "accepted": float(np.mean(shifts["accepted"])),
        "elsewhere_barred": float(np.mean(shifts["elsewhere_barred"])),
        "accepted.without": float(np.mean(shifts["accepted.without"])),
        "shifted_error.without": max(shifts["error.without"]), "alpha": ALPHA,
    }  # fmt: skip
    notes = (
        "nll_change: the worst of all sets and repeats; .doubt: with temperature and doubt against neither; "
        ".calibration and .both: by the calibration split alone, and half of each. elsewhere_auc: the mean over "
        "ordered pairs of sets; .without: with the posterior's uncertainty alone, and nothing barred. shifted_error: "
        "the highest mean over pairs of sets. The bundled set's votes are simulated."
    )
    write_result("doubt", figures, seeds=seeds, notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
