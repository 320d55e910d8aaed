"""The KPI report as one self-contained HTML file: a card for each figure, and a plot over the rounds as inline SVG."""

from __future__ import annotations

import io

from jinja2 import Environment

from rlhf_hitl.kpis import KpiReport

KPI_REPORT_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>rlhf_hitl report</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
.card b { display: block; font-size: 1.6rem; margin: .2rem 0; }
.card small { opacity: .75; }
.simulated { background: #b45309; color: white; padding: .5rem 1rem; border-radius: .4rem; }
figure { margin: 2rem 0; background: white; border-radius: .6rem; padding: .5rem; }
svg { width: 100%; height: auto; }
</style></head><body>
<h1>Report</h1>
{% if report.simulated %}<p class="simulated">Some judgments behind these figures were made by simulated raters.</p>
{% endif %}
<div class="cards">{% for f in report.figures %}
<div class="card">{{ f.title }}<b>{{ f }}</b><small>{{ f.note }}</small></div>{% endfor %}
<div class="card">Queue<b>{{ report.queue.free + report.queue.leased }} open</b>
<small>{{ report.queue.filled }} filled, {{ report.queue.leased }} with raters</small></div>
</div>
{% if plot %}<figure>{{ plot|safe }}</figure>{% endif %}
</body></html>
"""


def render_kpi_report(report: KpiReport) -> str:
    """Return the page. It has no plot if nothing has been routed."""
    plot = _draw_rounds(report) if report.rounds else ""
    return Environment(autoescape=True).from_string(KPI_REPORT_TEMPLATE).render(report=report, plot=plot)


def _draw_rounds(report: KpiReport) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    numbers = [r.round for r in report.rounds]
    measured = [(r.round, r.accuracy) for r in report.rounds if r.accuracy is not None]
    simulated = " (some raters simulated)" if report.simulated else ""
    axes.plot(numbers, [r.sent_to_raters for r in report.rounds], marker="o", label="sent to raters")
    if measured:
        axes.plot(*zip(*measured), marker="s", label=f"model accuracy on the control arm{simulated}")
    axes.set(xlabel="round", ylabel="share", ylim=(0, 1.02), xticks=numbers)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    text = svg.getvalue()
    return text[text.index("<svg") :]
