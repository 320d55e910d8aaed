"""What the catalog says of a comparison: its words, its value of each facet, its votes and how far they agree."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.store.catalog_words import collect_words
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import find_role
from rlhf_hitl.store.quality_tables import labels
from rlhf_hitl.store.tables import comparisons, completions, judgments, lanes, prompts, routings
from rlhf_hitl.types import Role, Verdict
from rlhf_hitl.types.catalog import MAX_VALUE

#: Of a pair (first, second) in canonical order; the place of each in `PairLabel.probabilities`.
OUTCOMES = ("first", "tie", "second")
Shares = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class PairLabel:
    """What is known of a pair of completions: (first better, tie, second better), which sum to 1.

    It is that of the label model that was fitted last, and else the plain shares of the votes.
    """

    first: str
    second: str
    probabilities: Shares
    entropy: float  # in nats
    consensus: Shares | None = None
    weight: float | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """What the catalog holds of one comparison: `terms` are (facet, value), `labels` those of its pairs."""

    comparison_id: str
    terms: tuple[tuple[str, str], ...]
    votes: int
    words: tuple[str, ...]
    labels: tuple[PairLabel, ...]

    @property
    def entropy(self) -> float | None:
        return max((label.entropy for label in self.labels), default=None)


def load_entries(store: Store, conn: Connection, ids: Sequence[str], *, words: bool = True) -> list[CatalogEntry]:
    """Return the entries of comparisons, in the order of the ids; of an id that is not there, none.

    Args:
        words: whether the entries have their words, which takes most of the time.
    """
    rows = {r.id: r for r in conn.execute(_COMPARISONS.where(store.among(comparisons.c.id, ids)))}
    completion_ids = [i for r in rows.values() for i in r.completion_ids]
    query = sa.select(completions.c.id, completions.c.policy, *([completions.c.messages] if words else []))
    answers = {r.id: r for r in conn.execute(query.where(store.among(completions.c.id, completion_ids)))}
    votes = _group(conn.execute(_JUDGMENTS.where(store.among(judgments.c.comparison_id, ids))))
    rounds = _group(conn.execute(_ROUNDS.where(store.among(routings.c.comparison_id, ids))))
    fitted = _group(conn.execute(sa.select(labels).where(store.among(labels.c.comparison_id, ids))))
    return [
        _make_entry(rows[id], answers, votes[id], [r.round for r in rounds[id]], fitted[id], words)
        for id in dict.fromkeys(ids)
        if id in rows
    ]


_COMPARISONS = (
    sa.select(
        *(comparisons.c[name] for name in ("id", "completion_ids", "route", "repeat_of", "is_gold")),
        lanes.c.project_id, lanes.c.batch, lanes.c.language, prompts.c.split, prompts.c.tags, prompts.c.messages,
    )
    .join(lanes, lanes.c.id == comparisons.c.lane_id)
    .join(prompts, prompts.c.id == comparisons.c.prompt_id)
)  # fmt: skip
_JUDGMENTS = sa.select(
    *(judgments.c[name] for name in ("comparison_id", "id", "rater_id", "verdict", "ranking", "order_shown")),
    find_role().label("role"),
    *(judgments.c[name] for name in ("surplus", "supersedes", "rationale", "rewrite")),
).order_by(judgments.c.seq)
_ROUNDS = sa.select(routings.c.comparison_id, routings.c.round).distinct()


def _group(rows: Any) -> Mapping[str, list[Any]]:
    grouped: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        grouped[row.comparison_id].append(row)
    return grouped


def _make_entry(
    row: Any, answers: Mapping[str, Any], given: list[Any], rounds: list[int], fitted: list[Any], words: bool
) -> CatalogEntry:
    superseded = {j.supersedes for j in given}
    standing = [j for j in given if j.id not in superseded]
    counted = [j for j in standing if not j.surplus and j.role is None and j.verdict in _RANKING_VERDICTS]
    deciding = [j for j in standing if j.role == Role.LEAD.value and j.verdict in _RANKING_VERDICTS][-1:]
    of_votes = tuple(_make_labels(row.completion_ids, counted))
    decided = tuple(_make_labels(row.completion_ids, deciding))
    pairs = tuple(map(_to_label, fitted)) or decided or of_votes
    policies = [answers[i].policy for i in row.completion_ids]
    terms = [
        *(("project", row.project_id), ("batch", row.batch), ("split", row.split), ("language", row.language)),
        *(("tag", f"{name}={value}") for name, value in row.tags.items()),
        *(("policy", policy) for policy in policies),
        ("route", row.route),
        *(("round", str(round)) for round in rounds),
        ("state", _name_state(pairs, len(counted), bool(deciding))),
        ("agreement", _name_agreement(len(counted), of_votes)),
        *((("outcome", _name_outcome(pairs[0].probabilities)),) if len(row.completion_ids) == 2 and pairs else ()),
        *(("verdict", j.verdict) for j in standing),
        *(("rater", j.rater_id) for j in standing),
        ("judge", "yes" if any(j.role == Role.JUDGE.value for j in standing) else "no"),
        ("kind", "repeat" if row.repeat_of else "gold" if row.is_gold else "usual"),
    ]
    found = ()
    if words:
        texts = [row.messages, *(answers[i].messages for i in row.completion_ids)]
        said = [text for j in given for text in (j.rationale, j.rewrite) if text]
        found = tuple(collect_words([*(t for chat in texts for t in read_plain_texts(chat)), *said]))
    kept = tuple(dict.fromkeys((facet, value[:MAX_VALUE]) for facet, value in terms if value))
    return CatalogEntry(row.id, kept, len(counted), found, pairs)


_RANKING_VERDICTS = (Verdict.RANKED.value, Verdict.ALL_BAD.value)


def _make_labels(completion_ids: Sequence[str], votes: Sequence[Any]) -> Iterator[PairLabel]:
    """Yield the plain shares of each pair that a vote ranks. Both bad is a tie."""
    counts: dict[tuple[str, str], list[int]] = {}
    for vote in votes:
        groups = vote.ranking if vote.verdict == Verdict.RANKED.value else [completion_ids]
        rank = {i: place for place, group in enumerate(groups) for i in group}
        for pair in combinations(sorted(rank), 2):
            a, b = rank[pair[0]], rank[pair[1]]
            counts.setdefault(pair, [0, 0, 0])[0 if a < b else 2 if a > b else 1] += 1
    for (first, second), n in sorted(counts.items()):
        first_better, tie, second_better = (count / sum(n) for count in n)
        shares = (first_better, tie, second_better)
        yield PairLabel(first, second, shares, -sum(p * log(p) for p in shares if p) + 0.0)


def _to_label(row: Any) -> PairLabel:
    p, c = (tuple(getattr(row, f"{of}_{name}") for name in OUTCOMES) for of in "pc")
    return PairLabel(row.first, row.second, p, row.entropy, c, row.weight, row.state)  # type: ignore[arg-type]


def _name_outcome(shares: Shares) -> str:
    """Return the likeliest outcome; of two that are equally likely, a tie."""
    first, tie, second = shares
    return "tie" if tie >= max(first, second) or first == second else "first" if first > second else "second"


def _name_agreement(votes: int, pairs: Sequence[PairLabel]) -> str:
    """Return how far the raters agree on the pair that they agree on least."""
    if votes < 2:
        return "one_vote" if votes else "unjudged"
    largest = min((max(pair.probabilities) for pair in pairs), default=1.0)
    return "unanimous" if largest == 1 else "majority" if largest > 0.5 else "split"


def _name_state(pairs: Sequence[PairLabel], votes: int, is_decided: bool) -> str:
    if is_decided:
        return "adjudicated"
    states = Counter(pair.state for pair in pairs if pair.state)
    for state in ("adjudicated", "split", "open", "agreed", "sure"):  # the one that matters most of several pairs
        if states[state]:
            return state
    return "judged" if votes else "unjudged"


def read_plain_texts(chat: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield all texts of messages as the store keeps them: content, reasoning, and tool calls as JSON."""
    for message in chat:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        else:
            yield from (part["text"] for part in content or () if part["type"] == "text")
        if len(message) > 2:
            yield message.get("reasoning_content") or ""
            if calls := message.get("tool_calls"):
                yield json.dumps(calls, ensure_ascii=False)
