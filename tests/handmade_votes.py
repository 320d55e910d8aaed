"""Votes put into a store by hand: one at a time, or many by raters who have tastes."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.judgments import append_judgment, judgment_to_row
from rlhf_hitl.store.tables import judgments
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Route, Verdict, utc_now


def put_comparisons(store, n, *, k=2, first=0, project="default", **tags):
    made = []
    for i in range(first, first + n):
        prompt = Prompt.create((Message("user", f"Question {i}?"),), tags)
        answers = [Completion.create(prompt.id, (Message("assistant", f"{i}.{j}"),), f"policy {j}") for j in range(k)]
        made.append(Comparison.create(prompt, answers, 1, project=project))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    return made


def vote(store, comparison, rater_id, outcome: str, **circumstances):
    """Add a vote: `>` prefers the first in canonical order, `<` the second, `=` neither; or a ranking as numbers of
    completions, best first, such as "0>2=1"."""
    ids = [c.id for c in comparison.completions]
    ranking: str = {">": "0>1", "<": "1>0", "=": "0=1"}.get(outcome, outcome)
    groups = tuple(tuple(ids[int(i)] for i in group.split("=")) for group in ranking.split(">"))
    answer = Answer(Verdict.RANKED, groups, circumstances.pop("strength", None))
    row = judgment_to_row(
        answer,
        **{
            "comparison_id": comparison.id,
            "rater_id": rater_id,
            "order_shown": ids,
            "route": Route.HUMAN.value,
            "idempotency_key": f"{comparison.id} {len(circumstances)}",
            "created_at": utc_now(),
            **circumstances,
        },
    )
    with store.write() as conn:
        append_judgment(conn, row)
    return row["id"]


def ask(text="Why?", **tags):
    return Prompt.create((Message("user", text),), tags)


def answer(prompt, text, policy="p"):
    return Completion.create(prompt.id, (Message("assistant", text),), policy)


def fill(store, raters, n, *, votes=1, seed=0, tastes=None, policies=("p",), simulated=False, role=None, **tags):
    """Add comparisons of answers that differ at random, and votes by raters of these tastes: feature → logits."""
    rng = np.random.default_rng(seed)
    tastes = tastes or {}
    made, rows = [], []
    for i in range(n):
        prompt = ask(f"Question {seed} {i}?", **tags)
        shapes = [{"size": int(2 ** rng.integers(3, 9)), "bold": bool(rng.integers(2)), "i": k} for k in range(2)]
        by = rng.choice(policies, 2)
        sides = []
        for shape, policy in zip(shapes, by):
            text = ("**so** " if shape["bold"] else "and so ") + "a" * shape["size"] + str(shape["i"])
            sides.append((answer(prompt, text, str(policy)), shape, str(policy)))
        comparison = Comparison.create(prompt, [side[0] for side in sides])
        made.append(comparison)
        (a, one, p), (b, two, q) = sides
        for n_vote in range(votes):
            a_is_left = bool(rng.integers(2))
            logit = tastes.get("position", 0) * (1 if a_is_left else -1)
            logit += tastes.get("length", 0) * np.log2((len(a.text) + 1) / (len(b.text) + 1))
            logit += tastes.get("bold", 0) * (one["bold"] - two["bold"])
            logit += tastes.get(p, 0) - tastes.get(q, 0)
            best, worst = (a, b) if rng.random() < expit(logit) else (b, a)
            rows.append(
                judgment_to_row(
                    Answer(Verdict.RANKED, ((best.id,), (worst.id,))),
                    comparison_id=comparison.id,
                    rater_id=raters[(i + n_vote) % len(raters)],
                    order_shown=[a.id, b.id] if a_is_left else [b.id, a.id],
                    route=Route.HUMAN.value,
                    idempotency_key=f"{comparison.id} {n_vote}",
                    created_at=utc_now(),
                    simulated=simulated,
                    role=role,
                )
            )
    with store.write() as conn:
        insert_comparisons(store, conn, made)
        conn.execute(judgments.insert(), rows)
    return made
