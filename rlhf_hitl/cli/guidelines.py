"""Commands `guidelines …`: the rules that the raters of a project follow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.types import DEFAULT_PROJECT, RationaleRequirement, ReasoningDisplay, ScoreRequirement

guideline_group = typer.Typer(
    help="Manage guidelines: the rules that the raters of a project follow, in versions.", no_args_is_help=True
)
app.add_typer(guideline_group, name="guidelines")


ProjectName = Annotated[str, typer.Option(help="Use this project.")]


@command("show", guideline_group)
def show_guideline_command(
    project: ProjectName = DEFAULT_PROJECT,
    version: Annotated[str | None, typer.Option(help="Show this earlier version instead of the current one.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Print a guideline as the Markdown file that `guidelines set` reads."""
    from rlhf_hitl.formats.guidance import guideline_to_markdown
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import guidelines as guideline_store

    opened = Store.open(store)
    guideline = (
        guideline_store.get_current_guideline(opened, project)
        if version is None
        else guideline_store.get_guideline(opened, project, version)
    )
    data = vars(guideline) | {"axes": [vars(axis) for axis in guideline.axes]}
    return Result(data, guideline_to_markdown(guideline).rstrip("\n"))


@command("set", guideline_group)
def set_guideline_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A Markdown file, which may begin with YAML settings.")],
    project: ProjectName = DEFAULT_PROJECT,
    version: Annotated[
        str | None, typer.Option(help="Name the version, which must be new; judgments record it.")
    ] = None,
    scores: Annotated[
        ScoreRequirement | None, typer.Option(help="Offer or require a score on each axis, or ask for none.")
    ] = None,
    rationale: Annotated[RationaleRequirement | None, typer.Option(help="Offer or require a written reason.")] = None,
    reasoning: Annotated[
        ReasoningDisplay | None, typer.Option(help="Show or hide what policies thought before they answered.")
    ] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Publish a new version of a project's guideline. Raters have to read it before they continue.

    The file may begin with its settings, as `guidelines show` prints them: version, scores, rationale, reasoning,
    axes. Options take precedence over the file.
    """
    from rlhf_hitl.formats.guidance import read_guideline
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import guidelines as guideline_store

    opened = Store.open(store)
    guideline = read_guideline(path, project, version=version, scores=scores, rationale=rationale, reasoning=reasoning)
    new = guideline_store.publish_guideline(opened, guideline)
    settings = {"scores": new.scores, "rationale": new.rationale, "reasoning": new.reasoning}
    data = {"project": project, "version": new.version} | settings
    axes = [axis.id for axis in new.axes]
    text = make_table("In force from now on", data | {"axes": ", ".join(axes) or "none"})
    return Result(data | {"axes": axes}, text)
