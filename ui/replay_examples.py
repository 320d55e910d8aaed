"""The examples of the replay page as HTML: the list of those found, one example, and how its two answers differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_hitl.errors import NotFound
from rlhf_hitl.reward.evaluation.browse import Order, PairQuery, Show, find_rows
from rlhf_hitl.reward.evaluation.pair_index import (
    EvaluationIndex,
    find_row_by_key,
    load_index,
    make_pair_key,
    read_rows,
)
from rlhf_hitl.reward.evaluation.slices import STRENGTH_NAMES
from rlhf_hitl.reward.evaluation.storage import find_evaluation_folder
from rlhf_hitl.reward.evaluation_record import EvaluatedPair
from rlhf_hitl.ui.conversation import make_question_excerpt, read_completion, render_card
from rlhf_hitl.ui.markdown import make_visible
from rlhf_hitl.ui.message_blocks import ImageAddress
from rlhf_hitl.ui.pages import load_templates
from rlhf_hitl.ui.rendering import render_difference
from rlhf_hitl.wording import say_count

PAGE_SIZE = 20  # examples listed at a time
LIST_EXCERPT_LENGTH = 110  # characters

#: Whether the model agrees with the raters → the word for it in the list, and the sentence above the example.
AGREEMENT_TEXTS = {
    "agrees": ("agrees", "The model sides with the raters."),
    "disagrees": ("disagrees", "The model prefers the answer the raters did not."),
    "undecided": ("undecided", "The model gives both answers the same reward."),
    "tie": ("tie", "Raters called these answers equally good."),
}


@dataclass(frozen=True)
class ExampleRequest:
    """Which examples of an evaluation to list, and which of them to show.

    Attributes:
        of: the name of the evaluation.
        beside: the name of a second one to compare with.
        tag: a tag the prompt must have, with this `value`.
        words: words that must occur in the prompt or an answer.
        at: the place, from 0, of the example to show among those found.
        example: the key of the example to show instead, which need not be among those found.
    """

    of: str
    beside: str | None
    show: Show
    order: Order
    tag: str | None
    value: str
    words: str
    at: int
    example: str | None


def show_example(workspace: Path, request: ExampleRequest, image_address: ImageAddress) -> dict[str, Any]:
    """Return one example as HTML, and the page of the list that it is on.

    `at` is its place among the `total` found; None for an example asked for by its key that is not among them.
    """
    index = load_index(find_evaluation_folder(workspace, request.of))
    other = None if request.beside is None else load_index(find_evaluation_folder(workspace, request.beside))
    tag = None if request.tag is None else (request.tag, request.value)
    rows = find_rows(index, PairQuery(request.show, tag, request.order, request.words), other)
    at, row = _locate(index, rows, request)
    first = (at or 0) // PAGE_SIZE * PAGE_SIZE
    page_pairs = read_rows(index, rows[first : first + PAGE_SIZE])
    items = [_list_item(first + i, pair) for i, pair in enumerate(page_pairs)]
    html = load_templates().get_template("replay/example_list.html").render(examples=items)
    answer = {"total": len(rows), "at": at, "first": first, "list": html}
    if row is None:
        return answer | {"example": None, "html": ""}
    pair = read_rows(index, [row])[0] if at is None else page_pairs[at - first]
    example = _describe_example(pair, _describe_margins(index, row, pair, other), image_address)
    html = load_templates().get_template("replay/example.html").render(example)
    return answer | {"example": make_pair_key(index, row, pair), "html": html}


def mark_difference(workspace: Path, name: str, key: str) -> tuple[str, str]:
    """Return both answers of an example as HTML, in each the words marked that the other does not have."""
    index = load_index(find_evaluation_folder(workspace, name))
    pair = read_rows(index, [_find_row(index, key)])[0]
    return render_difference(read_completion(pair.chosen), read_completion(pair.rejected))


def _locate(index: EvaluationIndex, rows: np.ndarray, request: ExampleRequest) -> tuple[int | None, int | None]:
    """Return the place among the rows found and the row of the example to show, None for what it does not have."""
    if request.example is not None:
        row = _find_row(index, request.example)
        places = np.flatnonzero(rows == row)
        return (int(places[0]) if len(places) else None), row
    if not len(rows):
        return None, None
    at = min(request.at, len(rows) - 1)
    return at, int(rows[at])


def _find_row(index: EvaluationIndex, key: str) -> int:
    row = find_row_by_key(index, key)
    if row is None:
        raise NotFound(f"example {key[:80]!r}", expected="one of this evaluation", fix="choose one from its list")
    return row


def _classify_agreement(pair: EvaluatedPair) -> str:
    if pair.is_tie:
        return "tie"
    return {1.0: "agrees", 0.0: "disagrees"}.get(float(pair.correct or 0.0), "undecided")


def _list_item(at: int, pair: EvaluatedPair) -> dict[str, Any]:
    agreement = _classify_agreement(pair)
    return {
        "at": at,
        "question": make_question_excerpt(pair.prompt, LIST_EXCERPT_LENGTH),
        "agreement": agreement,
        "word": AGREEMENT_TEXTS[agreement][0],
        "margin": _format_margin(pair.margin),
    }


def _describe_margins(
    index: EvaluationIndex, row: int, pair: EvaluatedPair, other: EvaluationIndex | None
) -> list[dict[str, Any]]:
    """Describe the model's margin, and that of the other evaluation's model if it has a label of the same pair."""
    other_rows = [] if other is None else np.flatnonzero(other.label == index.label[row])
    if other is None or not len(other_rows):
        return [_describe_margin(pair, index.reach, "" if other is None else "A")]
    reach = max(index.reach, other.reach)
    other_pair = read_rows(other, other_rows[:1])[0]
    return [_describe_margin(pair, reach, "A"), _describe_margin(other_pair, reach, "B")]


def _describe_margin(pair: EvaluatedPair, reach: float, letter: str) -> dict[str, Any]:
    """Describe a margin, in percent of a track from -reach to reach, with a range of two standard deviations."""

    def to_percent(margin: float) -> float:
        return 50 + 50 * min(1.0, max(-1.0, margin / (reach or 1.0)))

    low, high = (to_percent(pair.margin + sign * 2 * pair.uncertainty) for sign in (-1, 1))
    chosen, rejected = ("the first", "the second") if pair.is_tie else ("the raters' choice", "the other")
    side = "chosen" if pair.margin > 0 else "rejected" if pair.margin < 0 else ""
    preferred = {"chosen": chosen, "rejected": rejected, "": "neither"}[side]
    return {
        "letter": letter,
        "margin": _format_margin(pair.margin),
        "uncertainty": f"{2 * pair.uncertainty:.2f}",
        "of": f"probability of {chosen}",
        "probability": f"{pair.probability:.1%}",
        "preference": f"the model prefers {preferred}",
        "left": rejected,
        "right": chosen,
        "at": round(to_percent(pair.margin), 2),
        "low": round(low, 2),
        "width": round(high - low, 2),
        "side": side,
    }


def _describe_example(
    pair: EvaluatedPair, margins: Sequence[dict[str, Any]], image_address: ImageAddress
) -> dict[str, Any]:
    agreement = _classify_agreement(pair)
    word, sentence = AGREEMENT_TEXTS[agreement]
    if len(margins) == 2:
        sentence = " ".join(
            f"{m['letter']} {'agrees' if m['side'] == 'chosen' else 'does not agree'}." for m in margins
        )
    titles = ("First", "Second") if pair.is_tie else ("Raters' choice", "The other")
    sides = (
        ("chosen", titles[0], pair.chosen_policy, pair.chosen),
        ("rejected", titles[1], pair.rejected_policy, pair.rejected),
    )
    card = render_card(pair.prompt, [messages for _, _, _, messages in sides], image_address, tools=pair.tools)
    return {
        "agreement": agreement,
        "word": word,
        "sentence": sentence,
        "votes": _describe_votes(pair),
        "tags": [(make_visible(tag), make_visible(str(value))) for tag, value in pair.tags.items()],
        "comparison_id": make_visible(pair.comparison_id),
        "margins": margins,
        "prompt": card.prompt,
        "look_alike": bool(card.alike),
        "answers": [
            {
                "side": side,
                "title": title,
                "policy": make_visible(policy),
                "html": html,
                "preferred_by": [f"{m['letter'] or 'model'} prefers" for m in margins if m["side"] == side],
            }
            for (side, title, policy, _), html in zip(sides, card.completions)
        ],
    }


def _describe_votes(pair: EvaluatedPair) -> list[str]:
    """Describe how many raters voted, how far they agreed, and how strongly they prefer their choice."""
    votes = say_count(pair.votes, "vote")
    if pair.votes > 1 and not pair.is_tie:
        everybody, share = ", all for this choice", f", {pair.agreement:.0%} for this choice, ties aside"
        votes += everybody if pair.agreement == 1 else share
    return [votes, f"{STRENGTH_NAMES[pair.strength]} better"] if pair.strength else [votes]


def _format_margin(margin: float) -> str:
    return f"{margin:+.2f}".replace("-", "−")
