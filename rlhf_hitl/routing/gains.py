"""What labels have taught, measured: the gain of each kind of label in likelihood on labels that were drawn at random.

The gain of a label is how much more likely the head makes the votes it is measured on than it would without that label:
from the head's posterior, without a refit for each label (the influence function: Koh & Liang 2017, "Understanding
black-box predictions via influence functions"; leaving out: Pregibon 1981, "Logistic regression diagnostics"). A
measured label that the head has learnt from is left out itself while it measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.vote_scale import compute_margin_derivatives, place_cuts
from rlhf_hitl.routing import acquisition
from rlhf_hitl.routing.acquisition import Rule
from rlhf_hitl.wording import say_count

#: What `auto` takes until another rule is measured to gain more, and which others may.
DEFAULT_RULE: Rule = "d-optimal"
CHALLENGERS: tuple[Rule, ...] = ("random", "least-margin", "mutual-information", "optimistic-gaps")
#: With fewer labels, or fewer drawn at random, the default stays.
FEWEST_LABELS, FEWEST_CONTROLS = 60, 24
#: The share of the labels that a rule would have asked for.
ASKED_SHARE = 1 / 3
#: Standard errors above which a gain is clear: one-sided at 5 % for the challengers together (Bonferroni).
CLEARLY = 2.24


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


@dataclass(frozen=True)
class Gain:
    """A mean gain per label, in nats per measured vote, with its 95 % interval; nan where there is too little.

    Attributes:
        labels, measured: how many labels it is the gain of, and on how many it was measured.
    """

    value: float
    low: float
    high: float
    labels: int
    measured: int

    @property
    def standard_error(self) -> float:
        return (self.high - self.low) / 2 / 1.96


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


def estimate_gain(gains: np.ndarray, taught_prompts: np.ndarray, measured_prompts: np.ndarray) -> Gain:
    """Return the mean gain of some labels, with an interval that takes the labels of one prompt together on both sides.

    Two ways of drawing are added up: which prompts taught, and which measured (Owen 2007, "The pigeonhole bootstrap").

    Args:
        gains: (n, m) of `compute_gains`.
        taught_prompts, measured_prompts: (n,) and (m,).
    """
    value = float(np.nanmean(gains)) if np.isfinite(gains).any() else np.nan
    rest = gains - value
    variance = 0.0
    for sums, prompts in ((np.nansum(rest, axis=1), taught_prompts), (np.nansum(rest, axis=0), measured_prompts)):
        _, index = np.unique(prompts, return_inverse=True)
        groups = int(index.max()) + 1 if len(index) else 0
        if groups < 2:
            return Gain(value, np.nan, np.nan, *gains.shape)
        spread = np.bincount(index, sums) / np.isfinite(gains).sum()
        variance += groups / (groups - 1) * float((spread**2).sum())
    half = 1.96 * np.sqrt(variance)
    return Gain(value, value - half, value + half, *gains.shape)


def weigh_by_rules(head: Head, taught: Labels, rules: tuple[Rule, ...], share: float) -> dict[Rule, np.ndarray]:
    """Return for each rule which labels (n,) it would have asked for: those of the highest scores, a share of them.

    Scores are those from before the label: its margin and uncertainty without it. So every rule is measured on all
    labels, whichever rule asked for them, and no label is spent to try a rule.
    """
    left = _leave_out(head, taught)
    m, s = left.margins, left.uncertainties
    scores: Mapping[Rule, np.ndarray] = {
        "least-margin": acquisition.compute_least_margin(m),
        "entropy": acquisition.compute_entropy(m, s, head),
        "mutual-information": acquisition.compute_mutual_information(m, s),
        "d-optimal": acquisition.compute_log_det_gains(s**2, acquisition.compute_vote_information(m, s, head)),
        "double-thompson": acquisition.compute_double_thompson(m, s),
        "double-reverse-thompson": acquisition.compute_optimistic_gaps(m, s),
        "optimistic-gaps": acquisition.compute_optimistic_gaps(m, s),
    }
    most = max(1, round(share * len(taught)))
    asked = {}
    for rule in rules:
        asked[rule] = np.zeros(len(taught), bool)
        asked[rule][np.argsort(-scores[rule], kind="stable")[:most]] = True
    return asked


@dataclass(frozen=True)
class RuleChoice:
    """The rule that `auto` takes, and why, in words.

    Attributes:
        gains: of each rule over the labels of all, measured; empty where too little is known.
    """

    rule: Rule
    reason: str
    gains: Mapping[Rule, Gain]


def choose_rule(head: Head, taught: Labels, is_control: np.ndarray) -> RuleChoice:
    """Return the rule that `auto` takes next.

    The default stays until the labels that another rule would have asked for gain clearly more than those of the
    default: on the control share, drawn at random, by a one-sided test at 5 % for all rules together. As every rule is
    measured on every label, there is nothing to explore: that is following the leader (Cesa-Bianchi & Lugosi 2006,
    "Prediction, learning, and games", 2) with a head start for the default.

    Args:
        is_control: (n,) which of the labels were drawn at random.
    """
    own = np.flatnonzero(is_control)
    if len(taught) < FEWEST_LABELS or len(own) < FEWEST_CONTROLS:
        labels = f"{say_count(len(taught), 'label')}, {len(own):,} of them at random"
        return RuleChoice(DEFAULT_RULE, f"too little to tell which rule teaches more ({labels})", {})
    measured = Labels(taught.differences[own], taught.votes[own], taught.prompts[own])
    gains = compute_gains(head, taught, measured, own)
    rules: tuple[Rule, ...] = (DEFAULT_RULE, *(r for r in CHALLENGERS if r != "random"))
    asked = weigh_by_rules(head, taught, rules, ASKED_SHARE)
    weights: dict[Rule, np.ndarray] = {rule: of / of.sum() for rule, of in asked.items()}
    weights["random"] = np.full(len(taught), 1 / len(taught))
    found: dict[Rule, Gain] = {
        rule: estimate_gain(
            gains * ((weights[rule] - weights[DEFAULT_RULE]) * len(taught))[:, None], taught.prompts, measured.prompts
        )
        for rule in CHALLENGERS
    }
    best = max(found, key=lambda rule: found[rule].value - CLEARLY * found[rule].standard_error)
    if found[best].value - CLEARLY * found[best].standard_error > 0:
        counted = f"measured on {say_count(len(own), 'label')} drawn at random"
        return RuleChoice(best, f"its labels gained more than those of {DEFAULT_RULE}, {counted}", found)
    return RuleChoice(DEFAULT_RULE, "no other rule's labels gained clearly more", found)


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
