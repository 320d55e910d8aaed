"""Scored comparisons to people or to acceptance, with a random share that always goes to people."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from tqdm import tqdm

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.rendering import has_texts
from rlhf_hitl.reward.training.labelled_pairs import labelled_pairs
from rlhf_hitl.routing import threshold as thresholds
from rlhf_hitl.routing.acquisition import mutual_information
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import compute_shuffle_key, find_comparisons
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.scores import insert_scores, read_scores
from rlhf_hitl.types import Comparison, Route, Score, Split

KEPT_AT = 256  # comparisons scored between two writes to the store


@dataclass(frozen=True)
class Policy:
    """How to route.

    Attributes:
        max_error: bound on how often raters who see a difference would prefer the other, among accepted comparisons.
        delta: chance that the bound fails.
        control_share: share of all comparisons that go to raters whatever the model says; what it costs buys an
            unbiased measure of the model and of the router.
    """

    max_error: float = 0.1
    delta: float = 0.05
    control_share: float = 0.1

    def __post_init__(self) -> None:
        for name in ("max_error", "delta"):
            value = getattr(self, name)
            if not 0 < value < 1:
                flag = "--" + name.replace("_", "-")
                raise BadInput(f"{flag} {value}", expected="a share above 0 and below 1", fix=f"e.g. {flag} 0.1")
        if not 0 <= self.control_share <= 1:
            raise BadInput(f"--control-share {self.control_share}", expected="0 to 1", fix="e.g. --control-share 0.1")


@dataclass(frozen=True)
class RoutingReport:
    """What was decided. `counts` by route; `threshold` says from which confidence on the model was believed."""

    counts: dict[str, int]
    threshold: thresholds.Threshold
    decisions: tuple[Routing, ...]


@dataclass(frozen=True)
class Scored:
    """How many comparisons were scored, the means of what they came to (nan of none), and how many were not, for an
    answer among theirs has no text."""

    n: int
    mean_margin: float
    mean_uncertainty: float
    without_text: int = 0


def score_pool(store: Store, model: RewardModel, *, part: int = 0, parts: int = 1) -> Scored:
    """Score every comparison that is not judged and that this model has not scored, and keep the scores.

    One with an answer without text is left as it is, for raters: of such an answer there is no reward. Streams: a pool
    of any size in a flat memory, kept chunk by chunk, so that a run which was stopped goes on.

    Args:
        part, parts: do this one of so many parts only; several processes with a part each score the pool together.
    """
    n, margins, uncertainties, without_text = 0, 0.0, 0.0, 0
    waiting = find_comparisons(store, judged=False, unscored_by=model.id)
    mine = (c for c in waiting if compute_shuffle_key(c.id) % parts == part)
    with tqdm(desc="scoring", unit="comparison", disable=None if part == 0 else True) as bar:
        while chunk := list(islice(mine, KEPT_AT)):
            scores = list(model.score(c for c in chunk if has_texts(c)))
            without_text += len(chunk) - len(scores)
            insert_scores(store, scores)
            n += len(scores)
            margins += sum(s.margin for s in scores)
            uncertainties += sum(s.uncertainty for s in scores)
            bar.update(len(scores))
    return Scored(n, margins / n if n else math.nan, uncertainties / n if n else math.nan, without_text)


def route_pool(store: Store, model: RewardModel, policy: Policy, *, round: int = 0) -> RoutingReport:
    """Decide for every comparison this model has scored and nobody has judged, and carry it out.

    Only training prompts can be accepted by the model: raters judge calibration and held-out prompts always, because
    those measure it.
    """
    threshold = calibrate_threshold(store, model, policy)
    pool = {c.id: c for c in find_comparisons(store, judged=False)}
    scored = [s for s in read_scores(store, model.id) if s.comparison_id in pool]
    decisions = decide(scored, pool, threshold, policy, round)
    apply_routings(store, decisions)
    counts = {r.value: sum(d.route is r for d in decisions) for r in (Route.HUMAN, Route.CONTROL, Route.AUTO)}
    return RoutingReport(counts, threshold, tuple(decisions))


def calibrate_threshold(store: Store, model: RewardModel, policy: Policy) -> thresholds.Threshold:
    """The threshold that the labels of the calibration split allow.

    What is tested is what is decided: the model's choice between its two best completions, where raters prefer one of
    them. Comparisons of one prompt stand and fall together, so one, drawn at random, speaks for each prompt. (The same
    labels set the temperature, which moves all confidences alike but for their uncertainties.)
    """
    preferred = {
        (p.comparison.id, frozenset((p.label.first, p.label.second))): p.label.preferred
        for p in labelled_pairs(store, Split.CALIBRATION)
        if p.label.preferred is not None
    }
    comparisons = {c.id: c for c in find_comparisons(store, ids=sorted({cid for cid, _ in preferred}))}
    one_a_prompt: dict[str, tuple[float, bool]] = {}
    for comparison in sorted(filter(has_texts, comparisons.values()), key=lambda c: compute_shuffle_key(c.id)):
        score = next(model.score([comparison]))
        said = preferred.get((comparison.id, frozenset((score.chosen, score.rejected))))
        if said is not None:
            one_a_prompt.setdefault(comparison.prompt.family, (score.probability, said != score.chosen))
    confidence = np.array([c for c, _ in one_a_prompt.values()])
    wrong = np.array([w for _, w in one_a_prompt.values()], dtype=float)
    return thresholds.choose(confidence, wrong, max_error=policy.max_error, delta=policy.delta)


def decide(
    scored: Sequence[Score],
    pool: dict[str, Comparison],
    threshold: thresholds.Threshold,
    policy: Policy,
    round: int,
) -> list[Routing]:
    """One decision a scored comparison."""
    measuring = {s.comparison_id for s in scored if pool[s.comparison_id].prompt.split is not Split.TRAIN}
    drawn = {s.comparison_id for s in scored if _draw(s.comparison_id) < policy.control_share} - measuring
    line = places_in_line(scored, at_random=measuring | drawn)
    out = []
    for score in scored:
        measures, control = score.comparison_id in measuring, score.comparison_id in drawn
        confident = score.probability >= threshold.value and not measures
        proposed = Route.AUTO if confident else Route.HUMAN
        if control:
            reason = "drawn at random to measure the model and the router"
        elif measures:
            reason = "its prompt measures the model: raters always judge it"
        elif confident:
            reason = f"accepted: {threshold.reason}"
        elif threshold.accepts_nothing:
            reason = threshold.reason
        else:
            reason = f"confidence {score.probability:.3f} is below {threshold.value:.3f}"
        out.append(
            Routing(
                comparison_id=score.comparison_id,
                route=Route.CONTROL if control else proposed,
                proposed=proposed,
                reason=reason,
                reward_model_id=score.reward_model_id,
                round=round,
                place_in_line=line[score.comparison_id],
            )
        )
    return out


def places_in_line(scored: Sequence[Score], *, at_random: set[str]) -> dict[str, int]:
    """Where each comparison stands among those of its route. Raters meet first what teaches most (mutual information).

    What measures the model stands `at_random`: were it sorted too, a round that ends before the queue does would
    measure the model on the hardest only.
    """
    information = mutual_information(np.array([s.margin for s in scored]), np.array([s.uncertainty for s in scored]))
    line = {scored[i].comparison_id: place for place, i in enumerate(np.argsort(-information, kind="stable"))}
    return line | {i: compute_shuffle_key(i) % len(scored) for i in at_random}


def _draw(comparison_id: str) -> float:
    """A number in [0, 1) that is fixed for a comparison: routed again, it is in the control share or out as before."""
    return int(hashlib.sha256(f"control:{comparison_id}".encode()).hexdigest()[:12], 16) / 16**12
