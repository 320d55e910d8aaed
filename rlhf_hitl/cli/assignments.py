"""Commands `assign`, `assignments …` and `adjudicate`: who gets which comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.errors import BadInput
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.store import Store

RaterName = Annotated[str, typer.Option("--rater", help="The name of the rater.")]
ComparisonIds = Annotated[
    list[str] | None, typer.Option("--comparison", metavar="ID", help="The id of a comparison; may be repeated.")
]
SliceName = Annotated[str | None, typer.Option("--slice", help="Take the comparisons of this slice, as it is now.")]

assignment_group = typer.Typer(help="Look after comparisons that are assigned to raters.", no_args_is_help=True)
app.add_typer(assignment_group, name="assignments")


@command("assign")
def assign_command(
    rater: RaterName,
    comparison: ComparisonIds = None,
    slice: SliceName = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Reserve comparisons for a rater, first in their line."""
    from rlhf_hitl.store import Store, assignments

    opened = Store.open(store)
    done = assignments.assign(opened, rater, _find_ids(opened, comparison, slice), slice=slice or "")
    more = [f"Not assigned, {assignments.REFUSALS[reason]}: {n}." for reason, n in sorted(done.refused.items())]
    return Result(vars(done), f"Assigned {say_count(done.assigned, 'comparison')} to {done.rater}.", more=more)


@command("list", assignment_group)
def list_assignments_command(
    rater: Annotated[str | None, typer.Option(help="List those of this rater; if left out, of all.")] = None,
    ended: Annotated[bool, typer.Option("--ended", help="List also those that were ended.")] = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """List assignments, the newest 1000, and whether they were judged."""
    from rlhf_hitl.store import Store, assignments, people

    opened = Store.open(store)
    rater_id = None if rater is None else people.get_rater_by_name(opened, rater).id
    rows = [vars(a) for a in assignments.list_assignments(opened, rater_id=rater_id, ended=ended)]
    if not rows:
        return Result({"assignments": rows}, "Nothing is assigned. Do it with `rlhf-hitl assign --rater NAME`.")
    columns = ("comparison_id", "rater", "slice", "state")
    cells = [tuple(row[name] for name in columns) for row in rows]
    return Result({"assignments": rows}, make_table("Assignments", cells, ("comparison", "rater", "slice", "state")))


@command("end", assignment_group)
def end_assignments_command(
    rater: RaterName,
    comparison: ComparisonIds = None,
    slice: Annotated[str | None, typer.Option(help="Only those that were assigned by this slice.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """End assignments of a rater: those of these comparisons or, if none is given, all. Others get them again."""
    from rlhf_hitl.store import Store, assignments

    ended = assignments.end_assignments(Store.open(store), rater, comparison or None, slice=slice)
    return Result({"rater": rater, "ended": ended}, f"Ended {say_count(ended, 'assignment')} of {rater}.")


@command("adjudicate")
def adjudicate_command(
    comparison: ComparisonIds = None,
    slice: SliceName = None,
    reason: Annotated[str, typer.Option(help="Say why, for the lead who decides.")] = "",
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Send comparisons to adjudication: a lead decides them on the page /adjudicate, and raters vote no more."""
    from rlhf_hitl.store import Store, adjudication, audit

    opened = Store.open(store)
    ids, why = _find_ids(opened, comparison, slice), reason or adjudication.SENT_BY_LEAD
    sent = adjudication.send_to_adjudication(opened, ids, by=audit.CLI, reason=why)
    others = {"waiting already": sent.waiting, "decided already": sent.decided, "not to be decided": sent.refused}
    more = [f"Not sent, {why}: {n}." for why, n in others.items() if n]
    return Result(vars(sent), f"Sent {say_count(sent.sent, 'comparison')} to adjudication.", more=more)


def _find_ids(store: Store, comparison: list[str] | None, slice: str | None) -> list[str]:
    """Return the ids of the comparisons that a command is about: given one by one, or by a slice."""
    from rlhf_hitl.store.slices import find_slice_ids

    if bool(comparison) == (slice is not None):
        raise BadInput(
            "both --comparison and --slice" if comparison else "no comparison",
            expected="comparisons by their ids, or a slice",
            fix="give --comparison ID or --slice NAME",
        )
    return sorted(comparison or find_slice_ids(store, slice) or ())
