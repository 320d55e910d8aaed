"""What ratings, strengths and margins beside `chosen` and `rejected` say of the vote. `docs/importing.md` explains it.

The choice stands: a rating never turns it round. Equal ratings make a tie; a rating against the choice is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_hitl.formats.columns import read_number, read_strength
from rlhf_hitl.formats.record import ImportRating, SourceRow, is_nothing, make_field_error

#: The names of ratings of both sides, each with the scale that its sets document: Argilla's UltraFeedback and
#: preference mixes rate from 1 to 5, Hugging Face's binarized UltraFeedback scores from 1 to 10.
RATINGS: tuple[tuple[str, tuple[float, float] | None], ...] = (
    ("{side}-rating", (1, 5)),
    ("{side}_rating", (1, 5)),
    ("rating_{side}", (1, 5)),
    ("score_{side}", (1, 10)),
    ("{side}_score", None),
    ("{side}-score", None),
    ("{side}_avg_rating", (1, 5)),
    ("{side}_reward", None),
    ("reward_{side}", None),
)
MARGIN = "margin"
SIDES = ("chosen", "rejected")
_RATED = tuple((name.format(side="chosen"), name.format(side="rejected"), scale) for name, scale in RATINGS)
COLUMNS = (*(name for *columns, _ in _RATED for name in columns), MARGIN)
AXIS = "overall"


@dataclass(frozen=True)
class PairOpinion:
    """The outcome (`first` or `tie`), the strength, and the ratings of a chosen and a rejected completion."""

    outcome: str = "first"
    strength: int | None = None
    ratings: tuple[ImportRating, ...] = ()


SILENT = PairOpinion()


def read_opinion(row: SourceRow, rater: str) -> PairOpinion:
    """Return what a row's columns say of its choice."""
    given = read_strength(row)
    fields = row.fields
    for *columns, scale in _RATED:
        if columns[0] in fields and not any(is_nothing(row.look(column)) for column in columns):
            chosen, rejected = (_read_rating(row, column) for column in columns)
            return _judge_ratings(row, rater, chosen, rejected, scale, given)
    if given is not None:
        return PairOpinion("tie" if given == 0 else "first", given or None)
    if MARGIN in fields and not is_nothing(row.look(MARGIN)):
        return _judge_margin(row)
    return SILENT


def _read_rating(row: SourceRow, column: str) -> float:
    value = read_number(row.take(column, "rating"))
    if value is None:
        raise make_field_error(row, column, "a number", f"correct it, or leave the column out with --map {column}=")
    return value


def _judge_ratings(
    row: SourceRow, rater: str, chosen: float, rejected: float, scale: tuple[float, float] | None, given: int | None
) -> PairOpinion:
    if scale is not None and not all(scale[0] <= value <= scale[1] for value in (chosen, rejected)):
        row.noted[f"ratings outside {scale[0]:g} to {scale[1]:g}, taken without a scale"] += 1
        scale = None
    ends = scale or (None, None)
    ratings = tuple(ImportRating(i, AXIS, value, *ends, rater=rater) for i, value in enumerate((chosen, rejected)))
    if given is not None:
        return PairOpinion("tie" if given == 0 else "first", given or None, ratings)
    if chosen == rejected:
        row.noted["ties, for both ratings are equal"] += 1
        return PairOpinion("tie", None, ratings)
    if chosen < rejected:
        row.noted["rating contradicts the choice, which is kept"] += 1
        return PairOpinion("first", None, ratings)
    if scale is None:
        return PairOpinion("first", None, ratings)
    row.noted[f"strengths from ratings, scale {scale[0]:g} to {scale[1]:g}"] += 1
    return PairOpinion("first", find_strength(chosen - rejected, scale[1] - scale[0]), ratings)


def find_strength(difference: float, span: float) -> int:
    """Return the strength of a difference of ratings: 1, 2 or 3 by the third of the scale's span that it is in."""
    return 1 if 3 * difference <= span else 2 if 3 * difference <= 2 * span else 3


def _judge_margin(row: SourceRow) -> PairOpinion:
    """A margin of 0 is a tie: no difference between a judge's scores and, in Llama 2's four levels, "unsure".

    Of another margin there is no scale, so it says nothing about the strength.
    """
    margin = read_number(row.look(MARGIN))
    if margin is None:
        raise make_field_error(row, MARGIN, "a number", f"correct it, or leave the column out with --map {MARGIN}=")
    if margin == 0:
        row.take(MARGIN, "a tie, where it is 0")
        row.noted["ties, for the margin is 0"] += 1
        return PairOpinion("tie")
    if margin < 0:
        row.take(MARGIN, "a tie, where it is 0")
        row.noted["margin contradicts the choice, which is kept"] += 1
    return PairOpinion()  # the column counts as unread: how large the margin is has no place in a vote
