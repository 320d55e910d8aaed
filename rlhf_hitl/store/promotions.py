"""Promotions: which policies raters compare, on which prompts, what their votes say so far, and what was decided.

The comparisons of a promotion are ordinary ones: nothing that a rater is given tells them apart. They stand in the
queue in the order in which prompts are drawn, are never routed, and get no more votes than the promotion asks for. Once
it is decided, their free places are closed. A place that a rater holds stays, and what comes of it is a vote like any
other, which the decision does not know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import Conflict, NotFound
from rlhf_hitl.store import audit
from rlhf_hitl.store.comparisons import compute_queue_position, insert_comparisons, insert_completions
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.judgments import find_role
from rlhf_hitl.store.queue.places import is_free
from rlhf_hitl.store.service_tables import promotion_draws, promotions
from rlhf_hitl.store.tables import comparisons, judgments, places
from rlhf_hitl.types import Comparison, Completion, Prompt, Route, Verdict
from rlhf_hitl.types.promotions import Decision

#: The source of the comparisons of a promotion, before its number. No page for raters shows it.
SOURCE = "promotion"
#: The settings that tell policies of one name apart.
WEIGHTS = ("new_weights", "old_weights")


@dataclass(frozen=True)
class Promotion:
    """A comparison of a new policy with an old one by raters.

    Attributes:
        id: counts the promotions of a store.
        new_policy, old_policy: as completions name them; `settings` has the folders.
        reward_model_id: whose predictions help; None where none do.
        round: of the loop; None outside it.
        simulated: simulated raters decide.
        decided_at: None as long as it is open.
        decision: promote, reject or undecided; `reason` says why.
        outcomes: of prompts in the order in which they were drawn, ties of equal texts among them.
        judgments: asked and given.
        win_rate, low, high: of the new policy, with its confidence sequence; `win_rate` is None without an outcome.
        evidence_for, evidence_against: what they have to reach is in `settings` (1 / alpha, 1 / beta).
        counts: how many outcomes came how: `won`, `tied`, `lost`, `same_text`, `skipped`, `flagged`, `without_vote`;
            `empty_new`, `empty_old`, `left_out`: of the answers; `fresh`: prompts that only help.
        length_controlled: value, low, high, length_effect and longer; None before the decision.
        tags: the win rate of each tag (tag, outcomes, win_rate, low, high, is_regression), the worst first.
    """

    id: int
    new_policy: str
    old_policy: str
    reward_model_id: str | None
    round: int | None
    settings: Mapping[str, Any]
    simulated: bool
    opened_at: datetime
    decided_at: datetime | None = None
    decision: Decision = Decision.UNDECIDED
    reason: str = ""
    outcomes: int = 0
    judgments: int = 0
    win_rate: float | None = None
    low: float = 0.0
    high: float = 1.0
    evidence_for: float = 1.0
    evidence_against: float = 1.0
    counts: Mapping[str, int] = field(default_factory=dict)
    length_controlled: Mapping[str, float] | None = None
    tags: Sequence[Mapping[str, Any]] = ()

    @property
    def is_open(self) -> bool:
        return self.decided_at is None

    @property
    def is_promoted(self) -> bool:
        return not self.is_open and self.decision is Decision.PROMOTE

    @property
    def regressions(self) -> list[str]:
        """The tags under which the new policy is shown to lose."""
        return [str(tag["tag"]) for tag in self.tags if tag["is_regression"]]


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt that both policies have answered, in the order of the draw.

    Attributes:
        comparison: what raters are asked; None where they are not.
        prediction: P(the new one is better) + P(tie) / 2; None without a reward model.
    """

    prompt: Prompt
    new: Completion
    old: Completion
    comparison: Comparison | None
    prediction: float | None = None


class Draw(NamedTuple):
    """A prompt of a promotion as the store has it."""

    n: int
    prompt_id: str
    new_completion: str
    old_completion: str
    comparison_id: str | None
    prediction: float | None


class GateVote(NamedTuple):
    """What one rater said of a comparison, in the order in which they said it."""

    comparison_id: str
    verdict: Verdict
    ranking: list[list[str]]
    simulated: bool


@dataclass(frozen=True)
class GateVotes:
    """The votes on a promotion's comparisons, and which of those still have an unfilled place for a rater."""

    of: Mapping[str, Sequence[GateVote]]
    waiting: frozenset[str]


def open_promotion(
    store: Store,
    *,
    new_policy: str,
    old_policy: str,
    drawn: Sequence[AnsweredPrompt],
    settings: Mapping[str, Any],
    counts: Mapping[str, int],
    reward_model_id: str | None = None,
    round: int | None = None,
    simulated: bool = False,
    overlap: int = 1,
    ahead: bool = True,
    by: audit.Actor = audit.CLI,
) -> Promotion:
    """Write a promotion with its answers and comparisons, and open the places of those, in one transaction.

    Args:
        drawn: in the order of the draw.
        overlap: how many raters judge each comparison.
        ahead: before all other work; else evenly among what waits now.

    Raises:
        Conflict: these two policies are being compared.
    """
    with store.write() as conn:
        store.lock(conn, "promotions")
        if (found := _find_open(conn, new_policy, old_policy)) is not None:
            raise Conflict(f"promotion {found['id']}: it compares these two policies already. Fix: wait for it")
        row = {
            "new_policy": new_policy, "old_policy": old_policy, "reward_model_id": reward_model_id, "round": round,
            "settings": dict(settings), "simulated": simulated, "opened_at": store.now(conn), "counts": dict(counts),
            "decision": Decision.UNDECIDED.value, "reason": "", "outcomes": 0, "judgments": 0, "low": 0.0, "high": 1.0,
            "evidence_for": 1.0, "evidence_against": 1.0, "tags": [],
        }  # fmt: skip
        id = conn.execute(promotions.insert().values(row).returning(promotions.c.id)).scalar_one()
        insert_completions(store, conn, [c for d in drawn for c in (d.new, d.old)])
        asked = [d.comparison for d in drawn if d.comparison is not None]
        insert_comparisons(store, conn, asked, source=f"{SOURCE} {id}")
        rows = [
            {
                "promotion_id": id, "n": n, "prompt_id": d.prompt.id, "new_completion": d.new.id,
                "old_completion": d.old.id, "prediction": d.prediction,
                "comparison_id": None if d.comparison is None else d.comparison.id,
            }
            for n, d in enumerate(drawn)
        ]  # fmt: skip
        conn.execute(promotion_draws.insert(), rows)
        _open_places(store, conn, [c.id for c in asked], overlap, ahead)
        audit.record(conn, by, "promotion.opened", str(id), new=new_policy[:200], old=old_policy[:200])
        return _load(conn, id)


def _open_places(store: Store, conn: Connection, ids: Sequence[str], overlap: int, ahead: bool) -> None:
    """Open the places of comparisons, so that they come up in this order."""
    lane_of = dict(
        conn.execute(sa.select(comparisons.c.id, comparisons.c.lane_id).where(store.among(comparisons.c.id, ids)))
        .tuples()
        .all()
    )
    waiting = sa.select(places.c.position).where(places.c.judgment_id.is_(None), places.c.role == "")
    taken = [] if ahead else list(conn.execute(waiting.order_by(places.c.position)).scalars())
    rows = []
    for n, id in enumerate(ids):
        if ahead:
            position = n  # lower than any that the router or an import gives
        elif taken:
            position = taken[n * len(taken) // len(ids)]
        else:
            position = compute_queue_position(store, id, Route.HUMAN, 0, n)
        place = {"comparison_id": id, "lane_id": lane_of[id], "position": position}
        rows += [place | {"n": k} for k in range(overlap)]
    store.insert_new(conn, places, rows)
    conn.execute(comparisons.update().where(store.among(comparisons.c.id, ids)).values(overlap=overlap))


def read_draws(store: Store, id: int) -> list[Draw]:
    """Return the prompts of a promotion in the order of the draw."""
    columns = [promotion_draws.c[name] for name in Draw._fields]
    query = sa.select(*columns).where(promotion_draws.c.promotion_id == id).order_by(promotion_draws.c.n)
    with store.read() as conn:
        return [Draw(*row) for row in conn.execute(query)]


def find_asked_prompts(store: Store, new_policy: str, old_policy: str, settings: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of prompts on which a rater has compared these two policies before, in a promotion.

    Args:
        settings: of the promotion that is to be opened. WEIGHTS tell which policy of a name is meant: a folder may have
            been trained again. Where they are not known, as of earlier versions, the name decides.
    """
    pair = promotions.c.new_policy == new_policy, promotions.c.old_policy == old_policy
    meant = [settings.get(name) for name in WEIGHTS]
    with store.read() as conn:
        same = []
        for id, then in conn.execute(sa.select(promotions.c.id, promotions.c.settings).where(*pair)):
            known = [(then.get(name), now) for name, now in zip(WEIGHTS, meant)]
            if all(before == now or before is None or now is None for before, now in known):
                same.append(id)
        query = (
            sa.select(promotion_draws.c.prompt_id)
            .join(judgments, judgments.c.comparison_id == promotion_draws.c.comparison_id)
            .where(promotion_draws.c.promotion_id.in_(same))
        )
        return frozenset(conn.execute(query).scalars())


def read_gate_votes(store: Store, id: int, *, simulated: bool) -> GateVotes:
    """Return what raters have said of a promotion's comparisons, in the order in which they said it.

    Superseded, surplus and imported judgments are no votes here, nor are those of judges and the decisions of leads.

    Args:
        simulated: votes of simulated raters count as well.
    """
    own = sa.select(promotion_draws.c.comparison_id).where(
        promotion_draws.c.promotion_id == id, promotion_draws.c.comparison_id.is_not(None)
    )
    newer = judgments.alias()
    query = (
        sa.select(judgments.c.comparison_id, judgments.c.verdict, judgments.c.ranking, judgments.c.simulated)
        .where(
            judgments.c.comparison_id.in_(own),
            judgments.c.surplus.is_(sa.false()),
            judgments.c.source == "",
            find_role().is_(None),
            ~sa.exists().where(newer.c.supersedes == judgments.c.id),
        )
        .order_by(judgments.c.seq)
    )
    if not simulated:
        query = query.where(judgments.c.simulated.is_(sa.false()))
    unfilled = sa.select(places.c.comparison_id).where(
        places.c.comparison_id.in_(own), places.c.role == "", places.c.judgment_id.is_(None)
    )
    found: dict[str, list[GateVote]] = defaultdict(list)
    with store.read() as conn:
        for comparison_id, verdict, ranking, is_simulated in conn.execute(query):
            found[comparison_id].append(GateVote(comparison_id, Verdict(verdict), ranking, bool(is_simulated)))
        return GateVotes(found, frozenset(conn.execute(unfilled).scalars()))


def has_work_left(store: Store, id: int) -> bool:
    """Return whether a rater holds a place of a promotion or could get one, now or when its project goes on."""
    query = sa.select(places.c.comparison_id).join(
        promotion_draws, promotion_draws.c.comparison_id == places.c.comparison_id
    )
    query = query.where(promotion_draws.c.promotion_id == id, places.c.role == "", places.c.judgment_id.is_(None))
    with store.read() as conn:
        return conn.execute(query.limit(1)).first() is not None


def write_progress(store: Store, id: int, figures: Mapping[str, Any]) -> Promotion:
    """Write what the votes of an open promotion say so far. One that is decided stays as it is."""
    with store.write() as conn:
        undecided = promotions.c.id == id, promotions.c.decided_at.is_(None)
        conn.execute(promotions.update().where(*undecided).values(dict(figures)))
        return _load(conn, id)


def decide_promotion(
    store: Store, id: int, decision: Decision, reason: str, figures: Mapping[str, Any], *, by: audit.Actor = audit.CLI
) -> Promotion:
    """Write the decision of a promotion and close its free places. A decision that is written stays: of several
    processes that come to one, the first has it."""
    with store.write() as conn:
        store.lock(conn, "promotions")
        current = _load(conn, id)
        if not current.is_open:
            return current
        values = dict(figures) | {"decision": decision.value, "reason": reason, "decided_at": store.now(conn)}
        conn.execute(promotions.update().where(promotions.c.id == id).values(values))
        close_free_places(store, conn, id)
        audit.record(conn, by, "promotion.decided", str(id), decision=decision.value)
        return _load(conn, id)


def close_free_places(store: Store, conn: Connection, id: int) -> int:
    """Close the places of a promotion that nobody holds or has filled, and return how many there were. What another,
    open promotion asks as well stays."""
    own = sa.select(promotion_draws.c.comparison_id).where(
        promotion_draws.c.promotion_id == id,
        promotion_draws.c.comparison_id.is_not(None),
        promotion_draws.c.comparison_id.not_in(_select_asked_now()),
    )
    # Locked in order of id, as everybody locks comparisons.
    locked = sa.select(comparisons.c.id).where(comparisons.c.id.in_(own)).order_by(comparisons.c.id)
    conn.execute(locked.with_for_update(key_share=True))
    free = places.c.comparison_id.in_(own), places.c.role == "", places.c.judgment_id.is_(None), is_free()
    closed = conn.execute(places.delete().where(*free), {"now": store.now(conn)}).rowcount
    left = sa.select(sa.func.count()).where(places.c.comparison_id == comparisons.c.id, places.c.role == "")
    conn.execute(comparisons.update().where(comparisons.c.id.in_(own)).values(overlap=left.scalar_subquery()))
    return closed


def close_what_was_held(store: Store) -> int:
    """Close the places of decided promotions that were held when those were decided, and were given back since."""
    query = (
        sa.select(promotion_draws.c.promotion_id)
        .join(promotions, promotions.c.id == promotion_draws.c.promotion_id)
        .join(places, places.c.comparison_id == promotion_draws.c.comparison_id)
        .where(
            promotions.c.decided_at.is_not(None), places.c.role == "", places.c.judgment_id.is_(None),
            is_free(), places.c.comparison_id.not_in(_select_asked_now()),
        )
        .distinct()
    )  # fmt: skip
    with store.read() as conn:
        ids = list(conn.execute(query, {"now": store.now(conn)}).scalars())
    closed = 0
    for id in ids:
        with store.write() as conn:
            closed += close_free_places(store, conn, id)
    return closed


def _select_asked_now() -> sa.Select[tuple[str]]:
    """Select the comparisons of open promotions. One that ended before anybody voted has left its own to the next."""
    return (
        sa.select(promotion_draws.c.comparison_id)
        .join(promotions, promotions.c.id == promotion_draws.c.promotion_id)
        .where(promotions.c.decided_at.is_(None), promotion_draws.c.comparison_id.is_not(None))
    )


def list_promotions(store: Store) -> list[Promotion]:
    """Return all promotions, the oldest first."""
    with store.read() as conn:
        return [_to_promotion(row) for row in conn.execute(sa.select(promotions).order_by(promotions.c.id)).mappings()]


def get_promotion(store: Store, id: int) -> Promotion:
    """Return a promotion. Raises NotFound where there is none of this number."""
    with store.read() as conn:
        return _load(conn, id)


def find_promotion(
    store: Store, new_policy: str, old_policy: str, *, round: int | None = None, open_only: bool = False
) -> Promotion | None:
    """Return the newest promotion of these two policies in a round of the loop (None: outside it), if there is one."""
    own = promotions.c.new_policy == new_policy, promotions.c.old_policy == old_policy
    query = sa.select(promotions).where(*own, promotions.c.round == round if round else promotions.c.round.is_(None))
    if open_only:
        query = query.where(promotions.c.decided_at.is_(None))
    with store.read() as conn:
        row = conn.execute(query.order_by(promotions.c.id.desc()).limit(1)).mappings().first()
    return None if row is None else _to_promotion(row)


def list_comparisons_of_promotions(store: Store) -> frozenset[str]:
    """Return the ids of the comparisons that raters judge, or have judged, for promotions."""
    query = sa.select(promotion_draws.c.comparison_id).where(promotion_draws.c.comparison_id.is_not(None))
    with store.read() as conn:
        return frozenset(conn.execute(query).scalars())


def _find_open(conn: Connection, new_policy: str, old_policy: str) -> Any:
    own = promotions.c.new_policy == new_policy, promotions.c.old_policy == old_policy
    return conn.execute(sa.select(promotions).where(*own, promotions.c.decided_at.is_(None))).mappings().first()


def _load(conn: Connection, id: int) -> Promotion:
    row = conn.execute(sa.select(promotions).where(promotions.c.id == id)).mappings().first()
    if row is None:
        raise NotFound(f"promotion {id}", expected="the number of one", fix="see `rlhf-hitl promote --list`")
    return _to_promotion(row)


def _to_promotion(row: Any) -> Promotion:
    values: dict[str, Any] = dict(row)
    values["decision"] = Decision(values["decision"])
    return Promotion(**values)
