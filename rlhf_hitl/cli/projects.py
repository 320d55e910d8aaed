"""Commands `projects …`: what is judged together, and by whom."""

from __future__ import annotations

from typing import Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, table

projects = typer.Typer(help="Projects: what is judged together, and by whom.", no_args_is_help=True)
app.add_typer(projects, name="projects")


@command("add", projects)
def add_project(
    name: Annotated[str, typer.Argument(help="Small letters, digits, dots and dashes.")],
    open: Annotated[bool, typer.Option("--open/--members-only", help="Whether every rater works in it.")] = True,
    repeat_every: Annotated[
        int, typer.Option(min=0, help="Of so many comparisons a rater gets, show one again, hidden; 0: none.")
    ] = 0,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make a project. Bring comparisons in with `rlhf-hitl import --project NAME`."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import projects as of

    made = of.add_project(Store.open(store), name, open=open, repeat_every=repeat_every)
    return Result(vars(made), table("Project", vars(made)))


@command("list", projects)
def list_projects(*, store: StoreUrl, json: AsJson = False) -> Result:
    """Projects and how their queues stand."""
    from rlhf_hitl.store import Store, queue
    from rlhf_hitl.store import projects as of

    opened = Store.open(store)
    lanes = queue.by_lane(opened)
    rows = []
    for p in of.list_projects(opened):
        own = [lane for lane in lanes if lane.project == p.id]
        places = {k: sum(getattr(lane, k) for lane in own) for k in ("filled", "leased", "free")}
        rows.append(vars(p) | places)
    told = [
        (r["id"], "paused" if r["paused"] else "open" if r["open"] else "members", r["filled"], r["leased"], r["free"])
        for r in rows
    ]
    return Result({"projects": rows}, table("Projects", told, ("project", "state", "filled", "leased", "free")))


@command("set", projects)
def set_project(
    name: Annotated[str, typer.Argument(help="Which.")],
    paused: Annotated[bool | None, typer.Option("--paused/--active", help="Hand out nothing.")] = None,
    open: Annotated[bool | None, typer.Option("--open/--members-only", help="Whether every rater works in it.")] = None,
    repeat_every: Annotated[
        int | None, typer.Option(min=0, help="Of so many comparisons a rater gets, show one again, hidden; 0: none.")
    ] = None,
    admit: Annotated[list[str] | None, typer.Option(help="A rater who may work in it; may be given again.")] = None,
    dismiss: Annotated[list[str] | None, typer.Option(help="A rater who may no longer; may be given again.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Pause a project, let it go on, or say who works in it. What is left out stays."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import projects as of

    opened = Store.open(store)
    changed = of.change_project(opened, name, paused=paused, open=open, repeat_every=repeat_every)
    for rater in admit or []:
        of.add_member(opened, name, rater)
    for rater in dismiss or []:
        of.remove_member(opened, name, rater)
    data = vars(changed) | {"members": len(of.list_members(opened).get(name, []))}
    return Result(data, table("Project", data))
