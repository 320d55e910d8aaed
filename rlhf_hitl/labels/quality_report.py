"""Agreement and bias for reading: rows of text for a terminal, and the sections of the HTML report with their plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_hitl.labels.agreement import JUDGES, PEOPLE, SIMULATED, AgreementReport
from rlhf_hitl.labels.bias import (
    MAX_COMPARISONS,
    MIN_GROUP_RATERS,
    MIN_GROUP_VOTES,
    MIN_PROMPTS,
    BiasEffect,
    BiasReport,
)
from rlhf_hitl.report_page import BLUE, GREY, draw_svg, make_figure, make_label, show_percent
from rlhf_hitl.stats.agreement import MIN_COMPARISONS, Agreement, Coefficient
from rlhf_hitl.wording import say_count

#: Field of `Agreement` → what it is called.
COEFFICIENTS = {
    "alpha_nominal": "Krippendorff's alpha, nominal",
    "alpha_ordinal": "Krippendorff's alpha, ordinal",
    "fleiss_kappa": "Fleiss' kappa",
    "gwet_ac1": "Gwet's AC1",
    "pairwise": "Pairwise agreement",
}
STRENGTH_TITLE = "Krippendorff's alpha, ordinal, by how much better"
POPULATION_TITLES = {PEOPLE: "people", JUDGES: "models that judge", SIMULATED: "simulated raters"}
NOT_KNOWN = "not known"
MAX_ROWS_DRAWN = 20  # of one plot

BODY = """{% if quality %}
<h2>Agreement between raters</h2>
<p class="quiet">{{ quality.agreement_note }}</p>
<div class="plots few">{% for title, plot, note in quality.agreement_plots %}
<figure><b>{{ title }}</b>{{ plot|safe }}{% if note %}<figcaption>{{ note }}</figcaption>{% endif %}</figure>
{% endfor %}</div>
<h2>What raters reward</h2>
<p class="quiet">{{ quality.bias_note }}</p>
<div class="plots few">{% for title, plot, note in quality.bias_plots %}
<figure><b>{{ title }}</b>{{ plot|safe }}{% if note %}<figcaption>{{ note }}</figcaption>{% endif %}</figure>
{% endfor %}</div>
{% endif %}
"""


@dataclass(frozen=True)
class QualitySections:
    """What BODY shows: of each plot its title, its SVG and a note."""

    agreement_note: str
    agreement_plots: list[tuple[str, str, str]]
    bias_note: str
    bias_plots: list[tuple[str, str, str]]


def list_coefficients(report: AgreementReport) -> list[tuple[str, Coefficient]]:
    """Return the title and the value of each coefficient of people."""
    rows = [(title, getattr(report.people, name)) for name, title in COEFFICIENTS.items()]
    return rows if report.alpha_strength.value is None else [*rows, (STRENGTH_TITLE, report.alpha_strength)]


def say_coefficient(c: Coefficient, *, is_share: bool = False) -> tuple[str, str]:
    """Return the value and the interval as text."""
    digits = ".1%" if is_share else ".3f"
    value = NOT_KNOWN if c.value is None else f"{c.value:{digits}}"
    return value, "" if c.low is None or c.high is None else f"{c.low:{digits}} to {c.high:{digits}}"


def say_effect(effect: BiasEffect) -> tuple[str, str]:
    """Return the win probability and its interval as text."""
    return say_coefficient(Coefficient(effect.value, effect.low, effect.high), is_share=True)


def say_what_agreement_is_over(report: AgreementReport) -> str:
    """Return a sentence on the votes behind the coefficients, and one on whose are not among them."""
    a = report.people
    told = f"Among people: {say_count(a.votes, 'vote')} on {say_count(a.comparisons, 'comparison')}" if a.votes else ""
    parts = [told or "No two people have judged the same pair: their agreement is not known"]
    for name in (JUDGES, SIMULATED):
        if (other := report.populations.get(name)) is not None:
            value, bounds = say_coefficient(other.alpha_nominal)
            interval = f" ({bounds})" if bounds else ""
            votes = f"{say_count(report.votes[name], 'vote')} of {POPULATION_TITLES[name]}"
            parts.append(f"Not among them: {votes}, whose own nominal alpha is {value}{interval}")
    return ". ".join(parts) + "."


def say_what_bias_is_over(report: BiasReport) -> str:
    """Return what the effects are, and the votes behind them."""
    sample = f", a random part of {MAX_COMPARISONS:,}," if report.is_sample else ""
    comparisons = f"{say_count(report.comparisons, 'comparison')}{sample}"
    return (
        "How often an answer wins that has one thing and is otherwise equal; a tie is half a win, 50 % is no effect. "
        f"From {say_count(report.votes, 'vote')} of {POPULATION_TITLES[report.population]} on {comparisons} of "
        f"{say_count(report.prompts, 'prompt')}; not known where answers differ on fewer than {MIN_PROMPTS} prompts. "
        "Raters here see the sides in random order, so an effect of position is a bias; the others are what votes go "
        "with: a longer answer may also be the better one."
    )


def say_small_groups(report: BiasReport) -> list[str]:
    """Return a sentence for each grouping of which groups are not shown."""
    notes = []
    for grouping, n in report.too_small.items():
        if not n:
            continue
        if grouping == "language":
            notes.append(f"Not shown: {say_count(n, 'language')} with fewer than {MIN_GROUP_VOTES} votes.")
        else:
            attribute = grouping.removeprefix("rater:")
            notes.append(
                f"Not shown: {say_count(n, 'group')} of {attribute} with fewer than {MIN_GROUP_RATERS} raters."
            )
    return notes


def render_sections(agreement: AgreementReport, bias: BiasReport, slice: str | None = None) -> QualitySections:
    """Draw the sections of the HTML report. `slice` names the one they are of; None: of all."""
    of = f"Of the slice {slice}. " if slice is not None else ""
    few = f"no interval below {MIN_COMPARISONS} comparisons"
    coefficients = [(title, c) for title, c in list_coefficients(agreement)]
    plots = [
        (
            "Agreement between people",
            _plot_intervals("Agreement between people", coefficients, is_share=False),
            "0 is chance and 1 is agreement in all; pairwise agreement is a plain share. 95 % intervals, clustered by "
            f"comparison; {few}",
        )
        if agreement.people.votes
        else ("Agreement between people", _say_nothing("No two people have judged the same pair."), "")
    ]
    for grouping, groups in agreement.groups.items():
        known = [(g.group, g.agreement.alpha_nominal) for g in groups if g.agreement.votes]
        if len(known) > 1:
            title = f"Nominal alpha by {grouping.removeprefix('tag:')}"
            plots.append((title, _plot_intervals(title, known, is_share=False), _say_cut(len(known))))
    return QualitySections(
        of + say_what_agreement_is_over(agreement),
        plots,
        of + say_what_bias_is_over(bias),
        list(_draw_bias(bias)),
    )


def _draw_bias(report: BiasReport) -> Iterable[tuple[str, str, str]]:
    known = [e for e in report.effects if e.value is not None]
    plain = [(e.title, _to_coefficient(e)) for e in known if e.kind != "policy"]
    policies = [(e.key.removeprefix("policy:"), _to_coefficient(e)) for e in known if e.kind == "policy"]
    policies.sort(key=lambda row: -(row[1].value or 0))
    if not known:
        yield "Effects", _say_nothing("Too few votes to know any effect."), ""
    if plain:
        unknown = [e.title for e in report.effects if e.value is None and e.kind != "policy"]
        note = f"not known: {', '.join(unknown)}" if unknown else ""
        yield "An answer wins that is …", _plot_intervals("Effects on the win probability", plain, is_share=True), note
    if policies:
        title = "Win probability of each policy"
        note = "against the average of the policies it was compared with, other things equal"
        yield title, _plot_intervals(title, policies, is_share=True), f"{note}{_say_cut(len(policies), '; ')}"
    for grouping, groups in report.groups.items():
        name = grouping.removeprefix("rater:")
        for key in ("position", "length"):
            rows = [(g.group, _to_coefficient(e)) for g in groups for e in g.effects if e.key == key]
            rows = [(group, c) for group, c in rows if c.value is not None]
            if rows:
                title = f"{next(e.title for e in report.effects if e.key == key).capitalize()}, by {name}"
                yield title, _plot_intervals(title, rows, is_share=True), _say_cut(len(rows))
    for note in say_small_groups(report):
        yield "Small groups", _say_nothing(note), ""


def _to_coefficient(effect: BiasEffect) -> Coefficient:
    return Coefficient(effect.value, effect.low, effect.high)


def _say_nothing(text: str) -> str:
    return f'<p class="quiet">{make_html(text)}</p>'


def make_html(text: str) -> str:
    from html import escape

    from rlhf_hitl.visible import make_visible

    return escape(make_visible(text))


def _say_cut(rows: int, before: str = "") -> str:
    return f"{before}the first {MAX_ROWS_DRAWN} of {rows:,}" if rows > MAX_ROWS_DRAWN else ""


def _plot_intervals(title: str, rows: Sequence[tuple[str, Coefficient]], *, is_share: bool) -> str:
    """Plot each row as a point with its interval, and no effect (or chance) as a line."""
    rows = rows[:MAX_ROWS_DRAWN]
    figure, axes = make_figure(0.9 + 0.32 * len(rows), width=4.8)
    axes.axvline(0.5 if is_share else 0, color=GREY, linewidth=1)
    for at, (_, c) in enumerate(rows):
        if c.value is None:
            continue
        if c.low is not None and c.high is not None:
            axes.plot([c.low, c.high], [at, at], color=BLUE, linewidth=2, alpha=0.6)
        axes.plot([c.value], [at], "o", color=BLUE)
        axes.annotate(
            f"{c.value:.0%}" if is_share else f"{c.value:.2f}",
            (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize="small", annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [make_label(_shorten(name)) for name, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5))
    lows = [c.low if c.low is not None else c.value for _, c in rows if c.value is not None]
    axes.set_xlim((0, 1) if is_share else (min([0.0, *(low for low in lows if low is not None)]) - 0.02, 1.02))
    if is_share:
        show_percent(axes.xaxis)
    axes.grid(visible=False, axis="y")
    return draw_svg(figure, title)


def _shorten(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"


def make_coefficient_rows(groups: Iterable[tuple[str, Agreement]]) -> list[tuple[Any, ...]]:
    """Return a row for each group: its name, votes, nominal alpha with its interval, and the values of the others."""
    return [
        (
            name,
            f"{a.votes:,}",
            *say_coefficient(a.alpha_nominal),
            *(say_coefficient(c)[0] for c in (a.alpha_ordinal, a.fleiss_kappa, a.gwet_ac1)),
            say_coefficient(a.pairwise, is_share=True)[0],
        )
        for name, a in groups
    ]
