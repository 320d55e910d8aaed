"""The consensus: what is believed of a comparison, the reward model's word included.

It says when enough votes are in, which comparisons go to more raters or to a lead, and what the catalog shows as
settled. A label is another thing: it is what raters say, and it trains and measures reward models. One that held the
model's own word would teach the model itself, and measure it by itself. So nothing that makes labels imports this
module or reads what it reads (`store/witness.py`); `tests/labels/test_consensus.py` proves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.store import Store
from rlhf_hitl.store.beliefs import believe
from rlhf_hitl.store.witness import read_witnesses


@dataclass(frozen=True)
class Consensus:
    """What is believed of a pair: by the votes alone, and with the witness.

    Both are the probabilities that a rater says first better, tie, second better.
    """

    comparison_id: str
    first: str
    second: str
    label: tuple[float, float, float]
    consensus: tuple[float, float, float]
    votes: int


def read_consensus(store: Store, comparison_ids: Sequence[str]) -> list[Consensus]:
    """Return what is believed of each pair of some comparisons now, by the newest fit of the rater model.

    Hidden repeats and gold have none, nor have comparisons that a lead has decided. Meant for up to some hundred.
    """
    found = []
    with store.read() as conn:
        for comparison_id in comparison_ids:
            belief = believe(conn, comparison_id)
            for pair in belief.pairs if belief is not None else ():
                label, consensus = _to_triple(pair.label), _to_triple(pair.consensus)
                found.append(Consensus(comparison_id, pair.first, pair.second, label, consensus, pair.votes))
    return found


def collect_witness(store: Store, pairs: Sequence[tuple[str, str, str]]) -> np.ndarray:
    """Return (n, 3) what the witness says of pairs (comparison, first, second), as `fit_rater_model` takes it; NaN
    where there is none."""
    known = {(row.comparison_id, row.first, row.second): row.probabilities for row in read_witnesses(store)}
    nothing = (np.nan,) * 3
    return np.array([known.get(pair, nothing) for pair in pairs], float).reshape(-1, 3)


def _to_triple(p: np.ndarray) -> tuple[float, float, float]:
    first, tie, second = p.tolist()
    return first, tie, second
