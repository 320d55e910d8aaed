"""Prediction-powered figures: the model's word on everything routed, people's on a random few.

The random few are those that raters judge whatever the model says: the control share, and calibration and held-out
prompts. Each of them is compared with the pool from which it was drawn: the comparisons that the same model routed in
the same round.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from rlhf_hitl.kpi_report import PoweredFigure
from rlhf_hitl.labels.kept_fits import load_kept_label_model
from rlhf_hitl.labels.votes import to_label_vote
from rlhf_hitl.stats.prediction_powered import estimate_powered_mean
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import read_families, read_policies
from rlhf_hitl.store.judgments import read_judgments_of
from rlhf_hitl.store.label_votes import read_vote_weights
from rlhf_hitl.store.routings import Routing
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Label, Role, Route, Score, Verdict
from rlhf_hitl.wording import say_count

#: Policies with fewer random labels get no win rate, and of the others those with the most of them do.
MIN_LABELS, MAX_POLICIES = 10, 8

#: A comparison as one model routed it in one round: (round, model, comparison), the score, whether it is of the few.
_Row = tuple[tuple[int, str, str], Score, bool]


def compute_powered_figures(
    store: Store, decisions: Iterable[Routing], trained: Collection[str]
) -> tuple[PoweredFigure, ...]:
    """Return the model's accuracy on training prompts and the policies' win rates on all, as far as labels allow.

    Args:
        decisions: all that were made, those on a comparison in their order.
        trained: the comparisons of training prompts that were routed.
    """
    decisions = [d for d in decisions if d.route is not Route.ESCALATED and d.reward_model_id]
    if not decisions:
        return ()
    # The pools are all that was routed, by every model: the scores of the measured few alone would not tell of them.
    models = sorted({str(d.reward_model_id) for d in decisions})
    scores = {(m, s.comparison_id): s for m in models for s in read_scores(store, m)}
    in_pools = {
        (d.round, str(d.reward_model_id), d.comparison_id): d
        for d in decisions
        if (d.reward_model_id, d.comparison_id) in scores
    }
    # A comparison that was drawn again belongs to its newest draw, and only if that made it one of the random few.
    newest = {comparison: (round, model) for round, model, comparison in in_pools}
    rows = [
        (pool, scores[pool[1], pool[2]], _is_random(d, trained) and newest[pool[2]] == pool[:2])
        for pool, d in in_pools.items()
    ]
    labels = _read_labels(store, {pool[2] for pool, _, is_random in rows if is_random})
    families = read_families(store, {pool[2] for pool in in_pools})
    accuracy = _estimate(
        "accuracy",
        "Model accuracy before human review",
        [row for row in rows if row[0][2] in trained],
        lambda score: (_find_correct(score, labels.get(score.comparison_id, ())), score.probability),
        families,
        labels,
    )
    figures = [] if accuracy is None else [accuracy]
    return (*figures, *_estimate_win_rates(store, rows, families, labels))


def _is_random(decision: Routing, trained: Collection[str]) -> bool:
    return decision.route is Route.CONTROL or decision.comparison_id not in trained


def _read_labels(store: Store, comparison_ids: Collection[str]) -> dict[str, list[Label]]:
    """Return comparison id → the labels of what people here said of it, for these comparisons."""
    label_model, weights = load_kept_label_model(store), read_vote_weights(store)
    votes = defaultdict(list)
    for j in read_judgments_of(store, comparison_ids):
        counts = j.role is not Role.JUDGE and not j.surplus and not j.source
        if counts and j.answer.verdict in (Verdict.RANKED, Verdict.ALL_BAD):
            votes[j.comparison_id].append(to_label_vote(j, weights))
    return {i: label_model.make_labels(i, of_one) for i, of_one in votes.items()}


def _find_correct(score: Score, labels: Sequence[Label]) -> float:
    """Return 1 where raters prefer the completion that the model chose, 0 where the other, NaN where none."""
    label = next((x for x in labels if {x.first, x.second} == {score.chosen, score.rejected}), None)
    return float("nan") if label is None or label.preferred is None else float(label.preferred == score.chosen)


def _estimate_win_rates(
    store: Store, rows: Sequence[_Row], families: Mapping[str, str], labels: Mapping[str, Sequence[Label]]
) -> list[PoweredFigure]:
    policies = read_policies(store, {completion for _, score, _ in rows for completion in score.rewards})
    random = Counter(
        policy
        for _, score, is_random in rows
        if is_random and score.comparison_id in labels
        for policy in {policies.get(i) for i in score.rewards}
    )
    figures = []
    for policy, count in random.most_common(MAX_POLICIES):
        if policy is None or count < MIN_LABELS:
            break
        against = [row for row in rows if len({policies.get(i) for i in row[1].rewards} | {policy}) > 1]
        against = [row for row in against if policy in {policies.get(i) for i in row[1].rewards}]
        figure = _estimate(
            f"win_rate.{policy}",
            f"Win rate of {policy}",
            against,
            lambda score, policy=policy: _compare_policy(score, policy, policies, labels.get(score.comparison_id, ())),
            families,
            labels,
        )
        figures += [] if figure is None else [figure]
    return figures


def _compare_policy(
    score: Score, policy: str, policies: Mapping[str, str], labels: Sequence[Label]
) -> tuple[float, float]:
    """Return how often a policy's completions win against others' in one comparison: as people say (NaN if they said
    nothing), and as the model does. A tie is half a win."""
    said, predicted = [], []
    of_pair = {(x.first, x.second): x.probabilities for x in labels}
    for own in score.rewards:
        for other in score.rewards:
            if policies.get(own) != policy or policies.get(other) == policy:
                continue
            predicted.append(1 / (1 + np.exp(np.clip(score.rewards[other] - score.rewards[own], -50, 50))))
            if (p := of_pair.get((own, other))) is not None:
                said.append(p[0] + p[1] / 2)
            elif (p := of_pair.get((other, own))) is not None:
                said.append(p[2] + p[1] / 2)
    return float(np.mean(said)) if said else float("nan"), float(np.mean(predicted))


def _estimate(
    key: str,
    title: str,
    rows: Sequence[_Row],
    read: Callable[[Score], tuple[float, float]],
    families: Mapping[str, str],
    labels: Mapping[str, Sequence[Label]],
) -> PoweredFigure | None:
    """Return the figure of what `read` says of each score: people's value (NaN for none) and the model's; None without
    labels of the random few."""
    if not rows:
        return None
    pairs = np.array([read(score) for _, score, _ in rows], float)
    seen = np.array([is_random and score.comparison_id in labels for _, score, is_random in rows])
    found = estimate_powered_mean(
        np.where(seen, pairs[:, 0], np.nan),
        pairs[:, 1],
        np.array([families[pool[2]] for pool, *_ in rows]),
        labelled=seen,
        strata=np.unique([f"{pool[0]} {pool[1]}" for pool, *_ in rows], return_inverse=True)[1],
    )
    if found is None:
        return None
    note = (
        f"people's word on {say_count(found.labels, 'comparison')} drawn at random, the model's on "
        f"{found.examples:,}; labels alone would take {found.labels_worth:,} for an interval as narrow"
    )
    return PoweredFigure(
        key, title, found.value, found.low, found.high, found.plain, found.plain_low, found.plain_high,
        found.labels, found.examples, found.labels_worth, note,
    )  # fmt: skip
