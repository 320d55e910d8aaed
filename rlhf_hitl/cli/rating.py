"""Commands: what raters go by, and the examples they learn it from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, table
from rlhf_hitl.types import DEFAULT_PROJECT

guidelines = typer.Typer(
    help="Guidelines: what the raters of a project go by, version by version.", no_args_is_help=True
)
tutorial = typer.Typer(help="Tutorial: examples with the right answer, for raters to begin with.", no_args_is_help=True)
app.add_typer(guidelines, name="guidelines")
app.add_typer(tutorial, name="tutorial")

OfProject = Annotated[str, typer.Option(help="Of which project.")]


class Scores(StrEnum):
    OFFERED = "offered"
    REQUIRED = "required"
    OFF = "off"


class Rationale(StrEnum):
    OFFERED = "offered"
    REQUIRED = "required"


@command("show", guidelines)
def show_guideline(
    project: OfProject = DEFAULT_PROJECT,
    version: Annotated[str | None, typer.Option(help="An earlier one; left out, the one in force.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Print a guideline as the Markdown file that `guidelines set` takes."""
    from rlhf_hitl.formats.guidance import as_markdown
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import guidelines as of

    opened = Store.open(store)
    found = of.current(opened, project) if version is None else of.get(opened, project, version)
    data = vars(found) | {"axes": [vars(axis) for axis in found.axes]}
    return Result(data, as_markdown(found).rstrip("\n"))


@command("set", guidelines)
def set_guideline(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Markdown, with YAML settings above it if you like.")],
    project: OfProject = DEFAULT_PROJECT,
    version: Annotated[str | None, typer.Option(help="Its version, not used before; judgments name it.")] = None,
    scores: Annotated[Scores | None, typer.Option(help="Whether each axis is scored by itself.")] = None,
    rationale: Annotated[Rationale | None, typer.Option(help="Whether raters say why.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Put a new version of a project's guideline in force. Raters are asked to read it before they go on.

    The file may begin with its settings, as `guidelines show` prints them: version, scores, rationale, axes. An option
    goes before the file.
    """
    from rlhf_hitl.formats.guidance import read_guideline
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import guidelines as of

    opened = Store.open(store)
    found = read_guideline(path, project, version=version, scores=scores, rationale=rationale)
    new = of.put(opened, found)
    data = {"project": project, "version": new.version, "scores": new.scores, "rationale": new.rationale}
    axes = [axis.id for axis in new.axes]
    text = table("In force from now on", data | {"axes": ", ".join(axes) or "none"})
    return Result(data | {"axes": axes}, text)


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
    of.put(opened, project, new)
    return Result({"project": project, "examples": len(new)}, f"The tutorial of {project} has {len(new)} examples.")


@command("show", tutorial)
def show_tutorial(project: OfProject = DEFAULT_PROJECT, *, store: StoreUrl, json: AsJson = False) -> Result:
    """The examples of a project's tutorial, and how raters did on them."""
    from rlhf_hitl.store import Store, people, projects
    from rlhf_hitl.store import tutorial as of
    from rlhf_hitl.types import as_dicts

    opened = Store.open(store)
    with opened.read() as conn:
        projects.check(conn, project)
    found, names = of.of(opened, project), {r.id: r.name for r in people.everyone(opened)}
    results = sorted((names[rater], agreed, tried) for rater, (agreed, tried) in of.results(opened, project).items())
    data = {
        "project": project,
        "examples": [
            {
                "id": e.id,
                "messages": as_dicts(e.messages),
                "completions": [as_dicts(c) for c in e.completions],
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
