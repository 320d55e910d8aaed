"""An exported dataset as full training reads it: rows that are checked, their labels, their tokens.

A pair is a ranking of two, so what a row says is read into one form, whether it is of pairs or of rankings.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.reward.model import lengths
from rlhf_hitl.reward.rendering import Conversation, Renderer, has_text
from rlhf_hitl.types import UNRANKED, hash_prompt_family, parse_messages

log = logging.getLogger(__name__)

#: What rows may be of, and the columns that make them so.
COLUMNS = {"pairs": ("prompt", "chosen", "rejected"), "rankings": ("prompt", "completions", "rankings")}


MANY = 100_000  # rows, whose tokens `datasets` keeps in a file


@dataclass(frozen=True)
class Pair:
    """Two conversations of one prompt, the shares (first better, tie, second better) of the votes, and how much they
    count."""

    first: Conversation
    second: Conversation
    shares: tuple[float, float, float]
    weight: float


@dataclass(frozen=True)
class Ranked:
    """K conversations of one prompt and what raters made of them: `ranks` (V, K), the rankings that differ, with their
    `shares` (V,) of the votes, how much they count, and how many there were."""

    chats: tuple[Conversation, ...]
    ranks: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]
    weight: float
    votes: int

    @property
    def family(self) -> str:
        return hash_prompt_family(self.chats[0][0])

    def pairs(self) -> Iterator[Pair]:
        """The pairs that at least one rater ranked, each with the weight of its votes (see `weigh_votes`)."""
        ranks, shares = np.array(self.ranks), np.array(self.shares)
        for i, j in combinations(range(len(self.chats)), 2):
            a, b = ranks[:, i], ranks[:, j]
            spoken = (a != UNRANKED) & (b != UNRANKED)
            of_both = shares[spoken].sum()
            if of_both > 0:
                won, tied, lost = (shares[spoken & said].sum() / of_both for said in (a < b, a == b, a > b))
                weight = weigh_votes(self.weight * of_both, len(self.chats))
                yield Pair(self.chats[i], self.chats[j], (float(won), float(tied), float(lost)), float(weight))


def load_rows(name: str, learn_from: str = "pairs") -> DatasetDict:
    """A DatasetDict with `train` and perhaps `calibration`, from an exported folder or the hub.

    Args:
        learn_from: of COLUMNS. An export has its rankings in a folder of their own.
    """
    if learn_from not in COLUMNS:
        raise BadInput(f"learn_from {learn_from!r}", expected=" or ".join(COLUMNS), fix="choose one of them")
    if not name:
        raise BadInput("dataset ''", expected="a dataset", fix="give --dataset a folder of `rlhf-hitl export`")
    try:
        if Path(name).is_dir():
            within = Path(name) / learn_from
            data = load_from_disk(str(within if within.is_dir() else name))
        else:
            data = load_dataset(name)
    except Exception as e:  # datasets raises many kinds for what is one thing to the user
        raise BadInput(f"dataset {name}", expected="an exported folder or a hub id", fix=str(e).splitlines()[0]) from e
    data = data if isinstance(data, DatasetDict) else DatasetDict({"train": data})
    if "train" not in data:
        raise BadInput(f"dataset {name} of {', '.join(map(str, data))}", expected="a split `train`", fix="name it so")
    for split in (used := [s for s in ("train", "calibration") if s in data]):
        if missing := set(COLUMNS[learn_from]) - set(data[split].column_names):
            raise BadInput(
                f"dataset {name}, {split} without {', '.join(sorted(missing))}",
                expected=f"rows with {', '.join(COLUMNS[learn_from])}, to learn from {learn_from}",
                fix="make it with `rlhf-hitl export`, or set learn_from to what it holds",
            )
    refuse_heldout(name, data)
    kept = DatasetDict({split: _usable(data[split], f"{name}: {split}") for split in used})
    if not len(kept["train"]):
        raise BadInput(
            f"dataset {name}: none of {len(data['train'])} train rows",
            expected="one that people labelled, whose completions all have text",
            fix="rate or import more comparisons",
        )
    return kept


def _usable(rows: Dataset, place: str) -> Dataset:
    """The rows that people labelled and whose completions all have text; a warning counts the others. A model that
    learns its own labels only grows surer of them, and of a completion without text there is no reward."""
    kept: list[int] = []
    by_model = without_text = 0
    for i, row in enumerate(rows):
        row: Any = row
        try:
            if row.get("label_source", "human") != "human":
                by_model += 1
            elif not all(has_text(completion) for _, completion in read(row).chats):
                without_text += 1
            else:
                kept.append(i)
        except BadInput as e:
            raise BadInput(f"{place} row {i}: {e.value}", expected=e.expected, fix=e.fix) from e
    for n, why in ((by_model, "a model labelled them"), (without_text, "of completions without text")):
        if n:
            log.warning("%d %s rows left out: %s", n, place.rpartition(" ")[2], why)
    return rows.select(kept)


def refuse_heldout(name: str, data: DatasetDict) -> None:
    """Raise BadInput where a prompt to train on shares its opening with one that is held out."""
    held = {
        _family(row)
        for split in ("heldout", "test")
        if split in data and "prompt" in data[split].column_names
        for row in data[split]
    }
    for i, row in enumerate(data["train"] if held else []):
        if _family(row) in held:
            raise BadInput(
                f"dataset {name}: train row {i}",
                expected="no prompt that opens like one of the held-out rows",
                fix="take the row out of train, or make the dataset with `rlhf-hitl export`",
            )


def _family(row: Any) -> str:
    return hash_prompt_family(parse_messages(row["prompt"]))


def read(row: Any) -> Ranked:
    """What a row says, of pairs or of rankings.

    Raises:
        BadInput: shares, a weight or a ranking that is none, or fewer than two completions.
    """
    prompt = parse_messages(row["prompt"])
    if "rankings" not in row:
        said = [(ranks, share) for ranks, share in zip(((0, 1), (0, 0), (1, 0)), shares(row)) if share > 0]
        sides = ((prompt, parse_messages(row["chosen"])), (prompt, parse_messages(row["rejected"])))
        return Ranked(sides, *zip(*said), weight(row), _votes(row))  # type: ignore[arg-type]
    completions, rankings = row["completions"], row["rankings"]
    if len(completions or ()) < 2:
        raise BadInput(
            f"a ranking of {len(completions or ())} completions",
            expected="2 or more",
            fix="leave the row out, or make the dataset with `rlhf-hitl export`",
        )
    # Sorted, for the same votes to be the same label in whatever order they came.
    votes = Counter(sorted(_ranks(ranking, len(completions)) for ranking in rankings or ()))
    if not votes:
        raise BadInput("rankings []", expected="one ranking or more", fix="leave the row out")
    spoken_of = [k for k in range(len(completions)) if any(ranks[k] != UNRANKED for ranks in votes)]
    return Ranked(
        tuple((prompt, parse_messages(completions[k])) for k in spoken_of),
        tuple(tuple(ranks[k] for k in spoken_of) for ranks in votes),
        tuple(n / votes.total() for n in votes.values()),
        weight(row, votes.total()),
        votes.total(),
    )


def _ranks(ranking: Any, n: int) -> tuple[int, ...]:
    """A ranking of n completions, checked."""
    ranks = tuple(ranking) if isinstance(ranking, list) else ()
    ranked = [rank for rank in ranks if rank != UNRANKED]
    whole = len(ranks) == n and all(type(rank) is int for rank in ranks)
    if not whole or len(ranked) < 2 or set(ranked) != set(range(len(set(ranked)))):
        raise BadInput(
            f"ranking {str(ranking)[:80]} of {n} completions",
            expected=f"{n} ranks, two or more from 0 for the best up without a gap, {UNRANKED} for the rest",
            fix="correct it, or make the dataset with `rlhf-hitl export`",
        )
    return ranks


def shares(row: Any) -> tuple[float, float, float]:
    """(chosen better, tie, rejected better) among the votes: the exported shares, else a vote for chosen.

    Raises:
        BadInput: shares that are not probabilities.
    """
    if "p_chosen" not in row:
        return 1.0, 0.0, 0.0
    chosen, tie = row["p_chosen"], row.get("p_tie", 0.0)
    numbers = all(isinstance(share, float | int) for share in (chosen, tie))
    rejected = row.get("p_rejected", 1 - chosen - tie) if numbers else None
    if not (
        isinstance(rejected, float | int)
        and min(chosen, tie, rejected) > -1e-6
        and abs(chosen + tie + rejected - 1) < 1e-6
    ):
        raise BadInput(
            f"p_chosen {chosen}, p_tie {tie}, p_rejected {rejected}",
            expected="three shares that sum to 1",
            fix="make the dataset with `rlhf-hitl export`, or leave the columns out",
        )
    return chosen, tie, rejected


def weight(row: Any, otherwise: float = 1.0) -> float:
    """How much a label counts: the column `weight`, else what is given here.

    Raises:
        BadInput: not a finite number, 0 or more.
    """
    value = row.get("weight", otherwise)
    if not (isinstance(value, float | int) and math.isfinite(value) and value >= 0):
        raise BadInput(f"weight {value}", expected="a number, 0 or more", fix="correct or leave out the column")
    return float(value)


def data_hash(rows: Sequence[Ranked]) -> str:
    """Names training data: the same texts with the same labels give the same hash, in any order."""
    digests = sorted(hashlib.sha256(repr(row).encode()).digest() for row in rows)
    return "sha256:" + hashlib.sha256(b"".join(digests)).hexdigest()


def _votes(row: Any) -> int:
    """How many votes a label of a pair has: the column `votes`, else 1."""
    n = row.get("votes", 1)
    if not (isinstance(n, int) and n >= 0):
        raise BadInput(f"votes {n!r}", expected="a whole number, 0 or more", fix="correct or leave out the column")
    return n


def tokenised(data: Dataset, renderer: Renderer, processes: int | None = None) -> Dataset:
    """A row's K conversations as tokens, and its label: `ids` and `starts` (where the completion begins) of each,
    `ranks` (V, K), `shares` (V,), `weight` and `log_lengths` (K,)."""

    def render(row: dict[str, Any]) -> dict[str, Any]:
        said = read(row)
        rendered = [renderer.render(chat) for chat in said.chats]
        return {
            "ids": [list(r.ids) for r in rendered],
            "starts": [r.start for r in rendered],
            "ranks": said.ranks,
            "shares": said.shares,
            "weight": said.weight,
            "log_lengths": np.log1p(lengths(said.chats)),
            "cut": sum(r.dropped + r.cut > 0 for r in rendered),
        }

    with PartialState().main_process_first():
        out = data.map(
            render,
            remove_columns=data.column_names,
            num_proc=processes,
            desc="rendering",
            keep_in_memory=len(data) < MANY,  # else beside the data, which stays as it was where it can
        )
    if cut := sum(out["cut"]):
        every = sum(map(len, out["starts"]))
        log.warning("%d of %d conversations were cut to %d tokens", cut, every, renderer.max_length)
    return out.remove_columns("cut")
