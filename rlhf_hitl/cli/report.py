"""Command `report`: the key figures a lead watches."""

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


@command("report")
def show_report_command(
    store: StoreUrl,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report with plots to this self-contained HTML file.")
    ] = None,
    json: AsJson = False,
) -> Result:
    """Show the five figures a lead watches, with what they are computed from."""
    from rlhf_hitl.kpis import compute_kpi_report
    from rlhf_hitl.store import Store

    require_file_path("--html", html)
    computed = compute_kpi_report(Store.open(store), load_settings())
    if html is not None:
        from rlhf_hitl.kpi_report_html import render_kpi_report

        write_text_atomically(html, render_kpi_report(computed))
    return Result(computed.as_dict(), make_report_table(computed), more=[f"Written to {html}"] if html else [])


def make_report_table(report: KpiReport) -> Any:
    """Return the figures as a table, with what each is over and which judgments are simulated below it."""
    from rich.console import Group
    from rich.text import Text

    title = f"Report of {', '.join(report.projects)}, {report.created_at:%Y-%m-%d %H:%M} UTC"
    if report.simulated:
        title += f" (simulated: {report.simulated_judgments:,} of {say_count(report.judgments, 'judgment')})"
    rows = [(f.title, f.text, f.bounds) for f in report.figures]
    notes = [report.population, *report.simulation_notes, *(f"{f.title}: {f.note}." for f in report.figures)]
    return Group(
        make_table(title, rows, ("figure", "value", "95 % interval")),
        *(Text(make_cell_visible(note)) for note in notes),
    )
