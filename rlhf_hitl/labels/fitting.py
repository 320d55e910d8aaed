"""Fit a label model to the votes of a store, and read the labels that it makes.

Trainers, exports and evaluations fit the model themselves, so that their labels follow from the votes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rlhf_hitl.labels.label_models import (
    BradleyTerry,
    DawidSkene,
    LabelModel,
    Majority,
    Raters,
    Shares,
    check_label_model,
)
from rlhf_hitl.labels.votes import LabelVote, VoteTable, make_vote_table, read_votes
from rlhf_hitl.stats.rater_model import fit_rater_model
from rlhf_hitl.store import Store
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, Label, Split


def fit_label_model(
    store: Store,
    name: str = DEFAULT_LABEL_MODEL,
    *,
    project: str | None = None,
    judges: bool = True,
    judges_measure: bool = False,
) -> LabelModel:
    """Return a label model, fitted to all votes of a store. `shares` and `majority` read nothing.

    Args:
        project: read the votes of this project only.
        judges: False leaves out the votes of models.
        judges_measure: judges' votes count in every split (`votes.read_votes`).

    Raises:
        BadInput: no such label model.
    """
    match check_label_model(name):
        case "shares":
            return Shares()
        case "majority":
            return Majority()
    return fit_to_votes(read_votes(store, project=project, judges=judges, judges_measure=judges_measure), name)


def fit_to_votes(
    votes: Iterable[tuple[str, list[LabelVote]]],
    name: str,
    *,
    witness: Callable[[VoteTable], np.ndarray] | None = None,
) -> LabelModel:
    """Return `raters`, `dawid-skene` or `bradley-terry`, fitted to the votes on comparisons.

    Args:
        witness: for whoever asks `raters` for its consensus, too: what a witness says of each pair of the table,
            (pairs, 3), see `fit_rater_model`. It changes no label.
    """
    if name == "bradley-terry":
        return BradleyTerry(votes)
    table = make_vote_table(votes)
    if name == "dawid-skene":
        return DawidSkene(table)
    said = None if witness is None else witness(table)
    fit = fit_rater_model(table.votes, table.pairs, len(table.rater_ids), known=table.known, witness=said)
    return Raters(fit.population, dict(zip(table.rater_ids, fit.rows.tolist())), table, fit.p, fit)


def read_labels(
    store: Store,
    *,
    split: Split | None = None,
    project: str | None = None,
    label_model: str | LabelModel = DEFAULT_LABEL_MODEL,
    judges: bool = True,
    judges_measure: bool = False,
) -> list[Label]:
    """Return the labels of every judged comparison, in order of comparison id.

    A label rests on the votes of `votes.read_votes`. Only the votes of one comparison are held in memory at a time, and
    the arrays of a fitted model.

    Args:
        label_model: its name, or the model itself: whoever reads several splits fits it once.
        judges: False leaves out the votes of models.
        judges_measure: judges' votes count in every split (`votes.read_votes`).
    """
    which: Any = {"judges": judges, "judges_measure": judges_measure}
    model = fit_label_model(store, label_model, **which) if isinstance(label_model, str) else label_model
    labels = [
        (comparison_id, model.make_labels(comparison_id, votes))
        for comparison_id, votes in read_votes(store, split=split, project=project, **which)
    ]
    labels.sort(key=lambda one: one[0])
    return [label for _, of_comparison in labels for label in of_comparison]


def describe_raters(label_model: LabelModel) -> dict[str, float | int] | None:
    """Return what a fit says of the raters as a whole: how many there are, and their reliability (1: the typical
    one's), as the median and the two deciles at the ends; None of a model that takes all raters as alike."""
    if not isinstance(label_model, Raters) or not label_model.raters:
        return None
    reliability = np.array([label_model.get_rater_weight(rater) for rater in label_model.raters])
    low, median, high = np.quantile(reliability, [0.1, 0.5, 0.9]).round(4).tolist()
    return {
        "raters": len(reliability),
        "median": median,
        "lowest_tenth": low,
        "highest_tenth": high,
        "random_share": round(float(label_model.population.random_share), 4),
    }
