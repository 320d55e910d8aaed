"""Keep the fit of a label model in the store, for pages and the queue, which cannot wait for one.

Whoever trains, exports or evaluates never reads it. This is where the votes measure the witness, too
(`consensus.py`): how far its word counts is kept with the fit, and the consensus beside the labels, which it does not
change.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np

from rlhf_hitl.labels.consensus import WitnessOfVotes
from rlhf_hitl.labels.fitting import describe_raters, fit_label_model, fit_to_votes
from rlhf_hitl.labels.label_models import LabelModel, Probabilities, Raters, Shares, check_label_model
from rlhf_hitl.labels.votes import read_votes
from rlhf_hitl.stats.rater_model import RATER_COLUMNS, RaterPopulation
from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_store_revision
from rlhf_hitl.store.label_fits import (
    LabelFit,
    insert_label_fit,
    load_newest_fit,
    load_rater_estimates,
    make_label_row,
    save_labels,
)
from rlhf_hitl.store.queue import apply_overlap_rules
from rlhf_hitl.store.witness import find_newest_witness
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, Label, utc_now
from rlhf_hitl.types.votes import LabelVote

_ESTIMATED = ("reliability", "position_bias", "tie_width", "strength_scale")


def fit_and_keep_labels(store: Store, label_model: str) -> LabelFit:
    """Fit a label model to all votes of a store, and keep it with its labels, in place of an earlier one.

    Votes are worth what the fit says from now on: the overlap rules of projects are applied anew.

    Raises:
        BadInput: no such label model.
    """
    revision = read_store_revision(store)
    witness = WitnessOfVotes(store)
    if check_label_model(label_model) == "raters":
        model = fit_to_votes(witness.listen(read_votes(store)), label_model, witness=witness.align)
    else:
        model = fit_label_model(store, label_model)
    fit_id, tally = f"fit_{uuid.uuid4().hex[:24]}", Counter[str]()
    simulated, now = False, utc_now()

    def make_rows() -> Iterator[dict[str, Any]]:
        nonlocal simulated
        plain = Shares()
        for comparison_id, votes in read_votes(store):
            labels = model.make_labels(comparison_id, votes)
            for label, share in zip(labels, plain.make_labels(comparison_id, votes)):
                simulated = simulated or label.simulated
                tally["labels"] += 1
                tally["votes"] += label.votes
                tally["adjudicated"] += label.adjudicated
                tally["decided"] += label.preferred is not None
                tally["changed"] += label.preferred != share.preferred
                tally["turned"] += None not in (label.preferred, share.preferred) and label.preferred != share.preferred
            yield from _make_rows(labels, _find_consensus(model, comparison_id, votes), fit_id, now)

    save_labels(store, make_rows())
    names = ("labels", "votes", "adjudicated", "decided", "changed", "turned")
    fit = LabelFit(
        id=fit_id,
        label_model=label_model,
        reward_model_id=find_newest_witness(store) if witness.heard else None,
        revision=revision,
        parameters=_make_parameters(model),
        figures={name: tally[name] for name in names} | {"reliability": describe_raters(model)},
        simulated=simulated,
        created_at=now,
    )
    insert_label_fit(store, fit, list(_make_estimates(model)))
    if label_model == "raters":  # which the queue goes by
        apply_overlap_rules(store)
    return fit


def _find_consensus(model: LabelModel, comparison_id: str, votes: Sequence[LabelVote]) -> list[Probabilities] | None:
    """Return the consensus of each pair; None where it is the label."""
    if not isinstance(model, Raters) or model.population.witness == RaterPopulation().witness:
        return None
    return model.find_consensus(comparison_id, votes)


def _make_rows(
    labels: Sequence[Label], consensus: Sequence[Probabilities] | None, fit_id: str, now: datetime
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the labels of one comparison."""
    state = "adjudicated" if any(label.adjudicated for label in labels) else "open"
    for n, label in enumerate(labels):
        believed = label.probabilities if consensus is None or label.adjudicated else consensus[n]
        pair = label.comparison_id, label.first, label.second
        counted = {"votes": label.votes, "weight": label.weight}
        yield make_label_row(pair, label.probabilities, believed, **counted, state=state, fit_id=fit_id, now=now)


def load_kept_label_model(store: Store, label_model: str = DEFAULT_LABEL_MODEL) -> LabelModel:
    """Return a label model as it was last kept, for figures that cannot wait for a fit; plain shares where none is
    kept, or it knows no raters.

    It knows the raters and not the votes that it was fitted to.
    """
    with store.read() as conn:
        fit = load_newest_fit(conn, "raters") if label_model == "raters" else None
        rows = [] if fit is None else load_rater_estimates(conn, fit.id)
    if fit is None:
        return Shares()
    return Raters(
        RaterPopulation.from_json(fit.parameters), {row["rater_id"]: [row[c] for c in RATER_COLUMNS] for row in rows}
    )


def _make_parameters(model: LabelModel) -> dict[str, Any]:
    if not isinstance(model, Raters):
        return {}
    return {name: np.asarray(value).tolist() for name, value in asdict(model.population).items()}


def _make_estimates(model: LabelModel) -> Iterator[dict[str, Any]]:
    """Yield a row of `rater_estimates` for each rater."""
    if not isinstance(model, Raters) or model.fit is None or model.table is None:
        return
    votes = np.bincount(model.table.votes.rater, minlength=len(model.table.rater_ids))
    bounded = (f"{name}{end}" for name in _ESTIMATED for end in ("", "_low", "_high"))
    names = (*bounded, "random", "looking_reliability", "reliability_spread")
    columns = {name: getattr(model.fit, name).tolist() for name in names}
    for n, rater_id in enumerate(model.table.rater_ids):
        yield {"rater_id": rater_id, "votes": int(votes[n])} | {name: columns[name][n] for name in names}
