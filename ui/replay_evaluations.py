"""The evaluations of the replay page as HTML: the list, the figures of one, two side by side."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.evaluation.browse import SideBySide, place_side_by_side
from rlhf_hitl.reward.evaluation.pair_index import EvaluationIndex, load_index
from rlhf_hitl.reward.evaluation.storage import (
    SUMMARY_FILE,
    find_evaluation_folder,
    list_evaluation_folders,
    load_evaluation_for_page,
)
from rlhf_hitl.reward.evaluation_record import Estimate, Evaluation
from rlhf_hitl.store.reward_models import (
    RewardModelRecord,
    display_evaluation_name,
    display_name_of_id,
    keep_day_whole,
)
from rlhf_hitl.ui.markdown import make_visible
from rlhf_hitl.ui.pages import load_templates
from rlhf_hitl.wording import say_count

SLICES_LIMIT = 200  # rows of the table of slices

#: What `show` may be for one evaluation and for two, with the text of the option.
SHOWS_OF_ONE = (("disagreements", "disagreements"), ("agreements", "agreements"), ("ties", "ties"), ("all", "all"))
SHOWS_OF_TWO = (
    ("one_right", "exactly one right"),
    ("first_right", "only A right"),
    ("second_right", "only B right"),
    ("none_right", "neither right"),
)

_STYLES = re.compile(r"<style.*?</style>", re.DOTALL)
_plot_lock = Lock()  # the settings of matplotlib belong to the whole process


def name_evaluations_in(text: str, models: Sequence[RewardModelRecord]) -> str:
    """Return a message with evaluations and models called by their names, where it has their names on disk or ids."""
    for model in models:
        if model.id in text:
            on_disk = rf"[\w.-]*{re.escape(model.id)}[\w.-]*"
            text = re.sub(on_disk, lambda found: display_evaluation_name(found[0], models, with_id=True), text)
    return text


def render_evaluation_list(workspace: Path, models: Sequence[RewardModelRecord]) -> str:
    """Return the list of the workspace's evaluations as HTML.

    Args:
        models: the store's, after which the evaluations are called.
    """
    try:
        folders = list_evaluation_folders(workspace)
    except FileNotFoundError:  # one was removed while they were listed
        folders = list_evaluation_folders(workspace)
    rows = [_list_row(folder, models) for folder in folders]
    return load_templates().get_template("replay/evaluations.html").render(rows=rows)


def render_evaluation(workspace: Path, name: str, models: Sequence[RewardModelRecord]) -> dict[str, Any]:
    """Return an evaluation's figures as HTML, its title, and what its examples can be filtered by."""
    folder = find_evaluation_folder(workspace, name)
    evaluation, index = load_evaluation_for_page(folder), load_index(folder)
    summary = _summarize(name, evaluation, models)
    html = (
        load_templates()
        .get_template("replay/evaluation.html")
        .render(
            of=summary,
            figures=list(_list_figures(evaluation)),
            caveat=evaluation.caveat,
            facts=list(_list_facts(evaluation)),
            slices=_list_slices(evaluation, index),
            plots=_draw_plots(folder, os.stat(folder / SUMMARY_FILE).st_mtime_ns),
        )
    )
    return {"html": html, "title": summary["shown"], "shows": SHOWS_OF_ONE, "slices": _list_filters(index)}


def render_two_evaluations(
    workspace: Path, name: str, other_name: str, models: Sequence[RewardModelRecord]
) -> dict[str, Any]:
    """Return two evaluations side by side as HTML, their title, and the filters of the first one's examples."""
    folder, other_folder = (find_evaluation_folder(workspace, n) for n in (name, other_name))
    evaluation, index = load_evaluation_for_page(folder), load_index(folder)
    side_by_side = place_side_by_side(index, load_index(other_folder))
    outcomes = ("both_right", "first_right", "second_right", "none_right")
    first = _summarize(name, evaluation, models)
    second = _summarize(other_name, load_evaluation_for_page(other_folder), models)
    html = (
        load_templates()
        .get_template("replay/two_evaluations.html")
        .render(
            of=first,
            beside=second,
            counts={outcome: int(getattr(side_by_side, outcome).sum()) for outcome in outcomes},
            shared=len(side_by_side.rows),
            verdict=_compare(side_by_side),
        )
    )
    title = f"{first['shown']}, {second['shown']}"
    return {"html": html, "title": title, "shows": SHOWS_OF_TWO, "slices": _list_filters(index)}


def _list_row(folder: Path, models: Sequence[RewardModelRecord]) -> dict[str, Any]:
    try:
        return _summarize(folder.name, load_evaluation_for_page(folder), models)
    except BadInput as e:
        shown = keep_day_whole(make_visible(display_evaluation_name(folder.name, models)))
        return {"name": folder.name, "shown": shown, "problem": make_visible(name_evaluations_in(str(e), models))}


def _summarize(name: str, evaluation: Evaluation, models: Sequence[RewardModelRecord]) -> dict[str, Any]:
    e = evaluation
    coin = "coin 50.0%, " if e.floor[1] == 0.5 else ""
    bag_of_words = "" if e.bag_of_words is None else f", words {e.bag_of_words.text}"
    return {
        "name": name,
        "shown": keep_day_whole(make_visible(display_evaluation_name(name, models))),
        "model": keep_day_whole(make_visible(display_name_of_id(e.reward_model_id, models))),
        "made": _format_time(e.created_at),
        "n": e.n,
        "accuracy": e.accuracy.text,
        "interval": e.accuracy.bounds,
        "floors": f"{coin}{e.length_rule} {e.length_floor.text}{bag_of_words}",
        "above": "clear" if e.clear_of_floors else "perhaps" if e.above_floors else "no",
        "ece": e.calibration.text,
        "origins": [(badge, note) for badge, note in _list_origins(e) if note],
        "split": make_visible(e.split) if e.includes_training_prompts else "",
    }


def _list_origins(e: Evaluation) -> Iterator[tuple[str, str]]:
    """Yield (badge, sentence) of the labels measured on and of those learnt from; an empty sentence if none applies."""
    measured, learnt = e.measured_on, e.learnt_from
    if measured is None:
        badge = "some simulated"
    elif not measured.has_simulated:
        badge = "some ties simulated"
    elif measured.all_simulated:
        badge = "simulated labels"
    else:
        badge = f"{measured.simulated_text} of {measured.labels:,} simulated"
    yield badge, e.measured_note
    badge = ""
    if learnt:
        badge = f"learnt from {learnt.labels:,}, {learnt.simulated_text} simulated"
        if learnt.all_simulated:
            badge = "learnt from simulated"
    yield badge, e.learnt_note


def _list_figures(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    e = evaluation
    yield _format_figure(
        "Accuracy",
        e.accuracy,
        f"of {say_count(e.n, 'label')} with a preference: how often the answer the raters preferred has the higher "
        "reward",
    )
    yield _format_figure(
        f"The {e.length_rule} answer wins",
        e.length_floor,
        "a floor: right this often without reading anything, by the rule that other labels teach",
    )
    if e.bag_of_words:
        note = "a floor: counts words, trained on labels of other prompts"
        yield _format_figure("A bag of words", e.bag_of_words, note)
    if e.noise_ceiling:
        note = "what one would score who knew of each pair what most of all raters prefer"
        yield _format_figure("The ceiling", e.noise_ceiling, note)
    note = "how far the confidence the model states is from how often it is right, without what chance adds"
    if e.measured_on is None:
        note = "how far the confidence is from how often it is right, as an earlier version measured it: with chance"
    yield _format_figure("Calibration error", e.calibration, note)


def _list_facts(evaluation: Evaluation) -> Iterator[str]:
    """Yield what else was measured, a sentence each."""
    e = evaluation
    name, floor = e.floor
    highest = f"the highest floor, {floor:.1%} ({name})"
    if e.clear_of_floors:
        yield f"The accuracy is above {highest}, by more than chance: its whole interval is above it."
    elif e.above_floors:
        yield f"The accuracy is above {highest}, but that may be chance: its interval reaches down to it."
    else:
        yield f"The accuracy is not above {highest}."
    yield f"Not counted: {', '.join(text for n, text in e.left_out if n) or 'nothing'}."
    if e.three_way:
        yield (
            f"With ties as a third answer it says what the raters said of {e.three_way.accuracy.text} "
            f"({e.three_way.accuracy.bounds}); always the commonest of the three: {e.three_way.commonest:.1%}."
        )
    if e.length:
        yield (
            f"It prefers the longer answer in {e.length.model.text} ({e.length.model.bounds}), the raters in "
            f"{e.longer.text}; rank correlation of margin and length {e.length.correlation:.2f}."
        )
    if e.position and e.position.pairs:
        yield (
            f"Computing the two answers in the other order changes its margin by {e.position.asymmetry:.2g} at most, "
            f"of {say_count(e.position.pairs, 'pair')}."
        )
    if e.position and e.position.raters:
        first = e.position.raters
        yield f"Raters chose what was shown first in {first.text} ({first.bounds})."
    if e.k_wise:
        yield (
            f"Of three or more answers its best is among the raters' best in {e.k_wise.best.text} "
            f"({e.k_wise.best.bounds}); chance: {e.k_wise.chance:.1%}."
        )
    for name, score, note in e.score_rows:
        yield make_visible(f"By the benchmark's own rules, {name}: {score}" + (f" ({note})" if note else ""))


def _list_slices(evaluation: Evaluation, index: EvaluationIndex) -> list[dict[str, Any]]:
    """Return the rows of the table of slices, the largest first."""
    rows = [
        {
            "tag": tag,
            "value": value,
            "label": make_visible(f"{tag}: {value}"),
            "n": accuracy.n,
            "share": accuracy.value,
            "accuracy": accuracy.text,
            "interval": accuracy.bounds,
            "browsable": value in index.tags.get(tag, ((), None))[0],
        }
        for tag, accuracies in evaluation.slices.items()
        for value, accuracy in accuracies.items()
    ]
    return sorted(rows, key=lambda row: -row["n"])[:SLICES_LIMIT]


def _list_filters(index: EvaluationIndex) -> list[tuple[str, str]]:
    """Return the tags and values that examples can be filtered by."""
    return [(tag, value) for tag, (values, _) in index.tags.items() for value in values]


@lru_cache(maxsize=32)
def _draw_plots(folder: Path, _written_ns: int) -> dict[str, str]:
    """Return the plots of an evaluation as SVG by name, drawn once for each time its file was written."""
    from rlhf_hitl.reward.evaluation import plots

    evaluation = load_evaluation_for_page(folder)
    with _plot_lock:
        drawn = {
            "accuracy": plots.plot_accuracy(evaluation),
            "accuracy_narrow": plots.plot_accuracy(evaluation, is_narrow=True),
            "reliability": plots.plot_reliability(evaluation),
            "slices": plots.plot_slices(evaluation),
            "slices_narrow": plots.plot_slices(evaluation, is_narrow=True),
        }
    # Their styles would hold for the whole page, and the page's policy does not allow them: they are in replay.css.
    return {name: _STYLES.sub("", svg) for name, svg in drawn.items()}


def _compare(side_by_side: SideBySide) -> str:
    """Say whether one of two models is better by more than chance, by the same rule as the gate `no-worse-than`."""
    if not len(side_by_side.rows):
        return "They share no label with a preference, so they cannot be compared."
    shared = f"They share {say_count(len(side_by_side.rows), 'label')} with a preference"
    difference = side_by_side.difference
    if difference is None or difference.ours + difference.theirs == 0:
        return f"{shared}, and are right about the same ones."
    better = "A" if difference.is_better else "B" if difference.is_worse else "neither"
    accuracy = difference.accuracy
    return (
        f"{shared}. Exactly one is right on {difference.ours + difference.theirs:,} of them: {better} is shown to be "
        f"better. A's accuracy less B's is {accuracy.value:+.1%} (95 %: {accuracy.low:+.1%} to {accuracy.high:+.1%}, "
        "the labels of one prompt taken together; McNemar's exact test, which takes them for independent: "
        f"p = {difference.p_value:.2g})."
    )


def _format_figure(title: str, estimate: Estimate, note: str) -> dict[str, Any]:
    return {"title": title, "value": estimate.text, "bounds": f"95 %: {estimate.bounds}", "note": note}


def _format_time(iso: str) -> str:
    """Return a time as the page's script reads it, which shows it in the reader's zone."""
    try:
        made = datetime.fromisoformat(iso)
        return (made if made.tzinfo else made.replace(tzinfo=UTC)).isoformat()
    except ValueError:
        return make_visible(iso)
