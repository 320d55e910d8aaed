"""Commands `automation …`: whether models may accept comparisons, and what audits say of those they accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.types import DEFAULT_PROJECT, AutomationChange, AutomationState
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.store import Store

automation_group = typer.Typer(help="See, pause and resume what models accept by themselves.", no_args_is_help=True)
app.add_typer(automation_group, name="automation")

Project = Annotated[str, typer.Option(help="Of this project.")]
Because = Annotated[str, typer.Option(help="Say why, for the history that leads see.")]


@command("status", automation_group)
def show_automation_command(
    project: Annotated[str | None, typer.Option(help="Show this project only, with its history.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Count what raters have audited, stop what breaks its bound, and show the state of each project."""
    from rlhf_hitl.routing.audit import measure_audits, watch_audits
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.automation import list_changes, read_automation
    from rlhf_hitl.store.projects import list_projects

    opened = Store.open(store)
    history = None if project is None else list_changes(opened, project)
    stops = watch_audits(opened)
    changes = read_automation(opened)
    names = [p.id for p in list_projects(opened) if project in (None, p.id)]
    watches = {name: measure_audits(opened, name) for name in names}
    rows = []
    for name, watch in watches.items():
        audits = vars(watch) | {"alarm": watch.alarm, "reason": watch.reason}
        rows.append({"project": name, "audits": audits, **_describe(opened, changes.get(name))})
    cells = [(row["project"], row["state"], row["reason"], watches[row["project"]].reason) for row in rows]
    text = make_table("Automation", cells, ("project", "state", "because", "audits"))
    data: dict[str, Any] = {"projects": rows}
    more = [f"Stopped just now: {stop.project}" for stop in stops]
    if history is not None:
        entries = [_describe(opened, change) for change in history]
        data["history"] = entries
        lines = [(e["at"][:19], e["state"], e["by"], e["reason"]) for e in entries]
        more.append(make_table("History", lines, ("at", "state", "by", "because")) if lines else "No change yet.")
    return Result(data, text, more=more)


@command("pause", automation_group)
def pause_automation_command(
    project: Project = DEFAULT_PROJECT, because: Because = "", *, store: StoreUrl, json: AsJson = False
) -> Result:
    """Accept nothing more: everything that is routed from now on goes to raters. What was accepted stays so."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.automation import pause_automation

    opened = Store.open(store)
    change = pause_automation(opened, project, because)
    return Result(_describe(opened, change), f"Nothing more is accepted in project {project}.")


@command("resume", automation_group)
def resume_automation_command(
    project: Project = DEFAULT_PROJECT, because: Because = "", *, store: StoreUrl, json: AsJson = False
) -> Result:
    """Let models accept again, after a pause or a stop. After a stop, audits are counted anew from here."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.accepted import count_accepted
    from rlhf_hitl.store.automation import resume_automation

    opened = Store.open(store)
    change = resume_automation(opened, project, because)
    accepted = say_count(sum(count_accepted(opened, project=project).values()), "comparison is", "comparisons are")
    return Result(
        _describe(opened, change), f"Models may accept in project {project} again. So far {accepted} accepted there."
    )


@command("demand", automation_group)
def demand_command(
    project: Project = DEFAULT_PROJECT,
    min_confidence: Annotated[
        float | None, typer.Option(help="Accept nothing below this confidence, whatever the bound allows.")
    ] = None,
    max_error: Annotated[
        float | None, typer.Option(help="Test this bound in place of the one that `route` and the loop are told.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Demand nothing any more.")] = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Demand a threshold from the next routing on, or show what is demanded. What is not given stays as it was. The
    lead's page shows what it causes."""
    from rlhf_hitl.routing.threshold_curve import demand_target, read_curve_basis
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.automation import say_who
    from rlhf_hitl.store.routing_targets import clear_target, read_targets

    opened = Store.open(store)
    if clear:
        clear_target(opened, project)
    elif min_confidence is not None or max_error is not None:
        basis = read_curve_basis(opened)
        demand_target(opened, basis, project, min_confidence=min_confidence, max_error=max_error)
    demands = [
        {"project": t.project, "max_error": t.max_error, "min_confidence": t.min_confidence}
        | {"by": say_who(opened, t.by), "at": t.at.isoformat()}
        for t in read_targets(opened).values()
    ]
    lines = [
        (d["project"], d["min_confidence"] or "", "" if d["max_error"] is None else d["max_error"], d["by"])
        for d in demands
    ]
    columns = ("project", "confidence at least", "error at most", "by")
    table = make_table("Demands", lines, columns) if lines else "Nothing is demanded: the router decides as it is told."
    return Result({"demands": demands}, table)


def _describe(store: Store, change: AutomationChange | None) -> dict[str, Any]:
    """Return a change of automation as plain values; of a project that was never changed, that it runs."""
    from rlhf_hitl.store.automation import say_who

    if change is None:
        return {"state": AutomationState.RUNNING.value, "reason": "", "by": "", "at": ""}
    return {
        "state": change.state.value,
        "reason": change.reason,
        "by": say_who(store, change.by),
        "at": change.at.isoformat(),
    }
