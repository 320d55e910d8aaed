"""LLMFAO: crowd votes in a CSV file, and the texts of the pairs in a JSONL file beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.readers.columns import read_answer, read_outcome, read_question, read_rater
from rlhf_hitl.formats.record import (
    ImportRecord,
    ImportVote,
    SourceRow,
    count_unread,
    make_field_error,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource

NAME = "llmfao"
ABOUT = "crowd-comparisons.csv with pairs-crowd.jsonl beside it, the folder of both, or the pairs alone (LLMFAO)"

VOTES, PAIRS, MODELS = "crowd-comparisons.csv", "pairs-crowd.jsonl", "models.jsonl"
COLUMNS = (
    "prompt", "model_x", "model_y", "winner", "worker", "text", "result_x", "result_y", "type", "slug", "golden",
    "reason",
)  # fmt: skip

ModelNames = Mapping[str, str]  # model id → its name
PairKey = tuple[str, str, str]  # prompt id, model id, model id


def matches(fields: Mapping[str, Any]) -> bool:
    keys = set(fields)
    return keys >= {"prompt", "model_x", "model_y"} and bool(keys & {"winner", "result_x"})


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    names = {str(r.fields.get("id")): read_text_field(r, "name") for r in _read_sibling(source, MODELS)}
    if "result_x" in source.first.fields:
        return lambda row: [_to_record(row, names)]
    if source.find_sibling(PAIRS) is None:
        raise BadInput(
            f"{source.name}: the votes alone",
            expected=f"{PAIRS} in the same folder",
            fix="put that file beside the votes",
        )
    texts: dict[PairKey, ImportRecord] = {}
    for row in _read_sibling(source, PAIRS):
        prompt, x, y = _read_pair_key(row)
        pair = _to_record(row, names)
        count_unread(row)
        texts[prompt, x, y] = pair
        texts[prompt, y, x] = ImportRecord(pair.prompt, pair.completions[::-1], pair.place, tags=pair.tags)

    def read_vote(row: SourceRow) -> list[ImportRecord]:
        pair = texts.get(_read_pair_key(row))
        if pair is None:
            raise make_field_error(row, "prompt", f"a pair of prompt and models that is in {PAIRS}")
        rater = read_rater(row, ("worker",)) if "worker" in row.fields else source.path.name.split(".")[0]
        vote = ImportVote.of_pair(read_outcome(row, "winner"), rater=rater)
        # The winner is "left" or "right": x was on the left.
        return [ImportRecord(pair.prompt, pair.completions, row.place, vote, pair.tags)]

    return read_vote


def _read_sibling(source: RowSource, name: str) -> list[SourceRow]:
    """Return the rows of a file beside the source; an empty list if there is none."""
    sibling = source.find_sibling(name)
    if sibling is None:
        return []
    sibling.unread, sibling.noted = source.unread, source.noted
    return list(sibling.rows())


def _read_pair_key(row: SourceRow) -> PairKey:
    for name in ("prompt", "model_x", "model_y"):
        if row.fields.get(name) in (None, ""):
            raise make_field_error(row, name, "an id")
    return str(row.fields["prompt"]), str(row.fields["model_x"]), str(row.fields["model_y"])


def _to_record(row: SourceRow, names: ModelNames) -> ImportRecord:
    _, *models = _read_pair_key(row)
    completions = tuple(
        read_answer(row, f"result_{side}", names.get(model, model)) for side, model in zip("xy", models)
    )
    tags = {k: row.take(k, "tag") for k in ("type", "slug") if isinstance(row.look(k), str)}
    vote = None
    if "golden" in row.fields:
        reason = str(row.fields.get("reason") or "")
        vote = ImportVote.of_pair(read_outcome(row, "golden"), rater="golden", rationale=reason)
    # The golden answers were on no screen.
    return ImportRecord(read_question(row, "text"), completions, row.place, vote, tags, order_known=vote is None)
