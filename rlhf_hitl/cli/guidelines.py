"""Commands `guidelines …`: the rules that the raters of a project follow."""

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
app.add_typer(guidelines, name="guidelines")


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
    from rlhf_hitl.formats.guidance import guideline_to_markdown
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import guidelines as of

    opened = Store.open(store)
    found = of.get_current_guideline(opened, project) if version is None else of.get_guideline(opened, project, version)
    data = vars(found) | {"axes": [vars(axis) for axis in found.axes]}
    return Result(data, guideline_to_markdown(found).rstrip("\n"))


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
    new = of.publish_guideline(opened, found)
    data = {"project": project, "version": new.version, "scores": new.scores, "rationale": new.rationale}
    axes = [axis.id for axis in new.axes]
    text = table("In force from now on", data | {"axes": ", ".join(axes) or "none"})
    return Result(data | {"axes": axes}, text)
