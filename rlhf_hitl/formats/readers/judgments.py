"""The table `judgments` of our own exports: each row is one judgment as it was given, and nothing is summed up.

Judgments of a comparison stand together. Those that were corrected, surplus ones and those of hidden repeats do not
count, are no votes here, and are counted. Raters are called by their ids: an export has no names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf_hitl.formats.image_columns import IMAGES, fill_images, read_images
from rlhf_hitl.formats.readers.columns import STRENGTH, read_judged_at, read_rater, read_rationale, read_strength
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_field_error,
    make_value_error,
    parse_raw_messages,
    read_choice_field,
    read_list_field,
    read_raw_messages,
    read_tags_field,
    read_text_field,
    read_tools_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Role, Verdict

NAME = "judgments"
ABOUT = (
    "the folder judgments of our export: {judgment_id, comparison_id, prompt, completions, verdict, ranking, "
    "order_shown, strength, scores, rationale, rater_id, role, simulated, created_at, surplus, supersedes, "
    "repeat_of, tags, tools, images}"
)
COLUMNS = (
    "judgment_id", "comparison_id", "prompt_id", "prompt", "completions", "verdict", "ranking", "order_shown",
    *STRENGTH, "scores", "rationale", "rater_id", "role", "simulated", "created_at", "surplus", "supersedes",
    "repeat_of", "tags", "tools", *IMAGES,
)  # fmt: skip
ROLES = {role.value: role.value for role in (Role.RATER, Role.JUDGE, Role.LEAD)}
VERDICTS = {verdict.value: verdict.value for verdict in Verdict}


def matches(fields: Mapping[str, Any]) -> bool:
    return {"judgment_id", "comparison_id", "verdict", "ranking", "order_shown", "completions"} <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _JudgmentReader()


@dataclass
class _JudgmentReader:
    """Keeps the judgments of one comparison until the next begins: a later one may correct an earlier one."""

    _comparison: str = ""
    _waiting: dict[str, tuple[SourceRow, ImportRecord]] = field(default_factory=dict)  # judgment id → its record

    def __call__(self, row: SourceRow) -> list[ImportRecord]:
        comparison, judgment = read_text_field(row, "comparison_id"), read_text_field(row, "judgment_id")
        corrected, repeat_of = _read_id(row, "supersedes"), _read_id(row, "repeat_of")
        surplus = _read_flag(row, "surplus")
        record = _read_judgment(row)
        done = [] if comparison == self._comparison else self.finish()
        self._comparison = comparison
        if corrected in self._waiting:
            earlier, _ = self._waiting.pop(corrected)
            earlier.noted["judgments that were corrected: the correction is the vote"] += 1
        if surplus or repeat_of:
            row.noted["surplus judgments, which do not count" if surplus else "judgments of hidden repeats"] += 1
            return done
        self._waiting[judgment] = row, record
        return done

    def finish(self) -> list[ImportRecord]:
        records = [record for _, record in self._waiting.values()]
        self._waiting = {}
        return records


def _read_judgment(row: SourceRow) -> ImportRecord:
    row.take("prompt_id", "id")
    verdict = Verdict(read_choice_field(row, "verdict", VERDICTS))
    raw_prompt = read_raw_messages(row, "prompt")
    if not raw_prompt:
        raise make_field_error(row, "prompt", "a list of messages")
    sides = [_enter_completion(row, i, side) for i, side in enumerate(read_list_field(row, "completions"))]
    ids = [read_text_field(side, "id") for side in sides]
    raw_sides = [read_raw_messages(side, "messages") or [] for side in sides]
    raw_prompt, *raw_sides = fill_images(row, read_images(row), raw_prompt, *raw_sides)
    completions = {
        id: ImportCompletion(parse_raw_messages(side, "messages", raw), read_text_field(side, "policy"))
        for id, side, raw in zip(ids, sides, raw_sides, strict=True)
    }
    if len(completions) < max(2, len(sides)):
        raise make_field_error(row, "completions", "two or more, each with an id of its own")
    shown = [str(id) for id in read_list_field(row, "order_shown")]
    if shown and (len(shown) != len(ids) or set(shown) != set(ids)):
        raise make_field_error(row, "order_shown", f"the ids {', '.join(ids)[:60]}, each once, or none")
    places = {id: i for i, id in enumerate(shown or ids)}
    ranking = _read_ranking(row, places)
    if (verdict is Verdict.RANKED) != (sum(map(len, ranking)) >= 2):
        raise make_field_error(row, "ranking", "two or more completions where the verdict is ranked, and else none")
    strength = read_strength(row) or None
    if strength is not None and [len(group) for group in ranking] != [1, 1]:
        raise make_field_error(row, "strength", "none, unless one of two completions is better")
    role = Role(read_choice_field(row, "role", ROLES)) if row.fields.get("role") else Role.RATER
    if role is Role.LEAD:
        row.noted["decisions of leads, read as votes"] += 1
    vote = ImportVote(
        verdict,
        ranking,
        read_rater(row, ("rater_id",)),
        strength,
        read_rationale(row, ("rationale",)),
        _read_flag(row, "simulated"),
        _read_scores(row, places),
        read_judged_at(row, ("created_at",)),
        role is Role.JUDGE,
    )
    return ImportRecord(
        parse_raw_messages(row, "prompt", raw_prompt),
        tuple(completions[id] for id in places),
        row.place,
        vote,
        read_tags_field(row),
        row.split,
        order_known=bool(shown),
        tools=read_tools_field(row),
    )


def _enter_completion(row: SourceRow, index: int, side: Any) -> SourceRow:
    if not isinstance(side, Mapping):
        raise make_value_error(row, f"completions[{index}]", side, "an object of id, policy and messages")
    return row.enter(side, "completion key", f"completions[{index}]")


def _read_ranking(row: SourceRow, places: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
    groups = read_list_field(row, "ranking")
    named = [id for group in groups for id in (group if isinstance(group, list) else [None])]
    if not all(isinstance(id, str) and id in places for id in named) or len(set(named)) < len(named) or [] in groups:
        raise make_field_error(row, "ranking", f"groups of the ids {', '.join(places)[:60]}, each at most once")
    return tuple(tuple(places[id] for id in group) for group in groups)


def _read_scores(row: SourceRow, places: Mapping[str, int]) -> dict[str, dict[int, int]]:
    """Return axis → place of a completion → score, of JSON {axis: {id of a completion: 1 to 5}}."""
    value = row.fields.get("scores") or "{}"
    try:
        scores = json.loads(value) if isinstance(value, str) else value
        read = {axis: {places[id]: n for id, n in of_axis.items()} for axis, of_axis in scores.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as e:
        raise make_field_error(row, "scores", "JSON of {axis: {id of a completion: 1 to 5}}") from e
    if not all(type(n) is int and 1 <= n <= 5 for of_axis in read.values() for n in of_axis.values()):
        raise make_field_error(row, "scores", "whole numbers of 1 to 5")
    return read


def _read_id(row: SourceRow, name: str) -> str | None:
    value = row.fields.get(name)
    if not isinstance(value, str | None):
        raise make_field_error(row, name, "an id, or null")
    return value


def _read_flag(row: SourceRow, name: str) -> bool:
    value = row.fields.get(name)
    if not isinstance(value, bool | None):
        raise make_field_error(row, name, "true or false")
    return bool(value)
