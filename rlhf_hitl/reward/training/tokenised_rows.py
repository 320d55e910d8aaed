"""The rows of an exported dataset as tokens and labels, ready for batches."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from rlhf_hitl.reward.rendering import Renderer, measure_completion_lengths
from rlhf_hitl.reward.training.dataset_rows import read_ranking
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

MAX_ROWS_IN_MEMORY = 100_000  # more rows are kept in a file by `datasets`

#: The columns of a row that make its label.
LABEL_COLUMNS = ("weight", "ranks", "shares", "log_lengths")


def tokenise_rows(data: Dataset, renderer: Renderer, processes: int | None = None) -> Dataset:
    """Return each row's K conversations as tokens, with its label.

    The columns are `ids` and `starts` (where the completion begins) of each conversation, `ranks` (V, K), `shares`
    (V,), `weight` and `log_lengths` (K,).
    """

    def tokenise(row: dict[str, Any]) -> dict[str, Any]:
        ranking = read_ranking(row)
        rendered = [renderer.render(chat) for chat in ranking.chats]
        return {
            "ids": [list(r.ids) for r in rendered],
            "starts": [r.start for r in rendered],
            "ranks": ranking.ranks,
            "shares": ranking.shares,
            "weight": ranking.weight,
            "log_lengths": np.log1p(measure_completion_lengths(ranking.chats)),
            "cut": sum(r.dropped + r.cut > 0 for r in rendered),
        }

    with PartialState().main_process_first():
        rows = data.map(
            tokenise,
            remove_columns=data.column_names,
            num_proc=processes,
            desc="rendering",
            keep_in_memory=len(data) < MAX_ROWS_IN_MEMORY,  # otherwise `datasets` keeps them in its cache
        )
    if cut := sum(rows["cut"]):
        total = say_count(sum(map(len, rows["starts"])), "conversation")
        verb = "was" if cut == 1 else "were"
        log.warning("%d of %s %s cut to %d tokens", cut, total, verb, renderer.max_length)
    return rows.remove_columns("cut")
