"""Acquisition rules: which comparisons raters are asked first, because their votes teach the reward model most.

Each rule turns what the model says of comparisons into a score, the higher the sooner; D-optimal, which looks at a
batch as a whole, gives an order. `batches.py` makes batches of them and `gains.py` measures which of them pays.

Margins and uncertainties are those of `types.Score`: the margin of a comparison's two best completions in logits, and
its epistemic standard deviation. Of a comparison with more completions only that pair is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import entr
from scipy.stats import norm

from rlhf_hitl.reward.head import Head

_LOGIT_TO_PROBIT = np.sqrt(np.pi / 8)
_C = np.sqrt(np.pi * np.log(2) / 2)


def score_randomly(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return scores (n,) that order comparisons at random: what every other rule is measured against."""
    return rng.random(n)


def compute_least_margin(margins: np.ndarray) -> np.ndarray:
    """Return -|margin| (n,): the closest comparisons first, whatever is known of them.

    Source: uncertainty sampling, Lewis & Gale 1994, "A sequential algorithm for training text classifiers".
    """
    return -np.abs(np.asarray(margins, float))


def compute_entropy(margins: np.ndarray, uncertainties: np.ndarray, head: Head | None = None) -> np.ndarray:
    """Return the entropy (n,), in bits, of what a rater says: first, tie or second. Without a head there are no ties.

    It counts doubt that votes remove and disagreement that they do not remove alike. Source: Settles 2009, "Active
    learning literature survey", 2.1.
    """
    p = (head or _PLAIN).outcome_probabilities(np.asarray(margins, float), np.asarray(uncertainties, float))
    return entr(p).sum(axis=1) / np.log(2)


def compute_mutual_information(margins: np.ndarray, uncertainties: np.ndarray) -> np.ndarray:
    """Return the information (n,), in bits, that one vote gives about the head's weights.

    It is the entropy of the vote less the entropy that would remain if the weights were known, so pairs on which
    people would disagree anyway score low, unlike with "smallest margin first". Formula: eq. 5 of Houlsby et al. 2011,
    "Bayesian active learning for classification and preference learning", with the logistic link taken as a probit.

    Args:
        margins: (n,) logits; uncertainties: (n,) their epistemic standard deviations.
    """
    mean = np.asarray(margins, float) * _LOGIT_TO_PROBIT
    variance = (np.asarray(uncertainties, float) * _LOGIT_TO_PROBIT) ** 2
    p = norm.cdf(mean / np.sqrt(variance + 1))
    total = (entr(p) + entr(1 - p)) / np.log(2)
    remaining = _C / np.sqrt(variance + _C**2) * np.exp(-(mean**2) / (2 * (variance + _C**2)))
    return np.maximum(total - remaining, 0)


def compute_optimistic_gaps(margins: np.ndarray, uncertainties: np.ndarray) -> np.ndarray:
    """Return the gaps (n,) in logits that are still plausible, |margin| + 1 standard deviation: the largest first.

    A pair with a clear winner teaches by a vote that hardly anybody contests. Source: DeltaUCB of Melikidze et al.
    2026, "ActiveUltraFeedback: efficient preference data generation using active learning", arXiv 2603.09692. There
    the bounds are those of each completion; here the head knows what the two have in common, and the bound is that of
    the margin.
    """
    return np.abs(np.asarray(margins, float)) + np.asarray(uncertainties, float)


def compute_double_thompson(margins: np.ndarray, uncertainties: np.ndarray) -> np.ndarray:
    """Return the probability (n,) that two draws from the posterior prefer different completions.

    It is what `count_double_thompson` counts where a prompt has two completions, without draws and inputs.
    """
    q = _compute_sign_probability(margins, uncertainties)
    return 2 * q * (1 - q)


def count_double_thompson(
    rewards: np.ndarray, starts: np.ndarray, pairs: np.ndarray, *, reverse: bool = False
) -> np.ndarray:
    """Return for each pair (n,) how often Thompson sampling pairs these two of their prompt's completions, as a share.

    Two draws of the rewards are taken at a time. Double Thompson pairs the best completion of the first with the best
    of the second: both may be the best answer. Its reverse pairs the best of the first with the worst of the second,
    and each time counts as many logits as the sampled gap is wide, so that prompts with wide gaps come first.

    Sources: Wu & Liu 2016, "Double Thompson sampling for dueling bandits"; the reverse: Melikidze et al. 2026,
    "ActiveUltraFeedback", arXiv 2603.09692. There a draw whose two completions are the same is repeated, here it counts
    for none: of prompts on whose best answer all draws agree, no pair is to be asked. And draws are of the weights, not
    of each reward, so that they move together as the posterior does.

    Args:
        rewards: (2t, m) drawn rewards of completions, those of a prompt side by side.
        starts: (prompts,) the first completion of each prompt.
        pairs: (n, 2) completions of the same prompt.
    """
    one, two = rewards[0::2], rewards[1::2]
    best = _find_best(one, starts)
    other = _find_best(-two if reverse else two, starts)
    a, b = pairs[:, 0], pairs[:, 1]
    chosen = ((best[:, a] & other[:, b]) | (best[:, b] & other[:, a])) & ~(best[:, a] & other[:, a])
    if not reverse:
        return chosen.mean(axis=0)
    gaps = np.abs(one[:, a] - one[:, b])
    return (chosen * gaps).mean(axis=0)


def compute_vote_information(margins: np.ndarray, uncertainties: np.ndarray, head: Head | None = None) -> np.ndarray:
    """Return the Fisher information (n,) that a vote has about its margin, in 1 / logits²; without ties p (1 - p).

    With ties it is that of three outcomes: a tie says that the margin is small. Probabilities are moderated by the
    uncertainty, for the information at a margin that is not known is less than at the mean.
    """
    # The posterior is that of votes as they come: the temperature corrects what is said to others.
    voting = (head or _PLAIN).with_temperature(1)
    first, _, second = voting.outcome_probabilities(np.asarray(margins, float), np.asarray(uncertainties, float)).T
    return (1 - first) * (1 - second) * (first + second)


def compute_log_det_gains(variances: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Return by how much (n,), in nats, a vote shrinks the posterior's volume: 0.5 log(1 + information × variance)."""
    return 0.5 * np.log1p(np.asarray(information, float) * np.asarray(variances, float))


def choose_d_optimal(
    differences: np.ndarray,
    covariance: np.ndarray,
    information: np.ndarray,
    size: int,
    *,
    caps: Sequence[tuple[np.ndarray, int]] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch chosen one by one, each the one that shrinks the posterior most after those before it, and by how
    much in nats, both (size,).

    Like comparisons are not chosen twice over: what one teaches, the next does not teach again. So the batch is diverse
    by itself. After each choice the posterior changes by rank one, and the variance of all that wait with it: n × d
    multiplications for each choice, in float32. Greedy choices reach at least 1 - 1/e of the best log-determinant.

    Sources: Fedorov 1972, "Theory of optimal experiments"; Chaloner & Verdinelli 1995, "Bayesian experimental design: a
    review"; on the last layer of reward models: Shen et al. 2025, "Reviving the classics: active reward modeling in
    large language model alignment"; the bound: Nemhauser et al. 1978.

    Args:
        differences: (n, d) inputs of the first completion less those of the second.
        covariance: (d, d) of the head's weights.
        information: (n,) of `compute_vote_information`.
        caps: groups (n,) of the comparisons, numbered from 0, and how many of a group are chosen in one turn. Another
            turn begins when no comparison is left that the caps let through.
    """
    x = np.ascontiguousarray(differences, np.float32)
    s = np.array(covariance, np.float32)
    weight = np.asarray(information, np.float32)
    variance = np.maximum(np.einsum("nd,nd->n", x @ s, x), 0)
    n, turn = len(x), 1
    waits, is_open = np.ones(n, bool), np.ones(n, bool)
    taken = [np.zeros(int(groups.max(initial=-1)) + 1, int) for groups, _ in caps]
    chosen, gains = np.empty(min(size, n), int), np.empty(min(size, n))
    for i in range(len(chosen)):
        while not is_open.any():
            turn += 1
            is_open = waits.copy()
            for (groups, most), counts in zip(caps, taken):
                is_open &= counts[groups] < most * turn
        at = int(np.argmax(np.where(is_open, weight * variance, -1)))
        chosen[i], gains[i] = at, 0.5 * np.log1p(float(weight[at] * variance[at]))
        waits[at] = is_open[at] = False
        for (groups, most), counts in zip(caps, taken):
            counts[groups[at]] += 1
            if counts[groups[at]] >= most * turn:
                is_open &= groups != groups[at]
        spread = s @ x[at]
        shrink = weight[at] / (1 + weight[at] * variance[at])
        variance = np.maximum(variance - shrink * (x @ spread) ** 2, 0)  # float32 rounds
        s -= shrink * np.outer(spread, spread)
    return chosen, gains


def _compute_sign_probability(margins: np.ndarray, uncertainties: np.ndarray) -> np.ndarray:
    """Return the posterior probability (n,) that the margin is above 0; a half where nothing is known or said."""
    m, s = np.asarray(margins, float), np.asarray(uncertainties, float)
    return np.where(s > 0, norm.cdf(np.divide(m, s, out=np.zeros_like(m), where=s > 0)), np.heaviside(m, 0.5))


def _find_best(rewards: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return (t, m) bool: the completions with the highest reward of their prompt."""
    counts = np.diff(np.r_[starts, rewards.shape[1]])
    return rewards == np.repeat(np.maximum.reduceat(rewards, starts, axis=1), counts, axis=1)


#: A head without ties and temperature, for callers that have none.
_PLAIN = Head(np.zeros(1), np.zeros((1, 1)), (1.0, 1.0))
