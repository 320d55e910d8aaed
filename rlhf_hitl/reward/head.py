"""A Bayesian linear head on frozen features: ordinal likelihood of the votes, Gaussian posterior of the weights.

A vote is a place on one scale, from "first much better" over a tie to "second much better" (`vote_scale`). Votes
without strengths and ties make it Bradley-Terry. The posterior of the weights is Gaussian around their mode (Laplace):
with a difference of inputs x = phi(a) - phi(b), the margin is w.x and its variance x'Sx. `head_fitting` fits heads.
Sources: MacKay 1992, "The evidence framework applied to classification networks" (moderated output); Bishop 2006,
4.4-4.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.vote_scale import compute_margin_derivatives, place_cuts

#: The shares of left-out training pairs whose uncertainties a head knows; above the last a pair "looks unlike" them.
HOME_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class HeadChange:
    """What one more label changes: weights grow by `step` times `spread`, and their covariance loses `shrink` times the
    outer product of `spread` with itself. So of any difference x, the margin grows by step (spread.x), and its variance
    loses shrink (spread.x)^2.

    Attributes:
        spread: (d,) the covariance times the label's inputs.
    """

    spread: np.ndarray
    step: float
    shrink: float


@dataclass(frozen=True)
class Head:
    """A fitted head.

    Attributes:
        weights: (d,) their mode.
        covariance: (d, d) of the weights.
        precisions: of the prior, for the two groups of weights (components, length).
        temperature: divides margins before they become probabilities.
        thresholds: between a tie, slightly, clearly and much better; all 0 where no vote said so.
        vote_weight: how much a vote counts; below 1 where votes about one prompt say less about other prompts than as
            many independent votes would.
        doubt: the standard deviation of a margin, in logits, by what lies outside the axes that the head reads, at a
            novelty of 0; 0 where no novelty was measured.
        usual_uncertainties: below them are HOME_SHARES of the training pairs when their prompts are left out; empty if
            not known.
        length_slopes: (d - 1,) how much each input goes with the length's in the training pairs; None if not known.
        style_effects: (5,) how much of a margin goes with length and format (`style.py`); None if not known.
    """

    weights: np.ndarray
    covariance: np.ndarray
    precisions: tuple[float, float]
    temperature: float = 1.0
    thresholds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    vote_weight: float = 1.0
    doubt: float = 0.0
    usual_uncertainties: tuple[float, ...] = ()
    length_slopes: np.ndarray | None = None
    style_effects: np.ndarray | None = None

    def rewards(self, inputs: np.ndarray) -> np.ndarray:
        """Return the rewards (n,) of inputs (n, d) in logits, before temperature."""
        return inputs @ self.weights

    def margins(self, differences: np.ndarray, novelty: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the margins (n,) of differences (n, d) and the standard deviations (n,) that moderate them, in logits:
        those of the posterior, and what novelty adds to it beyond the usual. Margins were fitted to votes on usual
        prompts, so the usual is in them (the population-averaged coefficients of Zeger, Liang & Albert 1988).

        Args:
            novelty: (n,) how unlike the training prompts each is (`novelty.py`).
        """
        variance = np.maximum(np.einsum("nd,de,ne->n", differences, self.covariance, differences), 0)
        if novelty is not None:
            variance = variance + self.doubt**2 * np.maximum(np.exp(novelty) - 1, 0)
        return differences @ self.weights, np.sqrt(variance)

    def uncertainties(self, stds: np.ndarray, novelty: np.ndarray | None = None) -> np.ndarray:
        """Return the epistemic standard deviations (n,) of margins: those that moderate them, with the usual doubt.

        What lies outside the axes has weights that no vote told of, so they are known by their prior alone, and its
        variance is the prior's for as much of the features as that is (a linear model's predictive variance in
        directions without data: Rasmussen & Williams 2006, "Gaussian processes for machine learning", 2.1).

        Args:
            stds: (n,), of `margins`; novelty: (n,), with which they were computed.
        """
        return stds if novelty is None else np.hypot(stds, self.doubt * np.exp(np.minimum(novelty, 0) / 2))

    def probabilities(self, margins: np.ndarray, stds: np.ndarray) -> np.ndarray:
        """Return P(first preferred) by a rater who sees a difference, (n,), moderated by the uncertainty (MacKay 1992,
        eq. 10) and calibrated by the temperature."""
        m = self._moderate(margins, stds)
        # The odds of being above the band of ties rather than below it; m itself where there is no such band.
        return expit(np.logaddexp(0, m + self.thresholds[0]) - np.logaddexp(0, self.thresholds[0] - m))

    def outcome_probabilities(self, margins: np.ndarray, stds: np.ndarray) -> np.ndarray:
        """Return (n, 3) the probabilities that a rater says first better, tie, second better.

        `probabilities` are those of the first among the raters who see a difference. Ties are told by the band that the
        votes of the training have, so without ties in them there are none here.
        """
        m, width = self._moderate(margins, stds), self.thresholds[0]
        first, second = expit(m - width), expit(-m - width)
        return np.stack([first, np.maximum(0.0, 1 - first - second), second], axis=1)

    def _moderate(self, margins: np.ndarray, stds: np.ndarray) -> np.ndarray:
        return margins / self.temperature / np.sqrt(1 + np.pi / 8 * (stds / self.temperature) ** 2)

    def without_length(self) -> Head:
        """Return the head whose margins do not go with length in the training pairs: neither through the length's own
        input nor through what the others say of it.

        Raises:
            BadInput: how the other inputs go with length was not kept.
        """
        if self.length_slopes is None:
            raise BadInput(
                "--length-neutral with this reward model",
                expected="a head that was trained with this version",
                fix="train it again: `rlhf-hitl train-reward --length-neutral`",
            )
        # A margin of inputs less what length explains of them is w.(x - c l): the length's weight becomes -w.c.
        change = np.eye(len(self.weights))
        change[-1] = np.r_[-self.length_slopes, 0.0]
        neutral = replace(self, weights=change @ self.weights, covariance=change @ self.covariance @ change.T)
        effects = None if self.style_effects is None else np.r_[0.0, self.style_effects[1:]]
        return replace(neutral, style_effects=effects)

    @property
    def usual_uncertainty(self) -> float:
        """Nearly all training pairs are below it when their prompts are left out."""
        return self.usual_uncertainties[-1] if self.usual_uncertainties else math.inf

    def with_temperature(self, temperature: float) -> Head:
        return replace(self, temperature=temperature)

    def updated(self, difference: np.ndarray, votes: np.ndarray) -> Head:
        """Return the head after one more label, without a refit: its posterior so far is the prior of the next.

        The mode is exact for that prior (one equation in the label's margin), and the covariance changes by rank one.
        Prior, thresholds and temperature stay. Only a refit takes into account that the older labels' curvature is
        different at the new mode.

        Args:
            difference: (d,) inputs of the first completion less those of the second.
            votes: (9,) votes for each of VOTE_OUTCOMES.
        """
        change = self.find_change(difference, votes)
        return self if change is None else self.changed_by(change)

    def find_change(self, difference: np.ndarray, votes: np.ndarray) -> HeadChange | None:
        """Return what one more label changes, as `updated` says; None where it changes nothing: two answers with the
        same inputs, or no vote."""
        x, v = np.asarray(difference, np.float64), self.vote_weight * np.asarray(votes, np.float64)[None]
        spread = self.covariance @ x
        margin, variance, total = float(x @ self.weights), float(x @ spread), float(v.sum())
        if variance <= 0 or total <= 0:
            return None
        cuts = place_cuts(self.thresholds)

        def slope(m: float) -> float:
            return (m - margin) / variance + float(compute_margin_derivatives(np.array([m]), v, cuts)[0][0])

        reach = 2 * total * variance + 1e-9  # no vote pulls a margin by more than 2
        root: Any = brentq(slope, margin - reach, margin + reach, xtol=1e-12)
        at = float(root)
        curvature = float(compute_margin_derivatives(np.array([at]), v, cuts)[1][0])
        return HeadChange(spread, (at - margin) / variance, curvature / (1 + curvature * variance))

    def changed_by(self, change: HeadChange) -> Head:
        """Return the head after a change that `find_change` found."""
        spread = change.spread
        covariance = self.covariance - np.outer(spread, spread) * change.shrink
        return replace(self, weights=self.weights + spread * change.step, covariance=covariance)
