"""Commands `projects …`: what is judged together, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import QualificationRule
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.types import Project

RaterFilters = Annotated[
    list[str] | None,
    typer.Option(
        "--rater-filter",
        help="Let raters choose their tasks by this: batch, or tags.NAME. They learn it of what they get. May be "
        "repeated; '' for nothing.",
    ),
]

OverlapRules = Annotated[
    str | None,
    typer.Option(
        "--overlap-rule",
        help="Ask for one more judgment of a comparison as long as it is worth its price: least=1,most=5,price=0.01, "
        "and what becomes of comparisons that split raters, escalate=adjudication, raters or none. A price of 0.01: "
        "one more rater in a hundred is expected to agree with the label. 'fixed': as many as each asks for.",
    ),
]

project_group = typer.Typer(help="Manage projects: what is judged together, and by whom.", no_args_is_help=True)
app.add_typer(project_group, name="projects")


@command("add", project_group)
def add_project_command(
    name: Annotated[str, typer.Argument(help="The name of the project: small letters, digits, dots and dashes.")],
    open: Annotated[
        bool, typer.Option("--open/--members-only", help="Let every rater work in it, or only its members.")
    ] = True,
    repeat_every: Annotated[
        int,
        typer.Option(
            min=0, help="Show one in this many comparisons again, hidden, to measure consistency; 0 shows none."
        ),
    ] = 0,
    rater_filter: RaterFilters = None,
    overlap_rule: OverlapRules = None,
    gold_every: Annotated[
        int, typer.Option(min=0, help="Give raters one gold in this many comparisons, hidden; 0 gives none.")
    ] = 0,
    gold_feedback: Annotated[
        bool, typer.Option("--gold-feedback/--no-gold-feedback", help="Tell raters the right answer of a gold.")
    ] = False,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Make a project. Fill it with `rlhf-hitl import --project NAME`."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store import projects as project_store
    from rlhf_hitl.types import OverlapRule

    filters = [f for f in rater_filter or [] if f]
    rule = OverlapRule.parse(overlap_rule) if overlap_rule is not None else None
    project = project_store.add_project(
        Store.open(store),
        name,
        open=open,
        repeat_every=repeat_every,
        rater_filters=filters,
        overlap_rule=rule,
        gold_every=gold_every,
        gold_feedback=gold_feedback,
    )
    return Result(project.to_plain(), make_table("Project", _describe(project)))


@command("list", project_group)
def list_projects_command(*, store: StoreUrl, json: AsJson = False) -> Result:
    """List projects and the state of their queues."""
    from rlhf_hitl.store import Store, queue
    from rlhf_hitl.store import projects as project_store
    from rlhf_hitl.types.overlap_rules import FIXED_OVERLAP, OverlapRule

    opened = Store.open(store)
    lanes = queue.count_places_by_lane(opened)
    rows = []
    for p in project_store.list_projects(opened):
        own = [lane for lane in lanes if lane.project == p.id]
        places = {k: sum(getattr(lane, k) for lane in own) for k in ("filled", "leased", "free")}
        rows.append(p.to_plain() | places)
    cells = [
        (
            *(r["id"], "everybody" if r["open"] else "members", "paused" if r["paused"] else "active"),
            *(r[k] for k in ("filled", "leased", "free")),
            str(OverlapRule.from_plain(r["overlap_rule"])) if r["overlap_rule"] else FIXED_OVERLAP,
        )
        for r in rows
    ]
    columns = ("project", "who rates", "state", "filled", "leased", "free", "overlap")
    return Result({"projects": rows}, make_table("Projects", cells, columns))


@command("set", project_group)
def set_project_command(
    name: Annotated[str, typer.Argument(help="The name of the project.")],
    paused: Annotated[
        bool | None, typer.Option("--paused/--active", help="Stop or resume handing out its comparisons.")
    ] = None,
    open: Annotated[
        bool | None,
        typer.Option(
            "--open/--members-only",
            help="Let every rater work in it, which ends a pause, or only its members, which leaves a pause as it is.",
        ),
    ] = None,
    repeat_every: Annotated[
        int | None,
        typer.Option(
            min=0, help="Show one in this many comparisons again, hidden, to measure consistency; 0 shows none."
        ),
    ] = None,
    rater_filter: RaterFilters = None,
    judge_overlap: Annotated[
        int | None,
        typer.Option(min=0, help="Ask for this many judgments of AI judges of each comparison; 0 asks for none."),
    ] = None,
    overlap_rule: OverlapRules = None,
    gold_every: Annotated[
        int | None, typer.Option(min=0, help="Give raters one gold in this many comparisons, hidden; 0 gives none.")
    ] = None,
    gold_feedback: Annotated[
        bool | None,
        typer.Option(
            "--gold-feedback/--no-gold-feedback", help="Tell raters the right answer of a gold, after theirs."
        ),
    ] = None,
    qualification: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Ask raters to pass so many golds first, e.g. golds=8,pass-mark=0.75,retries=1,expires=180d; 'off' "
            "for nothing.",
        ),
    ] = None,
    admit: Annotated[list[str] | None, typer.Option(help="Let this rater work in it; may be repeated.")] = None,
    dismiss: Annotated[
        list[str] | None, typer.Option(help="Let this rater no longer work in it; may be repeated.")
    ] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Pause or resume a project, or change who works in it. Options that are left out change nothing."""
    from rlhf_hitl.store import Store, queue
    from rlhf_hitl.store import projects as project_store
    from rlhf_hitl.types.overlap_rules import FIXED_OVERLAP, OverlapRule

    rule = None if overlap_rule is None else OverlapRule.parse(overlap_rule) or FIXED_OVERLAP
    opened = Store.open(store)
    filters = None if rater_filter is None else [f for f in rater_filter if f]
    asked = (
        None if qualification is None else "off" if qualification == "off" else QualificationRule.parse(qualification)
    )
    changes = (
        *(paused, open, repeat_every, filters, rule, gold_every, gold_feedback, asked),
        *(judge_overlap, admit, dismiss),
    )
    if all(new is None for new in changes):
        raise BadInput(
            "nothing to change", expected="an option that says what", fix="add e.g. --paused or --admit NAME"
        )
    if open and paused is None:
        paused = False  # nobody works in a project that is paused
    changed = project_store.change_project(
        opened,
        name,
        paused=paused,
        open=open,
        repeat_every=repeat_every,
        rater_filters=filters,
        overlap_rule=rule,
        gold_every=gold_every,
        gold_feedback=gold_feedback,
        qualification=asked,
        judge_overlap=judge_overlap,
    )
    looked_at = queue.apply_overlap_rule(opened, name) if rule is not None else 0
    for rater in admit or []:
        project_store.add_member(opened, name, rater)
    for rater in dismiss or []:
        project_store.remove_member(opened, name, rater)
    data = changed.to_plain() | {"members": len(project_store.list_members(opened).get(name, []))}
    more = []
    if changed.paused:
        more.append("It is paused: it gives out no comparisons until `rlhf-hitl projects set NAME --active`.")
    if looked_at:
        more.append(
            f"{say_count(looked_at, 'comparison')} looked at anew: places were opened and closed as the rule says."
        )
    return Result(data, make_table("Project", _describe(changed) | {"members": data["members"]}), more=more)


def _describe(project: Project) -> dict[str, Any]:
    """Return a project for people: its settings in words, and only those that say something."""
    rule, asked = project.overlap_rule, project.qualification
    rows: dict[str, Any] = {
        "project": project.id,
        "who rates": "everybody" if project.open else "members",
        "state": "paused" if project.paused else "active",
        "overlap": "fixed" if rule is None else str(rule),
        "hidden repeats": f"one in {project.repeat_every}" if project.repeat_every else "none",
        "golds": f"one in {project.gold_every}" if project.gold_every else "none",
        "gold feedback": "yes" if project.gold_feedback else "no",
        "raters choose tasks by": ", ".join(project.rater_filters) or "nothing",
        "judgments wanted of models": project.judge_overlap,
    }
    if asked is not None:
        expires = f", expires after {asked.expires_days:g} days" if asked.expires_days else ""
        rows["qualification"] = f"{asked.golds} golds, {asked.pass_mark:.0%} right, retries {asked.retries}{expires}"
    return rows
