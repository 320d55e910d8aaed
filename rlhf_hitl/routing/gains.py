"""What labels have taught, measured: the gain of each kind of label in likelihood on labels that were drawn at random.

The gain of a label is how much more likely the head makes the votes it is measured on than it would without that label:
from the head's posterior, without a refit for each label (the influence function: Koh & Liang 2017, "Understanding
black-box predictions via influence functions"; leaving out: Pregibon 1981, "Logistic regression diagnostics"). A
measured label that the head has learnt from is left out itself while it measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.vote_scale import compute_margin_derivatives, place_cuts
from rlhf_hitl.routing.acquisition_names import RULES, Rule
from rlhf_hitl.routing.batches import Pool, score_alone
from rlhf_hitl.routing.gain_record import Gain
from rlhf_hitl.wording import say_count

#: What `auto` takes until another rule is measured to gain more, and which others may.
DEFAULT_RULE: Rule = "d-optimal"
CHALLENGERS: tuple[Rule, ...] = tuple(rule for rule in RULES if rule != DEFAULT_RULE)
#: With fewer labels, or fewer drawn at random, the default stays.
FEWEST_LABELS, FEWEST_CONTROLS = 60, 24
#: The share of the labels that a rule would have asked for.
ASKED_SHARE = 1 / 3
#: Standard errors above which a gain is clear: one-sided at 5 % for the challengers together (Bonferroni).
CLEARLY = 2.45


@dataclass(frozen=True)
class Labels:
    """Labels as a head sees them.

    Attributes:
        differences: (n, d) inputs of the first completion less those of the second.
        votes: (n, 9) for each of VOTE_OUTCOMES.
        prompts: (n,) the number of each one's prompt.
    """

    differences: np.ndarray
    votes: np.ndarray
    prompts: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)


def compute_gains(head: Head, taught: Labels, measured: Labels, own: np.ndarray) -> np.ndarray:
    """Return the gain (n, m) of each label that taught the head on each label that measures it, in nats per vote.

    Args:
        own: (m,) which of the taught labels a measured one is, -1 for none. Its gain on itself is nan.
    """
    left = _leave_out(head, taught)
    x, y = taught.differences, measured.differences
    # What label i moved the margin of j by.
    moved = -(x @ head.covariance @ y.T) * (left.slopes / left.kept)[:, None]
    margins = y @ head.weights
    is_own = own >= 0
    margins[is_own] = left.margins[own[is_own]]
    counted = measured.votes / np.maximum(measured.votes.sum(axis=1, keepdims=True), 1e-12)
    slopes, curvatures = compute_margin_derivatives(margins, counted, place_cuts(head.thresholds))
    gains = -slopes * moved + 0.5 * curvatures * moved**2
    gains[own[is_own], np.flatnonzero(is_own)] = np.nan
    return gains


def estimate_gain(
    gains: np.ndarray, weights: np.ndarray, taught_prompts: np.ndarray, measured_prompts: np.ndarray
) -> Gain:
    """Return the weighted mean gain of labels, with an interval that takes the labels of one prompt together on both
    sides.

    Two ways of drawing are added up: which prompts taught, and which measured (Owen 2007, "The pigeonhole bootstrap").

    Args:
        gains: (n, m) of `compute_gains`; what is nan counts as the mean of its label.
        weights: (n,) of the labels. They sum to 1 for a mean, and to 0 for the difference of two, with the one above 0
            and the other below.
        taught_prompts, measured_prompts: (n,) and (m,).
    """
    of_label = np.nanmean(gains, axis=1)
    filled = np.where(np.isnan(gains), of_label[:, None], gains)
    value, variance = float(weights @ of_label), 0.0
    rest = np.zeros(len(weights))
    for side in (weights > 0, weights < 0):
        if side.any():
            rest[side] = weights[side] * (of_label[side] - np.average(of_label[side], weights=np.abs(weights[side])))
    by_measured = weights @ filled
    for parts, prompts in (
        (rest, taught_prompts),
        ((by_measured - by_measured.mean()) / gains.shape[1], measured_prompts),
    ):
        _, index = np.unique(prompts, return_inverse=True)
        groups = int(index.max()) + 1
        if groups < 2:
            return Gain(value, np.nan, np.nan, int((weights != 0).sum()), gains.shape[1])
        variance += groups / (groups - 1) * float((np.bincount(index, parts) ** 2).sum())
    half = 1.96 * np.sqrt(variance)
    return Gain(value, value - half, value + half, int((weights != 0).sum()), gains.shape[1])


def weigh_by_rules(head: Head, taught: Labels, rules: Sequence[Rule], share: float) -> dict[Rule, np.ndarray]:
    """Return for each rule how much each label counts (n,): alike those it would have asked for, which are a share of
    them with its highest scores. Random would ask for any.

    Scores are those from before the label: its margin and uncertainty without it. So every rule is measured on all
    labels, whichever rule asked for them, and no label is spent to try a rule.
    """
    left = _leave_out(head, taught)
    waited = Pool(left.margins, left.uncertainties, taught.prompts, taught.prompts, head)
    most = max(1, round(share * len(taught)))
    weights = {}
    for rule in rules:
        if rule == "random":
            weights[rule] = np.full(len(taught), 1 / len(taught))
        else:
            scores = score_alone(waited, rule, np.random.default_rng(0))
            weights[rule] = np.zeros(len(taught))
            weights[rule][np.argsort(-scores, kind="stable")[:most]] = 1 / most
    return weights


@dataclass(frozen=True)
class RuleChoice:
    """The rule that `auto` takes, and why, in words.

    Attributes:
        gains: of each rule over the labels of all, measured; empty where too little is known.
    """

    rule: Rule
    reason: str
    gains: Mapping[Rule, Gain]


def choose_rule(head: Head, taught: Labels, measured: Labels, own: np.ndarray) -> RuleChoice:
    """Return the rule that `auto` takes next.

    The default stays until the labels that another rule would have asked for gain clearly more than those of the
    default, by a one-sided test at 5 % for all rules together. As every rule is measured on every label, there is
    nothing to explore: that is following the leader (Cesa-Bianchi & Lugosi 2006, "Prediction, learning, and games", 2)
    with a head start for the default.

    Args:
        measured: labels that no rule chose.
        own: (m,) which of the taught labels a measured one is, -1 for none.
    """
    if len(taught) < FEWEST_LABELS or len(measured) < FEWEST_CONTROLS:
        return RuleChoice(DEFAULT_RULE, "too few labels to tell which rule teaches more", {})
    gains = compute_gains(head, taught, measured, own)
    asked = weigh_by_rules(head, taught, (DEFAULT_RULE, *CHALLENGERS), ASKED_SHARE)
    found: dict[Rule, Gain] = {
        rule: estimate_gain(gains, asked[rule] - asked[DEFAULT_RULE], taught.prompts, measured.prompts)
        for rule in CHALLENGERS
        if (asked[rule] != asked[DEFAULT_RULE]).any()
    }
    sure = {rule: gain.value - CLEARLY * gain.standard_error for rule, gain in found.items()}
    best = max(CHALLENGERS, key=lambda rule: sure.get(rule, -np.inf))
    if sure.get(best, 0) > 0:
        counted = say_count(len(measured), "label that no rule chose", "labels that no rule chose")
        return RuleChoice(best, f"its labels gain more than those of {DEFAULT_RULE}, measured on {counted}", found)
    return RuleChoice(DEFAULT_RULE, "no other rule's labels gain clearly more", found)


@dataclass(frozen=True)
class _LeftOut:
    """Each label's margin and uncertainty without it, and what they are computed from; all (n,)."""

    margins: np.ndarray
    uncertainties: np.ndarray
    slopes: np.ndarray
    kept: np.ndarray


def _leave_out(head: Head, taught: Labels) -> _LeftOut:
    margins, stds = head.margins(taught.differences)
    variance = stds**2
    slopes, curvatures = compute_margin_derivatives(
        margins, head.vote_weight * taught.votes, place_cuts(head.thresholds)
    )
    kept = np.maximum(1 - curvatures * variance, 0.05)
    return _LeftOut(margins + variance * slopes / kept, np.sqrt(variance / kept), slopes, kept)
