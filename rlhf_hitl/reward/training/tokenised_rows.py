"""The rows of an exported dataset as tokens and labels, ready for batches."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, Features, List, Value

from rlhf_hitl.reward.readability import LeftOut, Unreadable
from rlhf_hitl.reward.rendering import Conversation, Renderer, explain_unshown, measure_completion_lengths
from rlhf_hitl.reward.training.dataset_rows import read_ranking
from rlhf_hitl.reward.vision import VisionReader, close_text
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

MAX_ROWS_IN_MEMORY = 100_000  # more rows are kept in a file by `datasets`

_COLUMNS = Features(
    {
        "ids": List(List(Value("int64"))),
        "starts": List(Value("int64")),
        "ranks": List(List(Value("int64"))),
        "shares": List(Value("float64")),
        "weight": Value("float64"),
        "log_lengths": List(Value("float64")),
        "cut": Value("int64"),
        "unshown": List(Value("string")),
        "problem": Value("string"),
    }
)

_IMAGE_COLUMNS = {"texts": List(Value("string")), "images": List(List(Value("binary")))}

#: The columns of a row that make its label.
LABEL_COLUMNS = ("weight", "ranks", "shares", "log_lengths")


def tokenise_rows(
    data: Dataset, renderer: Renderer, processes: int | None = None, *, skip_bad: bool = False
) -> tuple[Dataset, LeftOut]:
    """Return each row's K conversations as tokens, with its label, and the rows that cannot be read.

    The columns are `ids` and `starts` (where the completion begins) of each conversation, `ranks` (V, K), `shares`
    (V,), `weight` and `log_lengths` (K,). Where the model reads images, `texts` and `images` are of each conversation
    the text and the images (PNG), from which the collator makes tokens and pixels.

    Args:
        skip_bad: leave out rows that the model cannot read or whose completions it cannot tell apart.

    Raises:
        BadInput: there are such rows and `skip_bad` is not set.
    """

    vision, columns = renderer.vision, _COLUMNS
    if vision is not None:
        columns = Features(columns | _IMAGE_COLUMNS)

    def tokenise(row: dict[str, Any]) -> dict[str, Any]:
        ranking = read_ranking(row)
        problem = renderer.find_problem(ranking.chats)
        if problem is None and vision is not None:
            problem = _find_problem_of_processor(ranking.chats, vision)
        if problem is not None:
            nothing = {name: [] for name in columns if name not in ("weight", "cut", "problem")}
            return nothing | {"weight": 0.0, "cut": 0, "problem": json.dumps(problem.as_list())}
        rendered = [renderer.render(chat) for chat in ranking.chats]
        return {
            "ids": [list(r.ids) for r in rendered],
            "starts": [r.start for r in rendered],
            "ranks": ranking.ranks,
            "shares": ranking.shares,
            "weight": ranking.weight,
            "log_lengths": np.log1p(measure_completion_lengths(ranking.chats)),
            "cut": sum(r.dropped + r.cut > 0 for r in rendered),
            "unshown": sorted({name for r in rendered for name in r.unshown}),
            "problem": "",
        } | ({} if vision is None else _list_texts_and_images(ranking.chats, renderer, vision))

    with PartialState().main_process_first():
        rows = data.map(
            tokenise,
            remove_columns=data.column_names,
            num_proc=processes,
            desc="rendering",
            features=columns,
            keep_in_memory=len(data) < MAX_ROWS_IN_MEMORY,  # otherwise `datasets` keeps them in its cache
        )
    if cut := sum(rows["cut"]):
        total = say_count(sum(map(len, rows["starts"])), "conversation")
        verb = "was" if cut == 1 else "were"
        log.warning("%d of %s %s cut to %d tokens", cut, total, verb, renderer.max_length)
    left_out = LeftOut("row", [Unreadable.of_list(json.loads(problem)) for problem in rows["problem"] if problem])
    left_out.refuse_or_warn(len(rows), skip_bad=skip_bad)
    if len(left_out):
        rows = rows.select([i for i, problem in enumerate(rows["problem"]) if not problem])
    if unshown := Counter(name for names in rows["unshown"] for name in names):
        log.warning("%s", explain_unshown(dict(unshown), len(rows), "row"))
    return rows.remove_columns(["cut", "unshown", "problem"]), left_out


def _list_texts_and_images(
    chats: Sequence[Conversation], renderer: Renderer, vision: VisionReader
) -> dict[str, list[Any]]:
    end = renderer.tokenizer.convert_ids_to_tokens(renderer.eos_id)
    sides = [vision.split_text(c.prompt, c.completion, c.tools) for c in chats]
    return {
        "texts": [asked + close_text(answered, end) for asked, answered in sides],
        "images": [vision.load_images(c.prompt, c.completion) for c in chats],
    }


def _find_problem_of_processor(chats: Sequence[Conversation], vision: VisionReader) -> Unreadable | None:
    """Return why a processor refuses conversations without images, such as one that quotes its token for an image."""
    try:
        for c in chats:
            vision.encode_conversation(c.prompt, c.completion, c.tools)
    except Unreadable as e:
        return e
    return None
