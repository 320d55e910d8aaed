"""Whether a rater's answers depend on what they answer: the evidence for random raters and for always the same side.

Two explanations of a rater's votes are compared. *Honest*: given the true preference theta of a pair (standard normal,
as the votes of the others leave it), the rater says the first is better with probability sigma(a theta + b side -
tau), the second with sigma(-a theta - b side - tau), and else a tie, with a reliability a, a position bias b and a tie
width tau drawn from the population of honest raters, which is fitted here. *Spam*: the answer has nothing to do with
theta.

The ratio of the two likelihoods of all votes is a martingale with mean 1 as long as the rater is honest, because the
likelihood of the other raters' votes cancels. So by Ville's inequality it ever reaches 1 / alpha with probability
alpha at most, however often it is looked at: it is an e-value (Ville 1939; Ramdas, Grünwald, Vovk & Shafer 2023,
"Game-theoretic statistics and safe anytime-valid inference"). The rate is one over honest raters as they are here, for
the likelihood is averaged over their population.

The population is fitted by expectation and maximization with spammers in it, so that they neither lower what is
expected of honest raters nor count in what "the others" say. Model: Samejima 1969 (graded response), with a share of
spammers as in Raykar & Yu 2012, "Eliminating spammers and ranking annotators for crowdsourced labeling tasks".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FIRST, TIE, SECOND = 0, 1, 2
#: Rows of votes that are worked on together; it bounds the memory.
CHUNK = 50_000
ITERATIONS = 8
ENOUGH = 0.003  # of a change of the shares, to stop
#: How many times denser the grid is over which the likelihood of an honest rater is averaged.
FINER = 4
#: What honest raters are like before there are votes: the mean and standard deviation of log a, those of log tau, and
#: the standard deviation of b. They weigh as much as `PRIOR_RATERS` raters; a typical rater agrees with the better
#: completion in five of six clear cases, and calls four in ten of all pairs a tie.
PRIOR_RATERS = 5.0
PRIOR = (np.log(2.0), 0.5, np.log(1.2), 0.5, 0.3)
#: The shares of honest, random and one-sided raters before there are votes, which also weigh as `PRIOR_RATERS` raters.
PRIOR_SHARES = np.array([0.9, 0.06, 0.04])
#: Who is less reliable than this share of the typical rater is not among those whom the rate of false alarm is about.
#: The lower tail of reliability can hardly be told from chance: with it, no evidence would ever be strong. Somebody
#: between is not accused either, since such votes fit the least reliable honest rater better than chance down to about
#: half of it.
LEAST_RELIABILITY = 0.4
#: How much the answer to a gold counts for what is true: as the votes of so many typical raters.
GOLD_VOTES = 4.0
#: How often somebody who always gives the same answer gives it.
SAME_ANSWER = 0.95

_THETA = np.linspace(-3.2, 3.2, 19)
_THETA_PRIOR = np.exp(-(_THETA**2) / 2) / np.exp(-(_THETA**2) / 2).sum()
_LOG_A = np.linspace(np.log(0.4), np.log(9.0), 7)
_B = np.linspace(-1.2, 1.2, 5)
_LOG_TAU = np.linspace(np.log(0.1), np.log(6.0), 6)


@dataclass(frozen=True)
class PairVotes:
    """Votes on pairs of completions, in the order in which they came.

    Attributes:
        pair: (n,) the number of the pair.
        rater: (n,) the number of the rater.
        outcome: (n,) FIRST, TIE or SECOND.
        side: (n,) +1 where the pair's first completion was shown before its second, -1 after it, 0 where nobody knows.
        weight: (n,) how much of a vote it is: see `weigh_pairs_of_ranking`.
        repeated: (n,) whether the same rater said this of the pair a second time (a hidden repeat). It is no further
            vote on what is true.
    """

    pair: np.ndarray
    rater: np.ndarray
    outcome: np.ndarray
    side: np.ndarray
    weight: np.ndarray
    repeated: np.ndarray

    def take(self, rows: np.ndarray | slice) -> PairVotes:
        """Return some of the votes, by their numbers or a mask."""
        columns = (self.pair, self.rater, self.outcome, self.side, self.weight, self.repeated)
        return PairVotes(*(column[rows] for column in columns))

    @cached_property
    def shown_outcome(self) -> np.ndarray:
        """(n,) the outcome by what was shown: FIRST is the one shown first. As `outcome` where nobody knows."""
        return np.where(self.side < 0, SECOND - self.outcome, self.outcome)


@dataclass(frozen=True)
class SpamEvidence:
    """What the votes say for spam, in natural logarithms of e-values, by rater.

    Attributes:
        random: (raters,) that the answers are drawn without looking.
        same_answer: (raters, 3) that the answer is always the first one shown, a tie, the last one shown.
        reliability: (raters,) the expected a, for an honest rater.
        shares: (3,) of honest, random and one-sided raters.
        surprise: (n,) how much less probable each vote is than expected of an honest rater, in nats; mean 0 if honest.
    """

    random: np.ndarray
    same_answer: np.ndarray
    reliability: np.ndarray
    shares: np.ndarray
    surprise: np.ndarray


def weigh_pairs_of_ranking(completions: int) -> float:
    """Return how much each pair of one ranking of K completions weighs as evidence about the rater.

    The pairs of a ranking depend on each other. They fall into K - 1 rounds (K if it is odd) of disjoint pairs, as in
    a tournament. Within a round they are independent, so that their e-values multiply; of the rounds the geometric
    mean is taken, which is not above the mean of e-values, and so an e-value. A comparison of two weighs 1.
    """
    return 1.0 / (completions - 1 if completions % 2 == 0 else completions)


def weigh_spammers(votes: PairVotes, pairs: int, raters: int, known: np.ndarray | None = None) -> SpamEvidence:
    """Return the evidence that raters answer without looking, or always the same.

    Args:
        votes: in any order; two of a pair by one rater only where the second is `repeated`.
        pairs: how many pairs there are.
        raters: how many raters there are; some may have no vote.
        known: (pairs,) the right outcome of golds, -1 for all other pairs.
    """
    order = np.argsort(votes.rater, kind="stable")
    fit = _Fit(votes.take(order), pairs, raters, known)
    for _ in range(ITERATIONS):
        beliefs = fit.weigh_raters()
        before = fit.shares
        fit.update_population()
        if np.abs(fit.shares - before).max() < ENOUGH:
            break
    surprise = np.empty(len(order))
    surprise[order] = fit.compute_surprise(beliefs)
    log_honest = fit.compute_log_honest()
    return SpamEvidence(
        fit.log_random - log_honest,
        fit.log_same - log_honest[:, None],
        fit.types @ np.exp(fit.log_a),
        fit.shares,
        surprise,
    )


class _Fit:
    """The population, what is believed of each rater, and the likelihoods, while they are fitted.

    The types of honest raters are a grid of (a, b, tau), of K in all.
    """

    def __init__(self, votes: PairVotes, pairs: int, raters: int, known: np.ndarray | None):
        self.votes, self.pairs, self.raters, self.known = votes, pairs, raters, known
        a, b, tau = (values.ravel() for values in np.meshgrid(_LOG_A, _B, _LOG_TAU, indexing="ij"))
        self.log_a, self.b, self.log_tau = a, b, tau
        # (3 sides, K, theta, outcome); a side s is at s, so that the unknown one is at 0
        self.tables = np.stack([_predict(np.exp(a), side * b, np.exp(tau)) for side in (0, 1, -1)])
        self.population = PRIOR
        self.type_weights = self._weigh_types()
        self.types = np.tile(self.type_weights, (raters, 1))  # (raters, K) given that they are honest
        self.shares = PRIOR_SHARES
        self.classes = np.tile(PRIOR_SHARES, (raters, 1))  # (raters, 3) honest, random, one-sided
        self.same_shares = np.full((raters, 3), 1 / 3)
        self.voted = np.bincount(votes.rater, minlength=raters) > 0
        self.finer = [_interpolate(nodes) for nodes in (_LOG_A, _B, _LOG_TAU)]
        shown = np.bincount(votes.shown_outcome, votes.weight, 3) + 1.0
        self.marginal = shown / shown.sum()
        self.log_random, self.log_same = self._weigh_alternatives()

    def _weigh_types(self) -> np.ndarray:
        return self._weigh(self.log_a, self.b, self.log_tau)

    def _weigh(self, log_a: np.ndarray, b: np.ndarray, log_tau: np.ndarray) -> np.ndarray:
        """Return how frequent types are in the population; the weights sum to 1."""
        mean_a, sd_a, mean_tau, sd_tau, sd_b = self.population
        distance = ((log_a - mean_a) / sd_a) ** 2 + ((log_tau - mean_tau) / sd_tau) ** 2 + (b / sd_b) ** 2
        weights = np.where(log_a < mean_a + np.log(LEAST_RELIABILITY), 0.0, np.exp(-distance / 2)) + 1e-12
        return weights / weights.sum()

    def compute_log_honest(self) -> np.ndarray:
        """Return (raters,) the log likelihood of each rater's votes if honest, over a finer grid of types.

        After hundreds of votes the likelihood is narrower than the steps of the grid. It is smooth, so cubic splines
        say what it is between them.
        """
        fine = np.meshgrid(*(nodes for nodes, _ in self.finer), indexing="ij")
        weights = self._weigh(*(values.ravel() for values in fine))
        of_a, of_b, of_tau = (matrix for _, matrix in self.finer)
        log_honest = np.empty(self.raters)
        for first in range(0, self.raters, 500):
            coarse = self.by_type[first : first + 500].reshape(-1, len(_LOG_A), len(_B), len(_LOG_TAU))
            part = np.einsum("rabt,Aa,Bb,Tt->rABT", coarse, of_a, of_b, of_tau, optimize=True)
            log_honest[first : first + 500] = _log_mean_exp(part.reshape(len(coarse), -1), weights)
        return log_honest

    def _sum_by_rater(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.votes.rater, values, self.raters)

    def _weigh_alternatives(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the log likelihoods of each rater's votes (raters,) if random, and (raters, 3) if always the same."""
        shown, weight = self.votes.shown_outcome, self.votes.weight
        # Random: all three answers alike, hardly a tie, as all raters together, or in shares of the rater's own.
        ways = [np.full(3, 1 / 3), np.array([0.49, 0.02, 0.49]), self.marginal]
        logs = [self._sum_by_rater(weight * np.log(way)[shown]) for way in ways]
        counts = np.stack([self._sum_by_rater(weight * (shown == outcome)) for outcome in range(3)], axis=1)
        logs.append(_log_dirichlet_multinomial(counts))
        random = _log_mean_exp(np.stack(logs, axis=1), np.array([0.4, 0.2, 0.2, 0.2]))
        same = np.empty((self.raters, 3))
        for outcome in range(3):
            log_way = np.log(np.where(np.arange(3) == outcome, SAME_ANSWER, (1 - SAME_ANSWER) / 2))[shown]
            # Where nobody knows the order, this explains as much as chance does.
            log_way = np.where((self.votes.side == 0) & (outcome != TIE), -np.log(3), log_way)
            same[:, outcome] = self._sum_by_rater(weight * log_way)
        return random, same

    def _explain_votes(self) -> np.ndarray:
        """Return (n, theta) the probability of each theta by the votes of the others on the pair of a vote."""
        votes = self.votes
        said = np.empty((len(votes.pair), len(_THETA)))
        same_answers = np.full((3, 3), (1 - SAME_ANSWER) / 2) + np.eye(3) * (SAME_ANSWER * 1.5 - 0.5)
        spam = self.classes[:, 1, None] * self.marginal + self.classes[:, 2, None] * (self.same_shares @ same_answers)
        for side in (0, 1, -1):
            honest = (self.types @ self.tables[side].reshape(len(self.b), -1)).reshape(self.raters, len(_THETA), 3)
            shown_spam = spam[:, ::-1] if side < 0 else spam
            mixed = np.log(self.classes[:, 0, None, None] * honest + shown_spam[:, None, :])
            rows = np.flatnonzero(votes.side == side)
            said[rows] = mixed[votes.rater[rows], :, votes.outcome[rows]]
        said *= votes.weight[:, None]
        counted = np.where(votes.repeated[:, None], 0.0, said)
        beliefs = np.stack([np.bincount(votes.pair, column, self.pairs) for column in counted.T], axis=1).astype(float)
        beliefs += np.log(_THETA_PRIOR)
        if self.known is not None:
            typical = np.log(np.tensordot(self.type_weights, self.tables[0], axes=1))  # (theta, outcome)
            golds = np.flatnonzero(self.known >= 0)
            beliefs[golds] += GOLD_VOTES * typical[:, self.known[golds]].T
        left = beliefs[votes.pair] - counted
        left = np.exp(left - left.max(axis=1, keepdims=True))
        return (left / left.sum(axis=1, keepdims=True)).astype(np.float32)

    def weigh_raters(self) -> np.ndarray:
        """Work out the likelihood of each rater's votes under every explanation, and what it makes of the rater.

        Returns what `_explain_votes` does.
        """
        votes = self.votes
        beliefs = self._explain_votes()
        from scipy.sparse import coo_array

        by_type = np.zeros((self.raters, len(self.b)))
        likelihoods = self.tables.astype(np.float32)
        for start in range(0, len(votes.pair), CHUNK):
            part, believed = votes.take(slice(start, start + CHUNK)), beliefs[start : start + CHUNK]
            logs = np.empty((len(part.pair), len(self.b)), dtype=np.float32)
            for side in (0, 1, -1):
                for outcome in range(3):
                    of_group = np.flatnonzero((part.side == side) & (part.outcome == outcome))
                    logs[of_group] = np.log(believed[of_group] @ likelihoods[side][:, :, outcome].T)
            rows = np.arange(len(part.pair))
            by_type += coo_array((part.weight, (part.rater, rows)), shape=(self.raters, len(rows))).tocsr() @ logs
        self.by_type = by_type
        self.log_honest = _log_mean_exp(by_type, self.type_weights)
        self.types = self.type_weights * np.exp(by_type - self.log_honest[:, None])
        log_one_sided = _log_mean_exp(self.log_same, np.full(3, 1 / 3))
        self.same_shares = np.exp(self.log_same - log_one_sided[:, None]) / 3
        log_classes = np.stack([self.log_honest, self.log_random, log_one_sided], axis=1) + np.log(self.shares)
        self.classes = np.exp(log_classes - log_classes.max(axis=1, keepdims=True))
        self.classes /= self.classes.sum(axis=1, keepdims=True)
        return beliefs

    def compute_surprise(self, beliefs: np.ndarray) -> np.ndarray:
        """Return (n,) minus the log probability of votes, for a typical honest rater, less its expectation."""
        typical = np.stack([np.tensordot(self.type_weights, self.tables[side], axes=1) for side in (0, 1, -1)])
        predicted = np.empty((len(beliefs), 3))
        for side in (0, 1, -1):
            rows = np.flatnonzero(self.votes.side == side)
            predicted[rows] = beliefs[rows] @ typical[side]
        logs = np.log(predicted)
        return (predicted * logs).sum(axis=1) - logs[np.arange(len(logs)), self.votes.outcome]

    def update_population(self) -> None:
        """Fit the population to what is believed of its raters. Those without a vote do not count."""
        counts = self.classes[self.voted].sum(axis=0) + PRIOR_RATERS * PRIOR_SHARES
        self.shares = counts / counts.sum()
        weights = (self.classes[self.voted, 0, None] * self.types[self.voted]).sum(axis=0)  # (K,)
        mean_a, sd_a = _fit_normal(self.log_a, weights, PRIOR[0], PRIOR[1])
        mean_tau, sd_tau = _fit_normal(self.log_tau, weights, PRIOR[2], PRIOR[3])
        square_b = (weights @ self.b**2 + PRIOR_RATERS * PRIOR[4] ** 2) / (weights.sum() + PRIOR_RATERS)
        self.population = (mean_a, sd_a, mean_tau, sd_tau, float(np.sqrt(square_b)))
        self.type_weights = self._weigh_types()


def _predict(a: np.ndarray, b: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Return (K, theta, outcome) what raters of K types say at each theta."""
    middle = a[:, None] * _THETA + b[:, None]
    first, second = _sigmoid(middle - tau[:, None]), _sigmoid(-middle - tau[:, None])
    return np.maximum(np.stack([first, 1 - first - second, second], axis=-1), 1e-9)


def _interpolate(nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (m,) nodes that are `FINER` times as dense, and the matrix (m, n) that interpolates between nodes (n,)."""
    from scipy.interpolate import CubicSpline

    fine = np.linspace(nodes[0], nodes[-1], FINER * (len(nodes) - 1) + 1)
    return fine, np.asarray(CubicSpline(nodes, np.eye(len(nodes)))(fine))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def _fit_normal(values: np.ndarray, weights: np.ndarray, prior_mean: float, prior_sd: float) -> tuple[float, float]:
    """Return mean and standard deviation of weighted values, with a prior that weighs `PRIOR_RATERS`."""
    total = weights.sum() + PRIOR_RATERS
    mean = (weights @ values + PRIOR_RATERS * prior_mean) / total
    variance = (weights @ (values - mean) ** 2 + PRIOR_RATERS * prior_sd**2) / total
    return float(mean), float(np.sqrt(variance))


def _log_mean_exp(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the log of the weighted mean of exp(logs) over the last axis."""
    highest = logs.max(axis=-1, keepdims=True)
    return highest[..., 0] + np.log(np.exp(logs - highest) @ weights)


def _log_dirichlet_multinomial(counts: np.ndarray) -> np.ndarray:
    """Return the log probability of (raters, 3) answers whose shares are unknown, with Jeffreys' prior."""
    from scipy.special import gammaln

    n = counts.sum(axis=1)
    return gammaln(1.5) - gammaln(n + 1.5) + (gammaln(counts + 0.5) - gammaln(0.5)).sum(axis=1)
