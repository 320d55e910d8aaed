"""The win rate that two policies would have if their answers were equally long.

Source: Dubois, Galambosi, Liang & Hashimoto 2024, "Length-controlled AlpacaEval": a logistic regression of the outcome
on which policy it is and on tanh of the difference in length by its standard deviation; the win rate is what it
predicts where that term is 0. Theirs has a third term, how hard an instruction is, fitted to many policies at once:
with two policies it says the same of both, and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_hitl.stats.logistic import fit_logistic


@dataclass(frozen=True)
class LengthControlledRate:
    """A length-controlled win rate with its 95 % interval, beside the plain one.

    Attributes:
        length_effect: how many logits an answer gains that is longer by much (tanh of the difference is 1).
        longer: the mean difference in length, in the unit it was given in.
    """

    value: float
    low: float
    high: float
    plain: float
    length_effect: float
    longer: float


def estimate_length_controlled_rate(
    outcomes: np.ndarray, longer: np.ndarray, prompts: np.ndarray | None = None
) -> LengthControlledRate | None:
    """Return the length-controlled win rate, with an interval over prompts (`LogisticFit`); None below two prompts.

    The interval is one for a fixed number of outcomes: after a sequential test it describes, and decides nothing.

    Args:
        outcomes: (n,) 1 where the new policy won, 0 where it lost, between them at a tie.
        longer: (n,) by how much the new policy's answer is longer than the old one's, such as in words.
        prompts: (n,) the prompt of each; by default each outcome has its own.
    """
    from scipy.special import expit

    y, d = np.asarray(outcomes, float), np.asarray(longer, float)
    prompt = np.arange(len(y)) if prompts is None else np.unique(np.asarray(prompts), return_inverse=True)[1]
    count = int(prompt.max()) + 1 if len(y) else 0
    if count < 2:
        return None
    spread = float(d.std())
    x = np.column_stack([np.ones(len(y)), np.tanh(d / spread) if spread > 0 else np.zeros(len(y))])
    fit = fit_logistic(x, y, prompt)
    value, low, high = expit(fit.estimate(np.array([1.0, 0.0]))).tolist()
    return LengthControlledRate(value, low, high, float(y.mean()), float(fit.coefficients[1]), float(d.mean()))
