"""Losses of reward models: pure functions of rewards, each the negative log likelihood of what raters said.

Likelihoods come as one loss an example, so that the caller may weigh them: a label's doubt is in its shares, how much
its raters are to be believed in its weight. Shares need not sum to 1 (counts of votes do as well); a share of 0 costs
nothing even where the model thinks the outcome impossible. Computed in float32 at least, finite for any finite reward.

Full training takes `davidson_luce`, of which `davidson` and `bradley_terry` are the cases of two completions, and the
head its own form of `ordinal`, in numpy: those three say here what they are, and tests hold the others against them.
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


def bradley_terry(margins: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry with soft labels (Bradley & Terry 1952): P(first preferred) = sigmoid(margin).

    Args:
        margins: (n,) reward(first) - reward(second).
        targets: (n,) probability that a rater prefers the first.

    Returns:
        (n,) losses.
    """
    m, t = _wide(margins), targets
    return -(t * logsigmoid(m) + (1 - t) * logsigmoid(-m))


def davidson(margins: torch.Tensor, shares: torch.Tensor, nu: torch.Tensor | float) -> torch.Tensor:
    """Bradley-Terry with ties (Davidson 1970): first : tie : second = exp(m / 2) : nu : exp(-m / 2).

    The margin stays what it is in Bradley-Terry, the log odds of the first where a rater sees a difference, whatever
    nu; with nu 0, which says that there are no ties, the loss is Bradley-Terry's.

    Args:
        margins: (n,) m = reward(first) - reward(second).
        shares: (n, 3) of (first better, tie, second better) among the votes.
        nu: prevalence of ties, 0 or more: at margin 0 their share is nu / (2 + nu).

    Returns:
        (n,) losses.
    """
    m = _wide(margins)
    tie = torch.as_tensor(nu, dtype=m.dtype, device=m.device).log().expand_as(m)
    return _cross_entropy(torch.log_softmax(torch.stack([m / 2, tie, -m / 2], dim=-1), dim=-1), shares)


def prevalence(tie_share: float) -> float:
    """nu of Davidson's model at which answers of equal reward tie that often: 0 <= tie_share < 1."""
    return 2 * tie_share / (1 - tie_share)


def ordinal(margins: torch.Tensor, shares: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Strengths and ties as one scale: a cumulative logit with thresholds alike on both sides (Agresti 1992, "Analysis
    of ordinal paired comparison data").

    A rater perceives margin + logistic noise. Within the first threshold of 0 they call it a tie; beyond that "first
    better", the more thresholds they pass the more strongly. A vote that does not say how strongly is a vote on the
    scale that has the first threshold only: `ordinal(margins, shares3, thresholds[:1])`.

    Args:
        margins: (n,) reward(first) - reward(second).
        shares: (n, 2s + 1) of the outcomes, the strongest for the first in front, the tie in the middle.
        thresholds: (s,) ascending, all above 0.

    Returns:
        (n,) losses.
    """
    m = _wide(margins)[:, None]
    t = thresholds.to(m)
    cuts = torch.cat([t.flip(0), -t])  # from the strongest for the first down
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): no difference of nearly equal numbers.
    above = pad(logsigmoid(m - cuts), (0, 1))
    below = pad(logsigmoid(cuts - m), (1, 0))
    within = pad((-torch.expm1(cuts[1:] - cuts[:-1])).log(), (1, 1))
    return _cross_entropy(above + below + within, shares)


def davidson_luce(rewards: torch.Tensor, ranks: torch.Tensor, prevalences: Sequence[float]) -> torch.Tensor:
    """Plackett-Luce with ties, for rankings of K completions: the Davidson-Luce model (Firth, Kosmidis & Turner 2019,
    "Davidson-Luce model for multi-item choice with ties").

    A ranking is a row of choices: of what remains, a group is chosen as best with a probability in proportion to the
    prevalence of ties of its size times the geometric mean of its members' exp(reward). Without ties this is
    Plackett-Luce, of two completions it is `davidson`. Every group that might have been chosen is counted, not (as in
    Efron's and Breslow's approximations) those of one size only, so a tie says something of its own.

    Args:
        rewards: (n, K).
        ranks: (n, K) integers: 0 for the group of the best, 1 for the next, ...; UNRANKED says nothing.
        prevalences: of ties of 2, 3, ... completions, 0 or more; of larger ones 0.

    Returns:
        (n,) losses.

    Raises:
        BadInput: a tie of more completions than there are prevalences above 0 for.
    """
    r = _wide(rewards)
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
        # A group of the chosen's size that has all of the chosen in it is the chosen.
        is_chosen = possible & (chosen @ members.T == size[:, None]) & (sizes == size[:, None])
        if not (explained := is_chosen.any(1)).all():
            raise BadInput(
                f"a tie of {int(size[~explained].max())} completions",
                expected="a prevalence above 0 for ties of that size",
                fix="give `prevalences` one for every size in the rankings",
            )
        every = worth[rows].masked_fill(~possible, -torch.inf).logsumexp(1)
        loss = loss.index_put((rows,), every - worth[rows][is_chosen], accumulate=True)
    return loss


def prevalences(rankings: Iterable[Sequence[int]], counts: Iterable[float]) -> list[float]:
    """Those of ties of 2, 3, ... completions at which, in `davidson_luce`, completions of equal reward tie as often as
    they do in these rankings, which count (n,) each.

    Where m are left, a group of t is chosen C(m, t) times its prevalence as often as a single one is m times. So it is
    the groups of t, over the sum of C(m, t) / m of the choices of a single one. Of pairs it is `prevalence`. Of a size
    that has no count, or was never not chosen, half a ranking is taken to say so; of one that does not occur it is 0.
    """
    tied, single = (
        defaultdict[int, float](float),
        defaultdict[int, float](float),
    )  # by their size; by how many were left
    for ranking, count in zip(rankings, counts):
        groups = Counter(rank for rank in ranking if rank != UNRANKED)
        left = groups.total()
        for _, size in sorted(groups.items()):
            if size > 1:
                tied[size] += count
            elif left > 1:
                single[left] += count
            left -= size
    return [
        (tied[t] or 0.5) / (sum(n * comb(m, t) / m for m, n in single.items()) or 0.5 / t) if t in tied else 0.0
        for t in range(2, max(tied, default=1) + 1)
    ]


def margins_and_leans(
    rewards: torch.Tensor, ranks: torch.Tensor, shares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rankings as pairs: of every two of the completions the margin, and how far raters lean to the first, 1 to -1.

    Args:
        rewards: (n, K).
        ranks: (n, V, K) of several rankings each, with their shares (n, V); UNRANKED says nothing.

    Returns:
        Both (n, K (K - 1) / 2), in the order of `itertools.combinations`.
    """
    first, second = torch.triu_indices(rewards.shape[1], rewards.shape[1], 1, device=rewards.device)
    a, b = ranks[..., first], ranks[..., second]
    said = (b - a).sign() * ((a != UNRANKED) & (b != UNRANKED))
    leans = (said * shares[..., None]).sum(1).round(decimals=5)  # thirds that cancel do
    return _wide(rewards[:, first]) - _wide(rewards[:, second]), leans


def centring(rewards: torch.Tensor) -> torch.Tensor:
    """Pull of the rewards of one prompt (n, K) to a mean of 0, which comparisons leave open (Eisenstein et al. 2023,
    "Helping or herding?"): (n,) squares of their sums, for pairs as TRL has it."""
    return _wide(rewards).sum(1) ** 2


def length_decorrelation(margins: torch.Tensor, length_differences: torch.Tensor) -> torch.Tensor:
    """How much of the margins' direction is the lengths': the squared cosine of the two, 0 to 1, over a batch.

    The correlation that Chen et al. 2024 ("ODIN") penalise, of differences and without centring, so that it does not
    depend on which side of a pair is called first. 0 where either is all 0.

    Args:
        margins, length_differences: (n,) first less second; the latter of log lengths.
    """
    m, d = _wide(margins), length_differences.to(_wide(margins))
    size = (m * m).sum() * (d * d).sum()
    return (m * d).sum() ** 2 / size.clamp_min(torch.finfo(m.dtype).tiny)


def agreement(margins: torch.Tensor, leans: torch.Tensor) -> torch.Tensor:
    """Whether the margin leans to the side the raters lean to (above 0 the first): 1 or 0, a half for equal rewards,
    nan where the raters lean to neither."""
    right = torch.where(margins == 0, 0.5, ((margins > 0) == (leans > 0)).float())
    return torch.where(leans == 0, torch.nan, right)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """In float32 at least: on the bf16 grid small margins flip or tie."""
    return x if x.dtype == torch.float64 else x.float()


def _cross_entropy(log_probabilities: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """(n,) of (n, outcomes) each; what nobody chose costs nothing, also at log probability -inf."""
    return -torch.where(shares > 0, shares * log_probabilities, 0).sum(-1)
