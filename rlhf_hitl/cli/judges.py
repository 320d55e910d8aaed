"""Commands `judges …`: models that vote beside people."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, app, command, make_table
from rlhf_hitl.config import load_settings
from rlhf_hitl.endpoints.address import check_endpoint
from rlhf_hitl.errors import BadInput
from rlhf_hitl.extras import require_extra
from rlhf_hitl.types import Split
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.judges.measuring import JudgeReport, Measured
    from rlhf_hitl.types.judges import Judge

judge_group = typer.Typer(help="Manage AI judges: models that vote beside people.", no_args_is_help=True)
app.add_typer(judge_group, name="judges")

JudgeName = Annotated[str, typer.Argument(help="The name of the judge.")]
BudgetOption = Annotated[
    float | None,
    typer.Option(help="Stop before all calls together cost more than this, in the currency of the prices."),
]


@command("add", judge_group)
def add_judge_command(
    name: Annotated[str, typer.Argument(help="The name it votes under.")],
    model: Annotated[
        str,
        typer.Option(help="The model, as the endpoint calls it; without an endpoint a folder, hub id or short name."),
    ],
    endpoint: Annotated[
        str, typer.Option(help="The address of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1.")
    ] = "",
    api_key_env: Annotated[
        str, typer.Option(metavar="VARIABLE", help="Read the endpoint's key from this environment variable.")
    ] = "",
    api_key_file: Annotated[str, typer.Option(metavar="FILE", help="Read the endpoint's key from this file.")] = "",
    template: Annotated[
        str, typer.Option(help="Ask by this template: pairwise, pairwise-guideline, pairwise-reasons, or a .yaml file.")
    ] = "pairwise",
    price_in: Annotated[float, typer.Option(min=0, help="The price of a million tokens of questions.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="The price of a million tokens of answers.")] = 0.0,
    budget: BudgetOption = None,
    draws: Annotated[
        int, typer.Option(min=1, max=100, help="Where an endpoint gives no log-probabilities, ask this many times.")
    ] = 1,
    temperature: Annotated[float, typer.Option(min=0.01, max=2, help="Draw at this temperature.")] = 1.0,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Give a request up after this many seconds.")
    ] = 60.0,
    images: Annotated[bool, typer.Option("--images", help="The model behind the endpoint takes images.")] = False,
    own_policies: Annotated[
        str, typer.Option(metavar="GLOB", help="Policies of the judge's own family, to measure if it prefers them.")
    ] = "",
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Add a judge. It votes when `judges run` is called, in projects that want judges (`projects set --judge-overlap`).

    The key of an endpoint is read when the judge is run, and is kept nowhere: name where it is.
    """
    from rlhf_hitl.judges.local import check_local_template
    from rlhf_hitl.judges.templates import load_template
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.judges import add_judge, check_budget
    from rlhf_hitl.types.judges import Judge, JudgeSettings

    check_budget(budget)
    if budget is not None and price_in == price_out == 0:
        raise BadInput("--budget", expected="the prices of tokens too", fix="add --price-in and --price-out")
    if not model.strip():
        raise BadInput(f"--model {model!r}", expected="the name of a model", fix="give one")
    opened, loaded = Store.open(store), load_template(template)
    if endpoint:
        endpoint = check_endpoint(endpoint, api_key_env, api_key_file)
    else:
        if api_key_env or api_key_file or images or draws > 1:
            raise BadInput("--api-key-…, --images or --draws", expected="--endpoint too", fix="add --endpoint")
        check_local_template(loaded)
        from rlhf_hitl.models import resolve_model

        resolve_model(model)
    if template.endswith((".yaml", ".yml")):
        template = os.path.abspath(template)
    settings = JudgeSettings(
        api_key_env, api_key_file, loaded.version, price_in, price_out, draws, temperature, timeout, images,
        own_policies,
    )  # fmt: skip
    judge = add_judge(opened, Judge("", name, model, endpoint, template, settings, budget))
    data = _describe(judge)
    more = []
    if api_key_env and not os.environ.get(api_key_env):
        more.append(f"The variable {api_key_env} is empty at the moment: set it before `judges run`.")
    return Result(data, make_table("Judge", data), more=more)


@command("set", judge_group)
def set_judge_command(
    name: JudgeName,
    budget: Annotated[float, typer.Option(min=0, help="The most that all calls may cost; 0 for no limit.")],
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Change the budget of a judge. How it asks is never changed: its votes were given so. Add another judge."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.judges import check_budget, set_budget

    check_budget(budget or None)
    data = _describe(set_budget(Store.open(store), name, budget or None))
    return Result(data, make_table("Judge", data))


@command(
    "run",
    judge_group,
    if_interrupted="all votes and calls until now are kept. Give the same command again",
    counts_time=True,
)
def run_judge_command(
    name: JudgeName,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask about at most this many comparisons.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Ask about this many comparisons at a time.")] = 4,
    project: Annotated[str | None, typer.Option(help="Judge comparisons of this project only.")] = None,
    split: Annotated[
        Split,
        typer.Option(
            help="Judge comparisons of this split. In calibration and heldout its votes are in no label: there they "
            "only measure the judge."
        ),
    ] = Split.TRAIN,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Let a judge vote, until it has judged all that is wanted of it. Run one process for each judge.

    Exits with 1 where its failures stopped it, and with 0 where its budget did.
    """
    from dataclasses import asdict

    from rlhf_hitl.judges.judging import run_judge
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.judges import get_judge, sum_costs

    opened = Store.open(store)
    judge = get_judge(opened, name)
    require_extra("judge" if judge.kind == "endpoint" else "train", f"judge {name!r}")
    report = run_judge(
        opened, judge, limit=limit, concurrency=concurrency, project=project, split=split, progress=not json
    )
    unit = f" {load_settings().currency}"
    data = asdict(report) | {"unanswered": dict(report.unanswered), "cost_in_all": sum_costs(opened, judge)}
    rows: dict[str, Any] = {"comparisons judged": f"{report.judged:,}"}
    rows |= {"of which surplus": report.surplus} if report.surplus else {}
    rows |= {f"without an answer ({outcome})": n for outcome, n in sorted(report.unanswered.items())}
    rows |= {"left out: unanswered before": report.left} if report.left else {}
    rows |= {"requests": f"{report.calls:,}", "tokens": f"{report.prompt_tokens:,} + {report.completion_tokens:,}"}
    rows |= {"cost": f"{report.cost:.4g}{unit}", "cost of all runs": f"{data['cost_in_all']:.4g}{unit}"}
    more = [f"Stopped: {report.stopped}."] if report.stopped else []
    if not (report.judged or report.unanswered or report.stopped or report.left):
        more.append("Nothing is left for it: it has judged all that is wanted of it, or is paused.")
    return Result(data, make_table(f"Judge {name}", rows), exit_code=int(report.failed), more=more)


@command("list", judge_group)
def list_judges_command(*, store: StoreUrl, json: AsJson = False) -> Result:
    """List judges with their votes, costs and failures, and how reliable they are."""
    from rlhf_hitl.store import Store, people, views
    from rlhf_hitl.store.judges import find_reliability, list_judges, sum_calls
    from rlhf_hitl.types import Role

    opened = Store.open(store)
    known = {judge.rater_id: judge for judge in list_judges(opened)}
    done = views.load_activity(opened)
    rows = []
    for rater in people.list_raters(opened):
        if rater.role is not Role.JUDGE:
            continue
        judge = known.get(rater.id)
        reliability = find_reliability(opened, rater.id)
        row: dict[str, Any] = {"name": rater.name, "votes": done[rater.id].in_all, "state": rater.state}
        row |= {"model": None, "endpoint": None, "budget": None, "cost": None, "seconds": None, "calls": None}
        if judge is not None:
            totals = sum_calls(opened, judge)
            row |= {"model": judge.model, "endpoint": judge.address or None, "budget": judge.budget}
            row |= {"cost": totals.cost, "seconds": totals.seconds, "calls": dict(totals.calls)}
        names = ("reliability", "reliability_low", "reliability_high")
        rows.append(row | dict(zip(names, reliability or (None, None, None))))
    cells = [
        (
            *(r["name"], r["model"] or "imported", r["votes"]),
            "-" if r["cost"] is None else f"{r['cost']:.4g}" + (f" of {r['budget']:g}" if r["budget"] else ""),
            *("-" if r["calls"] is None else r["calls"][k] for k in ("refused", "unreadable", "failed", "timed_out")),
            "-" if r["reliability"] is None else f"{r['reliability']:.2f}",
        )
        for r in rows
    ]
    columns = ("judge", "model", "votes", "cost", "refused", "unreadable", "failed", "timed out", "reliability")
    text = make_table("Judges", cells, columns) if rows else "No judges yet. Add one with `rlhf-hitl judges add NAME`."
    return Result({"judges": rows}, text)


@command("report", judge_group)
def report_judge_command(
    name: JudgeName,
    own_policies: Annotated[
        str | None, typer.Option(metavar="GLOB", help="The policies of its own family, such as 'gpt-*'.")
    ] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Measure a judge against the people who judged the same comparisons: agreement, and what it favours."""
    from rlhf_hitl.judges.measuring import measure_judge
    from rlhf_hitl.store import Store, people
    from rlhf_hitl.store.judges import get_judge, list_judges

    opened = Store.open(store)
    rater = people.get_rater_by_name(opened, name)
    judge = get_judge(opened, name) if rater.id in {j.rater_id for j in list_judges(opened)} else None
    if own_policies is None:
        own_policies = judge.settings.own_policies if judge else ""
    report = measure_judge(opened, rater, judge, own_policies=own_policies)
    return Result(report.as_dict(), _make_report_table(report), more=_explain(report))


def _make_report_table(report: JudgeReport) -> Any:
    def say(m: Measured, form: str = "{:.1%}") -> tuple[str, str, str]:
        if m.value is None or m.low is None or m.high is None:
            return "-", "-", "0"
        return form.format(m.value), f"{form.format(m.low)} to {form.format(m.high)}", f"{m.comparisons:,}"

    lean = "{:+.3f}"
    rows = [
        ("agrees with people", *say(report.agreement)),
        ("people agree with each other", *say(report.people_agreement)),
        ("reliability", *(("-", "-", "") if report.reliability is None else _say_reliability(report.reliability))),
        ("leans to what is shown first", *say(report.position_bias, lean)),
        ("turns its choice with the order", *say(report.flips)),
        ("leans to the longer, beyond people", *say(report.length_bias, lean)),
        ("leans to its own policies, beyond people", *say(report.self_preference, lean)),
    ]
    title = f"Judge {report.name}: {say_count(report.judgments, 'judgment')}"
    title += " (some of the people are simulated)" if report.simulated else ""
    return make_table(title, rows, ("", "figure", "95 % interval", "comparisons"))


def _say_reliability(reliability: tuple[float, float, float]) -> tuple[str, str, str]:
    value, low, high = reliability
    return f"{value:.2f}", f"{low:.2f} to {high:.2f}", ""


def _explain(report: JudgeReport) -> list[str]:
    lines = ["A lean of 0 is none, and one of 1 is always."]
    if report.position_bias.value is None:
        lines.append("Position: only of judges that are run here, since each is asked in both orders.")
    if not report.own_policies:
        lines.append("Own policies: name them with --own-policies GLOB.")
    if report.reliability is None:
        lines.append("Reliability: there is no fit of labels yet that has this judge.")
    return lines


def _describe(judge: Judge) -> dict[str, Any]:
    """Return what is known of a judge. Where its key is found is known; the key is not."""
    from dataclasses import asdict

    known = {"name": judge.name, "kind": judge.kind, "model": judge.model, "endpoint": judge.address or None}
    return known | {"template": judge.template, "budget": judge.budget} | asdict(judge.settings)
