"""Losses of reward models: pure functions of rewards, each the negative log likelihood of the raters' votes.

A loss returns one value for each example, so that the caller can weigh them: the shares hold a label's doubt, the
weight the reliability of its raters. Shares need not sum to 1 (counts of votes work as well). A share of 0 costs
nothing, even where the model gives the outcome probability 0. All losses are computed in float32 at least and are
finite for any finite reward.

Full training uses `davidson_luce_loss`; `davidson_loss` and `bradley_terry_loss` are its cases of two completions. The
head uses `vote_scale`, a form of `ordinal_loss` in numpy. The three are defined here for reference, and tests compare
what is used with them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb

import torch
from torch.nn.functional import logsigmoid, pad

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import UNRANKED


def bradley_terry_loss(margins: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry with soft labels (Bradley & Terry 1952): P(first preferred) = sigmoid(margin).

    Args:
        margins: (n,) reward(first) - reward(second).
        targets: (n,) probability that a rater prefers the first.

    Returns:
        (n,) losses.
    """
    m, t = _widen(margins), targets
    return -(t * logsigmoid(m) + (1 - t) * logsigmoid(-m))


def davidson_loss(margins: torch.Tensor, shares: torch.Tensor, nu: torch.Tensor | float) -> torch.Tensor:
    """Bradley-Terry with ties (Davidson 1970): first : tie : second = exp(m / 2) : nu : exp(-m / 2).

    Whatever nu, the margin means what it means in Bradley-Terry: the log odds of the first where a rater sees a
    difference. With nu 0, that is without ties, the loss is Bradley-Terry's.

    Args:
        margins: (n,) m = reward(first) - reward(second).
        shares: (n, 3) of (first better, tie, second better) among the votes.
        nu: prevalence of ties, 0 or more: at margin 0 their share is nu / (2 + nu).

    Returns:
        (n,) losses.
    """
    m = _widen(margins)
    tie = torch.as_tensor(nu, dtype=m.dtype, device=m.device).log().expand_as(m)
    return _cross_entropy(torch.log_softmax(torch.stack([m / 2, tie, -m / 2], dim=-1), dim=-1), shares)


def compute_tie_prevalence(tie_share: float) -> float:
    """Return the nu of Davidson's model at which answers of equal reward tie with frequency 0 <= `tie_share` < 1."""
    return 2 * tie_share / (1 - tie_share)


def ordinal_loss(margins: torch.Tensor, shares: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Strengths and ties as one scale: a cumulative logit with symmetric thresholds (Agresti 1992, "Analysis of ordinal
    paired comparison data").

    A rater perceives margin + logistic noise. Within the first threshold of 0 they call it a tie. Beyond it they say
    "first better", the more strongly the more thresholds they pass. A vote without a strength is a vote on the scale
    that has the first threshold only: `ordinal_loss(margins, shares3, thresholds[:1])`.

    Args:
        margins: (n,) reward(first) - reward(second).
        shares: (n, 2s + 1) of the outcomes, from the strongest for the first down, with the tie in the middle.
        thresholds: (s,) ascending, all above 0.

    Returns:
        (n,) losses.
    """
    m = _widen(margins)[:, None]
    t = thresholds.to(m)
    cuts = torch.cat([t.flip(0), -t])  # from the strongest for the first down
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which subtracts no nearly equal numbers.
    above = pad(logsigmoid(m - cuts), (0, 1))
    below = pad(logsigmoid(cuts - m), (1, 0))
    within = pad((-torch.expm1(cuts[1:] - cuts[:-1])).log(), (1, 1))
    return _cross_entropy(above + below + within, shares)


def davidson_luce_loss(rewards: torch.Tensor, ranks: torch.Tensor, prevalences: Sequence[float]) -> torch.Tensor:
    """Plackett-Luce with ties, for rankings of K completions: the Davidson-Luce model (Firth, Kosmidis & Turner 2019,
    "Davidson-Luce model for multi-item choice with ties").

    A ranking is a sequence of choices: among what remains, a group is chosen as best with a probability in proportion
    to the prevalence of ties of its size times the geometric mean of its members' exp(reward). Without ties this is
    Plackett-Luce; for two completions it is `davidson_loss`. All groups that might have been chosen are counted, not
    (as in Efron's and Breslow's approximations) only those of one size, so a tie carries information of its own.

    Args:
        rewards: (n, K).
        ranks: (n, K) integers: 0 for the group of the best, 1 for the next, ...; UNRANKED for completions not ranked.
        prevalences: of ties of 2, 3, ... completions, 0 or more; of larger ones 0.

    Returns:
        (n,) losses.

    Raises:
        BadInput: a tie of a size whose prevalence is 0 or missing.
    """
    r = _widen(rewards)
    size_of_tie = torch.cat([r.new_ones(1), torch.as_tensor(prevalences, dtype=r.dtype, device=r.device)]).log()
    occurring = [size for size, log in enumerate(size_of_tie.tolist(), 1) if log > -torch.inf]
    groups = [g for size in occurring for g in combinations(range(r.shape[1]), size)]
    members = torch.zeros(len(groups), r.shape[1], dtype=r.dtype, device=r.device)
    members[[i for i, group in enumerate(groups) for _ in group], [k for group in groups for k in group]] = 1
    sizes = members.sum(1)
    worth = r @ (members / sizes[:, None]).T + size_of_tie[sizes.long() - 1]
    loss = torch.zeros_like(r[:, 0])
    for stage in range(int(ranks.max()) + 1 if ranks.numel() else 0):
        rows = (ranks == stage).any(1)
        chosen, gone = (ranks[rows] == stage).to(r), (ranks[rows] < stage).to(r)
        size = chosen.sum(1)
        possible = gone @ members.T == 0
        # The chosen group is the one of its size that contains all that were chosen.
        is_chosen = possible & (chosen @ members.T == size[:, None]) & (sizes == size[:, None])
        if not (explained := is_chosen.any(1)).all():
            raise BadInput(
                f"a tie of {int(size[~explained].max())} completions",
                expected="a prevalence above 0 for ties of that size",
                fix="give `prevalences` one for every size in the rankings",
            )
        log_total = worth[rows].masked_fill(~possible, -torch.inf).logsumexp(1)
        loss = loss.index_put((rows,), log_total - worth[rows][is_chosen], accumulate=True)
    return loss


def estimate_tie_prevalences(rankings: Iterable[Sequence[int]], counts: Iterable[float]) -> list[float]:
    """Return the prevalences of ties of 2, 3, ... completions at which, in `davidson_luce_loss`, completions of equal
    reward tie as often as they do in these rankings.

    With m completions left, a group of t is chosen with weight C(m, t) times its prevalence, a single one with weight
    m. So the prevalence is the number of chosen groups of t, over the sum of C(m, t) / m of the choices of a single
    one. For pairs it is `compute_tie_prevalence`. For a size that occurs without a count, or was always chosen, half
    a ranking is assumed; for a size that does not occur the prevalence is 0.

    Args:
        rankings: ranks of the completions, as in `davidson_luce_loss`.
        counts: how much each ranking counts.
    """
    tied = defaultdict[int, float](float)  # by the size of the group
    single = defaultdict[int, float](float)  # by how many completions were left
    for ranking, count in zip(rankings, counts):
        groups = Counter(rank for rank in ranking if rank != UNRANKED)
        remaining = groups.total()
        for _, size in sorted(groups.items()):
            if size > 1:
                tied[size] += count
            elif remaining > 1:
                single[remaining] += count
            remaining -= size
    return [
        (tied[t] or 0.5) / (sum(n * comb(m, t) / m for m, n in single.items()) or 0.5 / t) if t in tied else 0.0
        for t in range(2, max(tied, default=1) + 1)
    ]


def compute_pair_margins_and_leans(
    rewards: torch.Tensor, ranks: torch.Tensor, shares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take rankings apart into pairs: for every two completions the margin, and how far raters lean to the first, from
    1 to -1.

    Args:
        rewards: (n, K).
        ranks: (n, V, K), V rankings each; UNRANKED for completions that a ranking leaves out.
        shares: (n, V) of the votes that each ranking has.

    Returns:
        Both (n, K (K - 1) / 2), in the order of `itertools.combinations`.
    """
    first, second = torch.triu_indices(rewards.shape[1], rewards.shape[1], 1, device=rewards.device)
    a, b = ranks[..., first], ranks[..., second]
    preferences = (b - a).sign() * ((a != UNRANKED) & (b != UNRANKED))
    leans = (preferences * shares[..., None]).sum(1).round(decimals=5)  # so that thirds that cancel give 0
    return _widen(rewards[:, first]) - _widen(rewards[:, second]), leans


def centring_penalty(rewards: torch.Tensor) -> torch.Tensor:
    """Penalty that pulls the rewards of one prompt (n, K) to a mean of 0, which comparisons leave open (Eisenstein et
    al. 2023, "Helping or herding?"): the squares (n,) of their sums, as TRL has it for pairs."""
    return _widen(rewards).sum(1) ** 2


def length_penalty(margins: torch.Tensor, length_differences: torch.Tensor) -> torch.Tensor:
    """Penalty on margins that follow the lengths: the squared cosine of the two over a batch, from 0 to 1.

    Chen et al. 2024 ("ODIN") penalise the correlation. Here it is one of differences, without centring, so that it does
    not depend on which side of a pair is called first. It is 0 where either is all 0.

    Args:
        margins, length_differences: (n,) first less second; the latter of log lengths.
    """
    m, d = _widen(margins), length_differences.to(_widen(margins))
    size = (m * m).sum() * (d * d).sum()
    return (m * d).sum() ** 2 / size.clamp_min(torch.finfo(m.dtype).tiny)


def score_agreement(margins: torch.Tensor, leans: torch.Tensor) -> torch.Tensor:
    """Return whether each margin is on the side that raters lean to (above 0: the first): 1 or 0, a half for equal
    rewards, nan where raters lean to neither side."""
    right = torch.where(margins == 0, 0.5, ((margins > 0) == (leans > 0)).float())
    return torch.where(leans == 0, torch.nan, right)


def _widen(x: torch.Tensor) -> torch.Tensor:
    """Widen to float32 at least: in bf16 small margins flip or tie."""
    return x if x.dtype == torch.float64 else x.float()


def _cross_entropy(log_probabilities: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy (n,) of two (n, outcomes). An outcome nobody chose costs nothing, also at log
    probability -inf."""
    return -torch.where(shares > 0, shares * log_probabilities, 0).sum(-1)
