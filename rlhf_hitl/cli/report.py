"""Commands `report` and `agreement`: the key figures a lead watches, how far raters agree, and what they reward."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_hitl.cli import AsJson, Result, StoreUrl, command, make_table, require_file_path
from rlhf_hitl.config import load_settings
from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.visible import make_cell_visible
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.kpis import KpiReport
    from rlhf_hitl.labels.agreement import AgreementReport
    from rlhf_hitl.labels.bias import BiasReport
    from rlhf_hitl.routing.threshold_curve import ThresholdCurve
    from rlhf_hitl.store import Store


@command("report")
def show_report_command(
    store: StoreUrl,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report with plots to this self-contained HTML file.")
    ] = None,
    slice: Annotated[
        str | None,
        typer.Option(help="Take agreement and what raters reward of this saved slice; the figures are of all."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Also show the figures of each round, day, rater, project, tag (of any name), or tag:NAME. May be "
            "given several times."
        ),
    ] = None,
    json: AsJson = False,
) -> Result:
    """Show the figures a lead watches, how far raters agree, and what they reward besides the content."""
    from rlhf_hitl.kpi_groups import check_grouping
    from rlhf_hitl.kpis import compute_kpi_report
    from rlhf_hitl.labels.agreement import measure_store_agreement
    from rlhf_hitl.labels.bias import measure_bias
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.slices import find_slice_ids

    require_file_path("--html", html)
    opened = Store.open(store)
    ids = find_slice_ids(opened, slice)
    groupings = list(dict.fromkeys(map(check_grouping, by or [])))
    computed = compute_kpi_report(opened, load_settings(), by=groupings)
    agreement = measure_store_agreement(opened, ("language", "round", "guideline"), comparison_ids=ids)
    bias = measure_bias(opened, comparison_ids=ids)
    if html is not None:
        from rlhf_hitl.kpi_report_html import render_kpi_report
        from rlhf_hitl.labels.quality_report import render_sections

        sections = render_sections(agreement, bias, slice)
        write_text_atomically(html, render_kpi_report(computed, sections, read_curves(opened, computed)))
    data = computed.as_dict() | {"agreement": agreement.as_dict(), "bias": bias.as_dict(), "slice": slice}
    tables = [make_group_table(computed, grouping) for grouping in groupings]
    tables += [*make_powered_tables(computed), *make_agreement_tables(agreement, min_groups=2), *make_bias_tables(bias)]
    if slice is not None:
        tables.insert(0, f"Of the slice {make_cell_visible(slice)}:")
    written = [f"Written to {html}"] if html else []
    return Result(data, make_report_table(computed), more=[*(part for t in tables for part in ("", t)), *written])


@command("agreement")
def show_agreement_command(
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Also group by language, round, guideline, project, rater, or tag:NAME. May be given several times."
        ),
    ] = None,
    project: Annotated[str | None, typer.Option(help="Take only the comparisons of this project.")] = None,
    slice: Annotated[str | None, typer.Option(help="Take only the comparisons of this saved slice.")] = None,
    *,
    store: StoreUrl,
    json: AsJson = False,
) -> Result:
    """Show how far raters agree, corrected for chance; people apart from models and simulated raters."""
    from rlhf_hitl.labels.agreement import check_grouping, measure_store_agreement
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.projects import require_project
    from rlhf_hitl.store.slices import find_slice_ids

    groupings = list(dict.fromkeys(map(check_grouping, by or [])))
    opened = Store.open(store)
    if project is not None:
        with opened.read() as conn:
            require_project(conn, project)
    ids = find_slice_ids(opened, slice)
    measured = measure_store_agreement(opened, groupings, project=project, comparison_ids=ids)
    first, *others = make_agreement_tables(measured)
    return Result(measured.as_dict(), first, more=[part for t in others for part in ("", t)])


def read_curves(store: Store, report: KpiReport) -> dict[str, ThresholdCurve]:
    """Return project → its threshold curve; {} before a model has routed."""
    from rlhf_hitl.routing.threshold_curve import compute_curve, read_curve_basis
    from rlhf_hitl.store.routing_targets import read_targets

    basis, targets = read_curve_basis(store), read_targets(store)
    if basis is None:
        return {}
    cost = report.savings and report.savings.manual_cost
    return {p: compute_curve(basis, p, manual_cost=cost, target=targets.get(p)) for p in report.projects}


def make_report_table(report: KpiReport) -> Any:
    """Return the figures as a table, with what each is over and which judgments are simulated below it."""
    from rich.console import Group
    from rich.text import Text

    title = f"Report of {', '.join(report.projects)}, {report.created_at:%Y-%m-%d %H:%M} UTC"
    if report.simulated:
        title += f" (simulated: {report.simulated_judgments:,} of {say_count(report.judgments, 'judgment')})"
    figures = (*report.figures, *report.others)
    rows = [(f.title, f.text, f.bounds) for f in figures]
    notes = [report.population, *report.simulation_notes, *(f"{f.title}: {f.note}." for f in figures)]
    notes += report.forecast.lines(report.currency)
    if report.gains is not None:
        notes.append(str(report.gains))
    return Group(
        make_table(title, rows, ("figure", "value", "95 % interval")),
        *(Text(make_cell_visible(note)) for note in notes),
    )


def make_group_table(report: KpiReport, by: str) -> Any:
    """Return the figures of each group of a grouping as a table."""
    from rich.console import Group
    from rich.text import Text

    def say(value: float | None, form: str) -> str:
        return "" if value is None else f"{value:{form}}"

    rows = [
        (
            make_cell_visible(g.group),
            f"{g.processed:,}",
            say(g.accuracy and g.accuracy.value, ".0%"),
            say(g.intervention and g.intervention.value, ".0%"),
            say(g.agreement and g.agreement.value, ".0%"),
            *(say(g.review and getattr(g.review, name), ".3g") for name in ("mean", "median", "p95")),
            say(g.throughput, ",.3g"),
            say(g.latency and g.latency.median, ",.3g"),
            say(g.cost_per_comparison, ",.3g"),
        )
        for g in report.groups[by]
    ]
    name = by.removeprefix("tag:")
    columns = (name, "done", "right", "people", "same", "mean", "median", "p95", "a day", "hours", "each")
    note = (
        f"done: comparisons judged or accepted; right: the model's accuracy before review; people: share that raters "
        "judged; same: how often two raters say the same; mean, median, p95: seconds of a judgment; a day: judgments; "
        f"hours: until decided (median); each: cost of a comparison in {report.currency}"
        + ("" if by in ("day", "round") else ", without the machine, whose time belongs to no group")
    )
    return Group(make_table(f"Figures by {name}", rows, columns), Text(make_cell_visible(note)))


def make_powered_tables(report: KpiReport) -> list[Any]:
    """Return the figures with the model's word on all beside those of the labels alone, as a table; [] without any."""
    from rich.console import Group
    from rich.text import Text

    if not report.powered:
        return []
    rows = [
        (make_cell_visible(f.title), f.text, f.plain_text, f"{f.labels:,}", f"{f.labels_worth:,}")
        for f in report.powered
    ]
    columns = ("figure", "with the model's word", "labels alone", "labels", "worth")
    note = (
        "Each with its 95 % interval. The model's word is on all that it routed, people's on a random few, so that the "
        "figures are right whatever the model; worth: the labels that it would take alone."
    )
    return [Group(make_table("Figures that spend few labels", rows, columns), Text(note))]


def make_agreement_tables(report: AgreementReport, min_groups: int = 1) -> list[Any]:
    """Return the coefficients as a table, and one for each grouping that has so many groups."""
    from rich.console import Group
    from rich.text import Text

    from rlhf_hitl.labels import quality_report as q

    rows = [
        (title, *q.say_coefficient(c, is_share=title == q.COEFFICIENTS["pairwise"]))
        for title, c in q.list_coefficients(report)
    ]
    tables: list[Any] = [
        Group(
            make_table("Agreement between people", rows, ("coefficient", "value", "95 % interval")),
            Text(q.say_what_agreement_is_over(report)),
        )
    ]
    columns = ("votes", "nominal alpha", "95 % interval", "ordinal", "kappa", "AC1", "pairwise")
    for grouping, groups in report.groups.items():
        if len(groups) < min_groups:
            continue
        name = grouping.removeprefix("tag:")
        shown = [(g.group, g.agreement) for g in groups]
        table = make_table(f"Agreement by {name}", q.make_coefficient_rows(shown), (name, *columns))
        left_out = report.left_out[grouping]
        note = f"Not shown: the {say_count(left_out, 'group')} with the fewest votes."
        tables.append(Group(table, Text(note)) if left_out else table)
    if report.raters:
        raters = [
            (r.name, f"{r.agreement.comparisons:,}", *q.say_coefficient(r.agreement.share, is_share=True))
            for r in report.raters
        ]
        tables.append(
            make_table(
                "How often others say the same", raters, ("rater", "comparisons", "pairwise agreement", "95 % interval")
            )
        )
    return tables


def make_bias_tables(report: BiasReport) -> list[Any]:
    """Return what raters reward as a table, and one for each grouping."""
    from rich.console import Group
    from rich.text import Text

    from rlhf_hitl.labels import quality_report as q

    rows = [(e.title, *q.say_effect(e), f"{e.votes:,}") for e in report.effects]
    notes = [q.say_what_bias_is_over(report), *q.say_small_groups(report)]
    tables: list[Any] = [
        Group(
            make_table("What raters reward", rows, ("an answer", "win probability", "95 % interval", "votes")),
            *(Text(make_cell_visible(note)) for note in notes),
        )
    ]
    for grouping, groups in report.groups.items():
        if not groups:
            continue
        name = grouping.removeprefix("rater:")
        cells = [
            (g.group, f"{g.votes:,}", e.title, *q.say_effect(e))
            for g in groups
            for e in g.effects
            if e.value is not None
        ]
        columns = (name, "votes", "an answer", "win probability", "95 % interval")
        tables.append(make_table(f"What raters reward, by {name}", cells, columns))
    return tables
