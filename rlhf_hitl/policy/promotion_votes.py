"""What raters say of a promotion: outcomes in the order in which prompts were drawn, the test, and the decision.

It may be looked at any time and as often as one likes, by any number of processes: what is decided follows from the
outcomes in the order of the draw alone. An outcome counts once all drawn before it have one, so that comparisons that
take raters longer, or that nobody has taken yet, are not passed over for quick ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlhf_hitl.stats.length_controlled import estimate_length_controlled_rate
from rlhf_hitl.stats.sequential import WinRateEvidence, WinRateTest, make_controls, weigh_outcomes
from rlhf_hitl.stats.tag_regressions import list_tested_tags, measure_tags
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import load_completions, load_prompts
from rlhf_hitl.store.promotions import (
    Draw,
    GateVote,
    Promotion,
    close_what_was_held,
    decide_promotion,
    get_promotion,
    has_work_left,
    list_promotions,
    read_draws,
    read_gate_votes,
    write_progress,
)
from rlhf_hitl.types import Verdict
from rlhf_hitl.types.promotions import Decision
from rlhf_hitl.wording import say_count

#: What a comparison counts for on which no person has a preference: a tie, a skip, a flag, or only votes of others.
NO_PREFERENCE = 0.5
KINDS = ("won", "tied", "lost", "same_text", "skipped", "flagged", "without_vote")


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of the first prompts of the draw, up to the first that is not judged yet.

    Attributes:
        values: (n,) from 0 to 1.
        kinds: how each came, of KINDS.
        judgments: how many votes there are, also on prompts after those.
    """

    values: np.ndarray
    kinds: Sequence[str]
    judgments: int


def look_at_promotion(store: Store, id: int) -> Promotion:
    """Count what raters have said, decide the promotion if that decides it, and return it."""
    promotion = get_promotion(store, id)
    if not promotion.is_open:
        return promotion
    draws, outcomes = _read(store, promotion)
    evidence = _weigh(promotion, draws, outcomes.values)
    decided, judged = evidence.decided_after, _count_judged(promotion)
    if decided is None and len(outcomes.values) < judged:
        return write_progress(store, id, _describe(promotion, outcomes, evidence))
    return _decide(store, promotion, draws, outcomes, judged if decided is None else decided)


def end_promotion(store: Store, id: int, reason: str) -> Promotion:
    """End a promotion that is open as it stands: undecided, unless the votes so far decide it."""
    promotion = look_at_promotion(store, id)
    if not promotion.is_open:
        return promotion
    draws, outcomes = _read(store, promotion)
    return _decide(store, promotion, draws, outcomes, len(outcomes.values), reason)


def watch_promotions(store: Store) -> list[Promotion]:
    """Look at all promotions that are open, and close what raters gave back of those that are not. Returns those that
    are decided by this look."""
    looked = [look_at_promotion(store, p.id) for p in list_promotions(store) if p.is_open]
    close_what_was_held(store)
    return [p for p in looked if not p.is_open]


def wait_for_decision(store: Store, id: int, wait: Callable[[Promotion], bool | None]) -> Promotion:
    """Look again and again until a promotion is decided.

    It ends undecided where nobody can be asked any more, or `wait` returns False. While its project is paused it waits.

    Args:
        wait: called between two looks: it lets raters judge.
    """
    while (promotion := look_at_promotion(store, id)).is_open:
        if not has_work_left(store, id):
            return end_promotion(store, id, "no rater can be asked any more")
        if wait(promotion) is False:
            return end_promotion(store, id, "no rater has work left")
    return promotion


def say_progress(promotion: Promotion) -> str:
    """Return how a promotion stands, in a line."""
    whose = "simulated raters" if promotion.simulated else "raters"
    most = _count_judged(promotion)
    line = f"{promotion.outcomes:,} of at most {say_count(most, 'outcome')}"
    if promotion.win_rate is None:
        return f"{line}; {whose} have not judged yet"
    test = _read_test(promotion)
    return (
        f"{line}: win rate {promotion.win_rate:.1%} ({promotion.low:.1%} to {promotion.high:.1%}) by {whose}; evidence "
        f"for {promotion.evidence_for:.3g} of {1 / test.alpha:.3g}, against {promotion.evidence_against:.3g} of "
        f"{1 / test.beta:.3g}"
    )


def _read(store: Store, promotion: Promotion) -> tuple[list[Draw], Outcomes]:
    draws = read_draws(store, promotion.id)
    votes = read_gate_votes(store, promotion.id, simulated=promotion.simulated)
    overlap = int(promotion.settings["overlap"])
    values, kinds = [], []
    for draw in draws[: _count_judged(promotion)]:
        if draw.comparison_id is None:
            values.append(NO_PREFERENCE)
            kinds.append("same_text")
            continue
        of_draw = votes.of.get(draw.comparison_id, ())[:overlap]
        if len(of_draw) < overlap and draw.comparison_id in votes.waiting:
            break
        value, kind = _read_outcome(draw, of_draw)
        values.append(value)
        kinds.append(kind)
    return draws, Outcomes(np.array(values), kinds, sum(map(len, votes.of.values())))


def _read_outcome(draw: Draw, votes: Sequence[GateVote]) -> tuple[float, str]:
    """Return what the votes on a comparison come to: the mean of theirs, of which a skip and a flag are 1/2.

    They stay in, for raters may skip what the reward model is wrong about; and whether more people prefer the new
    policy than the old one does not depend on them.
    """
    if not votes:
        return NO_PREFERENCE, "without_vote"
    value = sum(_read_vote(draw, vote) for vote in votes) / len(votes)
    if all(vote.verdict in (Verdict.SKIPPED, Verdict.FLAGGED) for vote in votes):
        return value, "flagged" if votes[0].verdict is Verdict.FLAGGED else "skipped"
    return value, "won" if value > NO_PREFERENCE else "lost" if value < NO_PREFERENCE else "tied"


def _read_vote(draw: Draw, vote: GateVote) -> float:
    if vote.verdict is not Verdict.RANKED:
        return NO_PREFERENCE
    rank = {i: n for n, group in enumerate(vote.ranking) for i in group}
    new, old = rank[draw.new_completion], rank[draw.old_completion]
    return 1.0 if new < old else 0.0 if new > old else NO_PREFERENCE


def _weigh(promotion: Promotion, draws: Sequence[Draw], values: np.ndarray) -> WinRateEvidence:
    controls = None
    if promotion.reward_model_id is not None:
        # An unread prediction would be None; the gate writes one for every prompt.
        controls = make_controls(np.array([d.prediction for d in draws], float), _count_judged(promotion))
    return weigh_outcomes(values, _read_test(promotion), controls)


def _describe(promotion: Promotion, outcomes: Outcomes, evidence: WinRateEvidence) -> dict[str, Any]:
    """Return the columns of a promotion that say what the votes say."""
    kinds = Counter(outcomes.kinds[: evidence.outcomes])
    counts = dict(promotion.counts) | {name: kinds[name] for name in KINDS}
    return {
        "outcomes": evidence.outcomes,
        "judgments": outcomes.judgments,
        "win_rate": evidence.win_rate if evidence.outcomes else None,
        "low": evidence.low,
        "high": evidence.high,
        "evidence_for": evidence.evidence_for,
        "evidence_against": evidence.evidence_against,
        "counts": counts,
    }


def _decide(
    store: Store,
    promotion: Promotion,
    draws: Sequence[Draw],
    outcomes: Outcomes,
    used: int,
    ended: str = "",
) -> Promotion:
    """Decide a promotion on its first `used` outcomes; later ones do not count."""
    values = outcomes.values[:used]
    evidence = _weigh(promotion, draws, values)
    figures = _describe(promotion, outcomes, evidence) | _measure_more(store, promotion, draws, values)
    return decide_promotion(store, promotion.id, evidence.decision, _explain(promotion, evidence, ended), figures)


def _measure_more(store: Store, promotion: Promotion, draws: Sequence[Draw], values: np.ndarray) -> dict[str, Any]:
    """Return the length-controlled win rate and the win rates of tags, as a promotion keeps them."""
    from rlhf_hitl.reward.rendering import count_characters

    judged = draws[: _count_judged(promotion)]
    with store.read() as conn:
        prompts = load_prompts(conn, [d.prompt_id for d in judged])
        texts = load_completions(conn, [i for d in judged for i in (d.new_completion, d.old_completion)])
    used = judged[: len(values)]
    longer = [
        count_characters(texts[d.new_completion].messages) - count_characters(texts[d.old_completion].messages)
        for d in used
    ]
    controlled = estimate_length_controlled_rate(values, np.array(longer, float))
    tested = list_tested_tags([prompts[d.prompt_id].tags for d in judged])
    tags = measure_tags(values, [prompts[d.prompt_id].tags for d in used], tested, _read_test(promotion))
    return {
        "length_controlled": None if controlled is None else asdict(controlled),
        "tags": [asdict(tag) | {"is_regression": tag.is_regression} for tag in tags],
    }


def _explain(promotion: Promotion, evidence: WinRateEvidence, ended: str) -> str:
    """Return why a promotion was decided as it was, in a sentence."""
    test, whose = evidence.test, "simulated raters" if promotion.simulated else "raters"
    asked = f"after {say_count(evidence.outcomes, 'outcome')} by {whose}"
    rate = f"win rate {evidence.win_rate:.1%}, {evidence.low:.1%} to {evidence.high:.1%}" if evidence.outcomes else ""
    if evidence.decision is Decision.PROMOTE:
        return f"shown to win more than half, {asked} ({rate})"
    if evidence.decision is Decision.REJECT and evidence.is_worse:
        return f"shown to win less than half, {asked} ({rate})"
    if evidence.decision is Decision.REJECT:
        return f"shown to win less than {0.5 + test.least_gain:.1%}, which was the least that matters, {asked} ({rate})"
    why = ended or "no prompt is left to ask about"
    return f"undecided {asked}: {why}" + (f" ({rate})" if rate else "")


def _read_test(promotion: Promotion) -> WinRateTest:
    return WinRateTest(*(promotion.settings[name] for name in ("least_gain", "alpha", "beta")))


def _count_judged(promotion: Promotion) -> int:
    """Return how many prompts may be judged."""
    return int(promotion.settings["judged"])
