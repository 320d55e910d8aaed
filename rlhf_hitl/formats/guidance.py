"""Read what teaches raters: a guideline in Markdown with settings above it, and a tutorial in JSONL.

The settings of a guideline are YAML between two lines of `---`. Only the version is required:

    version: "2"
    scores: required          # offered, required or off
    rationale: offered        # offered or required
    reasoning: shown          # shown or hidden: what policies thought before they answered
    axes:
      - helpful
      - {id: concise, title: Concise, description: No word too many.}
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.readers import llmfao
from rlhf_hitl.formats.record import (
    SourceRow,
    make_assistant_message,
    make_field_error,
    parse_chat,
    read_chat_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import DEFAULT_AXES, DEFAULT_PROJECT, Answer, Axis, Guideline, Messages, TutorialExample, Verdict

#: The parts of a tutorial example: the prompt, its completions, the right answer, the explanation.
ExampleParts = tuple[Messages, list[Messages], Answer, str]

SETTING_NAMES = ("version", "scores", "rationale", "reasoning", "axes")
FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?\n", re.DOTALL | re.MULTILINE)


def read_guideline(path: str | Path, project: str = DEFAULT_PROJECT, **overrides: str | None) -> Guideline:
    """Return the guideline in a file. Those `overrides` that are not None replace its settings.

    Raises:
        BadInput: there is no text or no version, or a setting is unknown or cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadInput(f"{path}", expected="Markdown in UTF-8", fix="save it as UTF-8") from e
    front_matter = FRONT_MATTER.match(text)
    settings: dict[str, Any] = _parse_settings(path, front_matter.group(1)) if front_matter is not None else {}
    settings |= {name: value for name, value in overrides.items() if value is not None}
    if "version" not in settings:
        raise BadInput(f"{path} without a version", expected="a version: judgments name it", fix="add --version")
    if "axes" in settings:
        settings["axes"] = _parse_axes(path, settings["axes"])
    try:
        return Guideline(
            project, text=text[front_matter.end() :].strip() if front_matter is not None else text.strip(), **settings
        )
    except BadInput as e:
        raise BadInput(f"{path}: {e.value}", expected=e.expected, fix=e.fix) from e


def guideline_to_markdown(guideline: Guideline) -> str:
    """Return a guideline as text of a file that `read_guideline` reads."""
    axes = [{k: v for k, v in vars(axis).items() if v} for axis in guideline.axes]
    settings = {name: getattr(guideline, name) for name in SETTING_NAMES} | {"axes": axes}
    front_matter = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False, width=120)
    return f"---\n{front_matter}---\n\n{guideline.text.strip()}\n"


def read_tutorial(path: str | Path, project: str = DEFAULT_PROJECT) -> list[TutorialExample]:
    """Return the examples in a file, in its order; an empty file has none.

    A row is `{"messages", "completions", "ranking" or "verdict", "strength", "explanation"}`. A completion is a text or
    chat messages, and the ranking is of positions, as in `[[1], [0]]`. The training pairs of LLMFAO are read too.

    Raises:
        BadInput: a row is not an example; the error names file, line and field.
    """
    source = RowSource(path)
    read_parts: Callable[[SourceRow], ExampleParts] | None = None
    examples = []
    for row in source.rows(_raise_bad_row):
        if read_parts is None:
            read_parts = _make_llmfao_reader(source) if llmfao.matches(row.fields) else _read_own_row
        try:
            parts = read_parts(row)
            if row.unread:  # raters would be taught something else than the file says
                raise BadInput(
                    ", ".join(row.unread), expected="keys of messages that are read", fix="leave out what is not read"
                )
            examples.append(TutorialExample.create(project, *parts))
        except BadInput as e:
            _raise_bad_row(e, row.place)
    return examples


def read_bundled_tutorial() -> list[TutorialExample]:
    """Return the examples that come with the package, for the default project."""
    with resources.as_file(resources.files("rlhf_hitl.bundled") / "tutorial.jsonl") as path:
        return read_tutorial(path)


def _parse_settings(path: str | Path, front_matter: str) -> dict[str, Any]:
    try:
        # The base loader reads every word as text: "off" does not become a boolean, nor 1.10 a number.
        settings = yaml.load(front_matter, Loader=yaml.BaseLoader) or {}
    except yaml.YAMLError as e:
        reason = " ".join(str(e).split())
        raise BadInput(
            f"{path}: settings", expected="YAML between two lines of ---", fix=f"correct it ({reason})"
        ) from e
    if not isinstance(settings, dict) or (unknown := sorted(settings.keys() - set(SETTING_NAMES))):
        problem = "no names" if not isinstance(settings, dict) else ", ".join(map(str, unknown))
        raise BadInput(
            f"{path}: settings: {problem}", expected=", ".join(SETTING_NAMES), fix="rename or leave out the others"
        )
    for name, value in settings.items():
        if name != "axes" and not isinstance(value, str):
            raise BadInput(f"{path}: {name}: {str(value)[:60]!r}", expected="one word", fix="write the word alone")
    return settings


def _parse_axes(path: str | Path, setting: Any) -> tuple[Axis, ...]:
    default_axes = {axis.id: axis for axis in DEFAULT_AXES}
    axes = []
    for axis in setting if isinstance(setting, list) else [setting]:
        if isinstance(axis, str):
            axes.append(default_axes.get(axis) or Axis(axis, axis.replace("_", " ").capitalize()))
        elif isinstance(axis, dict) and {"id", "title"} <= axis.keys() <= {"id", "title", "description"}:
            axes.append(Axis(**axis))
        else:
            raise BadInput(
                f"{path}: axes: {str(axis)[:60]!r}",
                expected="an id, or {id, title, description}",
                fix="write e.g. {id: helpful, title: Helpful}",
            )
    return tuple(axes)


def _read_own_row(row: SourceRow) -> ExampleParts:
    raw_completions = row.fields.get("completions")
    if not isinstance(raw_completions, list):
        raise make_field_error(row, "completions", "a list of texts or of lists of messages")
    completions = [
        make_assistant_message(side) if isinstance(side, str) else parse_chat(row, "completion", side)
        for side in raw_completions
    ]
    verdict, ranking = row.fields.get("verdict", Verdict.RANKED.value), row.fields.get("ranking", [])
    if verdict not in list(Verdict):
        raise make_field_error(row, "verdict", " or ".join(Verdict))
    if not isinstance(ranking, list) or not all(
        isinstance(g, list) and all(type(i) is int for i in g) for g in ranking
    ):
        raise make_field_error(row, "ranking", "groups of positions, best first, as in [[1], [0]]")
    strength = row.fields.get("strength")
    if strength is not None and type(strength) is not int:
        raise make_field_error(row, "strength", "1, 2 or 3")
    right_answer = Answer(Verdict(verdict), tuple(tuple(map(str, group)) for group in ranking), strength)
    return read_chat_field(row, "messages"), completions, right_answer, read_text_field(row, "explanation")


def _make_llmfao_reader(source: RowSource) -> Callable[[SourceRow], ExampleParts]:
    read_vote = llmfao.make_reader(source, pairs="adjacent")

    def read_pair(row: SourceRow) -> ExampleParts:
        [record] = read_vote(row)
        if record.vote is None:
            raise make_field_error(row, "golden", "the right answer")
        ranking = tuple(tuple(map(str, group)) for group in record.vote.ranking)
        right_answer = Answer(record.vote.verdict, ranking, record.vote.strength)
        return record.prompt, [side.messages for side in record.completions], right_answer, record.vote.rationale

    return read_pair


def _raise_bad_row(e: BadInput, place: str = "") -> NoReturn:
    value = e.value if place in e.value else f"{place}: {e.value}"
    raise BadInput(value, expected=e.expected, fix="correct the line; nothing was changed") from e
