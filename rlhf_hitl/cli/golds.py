"""Commands `gold …`: comparisons with a known right answer, which measure raters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.cli.guidelines import ProjectName
from rlhf_hitl.types import DEFAULT_PROJECT, GoldPurpose
from rlhf_hitl.wording import say_count

gold_group = typer.Typer(
    help="Manage golds: comparisons with a known right answer, which measure raters.", no_args_is_help=True
)
app.add_typer(gold_group, name="gold")


@command("add", gold_group)
def add_golds_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A JSONL file of examples, or LLMFAO's training pairs.")],
    project: ProjectName = DEFAULT_PROJECT,
    purpose: Annotated[
        GoldPurpose,
        typer.Option(help="Hide them among the others, or ask them before any work, so that raters qualify."),
    ] = GoldPurpose.HIDDEN,
    language: Annotated[
        str, typer.Option(help="Give them only to raters who read this language, as prompts are tagged.")
    ] = "",
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Add golds from a file in the form of a tutorial's: see `rlhf-hitl tutorial set --help`.

    Hidden ones are given to raters once `rlhf-hitl projects set NAME --gold-every N` says how many.
    """
    from rlhf_hitl.formats.guidance import read_tutorial
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import golds as gold_store
    from rlhf_hitl.store.projects import require_project

    opened = Store.open(store)
    made = read_tutorial(path, project)
    new = gold_store.add_golds(opened, project, made, purpose=purpose, language=language)
    text = f"Project {project} has {say_count(len(made), 'gold')} of this file, {new} of them new."
    with opened.read() as conn:
        every = require_project(conn, project)["gold_every"]
    more = []
    if purpose is GoldPurpose.HIDDEN and not every:
        more.append(f"None is given out yet: `rlhf-hitl projects set {project} --gold-every 10`.")
    return Result({"project": project, "purpose": purpose.value, "golds": len(made), "new": new}, text, more=more)


@command("list", gold_group)
def list_golds_command(
    project: Annotated[str | None, typer.Option(help="List those of this project; if left out, of all.")] = None,
    ended: Annotated[bool, typer.Option("--ended", help="List also those that are given to nobody any more.")] = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """List golds, and how raters answered them."""
    from collections import Counter

    from rlhf_hitl.store import Store
    from rlhf_hitl.store import golds as gold_store

    opened = Store.open(store)
    answered, right = Counter[str](), Counter[str]()
    for result in gold_store.read_gold_results(opened, project=project):
        if not result.skipped:
            answered[result.gold_id] += 1
            right[result.gold_id] += result.agreed
    rows = [
        {
            "id": gold.comparison.id,
            "project": gold.comparison.project,
            "purpose": gold.purpose.value,
            "ended": gold.ended,
            "question": gold.comparison.prompt.messages[-1].text,
            "explanation": gold.explanation,
            "answered": answered[gold.comparison.id],
            "right": right[gold.comparison.id],
        }
        for gold in gold_store.list_golds(opened, project, ended=ended)
    ]
    if not rows:
        return Result({"golds": rows}, "No golds yet. Add some with `rlhf-hitl gold add FILE`.")
    cells = [
        (row["id"], row["project"], "ended" if row["ended"] else row["purpose"], str(row["question"])[:50],
         f"{row['right']} of {row['answered']}")
        for row in rows
    ]  # fmt: skip
    return Result({"golds": rows}, make_table("Golds", cells, ("id", "project", "purpose", "question", "right")))


@command("end", gold_group)
def end_golds_command(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The ids of golds, as `gold list` shows them.")],
    project: ProjectName = DEFAULT_PROJECT,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Give golds to nobody any more. The answers to them still count."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import golds as gold_store

    ended = gold_store.end_golds(Store.open(store), project, ids)
    return Result({"project": project, "ended": ended}, f"Ended {say_count(ended, 'gold')} of project {project}.")
