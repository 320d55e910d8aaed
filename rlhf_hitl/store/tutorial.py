"""The tutorial of a project: examples with the right answer, and how raters answered them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import audit, projects
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.images import keep_images
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
from rlhf_hitl.types.messages import list_images


def replace_tutorial(store: Store, project: str, new: Sequence[TutorialExample], by: audit.Actor = audit.CLI) -> None:
    """Make these examples the tutorial, in this order; earlier ones end.

    Raters who answered one of these examples before keep their answer.

    Raises:
        NotFound: there is no such project.
        BadInput: an example is of another project, or is given twice.
    """
    for i, example in enumerate(new):
        if example.project != project:
            raise BadInput(
                f"example {i} of project {example.project}",
                expected=f"one of {project}",
                fix="create it again for this project",
            )
        if example.id in {e.id for e in new[:i]}:
            raise BadInput(f"example {i}", expected="each example once", fix="leave it out")
    now = utc_now()
    with store.write() as conn:
        projects.require_project(conn, project)
        store.lock(conn, "tutorial")
        keep_images(store.images, conn, list_images(*(chat for e in new for chat in (e.messages, *e.completions))))
        is_current = (examples.c.project_id == project, examples.c.ended_at.is_(None))
        conn.execute(examples.update().where(*is_current).values(ended_at=now))
        store.insert_new(conn, examples, [_to_row(e, i) | {"created_at": now} for i, e in enumerate(new)])
        for i, example in enumerate(new):
            reactivate = examples.update().where(examples.c.id == example.id)
            conn.execute(reactivate.values(position=i, ended_at=None))
        audit.record(conn, by, "tutorial.set", project, examples=len(new))


def list_examples(store: Store, project: str = DEFAULT_PROJECT) -> list[TutorialExample]:
    """Return the examples of a project's tutorial, in order; an empty list if it has none."""
    with store.read() as conn:
        return [_to_example(row) for row in conn.execute(_select_current(project)).mappings()]


def get_example(store: Store, example_id: str) -> TutorialExample:
    """Return one example, which may be of an earlier tutorial.

    Raises:
        NotFound: there is no such example.
    """
    with store.read() as conn:
        row = conn.execute(sa.select(examples).where(examples.c.id == example_id)).mappings().first()
    if row is None:
        raise NotFound(f"example {example_id!r}", expected="one of a tutorial", fix="load the tutorial again")
    return _to_example(row)


def list_remaining_examples(store: Store, rater_id: str, project: str = DEFAULT_PROJECT) -> list[TutorialExample]:
    """Return the examples of the tutorial that a rater has not answered yet, in order."""
    own_answer = sa.and_(example_answers.c.example_id == examples.c.id, example_answers.c.rater_id == rater_id)
    query = _select_current(project).where(~sa.exists().where(own_answer))
    with store.read() as conn:
        return [_to_example(row) for row in conn.execute(query).mappings()]


def record_attempt(store: Store, rater_id: str, example_id: str, answer: Answer, agreed: bool) -> None:
    """Record a rater's answer to an example. Only the first answer counts.

    Raises:
        NotFound: there is no such example.
    """
    row = {
        "example_id": example_id,
        "rater_id": rater_id,
        **_make_answer_columns(answer),
        "agreed": agreed,
        "at": utc_now(),
    }
    with store.write() as conn:
        if conn.execute(sa.select(examples.c.id).where(examples.c.id == example_id)).first() is None:
            raise NotFound(f"example {example_id!r}", expected="one of a tutorial", fix="load the tutorial again")
        store.insert_new(conn, example_answers, [row])


def count_agreements(store: Store, project: str = DEFAULT_PROJECT) -> dict[str, tuple[int, int]]:
    """Return rater id → (examples they agreed with, examples they answered), of the current tutorial."""
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


def _select_current(project: str) -> sa.Select:
    is_current = (examples.c.project_id == project, examples.c.ended_at.is_(None))
    return sa.select(examples).where(*is_current).order_by(examples.c.position)


def _make_answer_columns(answer: Answer) -> dict:
    ranking = [[int(i) for i in group] for group in answer.ranking]
    return {"verdict": answer.verdict.value, "ranking": ranking, "strength": answer.strength}


def _to_row(example: TutorialExample, position: int) -> dict:
    return {
        "id": example.id,
        "project_id": example.project,
        "position": position,
        "messages": messages_to_dicts(example.messages),
        "completions": [messages_to_dicts(c) for c in example.completions],
        **_make_answer_columns(example.answer),
        "explanation": example.explanation,
    }


def _to_example(row) -> TutorialExample:
    ranking = tuple(tuple(str(i) for i in group) for group in row["ranking"])
    return TutorialExample(
        row["id"],
        row["project_id"],
        parse_messages(row["messages"]),
        tuple(parse_messages(c) for c in row["completions"]),
        Answer(Verdict(row["verdict"]), ranking, row["strength"]),
        row["explanation"],
    )
