"""Label Studio: exports of pairs (`<Pairwise>`) and rankings (`<Ranker>`) as JSON, JSON-MIN or CSV.

An export has no labelling configuration. Left and right are what the pair is put on, where its `to_name` names both
("answer2,answer1"). Else they are the two columns of one name that end in 1 and 2, a and b, or left and right, which
is noted. A Ranker without buckets gives an order; buckets that end in numbers (rank_1, rank_2) are places, so that two
answers in one bucket are equal. A tie of a pair is a choice beside it ("tie", "both bad").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.readers.columns import parse_moment
from rlhf_hitl.formats.readers.questions import (
    JUDGE,
    SIMULATED,
    USUAL_COLUMNS,
    Choice,
    add_strength,
    find_answer,
    find_answers,
    is_number,
    is_reason,
    join_reasons,
    read_answer,
    read_choice,
    read_policies,
    read_prompt,
    read_strength_label,
    read_tags,
    split_axis,
)
from rlhf_hitl.formats.record import (
    UNNAMED,
    ImportCompletion,
    ImportRating,
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_field_error,
    make_value_error,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Messages, Verdict

NAME = "label_studio"
ABOUT = (
    "Label Studio exports with Pairwise or Ranker: JSON {data, annotations}, or JSON-MIN and CSV "
    "{annotation_id, annotator, lead_time}"
)

#: The columns of JSON-MIN and CSV that are not of the task or the labelling configuration.
MIN_COLUMNS = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
#: In JSON-MIN and CSV a column may be of the task or an answer of the rater: these are of the task.
TAG_COLUMNS = ("language", "lang", "domain", "category", "source", "dataset", "subject", "task", "subset")
COLUMNS = ("data", "annotations", *MIN_COLUMNS, *TAG_COLUMNS, *USUAL_COLUMNS)
ITEM_TEXTS = ("body", "html", "text", "title")
ITEM_POLICIES = ("policy", "model")
SAID = "what raters said"
_VALUE_KEYS = {"selected", "ranker", "rating", "choices", "text"}
_NUMBERED = re.compile(r".*?(\d{1,9})")
_SIDES = {"left": 0, "right": 1}


def matches(fields: Mapping[str, Any]) -> bool:
    if isinstance(fields.get("data"), Mapping) and isinstance(fields.get("annotations"), list):
        return True
    return {"annotator", "annotation_id", "lead_time"} <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


@dataclass(frozen=True)
class _Result:
    """What one control of the configuration says: `about` is the name of what it is put on, where the file says it."""

    control: str
    value: Mapping[str, Any]
    about: str = ""


@dataclass(frozen=True)
class _Annotation:
    """What one person said of one task."""

    rater: str
    results: tuple[_Result, ...]
    created_at: Any
    is_skipped: bool = False


@dataclass(frozen=True)
class _Shown:
    """The answers of a task: their names in the file, and the completions."""

    names: Sequence[str]
    completions: tuple[ImportCompletion, ...]


@dataclass(frozen=True)
class _Said:
    """What one person said of the answers. `order_known`: whether the file's order of them is that on the screen."""

    vote: ImportVote | None = None
    ratings: tuple[ImportRating, ...] = ()
    order_known: bool = False


def _read_row(row: SourceRow) -> list[ImportRecord]:
    return _read_task(row) if "annotations" in row.fields else _read_min(row)


def _read_task(row: SourceRow) -> list[ImportRecord]:
    """Return a record for each annotation of a task of the JSON export."""
    data, annotations = row.fields.get("data"), row.take("annotations", SAID)
    if not isinstance(data, Mapping):
        raise make_field_error(row, "data", "an object with the task's data")
    if not isinstance(annotations, list) or not all(isinstance(one, Mapping) for one in annotations):
        raise make_field_error(row, "annotations", "a list of annotations")
    task = row.enter(data, "data key")
    shown, prompt = _read_data(task, list(task.fields))
    tags = read_tags(task, task.fields)
    read = [_read_annotation(row, _take_annotation(row.enter(one, "annotation key")), shown) for one in annotations]
    return _make_records(row, prompt, shown, tags, read)


def _read_min(row: SourceRow) -> list[ImportRecord]:
    """Return the record of a row of JSON-MIN or CSV, which is one annotation, or a task that has none."""
    names = [name for name in row.fields if name not in MIN_COLUMNS]
    row.fields.update({name: _decode(row.look(name)) for name in names})
    values = {name: row.take(name, SAID) for name in names if _is_values(row.look(name))}
    names = [name for name in names if name not in values]
    shown, prompt = _read_data(row, names)
    results = [
        _Result(name, one)
        for name, several in values.items()
        for one in ([several] if isinstance(several, Mapping) else several)
    ]
    for name in names:
        value = row.look(name)
        if isinstance(value, str) and value and name not in (*TAG_COLUMNS, *row.fields.read):
            if is_reason(name):
                results.append(_Result(name, {"text": [row.take(name, "rationale")]}))
            elif (
                read_choice(value, shown.names) is not None
                or read_strength_label(value) is not None
                or name == value == SIMULATED
            ):
                results.append(_Result(name, {"choices": [row.take(name, SAID)]}))
    tags = read_tags(row, [name for name in TAG_COLUMNS if name in names])
    if is_nothing(row.look("annotation_id")):
        return _make_records(row, prompt, shown, tags, [])
    annotation = _Annotation(
        _name_rater(row.take("annotator", "rater")), tuple(results), row.take("created_at", "time of the vote")
    )
    return _make_records(row, prompt, shown, tags, [_read_annotation(row, annotation, shown)])


def _read_data(row: SourceRow, columns: Sequence[str]) -> tuple[_Shown, Messages]:
    """Return the answers and the prompt of a task, which are in some of its columns."""
    lists = [name for name in columns if _is_items(row.look(name))]
    if len(lists) == 1:
        items = row.take(lists[0], "answers")
        shown = _Shown([str(item["id"]) for item in items], tuple(_read_item(row, lists[0], item) for item in items))
        if len(set(shown.names)) < len(items):
            raise BadInput(f"{row.place}: {lists[0]}", expected="items with an id each", fix="give each its own id")
    else:
        names = find_answers(columns)
        if not names:
            raise BadInput(
                f"{row.place}: {', '.join(columns)[:60]}",
                expected="a list of items with ids, or two columns with the answers, such as answer1 and answer2",
                fix="name the columns so",
            )
        answers = [read_answer(row, name, row.take(name, "answer")) for name in names]
        shown = _Shown(names, tuple(map(ImportCompletion, answers, read_policies(row, columns, names))))
    others = [name for name in columns if name not in row.fields.read]
    return shown, read_prompt(row, others, is_all_shown=False)


def _read_item(row: SourceRow, name: str, item: Mapping[str, Any]) -> ImportCompletion:
    text = next((key for key in ITEM_TEXTS if isinstance(item.get(key), str)), None)
    if text is None:
        raise make_value_error(row, name, dict(item), "items with a body")
    policy = next((key for key in ITEM_POLICIES if isinstance(item.get(key), str) and item[key]), None)
    part = row.enter(item, "item key")
    part.take("id", "id")
    answer = read_answer(row, name, part.take(text, "answer"))
    return ImportCompletion(answer, "unknown" if policy is None else part.take(policy, "policy"))


def _take_annotation(annotation: SourceRow) -> _Annotation:
    fields = annotation.fields
    results = fields.get("result") or []
    if not isinstance(results, list) or not all(
        isinstance(r, Mapping) and isinstance(r.get("value"), Mapping) for r in results
    ):
        raise make_field_error(annotation, "result", "a list of objects with from_name, to_name and value")
    is_skipped = [bool(fields.get(name)) for name in ("was_cancelled", "skipped")]
    return _Annotation(
        _name_rater(fields.get("completed_by")),
        tuple(_Result(str(r.get("from_name")), r["value"], str(r.get("to_name") or "")) for r in results),
        fields.get("created_at"),
        any(is_skipped),
    )


def _name_rater(person: Any) -> str:
    """Return the e-mail address of a person, as JSON-MIN has it, or their number."""
    if isinstance(person, Mapping):
        person = person.get("email") or person.get("id")
    return UNNAMED if person is None or person == "" else str(person)


def _read_annotation(row: SourceRow, annotation: _Annotation, shown: _Shown) -> _Said:
    at = None if is_nothing(annotation.created_at) else parse_moment(row, "created_at", annotation.created_at)
    by = {_find_label(result) for result in annotation.results if _says_by_whom(result)}
    results = [result for result in annotation.results if not _says_by_whom(result)]
    simulated, judge = SIMULATED in by, JUDGE in by
    choice: Choice | None = None
    order_known = False
    reasons: dict[str, str] = {}
    strengths: dict[str, int] = {}
    if annotation.is_skipped:
        for result in results:
            if (text := _find_reason(result)) is not None:
                reasons[result.control] = text
            else:
                row.unread[f"result {result.control} of a skipped task"] += 1
        why = join_reasons(reasons)
        return _Said(ImportVote(Verdict.SKIPPED, (), annotation.rater, None, why, simulated, judged_at=at, judge=judge))
    ratings: list[tuple[str, str, int, float]] = []
    # A pair or a ranking comes before a choice beside it.
    for result in sorted(results, key=lambda result: "choices" in result.value):
        said = None if choice is not None else _read_choice(row, result, shown.names)
        about = _find_about(result, shown.names)
        if said is not None:
            choice, order_known = said, _is_order_on_screen(result, shown.names)
        elif is_number(result.value.get("rating")) and about is not None:
            ratings.append((result.control, *about, float(result.value["rating"])))
        elif (text := _find_reason(result)) is not None:
            reasons[result.control] = text
        elif (by := read_strength_label(_find_label(result))) is not None:
            strengths[result.control] = by
        else:
            row.unread[f"result {result.control}"] += 1
    for control, by in strengths.items():
        if (stronger := add_strength(choice, by)) is not None:
            choice = stronger
        else:
            row.unread[f"result {control}"] += 1
    if choice is None and not ratings:
        row.noted["annotations without a choice"] += 1
        row.unread.update(f"result {control}" for control in reasons)
        return _Said()
    why = join_reasons(reasons)
    vote = None
    if choice is not None:
        said = choice.verdict, choice.ranking, annotation.rater, choice.strength, why, simulated
        vote = ImportVote(*said, judged_at=at, judge=judge)
    made = tuple(
        ImportRating(
            completion, axis, value, None, None, rater=annotation.rater,
            rationale="" if vote is not None else why, simulated=simulated, judged_at=at,
            judge=judge,
        )
        for control, axis, completion, value in ratings
    )  # fmt: skip
    return _Said(vote, made, order_known)


def _find_reason(result: _Result) -> str | None:
    text = result.value.get("text")
    if not isinstance(text, str | list) or not is_reason(result.control):
        return None
    return text if isinstance(text, str) else "\n".join(map(str, text))


def _find_label(result: _Result) -> str:
    """Return the only choice of a result; an empty text where there is none, or several."""
    choices = result.value.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], str):
        return ""
    return choices[0]


def _says_by_whom(result: _Result) -> bool:
    return result.control == SIMULATED and _find_label(result) in (SIMULATED, JUDGE)


def _read_choice(row: SourceRow, result: _Result, names: Sequence[str]) -> Choice | None:
    """Return what a result says of the answers; None where it says nothing of which is better."""
    value = result.value
    if "selected" in value:
        side = _SIDES.get(value["selected"]) if isinstance(value["selected"], str) else None
        if side is None or len(names) != 2:
            raise make_value_error(row, result.control, dict(value), "left or right, of two answers")
        sides = _find_sides(result, names)
        if sides is None:
            row.noted["pairs whose left answer was taken for the first one (1, a), which the export does not say"] += 1
            sides = 0, 1
        return Choice(Verdict.RANKED, ((sides[side],), (sides[1 - side],)))
    if "ranker" in value:
        return _read_ranker(row, result, names)
    label = _find_label(result)
    return read_choice(label, names) if label else None


def _find_sides(result: _Result, names: Sequence[str]) -> tuple[int, int] | None:
    """Return which answers were left and right; None where the result is not said to be put on both."""
    named = [find_answer(name.strip(), names) for name in result.about.split(",")]
    if len(named) != 2 or named[0] is None or named[1] is None or named[0] == named[1]:
        return None
    return named[0], named[1]


def _is_order_on_screen(result: _Result, names: Sequence[str]) -> bool:
    """Return whether the file's order of the answers is that in which they were shown for a result.

    A pair has the left answer first, and a Ranker shows its items in the order of their list. Where answers stand
    beside other choices only the configuration says.
    """
    if "selected" in result.value:
        return _find_sides(result, names) != (1, 0)
    return "ranker" in result.value


def _read_ranker(row: SourceRow, result: _Result, names: Sequence[str]) -> Choice | None:
    buckets = result.value["ranker"]
    if isinstance(buckets, list):
        buckets = {result.control: buckets}
    if not isinstance(buckets, Mapping) or not all(isinstance(ids, list) for ids in buckets.values()):
        raise make_value_error(row, result.control, dict(result.value), "buckets with the ids of items")
    placed = {str(name): [str(id) for id in ids] for name, ids in buckets.items() if name != "_"}
    ids = [id for bucket in placed.values() for id in bucket]
    if not set(ids) <= set(names) or len(set(ids)) < len(ids):
        expected = f"each of the items {', '.join(names)[:60]} at most once"
        raise make_value_error(row, result.control, dict(result.value), expected)
    numbers = {name: match[1] for name in placed if (match := _NUMBERED.fullmatch(name))}
    if set(placed) == {result.control}:
        groups = [[id] for id in ids]
    elif len(numbers) == len(placed):
        groups = [placed[name] for name in sorted(placed, key=lambda name: int(numbers[name]))]
    else:  # "relevant" and "biased" have no order
        return None
    ranking = tuple(tuple(sorted(names.index(id) for id in group)) for group in groups if group)
    return Choice(Verdict.RANKED, ranking) if len(ids) >= 2 else None


def _find_about(result: _Result, names: Sequence[str]) -> tuple[str, int] | None:
    """Return (axis, answer) of a rating, by what it is put on or by its own name."""
    if (by_name := split_axis(result.control, names)) is not None:
        return by_name
    place = find_answer(result.about, names) if result.about else None
    return None if place is None else (result.control, place)


def _make_records(
    row: SourceRow, prompt: Messages, shown: _Shown, tags: Mapping[str, str], read: Sequence[_Said]
) -> list[ImportRecord]:
    said = [one for one in read if one.vote is not None or one.ratings] or [_Said()]
    return [
        ImportRecord(
            prompt, shown.completions, row.place, one.vote, tags, row.split, order_known=one.order_known,
            ratings=one.ratings,
        )
        for one in said
    ]  # fmt: skip


def _decode(value: Any) -> Any:
    """Return what a cell of a CSV file holds as JSON: what a rater said, items, or a chat. Other text stays text."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value
    try:
        decoded = json.loads(value)
    except (ValueError, RecursionError):
        return value
    is_chat = isinstance(decoded, list) and all(isinstance(one, Mapping) and "role" in one for one in decoded)
    return decoded if _is_values(decoded) or _is_items(decoded) or (decoded and is_chat) else value


def _is_values(value: Any) -> bool:
    """Return whether a column of JSON-MIN holds what a rater said."""
    several = [value] if isinstance(value, Mapping) else value
    if not isinstance(several, list) or not several:
        return False
    return all(isinstance(one, Mapping) and set(one) & _VALUE_KEYS and "id" not in one for one in several)


def _is_items(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(isinstance(i, Mapping) and "id" in i and set(i) & set(ITEM_TEXTS) for i in value)
    )
