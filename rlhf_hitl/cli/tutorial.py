"""Commands `tutorial …`: the examples from which raters learn the guideline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.cli.guidelines import ProjectName
from rlhf_hitl.types import DEFAULT_PROJECT
from rlhf_hitl.wording import say_count

tutorial_group = typer.Typer(
    help="Manage the tutorial: examples with the right answer, on which raters begin.", no_args_is_help=True
)
app.add_typer(tutorial_group, name="tutorial")


@command("set", tutorial_group)
def set_tutorial_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A JSONL file of examples, or LLMFAO's training pairs.")],
    project: ProjectName = DEFAULT_PROJECT,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Replace the tutorial of a project by the examples of a file. An empty file ends the tutorial.

    A line is a JSON object with "messages", two "completions" (texts), a "ranking" such as [[0], [1]], "strength" and
    "explanation". Instead of a ranking it may have "verdict": "all_bad". Raters get examples they have not answered.
    """
    from rlhf_hitl.formats.guidance import read_tutorial
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import tutorial as tutorial_store

    opened = Store.open(store)
    new = read_tutorial(path, project)
    tutorial_store.replace_tutorial(opened, project, new)
    return Result(
        {"project": project, "examples": len(new)}, f"The tutorial of {project} has {say_count(len(new), 'example')}."
    )


@command("show", tutorial_group)
def show_tutorial_command(project: ProjectName = DEFAULT_PROJECT, *, store: StoreUrl, json: AsJson = False) -> Result:
    """Show the examples of a project's tutorial, and how raters did on them."""
    from rlhf_hitl.store import Store, people, projects
    from rlhf_hitl.store import tutorial as tutorial_store
    from rlhf_hitl.types import messages_to_dicts

    opened = Store.open(store)
    with opened.read() as conn:
        projects.require_project(conn, project)
    examples, names = tutorial_store.list_examples(opened, project), {r.id: r.name for r in people.list_raters(opened)}
    results = sorted(
        (names[rater], agreed, tried)
        for rater, (agreed, tried) in tutorial_store.count_agreements(opened, project).items()
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
            for e in examples
        ],
        "results": [{"rater": rater, "agreed": agreed, "tried": tried} for rater, agreed, tried in results],
    }
    if not examples:
        return Result(data, f"Project {project} has no tutorial. Make one with `rlhf-hitl tutorial set FILE`.")
    cells = [(f"{n}. {e.messages[-1].text[:60]}", e.explanation[:60]) for n, e in enumerate(examples, 1)]
    more = [make_table("Raters", results, ("rater", "agreed", "of"))] if results else []
    return Result(data, make_table(f"Tutorial of {project}", cells, ("example", "explanation")), more=more)
