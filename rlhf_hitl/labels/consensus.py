"""The consensus: what is believed of a comparison, the reward model's word included.

It says when enough votes are in, which comparisons go to more raters or to a lead, and what the catalog shows as
settled. A label is another thing: it is what raters say, and it trains and measures reward models. One that held the
model's own word would teach the model itself, and measure it by itself. So nothing that makes labels imports this
module or reads what it reads (`store/witness.py`); `tests/labels/test_consensus.py` proves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np

from rlhf_hitl.labels.votes import VoteTable
from rlhf_hitl.store import Store
from rlhf_hitl.store.beliefs import believe
from rlhf_hitl.store.witness import read_witnesses
from rlhf_hitl.types.votes import LabelVote, gather_pair_votes

#: Comparisons whose witness is read at once.
COMPARISONS_AT_ONCE = 500


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


class WitnessOfVotes:
    """What the witness says of the pairs that are voted on, gathered while their votes are read.

    Only of comparisons of which it says anything is a word kept.
    """

    def __init__(self, store: Store):
        self._store = store
        self._words: dict[bytes, np.ndarray] = {}

    @property
    def heard(self) -> bool:
        """Whether it says anything of what was read."""
        return bool(self._words)

    def listen(self, votes: Iterable[tuple[str, list[LabelVote]]]) -> Iterator[tuple[str, list[LabelVote]]]:
        """Yield the votes on comparisons as they come."""
        remaining = iter(votes)
        while some := list(islice(remaining, COMPARISONS_AT_ONCE)):
            pairs = [(of, *pair) for of, of_comparison in some for pair in gather_pair_votes(of_comparison)]
            said = collect_witness(self._store, pairs)
            for of, rows in groupby(range(len(pairs)), key=lambda n: pairs[n][0]):
                words = said[list(rows)]
                if np.isfinite(words).any():
                    self._words[of.encode()] = words
            yield from some

    def align(self, table: VoteTable) -> np.ndarray:
        """Return what it says of each pair of a table of these votes, (pairs, 3); NaN where nothing."""
        aligned = np.full((table.pairs, 3), np.nan)
        for n, of in enumerate(table.comparison_ids.tolist()):
            if (words := self._words.get(of)) is not None:
                aligned[table.starts[n] : table.starts[n + 1]] = words
        return aligned


def collect_witness(store: Store, pairs: Sequence[tuple[str, str, str]]) -> np.ndarray:
    """Return (n, 3) what the witness says of pairs (comparison, first, second), as `fit_rater_model` takes it; NaN
    where there is none. Meant for some hundred comparisons."""
    said = read_witnesses(store, {of for of, _, _ in pairs})
    known = {(row.comparison_id, row.first, row.second): row.probabilities for row in said}
    nothing = (np.nan,) * 3
    return np.array([known.get(pair, nothing) for pair in pairs], float).reshape(-1, 3)


def _to_triple(p: np.ndarray) -> tuple[float, float, float]:
    first, tie, second = p.tolist()
    return first, tie, second
