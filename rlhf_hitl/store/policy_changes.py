"""Before and after: the same prompt answered by two policies, and how raters decided where they compared both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations

import sqlalchemy as sa

from rlhf_hitl.store.comparisons import load_completions, load_prompts, measures_raters
from rlhf_hitl.store.counted_votes import read_counted_votes
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.service_tables import promotion_draws, promotions
from rlhf_hitl.store.tables import comparisons, completions
from rlhf_hitl.types import Completion, Prompt
from rlhf_hitl.types.votes import read_pair_votes

PROMPTS_AT_ONCE = 100
#: Seconds after which a search for words hands out what it has found; it goes on from there when it is asked again.
SEARCH_SECONDS = 2.0


@dataclass
class PairDecision:
    """How many votes of one population prefer an answer after, tie, or prefer the answer before."""

    after: int = 0
    tie: int = 0
    before: int = 0

    def add(self, outcome: int) -> None:
        """Add a vote: 0 where the answer after is better, 1 where neither, 2 where the one before is."""
        name = ("after", "tie", "before")[outcome]
        setattr(self, name, getattr(self, name) + 1)


@dataclass(frozen=True)
class PolicyChange:
    """One prompt before and after.

    Attributes:
        before, after: one answer of each policy: two that raters compared where they did, else the newest.
        answers: how many answers (before, after) there are to choose from.
        decisions: population (people, judges, simulated) → its votes on these two answers.
    """

    prompt: Prompt
    before: Completion
    after: Completion
    answers: tuple[int, int]
    decisions: dict[str, PairDecision] = field(default_factory=dict)


@dataclass(frozen=True)
class ChangePage:
    """Some changes, by the ids of their prompts; `next` is from where to go on, None where there are no more.

    `looked_at` is how many prompts were read for them.
    """

    changes: list[PolicyChange]
    next: str | None
    looked_at: int


def count_shared_prompts(store: Store, before: str, after: str) -> int:
    """Return how many prompts both policies have answered."""
    query = _select_shared(before, after).subquery()
    with store.read() as conn:
        return conn.execute(sa.select(sa.func.count()).select_from(query)).scalar_one()


def count_hidden_prompts(store: Store, before: str, after: str) -> int:
    """Return of how many prompts the answers are not shown: they are being judged in a promotion that is open."""
    query = _select_being_judged(before, after).distinct().subquery()
    with store.read() as conn:
        return conn.execute(sa.select(sa.func.count()).select_from(query)).scalar_one()


def list_policy_names(store: Store) -> list[str]:
    """Return the names of all policies that have answered something, by name."""
    with store.read() as conn:
        names = conn.execute(sa.select(completions.c.policy).distinct()).scalars().all()
    return sorted(names)


def find_changes(
    store: Store, before: str, after: str, *, words: str = "", decided: bool = False, start: str = "", limit: int = 5
) -> ChangePage:
    """Return prompts that both policies have answered, a page of them.

    Args:
        words: all must occur in the prompt or in one of the two answers, whatever their case.
        decided: only where somebody has voted on the two answers.
        start: only prompts whose id comes after this one.
    """
    wanted, ends_at = words.casefold().split(), time.monotonic() + SEARCH_SECONDS
    found: list[PolicyChange] = []
    looked_at, last = 0, start
    while True:
        size = PROMPTS_AT_ONCE if wanted or decided else limit - len(found) + 1
        with store.read() as conn:
            query = _select_shared(before, after).where(completions.c.prompt_id > last).limit(size)
            ids = list(conn.execute(query.order_by(completions.c.prompt_id)).scalars())
        for change in _load_changes(store, ids, before, after):
            if len(found) == limit:
                return ChangePage(found, last, looked_at)
            looked_at, last = looked_at + 1, change.prompt.id
            if (change.decisions or not decided) and (not wanted or _has_words(change, wanted)):
                found.append(change)
        if len(ids) < size:
            return ChangePage(found, None, looked_at)
        if time.monotonic() > ends_at:
            return ChangePage(found, last, looked_at)


def _select_shared(before: str, after: str) -> sa.Select:
    other = completions.alias()
    return (
        sa.select(completions.c.prompt_id)
        .where(
            completions.c.policy == after,
            sa.exists().where(other.c.prompt_id == completions.c.prompt_id, other.c.policy == before),
            # Leads rate, too, and nobody may learn here which of two policies wrote what they are asked about.
            completions.c.prompt_id.not_in(_select_being_judged(before, after)),
        )
        .distinct()
    )


def _select_being_judged(before: str, after: str) -> sa.Select:
    both = (before, after)
    return (
        sa.select(promotion_draws.c.prompt_id)
        .join(promotions, promotions.c.id == promotion_draws.c.promotion_id)
        .where(
            promotions.c.decided_at.is_(None),
            promotions.c.new_policy.in_(both),
            promotions.c.old_policy.in_(both),
            promotion_draws.c.comparison_id.is_not(None),
        )
    )


def _has_words(change: PolicyChange, words: Sequence[str]) -> bool:
    chats = (change.prompt.messages, change.before.messages, change.after.messages)
    text = "\n".join(message.read_all_text() for chat in chats for message in chat).casefold()
    return all(word in text for word in words)


def _load_changes(store: Store, prompt_ids: Sequence[str], before: str, after: str) -> list[PolicyChange]:
    """Return the change of each prompt, in their order."""
    if not prompt_ids:
        return []
    of_prompts = completions.c.prompt_id.in_(prompt_ids)
    newest_first = (completions.c.created_at.desc(), completions.c.id)
    columns = (completions.c.id, completions.c.prompt_id, completions.c.policy)
    answers: dict[tuple[str, str], list[str]] = {}
    with store.read() as conn:
        query = sa.select(*columns).where(of_prompts, completions.c.policy.in_([before, after])).order_by(*newest_first)
        for row in conn.execute(query):
            answers.setdefault((row.prompt_id, row.policy), []).append(row.id)
        compared = conn.execute(
            sa.select(comparisons.c.id, comparisons.c.completion_ids)
            .where(
                comparisons.c.prompt_id.in_(prompt_ids),
                ~measures_raters(),
            )
            .order_by(comparisons.c.id)
        ).all()
        prompts = load_prompts(conn, prompt_ids)
    shown_together = {pair for row in compared for pair in permutations(row.completion_ids, 2)}
    decisions = _read_decisions(store, [row.id for row in compared])
    chosen: dict[str, tuple[str, str]] = {}
    for id in prompt_ids:
        old, new = answers[id, before], answers[id, after]
        pairs = [(a, b) for a in old for b in new]
        together = [pair for pair in pairs if pair in shown_together]
        judged = [pair for pair in pairs if pair in decisions or pair[::-1] in decisions]
        chosen[id] = next(iter(judged or together or pairs))
    with store.read() as conn:
        texts = load_completions(conn, [answer for pair in chosen.values() for answer in pair])
    return [
        PolicyChange(
            prompts[id],
            texts[chosen[id][0]],
            texts[chosen[id][1]],
            (len(answers[id, before]), len(answers[id, after])),
            _turn(decisions, *chosen[id]),
        )
        for id in prompt_ids
    ]


def _read_decisions(store: Store, comparison_ids: Sequence[str]) -> dict[tuple[str, str], dict[str, list[int]]]:
    """Return pair of answers → population → the outcomes of its votes, as `PairVote.winner` has them."""
    said: dict[tuple[str, str], dict[str, list[int]]] = {}
    for vote in read_counted_votes(store, comparison_ids=comparison_ids) if comparison_ids else ():
        population = "simulated" if vote.simulated else "judges" if vote.is_judge else "people"
        for pair in read_pair_votes(vote.verdict, vote.ranking, vote.order_shown, vote.strength):
            said.setdefault((pair.first, pair.second), {}).setdefault(population, []).append(pair.winner)
    return said


def _turn(said: dict[tuple[str, str], dict[str, list[int]]], before: str, after: str) -> dict[str, PairDecision]:
    """Return what was said of two answers, as of the one after."""
    decisions: dict[str, PairDecision] = {}
    for pair in ((after, before), (before, after)):
        for population, outcomes in said.get(pair, {}).items():
            decision = decisions.setdefault(population, PairDecision())
            for outcome in outcomes:
                decision.add(outcome if pair[0] == after else 2 - outcome)
    return decisions
