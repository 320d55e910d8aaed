"""Commands `tutorial …`: the examples from which raters learn the guideline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, table
from rlhf_hitl.cli.guidelines import OfProject
from rlhf_hitl.types import DEFAULT_PROJECT

tutorial = typer.Typer(help="Tutorial: examples with the right answer, for raters to begin with.", no_args_is_help=True)
app.add_typer(tutorial, name="tutorial")


@command("set", tutorial)
def set_tutorial(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL of examples, or LLMFAO's training pairs.")],
    project: OfProject = DEFAULT_PROJECT,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make the examples of a file a project's tutorial, in place of those there are. An empty file ends it.

    A line is {"messages", "completions": [text, text], "ranking": [[0], [1]], "strength", "explanation"}; instead of a
    ranking it may have "verdict": "all_bad". Raters are asked what they have not answered yet.
    """
    from rlhf_hitl.formats.guidance import read_tutorial
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import tutorial as of

    opened = Store.open(store)
    new = read_tutorial(path, project)
    of.replace_tutorial(opened, project, new)
    return Result({"project": project, "examples": len(new)}, f"The tutorial of {project} has {len(new)} examples.")


@command("show", tutorial)
def show_tutorial(project: OfProject = DEFAULT_PROJECT, *, store: StoreUrl, json: AsJson = False) -> Result:
    """The examples of a project's tutorial, and how raters did on them."""
    from rlhf_hitl.store import Store, people, projects
    from rlhf_hitl.store import tutorial as of
    from rlhf_hitl.types import messages_to_dicts

    opened = Store.open(store)
    with opened.read() as conn:
        projects.require_project(conn, project)
    found, names = of.list_examples(opened, project), {r.id: r.name for r in people.list_raters(opened)}
    results = sorted(
        (names[rater], agreed, tried) for rater, (agreed, tried) in of.count_agreements(opened, project).items()
    )
    data = {
        "project": project,
        "examples": [
            {
                "id": e.id,
                "messages": messages_to_dicts(e.messages),
                "completions": [messages_to_dicts(c) for c in e.completions],
                "verdict": e.answer.verdict.value,
                "ranking": [[int(i) for i in group] for group in e.answer.ranking],
                "strength": e.answer.strength,
                "explanation": e.explanation,
            }
            for e in found
        ],
        "results": [{"rater": rater, "agreed": agreed, "tried": tried} for rater, agreed, tried in results],
    }
    if not found:
        return Result(data, f"Project {project} has no tutorial. Make one with `rlhf-hitl tutorial set FILE`.")
    told = [(f"{n}. {e.messages[-1].content[:60]}", e.explanation[:60]) for n, e in enumerate(found, 1)]
    more = [table("Raters", results, ("rater", "agreed", "of"))] if results else []
    return Result(data, table(f"Tutorial of {project}", told, ("example", "explanation")), more=more)
