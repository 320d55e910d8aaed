"""The tutorial of a project: examples with the right answer, and how raters did on them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit, projects
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import example_answers, examples
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    Answer,
    TutorialExample,
    Verdict,
    messages_to_dicts,
    parse_messages,
    utc_now,
)


def replace_tutorial(store: Store, project: str, new: Sequence[TutorialExample], by: audit.Actor = audit.CLI) -> None:
    """Make these the tutorial, in this order. Those of before end; raters who had some of these keep their answers.

    Raises:
        NotFound: no such project.
        BadInput: an example of another project, or one that is there twice.
    """
    for i, example in enumerate(new):
        if example.project != project:
            raise BadInput(
                f"example {i} of project {example.project}", expected=f"one of {project}", fix="make it anew"
            )
        if example.id in {e.id for e in new[:i]}:
            raise BadInput(f"example {i}", expected="one that is not there twice", fix="leave it out")
    now = utc_now()
    with store.write() as conn:
        projects.require_project(conn, project)
        store.lock(conn, "tutorial")
        of_project = (examples.c.project_id == project, examples.c.ended_at.is_(None))
        conn.execute(examples.update().where(*of_project).values(ended_at=now))
        store.insert_new(conn, examples, [_row(e, i) | {"created_at": now} for i, e in enumerate(new)])
        for i, example in enumerate(new):
            again = examples.update().where(examples.c.id == example.id)
            conn.execute(again.values(position=i, ended_at=None))
        audit.record(conn, by, "tutorial.set", project, examples=len(new))


def list_examples(store: Store, project: str = DEFAULT_PROJECT) -> list[TutorialExample]:
    """The examples of a project's tutorial, in order; none where it has no tutorial."""
    with store.read() as conn:
        return [_example(row) for row in conn.execute(_of(project)).mappings()]


def get_example(store: Store, example_id: str) -> TutorialExample:
    """One example, also of a tutorial that was.

    Raises:
        NotFound: no such example.
    """
    with store.read() as conn:
        row = conn.execute(sa.select(examples).where(examples.c.id == example_id)).mappings().first()
    if row is None:
        raise NotFound(f"example {example_id!r}", expected="one of a tutorial", fix="load the tutorial again")
    return _example(row)


def list_remaining_examples(store: Store, rater_id: str, project: str = DEFAULT_PROJECT) -> list[TutorialExample]:
    """Those of the tutorial that a rater has not answered yet, in order."""
    own = sa.and_(example_answers.c.example_id == examples.c.id, example_answers.c.rater_id == rater_id)
    query = _of(project).where(~sa.exists().where(own))
    with store.read() as conn:
        return [_example(row) for row in conn.execute(query).mappings()]


def agrees_with_example(example: TutorialExample, answer: Answer) -> bool:
    """Whether an answer (positions as text, like the example's) prefers what the example prefers.

    As in labels, both bad is a tie: neither is preferred. How much better it is, and the order of the rest, is for the
    explanation to say.
    """
    return _preferred(example.answer) == _preferred(answer)


def record_attempt(store: Store, rater_id: str, example_id: str, answer: Answer, agreed: bool) -> None:
    """Write down what a rater said of an example. Only the first answer counts.

    Raises:
        NotFound: no such example.
    """
    row = {
        "example_id": example_id,
        "rater_id": rater_id,
        **_answer_columns(answer),
        "agreed": agreed,
        "at": utc_now(),
    }
    with store.write() as conn:
        if conn.execute(sa.select(examples.c.id).where(examples.c.id == example_id)).first() is None:
            raise NotFound(f"example {example_id!r}", expected="one of a tutorial", fix="load the tutorial again")
        store.insert_new(conn, example_answers, [row])


def count_agreements(store: Store, project: str = DEFAULT_PROJECT) -> dict[str, tuple[int, int]]:
    """Rater id → how many examples of the tutorial as it is now they agreed with, of how many they answered."""
    query = (
        sa.select(
            example_answers.c.rater_id,
            sa.func.count(sa.case((example_answers.c.agreed, 1))),
            sa.func.count(),
        )
        .join(examples, examples.c.id == example_answers.c.example_id)
        .where(examples.c.project_id == project, examples.c.ended_at.is_(None))
        .group_by(example_answers.c.rater_id)
    )
    with store.read() as conn:
        return {rater: (agreed, tried) for rater, agreed, tried in conn.execute(query)}


def _of(project: str) -> sa.Select:
    current = (examples.c.project_id == project, examples.c.ended_at.is_(None))
    return sa.select(examples).where(*current).order_by(examples.c.position)


def _preferred(answer: Answer) -> frozenset[str] | Verdict:
    """The best completions, none where no one stands above another; a verdict that says nothing of them, itself."""
    if answer.verdict in (Verdict.SKIPPED, Verdict.FLAGGED):
        return answer.verdict
    return frozenset(answer.ranking[0]) if len(answer.ranking) > 1 else frozenset()


def _answer_columns(answer: Answer) -> dict:
    ranking = [[int(i) for i in group] for group in answer.ranking]
    return {"verdict": answer.verdict.value, "ranking": ranking, "strength": answer.strength}


def _row(example: TutorialExample, position: int) -> dict:
    return {
        "id": example.id,
        "project_id": example.project,
        "position": position,
        "messages": messages_to_dicts(example.messages),
        "completions": [messages_to_dicts(c) for c in example.completions],
        **_answer_columns(example.answer),
        "explanation": example.explanation,
    }


def _example(row) -> TutorialExample:
    ranking = tuple(tuple(str(i) for i in group) for group in row["ranking"])
    return TutorialExample(
        row["id"],
        row["project_id"],
        parse_messages(row["messages"]),
        tuple(parse_messages(c) for c in row["completions"]),
        Answer(Verdict(row["verdict"]), ranking, row["strength"]),
        row["explanation"],
    )
