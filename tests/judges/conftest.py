"""What tests of judges share: comparisons with a good and a bad answer, and a judge to ask about them."""

from __future__ import annotations

import pytest

from rlhf_hitl.judges.templates import load_template
from rlhf_hitl.store import projects
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.judges import add_judge
from rlhf_hitl.types import Comparison, Completion, Message, Prompt
from rlhf_hitl.types.judges import Judge, JudgeSettings


@pytest.fixture
def fill():
    """A function that adds comparisons of "good N" by policy `x` with "bad N" by `y`, for judges: `fill(store, n)`."""

    def add(store, n: int, *, overlap: int = 1, more: str = "") -> list[Comparison]:
        made = []
        for i in range(n):
            prompt = Prompt.create((Message("user", f"Question {i}?"),))
            texts = ((f"good {i}", "x"), (f"bad {i}{more}", "y"))
            made.append(
                Comparison.create(
                    prompt, [Completion.create(prompt.id, (Message("assistant", t),), p) for t, p in texts]
                )
            )
        with store.write() as conn:
            insert_comparisons(store, conn, made)
        projects.change_project(store, "default", judge_overlap=overlap)
        return made

    return add


@pytest.fixture
def make_judge():
    """A function that adds a judge behind an address: `make_judge(store, address, budget=None, **settings)`."""

    def make(store, address: str, *, name="gpt", template="pairwise", budget=None, **settings) -> Judge:
        version = load_template(template).version
        settings = JudgeSettings(template_version=version, **{"timeout_seconds": 20.0} | settings)
        return add_judge(store, Judge("", name, "m", address, template, settings, budget))

    return make
