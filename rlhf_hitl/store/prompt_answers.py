"""The stored answers to prompts, whoever wrote them."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from rlhf_hitl.store.comparisons import GOLD_SOURCE, load_completions
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import completions
from rlhf_hitl.types import Completion


def read_prompt_answers(store: Store, prompt_ids: Collection[str], most: int) -> dict[str, list[Completion]]:
    """Return prompt id → at most `most` of its stored answers, by id, without those of golds; no entry where there are
    none. An id is a hash of the text, so these are random ones, and the same every time."""
    query = sa.select(completions.c.prompt_id, completions.c.id).where(
        store.among(completions.c.prompt_id, prompt_ids), completions.c.policy != GOLD_SOURCE
    )
    ids: dict[str, list[str]] = {}
    with store.read() as conn:
        for row in conn.execute(query.order_by(completions.c.id)):
            if len(ids.setdefault(row.prompt_id, [])) < most:
                ids[row.prompt_id].append(row.id)
        loaded = load_completions(conn, [i for of_prompt in ids.values() for i in of_prompt])
    return {prompt_id: [loaded[i] for i in of_prompt] for prompt_id, of_prompt in ids.items()}
