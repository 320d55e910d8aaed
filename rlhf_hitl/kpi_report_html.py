"""The KPI report as one self-contained HTML file: a card for each figure, the plots of the lead's page, and the figures
of projects, tags and raters. Three figures over the rounds are drawn without a script, for paper and mail."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_hitl.kpi_plots import make_curve_plot, make_money_plots, make_trend_plots
from rlhf_hitl.kpi_report import KpiReport, RoundFigures
from rlhf_hitl.labels import quality_report
from rlhf_hitl.labels.quality_report import QualitySections
from rlhf_hitl.plots import read_report_script, read_styles
from rlhf_hitl.report_page import BLUE, GREY, ORANGE, draw_svg, make_figure, make_label, render_page, show_percent
from rlhf_hitl.reward.evaluation_record import Estimate
from rlhf_hitl.routing.threshold_curve import ThresholdCurve
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_GROUPS = 40
MAX_ROUNDS_NAMED = 12  # more numbers of rounds would touch each other

_BODY = """<h1>Report</h1>
<p class="quiet">{{ "Project" if report.projects|length == 1 else "Projects" }} {{ report.projects|join(", ") }},
{{ report.created_at.strftime("%Y-%m-%d %H:%M") }} UTC</p>
{% for note in report.simulation_notes %}<p class="notice simulated">{{ note }}</p>
{% endfor %}
<p>{{ report.population }}</p>
<div class="cards">{% for f in report.figures + report.others %}
<div class="card">{{ f.title }}<b>{{ f.text }}</b>{% if f.bounds %}<small>95 %: {{ f.bounds }}</small>{% endif %}
<small>{{ f.note }}</small></div>{% endfor %}
<div class="card">Queue<b>{{ report.queue.free + report.queue.leased }} open</b>
<small>{{ report.queue.filled }} filled, {{ report.queue.leased }} with raters</small></div>
</div>
{% if report.powered %}<h2>Figures that spend few labels</h2>
<p class="quiet">The model's word on all that it routed, people's on a random few: right whatever the model.</p>
<div class="cards">{% for f in report.powered %}
<div class="card">{{ f.title }}<b>{{ f.share }}</b><small>95 %: {{ f.bounds }}</small>
<small>labels alone: {{ f.plain_text }}</small><small>{{ f.note }}</small></div>{% endfor %}
</div>
{% endif %}{% if sections %}{% for title, plots in sections %}<h2>{{ title }}</h2>
<div class="plot-grid" data-plots="{{ plots }}"></div>
{% endfor %}<ul class="quiet">{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>
{% endif %}{% for title, columns, rows in tables %}<h2>{{ title }}</h2>
<div class="wide"><table><thead><tr>{% for c in columns %}<th scope="col">{{ c }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}<td{% if not loop.first %} class="n"{% endif %}>{{ cell }}</td>\
{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endfor %}{% if plots %}<h2>Over the rounds</h2>
<p class="quiet">{{ rounds }}</p>
<div class="plots">{% for title, plot, note in plots %}
<figure><b>{{ title }}</b>{{ plot|safe }}{% if note %}<figcaption>{{ note }}</figcaption>{% endif %}</figure>
{% endfor %}
</div>{% endif %}
"""


def render_kpi_report(
    report: KpiReport, quality: QualitySections | None = None, curves: Mapping[str, ThresholdCurve] | None = None
) -> str:
    """Return the page, with the sections on agreement and bias if they are given, and the threshold curves of projects.
    It has no plots if nothing has been judged or accepted."""
    curves = curves or {}
    rounds = "What is done between two rounds counts with the later one, and what comes after the last with the last."
    if len(report.rounds) == 1:
        rounds = "There is one round so far: a plot of it is a point."
    if [r.round for r in report.rounds] == [0]:
        rounds = "No round of the loop was run: all that was done so far is one point."
    has_any = report.judged + report.accepted > 0
    return render_page(
        "Report",
        _BODY + quality_report.BODY,
        script=read_report_script() if has_any else "",
        styles=read_styles() if has_any else "",
        report=report,
        rounds=rounds,
        plots=_draw_plots(report),
        sections=_make_sections(report, curves) if has_any else [],
        lines=report.forecast.lines(report.currency) + ([] if report.gains is None else [str(report.gains)]),
        tables=[_make_table(report, by) for by in ("project", "tag", "rater")] if has_any else [],
        quality=quality,
    )


def _make_sections(report: KpiReport, curves: Mapping[str, ThresholdCurve]) -> list[tuple[str, str]]:
    """Return (heading, plots as JSON) of what is drawn in the browser."""
    sections = [("Day by day", make_trend_plots(report)), ("Money, forecast, audits", make_money_plots(report))]
    if curves:
        sections.insert(1, ("Threshold", [make_curve_plot(curve, project) for project, curve in curves.items()]))
    return [(title, json.dumps([p.as_dict() for p in plots], ensure_ascii=False)) for title, plots in sections]


def _make_table(report: KpiReport, by: str) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Return heading, columns and rows of the figures of groups."""

    def say(share: Estimate | None) -> str:
        return "" if share is None else f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"

    columns = (by, "processed", "model right", "by people", "raters agree", "seconds", f"{report.currency} each")
    rows = [
        (
            g.group,
            f"{g.processed:,}",
            say(g.accuracy),
            say(g.intervention),
            say(g.agreement),
            "" if g.review is None else f"{g.review.mean:.3g} (median {g.review.median:.3g}, p95 {g.review.p95:.3g})",
            "" if g.cost_per_comparison is None else f"{g.cost_per_comparison:,.3g}",
        )
        for g in report.groups.get(by, ())[:MOST_GROUPS]
    ]
    left_out = max(0, len(report.groups.get(by, ())) - MOST_GROUPS)
    more = f" (the {MOST_GROUPS} largest, {left_out:,} left out)" if left_out else ""
    return f"By {by}{more}", columns, rows


def _draw_plots(report: KpiReport) -> list[tuple[str, str, str]]:
    """Return (title, plot, what it shows) of each figure that is drawn over the rounds."""
    if not report.rounds:
        return []
    measured = sum(r.accuracy.n for r in report.rounds if r.accuracy)
    idle = sum(r.cost for r in report.rounds if not r.processed)
    undrawn = f" Not drawn: {idle:,.2f} {report.currency} in rounds that processed nothing." if idle else ""
    return [
        (
            "Model accuracy",
            _plot_shares(report, "Model accuracy by round", lambda r: r.accuracy),
            f"on {say_count(measured, 'comparison')} of the control share, with their number in each round and 95 % "
            "intervals",
        )
        if measured
        else ("Model accuracy", _say_nothing_yet(), ""),
        (
            "Human intervention rate",
            _plot_shares(report, "Human intervention rate by round", lambda r: r.intervention),
            "of the comparisons processed in each round, with their number and 95 % intervals",
        ),
        (
            "Cost per processed comparison",
            _plot_costs(report),
            f"what one comparison processed in each round cost, in {report.currency}. {_say_sums(report)}{undrawn}",
        ),
    ]


def _say_nothing_yet() -> str:
    return '<p class="quiet">Nothing to draw: raters have decided no comparison of the control share yet.</p>'


def _plot_shares(report: KpiReport, title: str, choose: Callable[[RoundFigures], Estimate | None]) -> str:
    """Plot a share of each round as a point with its interval and the number of comparisons behind it."""
    figure, axes = make_figure(3.0, width=4.6)
    points = [(at, share) for at, r in enumerate(report.rounds) if (share := choose(r))]
    for at, share in points:
        axes.plot([at, at], [share.low, share.high], color=BLUE, linewidth=2, alpha=0.6)
        if len(report.rounds) <= MAX_ROUNDS_NAMED:
            axes.annotate(f"{share.n:,}", (at, 1.04), ha="center", fontsize="small", annotation_clip=False)
    axes.plot([at for at, _ in points], [share.value for _, share in points], "o", color=BLUE)
    axes.set(ylim=(0, 1.02))
    show_percent(axes.yaxis)
    _name_rounds(axes, report.rounds)
    return draw_svg(figure, title)


def _plot_costs(report: KpiReport) -> str:
    """Plot what one processed comparison cost in each round: the raters' part, the judges' and the machine's on it."""
    figure, axes = make_figure(3.0, width=4.6)
    paid = [(at, r) for at, r in enumerate(report.rounds) if r.processed]
    raters = [r.rater_cost / r.processed for _, r in paid]
    judges = [r.judge_cost / r.processed for _, r in paid]
    machine = [r.machine_cost / r.processed for _, r in paid]
    places = [at for at, _ in paid]
    axes.bar(places, raters, width=0.5, color=BLUE, label="raters")
    if any(judges):
        axes.bar(places, judges, width=0.5, bottom=raters, color=GREY, label="judges")
    below = [a + b for a, b in zip(raters, judges)]
    axes.bar(places, machine, width=0.5, bottom=below, color=ORANGE, label="machine")
    if len(report.rounds) <= MAX_ROUNDS_NAMED:
        for at, r in paid:
            height = r.cost / r.processed
            cost = f"{height:{',.0f' if height >= 100 else '.2g'}}"
            axes.annotate(cost, (at, height), (0, 3), textcoords="offset points", ha="center", fontsize="small")
    axes.margins(y=0.15)
    axes.set(ylabel=make_label(f"{report.currency} per comparison"))
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, fontsize="small")
    _name_rounds(axes, report.rounds)
    return draw_svg(figure, "Cost per processed comparison by round")


def _say_sums(report: KpiReport) -> str:
    """Return a sentence on what the drawn rounds cost altogether, and each of them where they are few."""
    paid = [r for r in report.rounds if r.processed]
    sums = [r.cost for r in paid]
    processed = say_count(sum(r.processed for r in paid), "comparison")
    total = f"In all {sum(sums):,.2f} {report.currency} for {processed}"
    if not 1 < len(paid) <= MAX_ROUNDS_NAMED:
        return f"{total}."
    return f"{total}: {', '.join(f'{cost:,.2f} in round {r.round}' for r, cost in zip(paid, sums))}."


def _name_rounds(axes: Axes, rounds: Sequence[RoundFigures]) -> None:
    step = -(-len(rounds) // MAX_ROUNDS_NAMED)
    names = ["so far" if r.round == 0 else str(r.round) for r in rounds]
    axes.set_xticks(range(0, len(rounds), step), names[::step])
    axes.grid(visible=False, axis="x")
    margin = 1.1 if len(rounds) < 3 else 0.6
    axes.set(xlim=(-margin, len(rounds) - 1 + margin), xlabel="" if names == ["so far"] else "round")
