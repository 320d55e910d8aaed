"""An evaluation as one self-contained HTML file: gates, figures, plots, and the pairs the model is most wrong about."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment

from rlhf_hitl.reward.evaluation import plots
from rlhf_hitl.reward.evaluation.gates import GateResult
from rlhf_hitl.reward.evaluation_record import AccuracyDifference, Estimate, EvaluatedPair, Evaluation
from rlhf_hitl.types import Messages

MAX_DISAGREEMENTS = 20
MAX_CHARACTERS = 4000  # of a prompt or an answer

EVALUATION_REPORT_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Evaluation {{ e.name }}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
body { overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
.card b { display: block; font-size: 1.6rem; margin: .2rem 0; }
.card small, .quiet { opacity: .75; }
.simulated, .caveat { background: #b45309; color: white; padding: .5rem 1rem; border-radius: .4rem; }
.gate { padding-left: 0; list-style: none; }
.gate b { display: inline-block; min-width: 4.5rem; }
figure { margin: 1rem 0; background: white; border-radius: .6rem; padding: .5rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
.two figure { margin: 0; }
svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
article { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; margin: 1rem 0; }
article .answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: .3rem 0; max-height: 24rem; }
pre { overflow: auto; }
.role { font-size: .8rem; opacity: .75; }
</style></head><body><main>
<h1>Evaluation {{ e.name }}</h1>
{% if e.simulated %}<p class="simulated">Some judgments behind these figures were made by simulated raters.</p>
{% endif %}
{% if e.includes_training_prompts %}<p class="caveat">{{ e.caveat }}</p>
{% elif e.caveat %}<p>{{ e.caveat }}</p>{% endif %}
<p class="quiet id">Reward model {{ e.reward_model_id }}, {{ e.created_at }}, labels {{ e.data_hash }}</p>
{% if gates %}<h2>Gates</h2><ul class="gate">{% for g in gates %}
<li><b>{{ "passed" if g.passed else "FAILED" }}</b> {{ g.name }}: {{ g.sentence }}</li>{% endfor %}</ul>{% endif %}
<div class="cards">{% for title, value, note in cards %}
<div class="card">{{ title }}<b>{{ value }}</b><small>{{ note }}</small></div>{% endfor %}
</div>
<p>Left out: {% for n, what in e.left_out %}{{ n }} {{ what }}{{ ", " if not loop.last }}{% endfor %}. Intervals are
95 % intervals, clustered by prompt.</p>
<h2>Accuracy beside floors and ceiling</h2>
<figure>{{ accuracy|safe }}</figure>
<h2>Is its confidence calibrated?</h2>
<div class="two"><figure>{{ reliability|safe }}</figure><figure>{{ margins|safe }}</figure></div>
<h2>Does it follow length?</h2>
<figure>{{ lengths|safe }}</figure>
{% if slices %}<h2>Accuracy by slice</h2>
<figure>{{ slices|safe }}</figure>
<details><summary>As a table</summary><table>
<thead><tr><th>Slice</th><th>Accuracy</th><th>95 % interval</th><th>Labels</th></tr></thead>
<tbody>{% for kind, values in e.slices.items() %}{% for value, s in values.items() %}
<tr><th scope="row">{{ kind }}: {{ value }}</th><td>{{ "%.3f"|format(s.value) }}</td><td>{{ between(s) }}</td>
<td>{{ s.n }}</td></tr>{% endfor %}{% endfor %}</tbody></table></details>{% endif %}
{% if e.scores %}<h2>Scores by the benchmark's own rules</h2>
<table><tbody>{% for name, score in e.scores.items() %}
<tr><th scope="row">{{ name }}</th><td class="n">{{ "%.3f"|format(score) }}</td></tr>{% endfor %}
</tbody></table>{% endif %}
<h2>Where it is most confidently wrong</h2>
{% for x in worst %}<article>
<p><b>{{ loop.index }}.</b> {{ summary(x) }}<br><span class="quiet id">{{ x.comparison_id }}
{% for k, v in x.tags.items() %}, {{ k }}: {{ v }}{% endfor %}</span></p>
{{ chat(x.prompt)|safe }}
<div class="answers"><div><b>Raters chose</b>{{ chat(x.chosen)|safe }}</div>
<div><b>The model prefers</b>{{ chat(x.rejected)|safe }}</div></div>
</article>{% else %}<p>None: the model agrees with every label.</p>{% endfor %}
</main></body></html>
"""

CHAT = """{% for m in messages %}<div class="role">{{ m.role }}</div>
<pre tabindex="0">{{ m.content|cut }}</pre>{% endfor %}"""


def render_evaluation_html(
    evaluation: Evaluation,
    pairs: Sequence[EvaluatedPair],
    gates: Sequence[GateResult] = (),
    difference: AccuracyDifference | None = None,
) -> str:
    """Render the page. Prompts and answers are escaped, and cut where they are very long."""
    wrong = [x for x in pairs if x.correct == 0]
    environment = Environment(autoescape=True)
    environment.filters["cut"] = _cut_text
    chat = environment.from_string(CHAT)

    def render_chat(messages: Messages) -> str:
        return chat.render(messages=messages)

    return environment.from_string(EVALUATION_REPORT_TEMPLATE).render(
        e=evaluation,
        gates=gates,
        cards=_list_cards(evaluation, difference),
        accuracy=plots.plot_accuracy(evaluation),
        reliability=plots.plot_reliability(evaluation),
        margins=plots.plot_margins(evaluation, pairs),
        lengths=plots.plot_lengths(evaluation, pairs),
        slices=plots.plot_slices(evaluation),
        worst=sorted(wrong, key=lambda x: x.probability)[:MAX_DISAGREEMENTS],
        chat=render_chat,
        summary=_summarise_pair,
        between=_format_interval,
    )


def _summarise_pair(x: EvaluatedPair) -> str:
    chose = "the rater" if x.votes == 1 else f"{x.agreement:.0%} of the {x.votes} raters"
    return (
        f"What {chose} chose has a probability of {x.probability:.3f} by the model (margin {x.margin:.2f}, uncertainty "
        f"{x.uncertainty:.2f})."
    )


def _list_cards(e: Evaluation, difference: AccuracyDifference | None) -> list[tuple[str, str, str]]:
    """Return (title, value, note) of each figure that the evaluation has."""
    simulated = " Simulated raters." if e.simulated else ""
    cards = [
        ("Accuracy", f"{e.accuracy.value:.3f}", f"{_format_interval(e.accuracy)}, {e.n} labels.{simulated}"),
        ("Calibration error", f"{e.ece:.3f}", f"{e.ece_low:.3f} to {e.ece_high:.3f}"),
    ]
    if e.three_way:
        t = e.three_way
        note = (
            f"{_format_interval(t.accuracy)}; {t.called_ties} ties predicted; always the commonest: {t.commonest:.3f}"
        )
        cards.append(("With ties, three-way", f"{t.accuracy.value:.3f}", note))
    if e.k_wise:
        k = e.k_wise
        tau = f"; Kendall's tau-b {k.kendall.value:.3f}" if k.kendall else ""
        note = f"{_format_interval(k.best)}, {k.best.n} comparisons; guessing: {k.chance:.3f}{tau}"
        cards.append(("Best of K", f"{k.best.value:.3f}", note))
    if e.length:
        note = f"raters: {e.longer.value:.3f}; correlation of margin and length: {e.length.correlation:+.2f}"
        cards.append(("The model chose the longer answer", f"{e.length.model.value:.3f}", note))
    if p := e.position:
        if p.pairs:
            note = f"largest change of a margin, over {p.pairs} pairs computed in both orders"
            cards.append(("Effect of the order", f"{p.asymmetry:.2g}", note))
        if p.raters:
            agreement = [
                f"{part.value:.3f} of votes for {where}"
                for where, part in (("the first", p.first), ("the second", p.second))
                if part
            ]
            note = f"{_format_interval(p.raters)}, {p.raters.n} votes; the model agrees with {' and '.join(agreement)}"
            cards.append(("Raters chose the answer shown first", f"{p.raters.value:.3f}", note))
    if d := difference:
        note = (
            f"{d.accuracy.low:+.3f} to {d.accuracy.high:+.3f} on {d.n} labels; only this model is right on "
            f"{d.ours}, only the other on {d.theirs}; McNemar p = {d.p_value:.3g}"
        )
        cards.append((f"Against {d.against}", f"{d.accuracy.value:+.3f}", note))
    return cards


def _format_interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _cut_text(text: str) -> str:
    return (
        text
        if len(text) <= MAX_CHARACTERS
        else f"{text[:MAX_CHARACTERS]} … ({len(text) - MAX_CHARACTERS} more characters)"
    )
