"""An evaluation as one self-contained HTML file: gates, figures, plots, and the pairs the model is most wrong about."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_hitl.report_page import render_page
from rlhf_hitl.reward.evaluation import plots
from rlhf_hitl.reward.evaluation.gates import GateResult
from rlhf_hitl.reward.evaluation_record import AccuracyDifference, EvaluatedPair, Evaluation
from rlhf_hitl.store.reward_models import RewardModelRecord, display_evaluation_name, display_name_of_id
from rlhf_hitl.wording import say_count

MAX_DISAGREEMENTS = 20
MAX_CHARACTERS = 4000  # of a prompt or an answer

_BODY = """{% macro chat(messages) %}{% for m in messages %}<div class="role">{{ m.role }}</div>
<pre tabindex="0">{{ cut(m.read_all_text()) }}</pre>{% endfor %}{% endmacro %}
<h1>{{ title }}</h1>
<p class="quiet id">Reward model {{ model }}, {{ made }}, labels {{ e.data_hash }}</p>
{% for note in (e.measured_note, e.learnt_note) if note %}<p class="notice simulated">{{ note }}</p>{% endfor %}
{% if e.includes_training_prompts %}<p class="notice caveat">{{ e.caveat }}</p>
{% elif e.caveat %}<p>{{ e.caveat }}</p>{% endif %}
{% if gates %}<h2>Gates</h2><ul class="gate">{% for g in gates %}
<li><b>{{ "passed" if g.passed else "FAILED" }}</b> {{ g.name }}: {{ g.sentence }}</li>{% endfor %}</ul>{% endif %}
<div class="cards">{% for title, value, note in cards %}
<div class="card">{{ title }}<b>{{ value }}</b><small>{{ note }}</small></div>{% endfor %}
</div>
<p>Left out: {% for _, text in e.left_out %}{{ text }}{{ ", " if not loop.last }}{% endfor %}. Intervals are
95 % intervals, clustered by prompt.</p>
<h2>Accuracy beside floors and ceiling</h2>
<figure>{{ accuracy|safe }}</figure>
<h2>Is its confidence calibrated?</h2>
<div class="plots"><figure>{{ reliability|safe }}</figure><figure>{{ margins|safe }}</figure></div>
<h2>Does it follow length?</h2>
<figure>{{ lengths|safe }}</figure>
{% if slices %}<h2>Accuracy by slice</h2>
<figure>{{ slices|safe }}</figure>
<details><summary>As a table</summary><table>
<thead><tr><th>Slice</th><th>Accuracy</th><th>95 % interval</th><th>Labels</th></tr></thead>
<tbody>{% for kind, values in e.slices.items() %}{% for value, s in values.items() %}
<tr><th scope="row">{{ kind }}: {{ value }}</th><td>{{ s.text }}</td><td>{{ s.bounds }}</td>
<td>{{ s.n }}</td></tr>{% endfor %}{% endfor %}</tbody></table></details>{% endif %}
{% if e.score_rows %}<h2>Scores by the benchmark's own rules</h2>
<table class="scores"><tbody>{% for name, score, note in e.score_rows %}
<tr><th scope="row">{{ name }}</th><td class="n">{{ score }}</td><td class="quiet">{{ note }}</td></tr>{% endfor %}
</tbody></table>{% endif %}
<h2>Where it is most confidently wrong</h2>
{% for x in worst %}<article>
<p><b>{{ loop.index }}.</b> {{ summary(x) }}<br><span class="quiet id">{{ x.comparison_id }}
{% for k, v in x.tags.items() %}, {{ k }}: {{ v }}{% endfor %}</span></p>
{{ chat(x.prompt) }}
<div class="answers"><div><b>Raters chose</b>{{ chat(x.chosen) }}</div>
<div><b>The model prefers</b>{{ chat(x.rejected) }}</div></div>
</article>{% else %}<p>None: the model agrees with every label.</p>{% endfor %}
"""


def render_evaluation_html(
    evaluation: Evaluation,
    pairs: Sequence[EvaluatedPair],
    gates: Sequence[GateResult] = (),
    difference: AccuracyDifference | None = None,
    models: Sequence[RewardModelRecord] = (),
) -> str:
    """Render the page. Prompts and answers are escaped, and cut where they are very long.

    Args:
        models: the store's, after which the evaluation and its model are called.
    """
    wrong = [x for x in pairs if x.correct == 0]
    return render_page(
        f"Evaluation {display_evaluation_name(evaluation.name, models)}",
        _BODY,
        e=evaluation,
        model=display_name_of_id(evaluation.reward_model_id, models),
        made=evaluation.created_at[:16].replace("T", " ") + " UTC",
        gates=gates,
        cards=_list_cards(evaluation, difference),
        accuracy=plots.plot_accuracy(evaluation),
        reliability=plots.plot_reliability(evaluation),
        margins=plots.plot_margins(evaluation, pairs),
        lengths=plots.plot_lengths(evaluation, pairs),
        slices=plots.plot_slices(evaluation),
        worst=sorted(wrong, key=lambda x: x.probability)[:MAX_DISAGREEMENTS],
        summary=_summarise_pair,
        cut=_cut_text,
    )


def _summarise_pair(x: EvaluatedPair) -> str:
    chose = "the rater" if x.votes == 1 else f"{x.agreement:.0%} of the {x.votes} raters"
    return (
        f"What {chose} chose has a probability of {x.probability:.1%} by the model (margin {x.margin:.2f}, uncertainty "
        f"{x.uncertainty:.2f})."
    )


def _list_cards(e: Evaluation, difference: AccuracyDifference | None) -> list[tuple[str, str, str]]:
    """Return (title, value, note) of each figure that the evaluation has."""
    origin = f" ({e.measured_on})" if e.measured_on and e.measured_on.has_simulated else ""
    chance = "of the share right from the stated confidence, without what chance adds"
    cards = [
        ("Accuracy", e.accuracy.text, f"{e.accuracy.bounds}, {say_count(e.n, 'label')}{origin}"),
        ("Calibration error", e.calibration.text, f"{e.calibration.bounds}; root mean square gap {chance}"),
    ]
    if e.three_way:
        t = e.three_way
        ties = say_count(t.called_ties, "tie")
        note = f"{t.accuracy.bounds}; {ties} predicted; always the commonest: {t.commonest:.1%}"
        cards.append(("With ties, three-way", t.accuracy.text, note))
    if e.k_wise:
        k = e.k_wise
        tau = f"; Kendall's tau-b {k.kendall.value:.3f}" if k.kendall else ""
        note = f"{k.best.bounds}, {say_count(k.best.n, 'comparison')}; guessing: {k.chance:.1%}{tau}"
        cards.append(("Best of K", k.best.text, note))
    if e.length:
        note = f"raters: {e.longer.text}; correlation of margin and length: {e.length.correlation:+.2f}"
        cards.append(("The model chose the longer answer", e.length.model.text, note))
    if p := e.position:
        if p.pairs:
            note = f"largest change of a margin, over {say_count(p.pairs, 'pair')} computed in both orders"
            cards.append(("Effect of the order", f"{p.asymmetry:.2g}", note))
        if p.raters:
            agreement = [
                f"{part.text} of votes for {where}"
                for where, part in (("the first", p.first), ("the second", p.second))
                if part
            ]
            votes = say_count(p.raters.n, "vote")
            note = f"{p.raters.bounds}, {votes}; the model agrees with {' and '.join(agreement)}"
            cards.append(("Raters chose the answer shown first", p.raters.text, note))
    if d := difference:
        labels = say_count(d.n, "label")
        note = (
            f"{d.accuracy.low:+.1%} to {d.accuracy.high:+.1%} on {labels}; only this model is right on {d.ours:,}, "
            f"only the other on {d.theirs:,}; McNemar p = {d.p_value:.3g}"
        )
        cards.append((f"Against {d.against}", f"{d.accuracy.value:+.1%}", note))
    return cards


def _cut_text(text: str) -> str:
    return (
        text
        if len(text) <= MAX_CHARACTERS
        else f"{text[:MAX_CHARACTERS]} … ({say_count(len(text) - MAX_CHARACTERS, 'more character')})"
    )
