"""The evaluators' page: what a reward model says beside what raters said, figure by figure and example by example."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import Field
from starlette.middleware import Middleware

from rlhf_hitl.api import auth
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.reward.evaluation import browse
from rlhf_hitl.reward.evaluation.pair_index import (
    EvaluationIndex,
    find_row_by_key,
    load_index,
    make_pair_key,
    read_rows,
)
from rlhf_hitl.reward.evaluation.slices import STRENGTH_NAMES
from rlhf_hitl.reward.evaluation.storage import (
    SUMMARY_FILE,
    find_evaluation_folder,
    list_evaluation_folders,
    load_evaluation_for_page,
)
from rlhf_hitl.reward.evaluation_record import Estimate, EvaluatedPair, Evaluation
from rlhf_hitl.store import Store
from rlhf_hitl.types import Rater
from rlhf_hitl.ui.conversation import completion_text, question_excerpt, render_completion, render_conversation
from rlhf_hitl.ui.dashboard import PageMessage, mount_dashboard
from rlhf_hitl.ui.difference import difference as marked
from rlhf_hitl.ui.markdown import visible
from rlhf_hitl.ui.pages import templates

PAGE = 20  # examples listed at a time
EXCERPT = 110
SLICES = 200  # rows of the table

#: Example's kind → the word of it in the list, and the sentence over it.
KINDS = {
    "agrees": ("agrees", "The model sides with the raters."),
    "disagrees": ("disagrees", "The model prefers the answer the raters did not."),
    "undecided": ("undecided", "The model gives both answers the same reward."),
    "tie": ("tie", "Raters called these answers equally good."),
}


_DRAWING = Lock()  # matplotlib's settings belong to the whole process


class Wanted(PageMessage):
    """An evaluation by the name of its folder, perhaps beside another."""

    of: str = Field(max_length=300)
    beside: str | None = Field(None, max_length=300)


class Look(Wanted):
    """Which examples, and which of them to show: the one called `example` (where it is any), or the one that comes
    `at` so many after the first."""

    show: browse.Show = "disagreements"
    order: browse.Order = "wrong"
    tag: str | None = Field(None, max_length=1000)
    value: str = Field("", max_length=10_000)
    words: str = Field("", max_length=200)
    at: int = Field(0, ge=0)
    example: str | None = Field(None, max_length=300)


class One(PageMessage):
    of: str = Field(max_length=300)
    example: str = Field(max_length=300)


def mount(app: FastAPI, path: str, store: Store, settings: Settings, guard: Middleware) -> None:
    """Mount the page at `path`."""

    def open(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return everything(settings.workspace, caller.rater)

    def evaluation(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return overview(settings.workspace, Wanted.model_validate(sent))

    def look(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return examples(settings.workspace, Look.model_validate(sent))

    def difference(sent: Any, caller: auth.Caller) -> dict[str, Any]:
        return differences(settings.workspace, One.model_validate(sent))

    calls = {"open": open, "evaluation": evaluation, "look": look, "difference": difference}
    scripts = ("replay_address", "replay_examples", "replay_keys")
    mount_dashboard(app, path, guard, name="replay", calls=calls, scripts=scripts)


def everything(workspace: Path, reader: Rater) -> dict[str, Any]:
    """The list of evaluations as HTML, and the other pages this person may open."""
    try:
        folders = list_evaluation_folders(workspace)
    except FileNotFoundError:  # one was removed while they were listed
        folders = list_evaluation_folders(workspace)
    rows = [_row(folder) for folder in folders]
    pages = [page for page, roles in auth.PAGES.items() if reader.role in roles]
    return {"html": _render("replay_list.html", rows=rows), "pages": pages}


def overview(workspace: Path, wanted: Wanted) -> dict[str, Any]:
    """An evaluation's figures as HTML, or those of two beside each other, and what its examples can be chosen by."""
    folder = find_evaluation_folder(workspace, wanted.of)
    evaluation, index = load_evaluation_for_page(folder), load_index(folder)
    slices = [[tag, value] for tag, (values, _) in index.tags.items() for value in values]
    if wanted.beside is None:
        shows = {"disagreements": "disagreements", "agreements": "agreements", "ties": "ties", "all": "all"}
        html = _render("replay_evaluation.html", **_evaluation(folder, evaluation, index))
    else:
        beside = find_evaluation_folder(workspace, wanted.beside)
        both = browse.place_side_by_side(index, load_index(beside))
        counts = {
            who: int(getattr(both, who).sum()) for who in ("both_right", "first_right", "second_right", "none_right")
        }
        shows = {"one_right": "exactly one right", "first_right": "only A right", "second_right": "only B right",
                 "none_right": "neither right"}  # fmt: skip
        shown = {"of": _short(folder.name, evaluation), "beside": _short(beside.name, load_evaluation_for_page(beside))}
        html = _render("replay_both.html", **shown, counts=counts, verdict=_verdict(both))
    return {"html": html, "shows": list(shows.items()), "slices": slices}


def examples(workspace: Path, wanted: Look) -> dict[str, Any]:
    """One example as HTML, and the list of those around it.

    `at` is its place among the `total` found; None for one that is not among them, but was asked for by its name.
    """
    folder = find_evaluation_folder(workspace, wanted.of)
    index = load_index(folder)
    beside = load_index(find_evaluation_folder(workspace, wanted.beside)) if wanted.beside is not None else None
    tag = None if wanted.tag is None else (wanted.tag, wanted.value)
    rows = browse.find_rows(index, browse.PairQuery(wanted.show, tag, wanted.order, wanted.words), beside)
    at, row = _place(index, rows, wanted)
    first = (at or 0) // PAGE * PAGE
    found = read_rows(index, rows[first : first + PAGE])
    listed = [_listed(first + i, e) for i, e in enumerate(found)]
    answer = {"total": len(rows), "at": at, "first": first, "list": _render("replay_found.html", found=listed)}
    if row is None:
        return answer | {"example": None, "html": ""}
    example = found[at - first] if at is not None else read_rows(index, [row])[0]
    models = [_model(example, index.reach, "" if beside is None else "A")]
    if beside is not None and len(rows_beside := np.flatnonzero(beside.label == index.label[row])):
        models.append(_model(read_rows(beside, rows_beside[:1])[0], max(index.reach, beside.reach), "B"))
        models[0] = _model(example, max(index.reach, beside.reach), "A")
    html = _render("replay_example.html", **_example(example, models))
    return answer | {"example": make_pair_key(index, row, example), "html": html}


def differences(workspace: Path, wanted: One) -> dict[str, Any]:
    """Both answers as HTML in which the words that only one has are marked."""
    index = load_index(find_evaluation_folder(workspace, wanted.of))
    example = read_rows(index, [_named_row(index, wanted.example)])[0]
    return {"marked": marked(completion_text(example.chosen), completion_text(example.rejected))}


def _place(index: EvaluationIndex, rows: np.ndarray, wanted: Look) -> tuple[int | None, int | None]:
    """The place of the example to show among the rows found, and its row. One not among them has no place."""
    if wanted.example is not None:
        row = _named_row(index, wanted.example)
        places = np.flatnonzero(rows == row)
        return (int(places[0]) if len(places) else None), row
    if not len(rows):
        return None, None
    at = min(wanted.at, len(rows) - 1)
    return at, int(rows[at])


def _named_row(index: EvaluationIndex, key: str) -> int:
    row = find_row_by_key(index, key)
    if row is None:
        raise NotFound(f"example {key[:80]!r}", expected="one of this evaluation", fix="choose one from its list")
    return row


def _render(template: str, **shown: Any) -> str:
    return templates().get_template(template).render(**shown)


# --- evaluations


def _row(folder: Path) -> dict[str, Any]:
    try:
        return _short(folder.name, load_evaluation_for_page(folder))
    except BadInput as e:
        return {"name": folder.name, "shown": visible(folder.name), "problem": visible(str(e))}


def _short(name: str, e: Evaluation) -> dict[str, Any]:
    words = "" if e.bag_of_words is None else f", words {e.bag_of_words.value:.1%}"
    return {
        "name": name,
        "shown": visible(name),
        "model": visible(e.reward_model_id),
        "made": _minute(e.created_at),
        "n": e.n,
        "accuracy": f"{e.accuracy.value:.1%}",
        "interval": _range(e.accuracy),
        "floors": f"{'coin 50.0%, ' * (e.floor[1] == 0.5)}{e.length_rule} {e.length_floor.value:.1%}{words}",
        "above": "clear" if e.clear_of_floors else "perhaps" if e.above_floors else "no",
        "ece": f"{e.ece:.3f}",
        "simulated": e.simulated,
        "split": visible(e.split) if e.includes_training_prompts else "",
    }


def _evaluation(folder: Path, e: Evaluation, index: EvaluationIndex) -> dict[str, Any]:
    figures = [
        _figure(
            "Accuracy",
            e.accuracy,
            f"of {e.n:,} labels with a preference: how often the answer the raters preferred has the higher reward",
        ),
        _figure(
            f"The {e.length_rule} answer wins",
            e.length_floor,
            "a floor: right this often without reading anything, by the rule that other labels teach",
        ),
    ]
    if e.bag_of_words:
        figures.append(
            _figure("A bag of words", e.bag_of_words, "a floor: counts words, trained on labels of other prompts")
        )
    if e.noise_ceiling:
        knows = "what one would score who knew of each pair what most of all raters prefer"
        figures.append(_figure("The ceiling", e.noise_ceiling, knows))
    figures.append(
        {
            "title": "Calibration error",
            "value": f"{e.ece:.3f}",
            "bounds": f"95 %: {e.ece_low:.3f} to {e.ece_high:.3f}",
            "note": "how far, on average, the confidence the model states is from how often it is right",
        }
    )
    above = "is clear of" if e.clear_of_floors else "is above, within chance," if e.above_floors else "is not above"
    name, floor = e.floor
    without = ", ".join(f"{n:,} {what}" for n, what in e.left_out if n)
    return {
        "of": _short(folder.name, e),
        "figures": figures,
        "caveat": e.caveat,
        "facts": [
            f"The accuracy {above} the floors, the highest of which is {floor:.1%} ({name}).",
            f"Not counted: {without or 'nothing'}.",
            *_facts(e),
        ],
        "slices": _slices(e, index),
        "plots": _plots(folder, os.stat(folder / SUMMARY_FILE).st_mtime_ns),
    }


def _facts(e: Evaluation) -> list[str]:
    """What else was measured, where it could be, a sentence each."""
    out = []
    if three := e.three_way:
        out.append(
            f"With ties as a third answer it says what the raters said of {three.accuracy.value:.1%} "
            f"({_range(three.accuracy)}); always the commonest of the three: {three.commonest:.1%}."
        )
    if length := e.length:
        out.append(
            f"It prefers the longer answer in {length.model.value:.1%} ({_range(length.model)}), the raters in "
            f"{e.longer.value:.1%}; rank correlation of margin and length {length.correlation:.2f}."
        )
    if position := e.position:
        if position.pairs:
            out.append(
                f"Computing the two answers in the other order changes its margin by {position.asymmetry:.2g} at most, "
                f"of {position.pairs} pairs."
            )
        if position.raters:
            out.append(f"Raters chose what was shown first in {position.raters.value:.1%} ({_range(position.raters)}).")
    if many := e.k_wise:
        out.append(
            f"Of three or more answers its best is among the raters' best in {many.best.value:.1%} "
            f"({_range(many.best)}); chance: {many.chance:.1%}."
        )
    if e.scores:
        out.append(visible("By the benchmark's own rules: " + ", ".join(f"{k} {v:.1%}" for k, v in e.scores.items())))
    return out


@lru_cache(maxsize=32)
def _plots(folder: Path, _written: int) -> dict[str, str]:
    """Name → SVG, drawn once for each time an evaluation is written."""
    from rlhf_hitl.reward.evaluation import plots

    e = load_evaluation_for_page(folder)
    with _DRAWING:
        return {
            "accuracy": plots.plot_accuracy(e),
            "reliability": plots.plot_reliability(e),
            "slices": plots.plot_slices(e),
        }


def _slices(e: Evaluation, index: EvaluationIndex) -> list[dict[str, Any]]:
    rows = [
        {
            "tag": by,
            "value": value,
            "label": visible(f"{by}: {value}"),
            "n": share.n,
            "share": share.value,
            "accuracy": f"{share.value:.1%}",
            "interval": _range(share),
            "browsable": value in index.tags.get(by, ((), None))[0],
        }
        for by, of in e.slices.items()
        for value, share in of.items()
    ]
    return sorted(rows, key=lambda row: -row["n"])[:SLICES]


def _figure(title: str, share: Estimate, note: str) -> dict[str, Any]:
    return {"title": title, "value": f"{share.value:.1%}", "bounds": f"95 %: {_range(share)}", "note": note}


def _range(share: Estimate) -> str:
    return f"{share.low:.1%} to {share.high:.1%}"


def _minute(moment: str) -> str:
    try:
        return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M}"
    except ValueError:
        return visible(moment)


def _verdict(both: browse.SideBySide) -> str:
    """Whether two models that saw the same labels differ by more than chance: as the gate `no-worse-than` has it."""
    shared = f"They share {len(both.rows):,} labels with a preference"
    d = both.difference
    if d is None or d.ours + d.theirs == 0:
        return f"{shared}, and are right about the same ones."
    better = "A" if d.is_better else "B" if d.is_worse else "neither"
    return (
        f"{shared}. Exactly one is right on {d.ours + d.theirs:,} of them: {better} is shown to be better. "
        f"A's accuracy less B's is {d.accuracy.value:+.1%} (95 %: {d.accuracy.low:+.1%} to {d.accuracy.high:+.1%}, "
        "the labels of one prompt taken together; McNemar's exact test, which takes them for independent: "
        f"p = {d.p_value:.2g})."
    )


# --- examples


def _kind(e: EvaluatedPair) -> str:
    if e.is_tie:
        return "tie"
    return {1.0: "agrees", 0.0: "disagrees"}.get(float(e.correct or 0.0), "undecided")


def _listed(at: int, e: EvaluatedPair) -> dict[str, Any]:
    kind = _kind(e)
    return {
        "at": at,
        "asked": question_excerpt(e.prompt, EXCERPT),
        "kind": kind,
        "word": KINDS[kind][0],
        "margin": _signed(e.margin),
    }


def _model(e: EvaluatedPair, reach: float, letter: str) -> dict[str, Any]:
    """A margin as a dot on a track from -reach to reach, with the range of two standard deviations; in percent."""

    def place(margin: float) -> float:
        return 50 + 50 * min(1.0, max(-1.0, margin / (reach or 1.0)))

    low, high = place(e.margin - 2 * e.uncertainty), place(e.margin + 2 * e.uncertainty)
    chosen, rejected = ("the first", "the second") if e.is_tie else ("the raters' choice", "the other")
    side = "chosen" if e.margin > 0 else "rejected" if e.margin < 0 else ""
    return {
        "letter": letter,
        "margin": _signed(e.margin),
        "uncertainty": f"{2 * e.uncertainty:.2f}",
        "of": f"probability of {chosen}",
        "probability": f"{e.probability:.1%}",
        "sides": f"the model prefers {chosen if e.margin > 0 else rejected}" if side else "the model prefers neither",
        "left": rejected,
        "right": chosen,
        "at": round(place(e.margin), 2),
        "low": round(low, 2),
        "width": round(high - low, 2),
        "side": side,
    }


def _example(e: EvaluatedPair, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    word, says = KINDS[_kind(e)]
    if len(models) == 2:
        says = " ".join(f"{m['letter']} {'agrees' if m['side'] == 'chosen' else 'does not agree'}." for m in models)
    titles = ("First", "Second") if e.is_tie else ("Raters' choice", "The other")
    votes = f"{e.votes:,} vote" + ("" if e.votes == 1 else "s")
    if e.votes > 1 and not e.is_tie:
        votes += ", all for this choice" if e.agreement == 1 else f", {e.agreement:.0%} for this choice, ties aside"
    said = [f"{STRENGTH_NAMES[e.strength]} better"] if e.strength else []
    answers = [
        {
            "kind": side,
            "title": title,
            "policy": visible(policy),
            "html": render_completion(chat),
            "preferred_by": [f"{m['letter'] or 'model'} prefers" for m in models if m["side"] == side],
        }
        for side, title, policy, chat in (
            ("chosen", titles[0], e.chosen_policy, e.chosen),
            ("rejected", titles[1], e.rejected_policy, e.rejected),
        )
    ]
    return {
        "e": {
            "kind": _kind(e),
            "word": word,
            "says": says,
            "votes": [votes, *said],
            "tags": [(visible(t), visible(str(v))) for t, v in e.tags.items()],
            "comparison_id": visible(e.comparison_id),
        },
        "models": models,
        "prompt": render_conversation(e.prompt),
        "answers": answers,
    }


def _signed(margin: float) -> str:
    return f"{margin:+.2f}".replace("-", "−")
