"""Batches for raters: which scored comparisons are asked next, and in which order.

An acquisition rule says what teaches most; here batches are spread over prompts and pairs of policies, as the votes on
one prompt say less about others than as many votes on other prompts do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.head import Head
from rlhf_hitl.routing import acquisition
from rlhf_hitl.routing.acquisition_names import NEEDS_INPUTS, Rule

#: Comparisons of one prompt, and times its equal share for a pair of policies, that are asked before the others have
#: had their turn.
PROMPT_CAP, POLICY_PAIR_CAP = 1, 2
#: Rules that look at inputs look at those of so many comparisons for each of the batch, and at most at so many.
CANDIDATES_PER_CHOICE, MOST_CANDIDATES = 20, 20_000
CANDIDATES_PER_PROMPT = 8  # in a turn
THOMPSON_DRAWS = 64  # pairs of draws


@dataclass(frozen=True)
class CompletionInputs:
    """The head's inputs of some comparisons' completions.

    Attributes:
        inputs: (m, d) float32, the completions of a prompt side by side.
        starts: (prompts,) the first completion of each prompt.
        pairs: (n, 2) the completions of each comparison that are compared: the rows of `inputs`.
    """

    inputs: np.ndarray
    starts: np.ndarray
    pairs: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        return self.inputs[self.pairs[:, 0]] - self.inputs[self.pairs[:, 1]]


@dataclass(frozen=True)
class Pool:
    """Scored comparisons that wait for raters.

    Attributes:
        margins, uncertainties: (n,) in logits.
        prompts: (n,) the number of each one's prompt.
        policy_pairs: (n,) the number of the pair of policies that it compares.
        head: that scored them; None where a model has none.
        load_inputs: returns the inputs of the comparisons at some places, given as (k,) integers; None where there are
            none. Rules that need inputs then go by margins and uncertainties alone.
    """

    margins: np.ndarray
    uncertainties: np.ndarray
    prompts: np.ndarray
    policy_pairs: np.ndarray
    head: Head | None = None
    load_inputs: Callable[[np.ndarray], CompletionInputs] | None = None

    def __len__(self) -> int:
        return len(self.margins)


@dataclass(frozen=True)
class Order:
    """An order for raters.

    Attributes:
        places: (n,) the places in the pool of all its comparisons, the first to be asked first.
        batch: how many of them, from the first, were chosen as a batch; the others follow by their own score.
        candidates: among how many the batch was chosen. The others have lower scores each.
        is_cut: whether one of those that were cut could have been chosen: the last of the batch gains less than the
            best that was cut gains alone, and what that gains after the others is not known. False: the batch is the
            one that is chosen from the whole pool.
    """

    places: np.ndarray
    batch: int
    candidates: int
    is_cut: bool = False


def order_for_raters(pool: Pool, rule: Rule, size: int, rng: np.random.Generator) -> Order:
    """Return the order in which raters are asked, the batch of the next `size` comparisons first.

    Equal scores are ordered at random, so that a model that says the same of all has the pool asked at random.
    The memory that is taken beside the pool's does not grow with it but for a few numbers for each comparison.

    Raises:
        BadInput: a margin or an uncertainty is not a finite number.
    """
    for name, values in (("margin", pool.margins), ("uncertainty", pool.uncertainties)):
        if not np.isfinite(values).all():
            at = int(np.flatnonzero(~np.isfinite(values))[0])
            raise BadInput(f"{name} {values[at]}", expected="a finite number", fix="train the reward model again")
    n, size = len(pool), min(size, len(pool))
    scores = score_alone(pool, rule, rng)
    order = _spread(scores, pool, size, rng)
    if rule not in NEEDS_INPUTS or pool.load_inputs is None or pool.head is None or n < 2:
        return Order(order, size, n)
    most = min(n, MOST_CANDIDATES, max(CANDIDATES_PER_CHOICE * size, 1000))
    # Among the candidates are several of a prompt: which of them goes best with the others is not known yet.
    by_score = np.argsort(-scores[order], kind="stable")
    by_turn = np.argsort(count_earlier(pool.prompts[order[by_score]]) // CANDIDATES_PER_PROMPT, kind="stable")
    ahead = order[by_score[by_turn]]
    candidates, cut = ahead[:most], ahead[most:]
    loaded = pool.load_inputs(candidates)
    if rule == "d-optimal":
        chosen, gains = _choose_d_optimal(pool, candidates, loaded, size)
        best_cut = scores[cut].max() if len(cut) else -math.inf
        is_chosen = np.zeros(n, bool)
        is_chosen[candidates[chosen]] = True
        places = np.r_[candidates[chosen], order[~is_chosen[order]]]
        return Order(places, size, most, bool(len(gains) and gains.min() < best_cut))
    refined = np.full(n, -math.inf)
    refined[candidates] = _draw_thompson(pool.head, loaded, rule == "double-reverse-thompson", rng)
    first = _spread(refined, pool, size, rng, among=candidates)
    return Order(np.r_[first, order[np.isin(order, cut)]], size, most)


def score_alone(pool: Pool, rule: Rule, rng: np.random.Generator) -> np.ndarray:
    """Return the score of each comparison by its margin and uncertainty, (n,)."""
    m, s, head = np.asarray(pool.margins, float), np.asarray(pool.uncertainties, float), pool.head
    match rule:
        case "random":
            return acquisition.score_randomly(len(m), rng)
        case "least-margin":
            return acquisition.compute_least_margin(m)
        case "entropy":
            return acquisition.compute_entropy(m, s, head)
        case "mutual-information":
            return acquisition.compute_mutual_information(m, s)
        case "d-optimal":
            return acquisition.compute_log_det_gains(s**2, _compute_information(m, s, head))
        case "double-thompson":
            return acquisition.compute_double_thompson(m, s)
        case "double-reverse-thompson" | "optimistic-gaps":
            return acquisition.compute_optimistic_gaps(m, s)


def _spread(
    scores: np.ndarray, pool: Pool, size: int, rng: np.random.Generator, among: np.ndarray | None = None
) -> np.ndarray:
    """Return the places ordered by score in turns, each of which takes no more of a prompt or pair of policies than the
    caps say. After the batch only prompts have turns."""
    places = np.arange(len(pool)) if among is None else among
    best_first = places[np.lexsort((rng.random(len(places)), -scores[places]))]
    in_turns = best_first[np.argsort(count_earlier(pool.prompts[best_first]) // PROMPT_CAP, kind="stable")]
    # Only what may come into the batch is looked at in every turn.
    likely = np.isin(best_first, in_turns[: CANDIDATES_PER_CHOICE * size + 1000])
    batch = _take_turns(best_first[likely], _list_caps(pool, size), size)
    return np.r_[batch, in_turns[~np.isin(in_turns, batch)]]


def _take_turns(best_first: np.ndarray, caps: list[tuple[np.ndarray, int]], size: int) -> np.ndarray:
    """Return the first `size` of some places, of which a turn takes no more of a group than its cap says."""
    counts = [np.zeros(int(groups.max(initial=-1)) + 1, int) for groups, _ in caps]
    waiting, taken, total, turn = best_first, [], 0, 0
    while total < size and len(waiting):
        turn += 1
        of_turn = np.zeros(len(waiting), bool)
        # What a full group keeps out of the turn leaves room for others, so it takes several passes.
        while True:
            at = np.flatnonzero(~of_turn)
            for (groups, most), count in zip(caps, counts):
                of = groups[waiting[at]]
                at = at[count[of] < most * turn]
                of = groups[waiting[at]]
                at = at[count[of] + count_earlier(of) < most * turn]
            if not len(at):
                break
            of_turn[at] = True
            for (groups, _), count in zip(caps, counts):
                np.add.at(count, groups[waiting[at]], 1)
        taken.append(waiting[of_turn])
        total += len(taken[-1])
        waiting = waiting[~of_turn]
    return np.concatenate([*taken, np.zeros(0, int)])[:size]


def _list_caps(pool: Pool, size: int) -> list[tuple[np.ndarray, int]]:
    pairs = len(np.unique(pool.policy_pairs))
    return [(pool.prompts, PROMPT_CAP), (pool.policy_pairs, max(1, math.ceil(POLICY_PAIR_CAP * size / max(1, pairs))))]


def count_earlier(groups: np.ndarray) -> np.ndarray:
    """Return how many earlier ones are of the same group, (n,)."""
    order = np.argsort(groups, kind="stable")
    in_order = groups[order]
    starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]]) if len(groups) else np.zeros(0, int)
    counts = np.empty(len(groups), int)
    counts[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return counts


def _choose_d_optimal(
    pool: Pool, candidates: np.ndarray, loaded: CompletionInputs, size: int
) -> tuple[np.ndarray, np.ndarray]:
    assert pool.head is not None
    information = _compute_information(pool.margins[candidates], pool.uncertainties[candidates], pool.head)
    caps = [(np.unique(groups[candidates], return_inverse=True)[1], most) for groups, most in _list_caps(pool, size)]
    return acquisition.choose_d_optimal(loaded.differences, pool.head.covariance, information, size, caps=caps)


def _compute_information(margins: np.ndarray, uncertainties: np.ndarray, head: Head | None) -> np.ndarray:
    """Return what a vote on each adds to the posterior, (n,): it counts as much as votes do when the head is fitted."""
    information = acquisition.compute_vote_information(margins, uncertainties, head)
    return information * (1 if head is None else head.vote_weight)


def _draw_thompson(head: Head, loaded: CompletionInputs, reverse: bool, rng: np.random.Generator) -> np.ndarray:
    # A covariance from draws (`bootstrap_covariance`) may be singular: its eigenvalues give the root all the same.
    values, vectors = np.linalg.eigh(head.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    drawn = head.weights + rng.standard_normal((2 * THOMPSON_DRAWS, len(values))) @ root.T
    rewards = drawn.astype(np.float32) @ loaded.inputs.T
    return acquisition.count_double_thompson(rewards, loaded.starts, loaded.pairs, reverse=reverse)
