"""The votes that a head has learnt, kept beside it so that an update adds only what is new."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.reward.labelled_pairs import LabelledPair, count_given_votes, count_votes
from rlhf_hitl.wording import say_count

LEARNT_VOTES_FILE = "learnt_votes.json"


def save_learnt_votes(folder: Path, pairs: Sequence[LabelledPair]) -> None:
    """Write the votes (9,) of each pair beside the model's card: what they were worth, and as they were given."""
    names = [*map(make_pair_id, pairs)]
    votes = {
        kind: dict(zip(names, count(pairs).tolist()))
        for kind, count in (("learnt", count_votes), ("given", count_given_votes))
    }
    write_text_atomically(folder / LEARNT_VOTES_FILE, json.dumps(votes))


def load_learnt_votes(folder: Path, model_name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the votes (9,) that a saved model has learnt, by pair id, and the same as they were given.

    Args:
        model_name: what people call it.

    Raises:
        BadInput: it keeps no record of them.
    """
    path = folder / LEARNT_VOTES_FILE
    if not path.is_file():
        raise BadInput(
            f"reward model {model_name}",
            expected=f"a model with {LEARNT_VOTES_FILE} beside it, as `train-reward --backend head` leaves",
            fix="train again without --update",
        )
    kept = json.loads(path.read_text())
    if "learnt" not in kept:  # of an earlier version, to which all votes were worth the same
        kept = {"learnt": kept, "given": kept}
    learnt, given = ({key: np.array(v) for key, v in kept[kind].items()} for kind in ("learnt", "given"))
    return learnt, given


def refuse_corrected_votes(
    learnt: Mapping[str, np.ndarray], current: Mapping[str, np.ndarray], model_name: str
) -> None:
    """Raise BadInput where votes that a model has learnt are gone: a head cannot unlearn them."""
    lost = [key for key, votes in learnt.items() if (current.get(key, np.zeros(9)) < votes - 1e-9).any()]
    if lost:
        labels, first = say_count(len(lost), "label"), lost[0].split()[0]
        raise BadInput(
            f"{labels} that reward model {model_name} has learnt, the first of comparison {first}",
            expected="votes that only grew",
            fix="train again without --update: raters have corrected theirs since",
        )


def make_pair_id(pair: LabelledPair) -> str:
    """Return the id of a pair: the ids of its comparison and of its two completions."""
    return f"{pair.comparison.id} {pair.label.first} {pair.label.second}"
