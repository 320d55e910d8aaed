"""What teaches raters, from files: a guideline in Markdown with settings above it, and a tutorial in JSONL.

A guideline's settings are YAML between two lines of `---`, each of them optional but the version:

    version: "2"
    scores: required          # offered, required or off
    rationale: offered        # offered or required
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
from rlhf_hitl.formats import llmfao
from rlhf_hitl.formats.record import SourceRow, assistant_message, bad_field, chat_field, text_field
from rlhf_hitl.formats.source import Source
from rlhf_hitl.types import DEFAULT_AXES, DEFAULT_PROJECT, Answer, Axis, Guideline, Messages, TutorialExample, Verdict

#: What an example is made of: the prompt, its completions, the right answer, why.
Parts = tuple[Messages, list[Messages], Answer, str]

SETTINGS = ("version", "scores", "rationale", "axes")
FRONT = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?\n", re.DOTALL | re.MULTILINE)


def read_guideline(path: str | Path, project: str = DEFAULT_PROJECT, **given: str | None) -> Guideline:
    """The guideline in a file. What is `given` (`version`, `scores`, `rationale`; None: nothing) goes before its own.

    Raises:
        BadInput: no text, settings that cannot be read or are unknown, or no version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadInput(f"{path}", expected="Markdown in UTF-8", fix="save it as UTF-8") from e
    front = FRONT.match(text)
    settings: dict[str, Any] = _settings(path, front.group(1)) if front is not None else {}
    settings |= {name: value for name, value in given.items() if value is not None}
    if "version" not in settings:
        raise BadInput(f"{path} without a version", expected="a version: judgments name it", fix="add --version")
    if "axes" in settings:
        settings["axes"] = _axes(path, settings["axes"])
    try:
        return Guideline(project, text=text[front.end() :].strip() if front is not None else text.strip(), **settings)
    except BadInput as e:
        raise BadInput(f"{path}: {e.value}", expected=e.expected, fix=e.fix) from e


def guideline_to_markdown(guideline: Guideline) -> str:
    """A guideline as a file that `read_guideline` reads."""
    axes = [{k: v for k, v in vars(axis).items() if v} for axis in guideline.axes]
    settings = {name: getattr(guideline, name) for name in SETTINGS} | {"axes": axes}
    front = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False, width=120)
    return f"---\n{front}---\n\n{guideline.text.strip()}\n"


def read_tutorial(path: str | Path, project: str = DEFAULT_PROJECT) -> list[TutorialExample]:
    """The examples in a file, in its order; none in an empty one.

    A row is `{"messages", "completions", "ranking" or "verdict", "strength", "explanation"}`: a completion is a text or
    chat messages, and the ranking is of their positions, as in `[[1], [0]]`. LLMFAO's training pairs are read too.

    Raises:
        BadInput: a row that is no example; file, line and field are named.
    """
    source = Source(path)
    read: Callable[[SourceRow], Parts] | None = None
    out = []
    for row in source.rows(_bad_line):
        if read is None:
            read = _pairs(source) if llmfao.matches(row.fields) else _own
        try:
            out.append(TutorialExample.create(project, *read(row)))
        except BadInput as e:
            _bad_line(e, row.place)
    return out


def read_bundled_tutorial() -> list[TutorialExample]:
    """The examples that come with the package, for the project of everything that names none."""
    with resources.as_file(resources.files("rlhf_hitl.bundled") / "tutorial.jsonl") as path:
        return read_tutorial(path)


def _settings(path: str | Path, front: str) -> dict[str, Any]:
    try:
        # The base loader makes no more of a word than a text: "off" is no boolean and 1.10 no number.
        found = yaml.load(front, Loader=yaml.BaseLoader) or {}
    except yaml.YAMLError as e:
        reason = " ".join(str(e).split())
        raise BadInput(f"{path}: settings", expected="YAML between two lines of ---", fix=f"mend it ({reason})") from e
    if not isinstance(found, dict) or (unknown := sorted(found.keys() - set(SETTINGS))):
        named = "no names" if not isinstance(found, dict) else ", ".join(map(str, unknown))
        raise BadInput(f"{path}: settings: {named}", expected=", ".join(SETTINGS), fix="rename or leave out the others")
    for name, value in found.items():
        if name != "axes" and not isinstance(value, str):
            raise BadInput(
                f"{path}: {name}: {str(value)[:60]!r}", expected="one word", fix="take away what is round it"
            )
    return found


def _axes(path: str | Path, given: Any) -> tuple[Axis, ...]:
    known = {axis.id: axis for axis in DEFAULT_AXES}
    if not isinstance(given, list):
        given = [given]
    axes = []
    for axis in given:
        if isinstance(axis, str):
            axes.append(known.get(axis) or Axis(axis, axis.replace("_", " ").capitalize()))
        elif isinstance(axis, dict) and {"id", "title"} <= axis.keys() <= {"id", "title", "description"}:
            axes.append(Axis(**axis))
        else:
            raise BadInput(
                f"{path}: axes: {str(axis)[:60]!r}",
                expected="an id, or {id, title, description}",
                fix="write e.g. {id: helpful, title: Helpful}",
            )
    return tuple(axes)


def _own(row: SourceRow) -> Parts:
    sides = row.fields.get("completions")
    if not isinstance(sides, list):
        raise bad_field(row, "completions", "a list of texts or of lists of messages")
    completions = [
        assistant_message(side)
        if isinstance(side, str)
        else chat_field(SourceRow({"completion": side}, row.place), "completion")
        for side in sides
    ]
    verdict, ranking = row.fields.get("verdict", Verdict.RANKED.value), row.fields.get("ranking", [])
    if verdict not in list(Verdict):
        raise bad_field(row, "verdict", " or ".join(Verdict))
    if not isinstance(ranking, list) or not all(
        isinstance(g, list) and all(type(i) is int for i in g) for g in ranking
    ):
        raise bad_field(row, "ranking", "groups of positions, best first, as in [[1], [0]]")
    strength = row.fields.get("strength")
    if strength is not None and type(strength) is not int:
        raise bad_field(row, "strength", "1, 2 or 3")
    said = Answer(Verdict(verdict), tuple(tuple(map(str, group)) for group in ranking), strength)
    return chat_field(row, "messages"), completions, said, text_field(row, "explanation")


def _pairs(source: Source) -> Callable[[SourceRow], Parts]:
    read = llmfao.reader(source, pairs="adjacent")

    def pair(row: SourceRow) -> Parts:
        [record] = read(row)
        if record.vote is None:
            raise bad_field(row, "golden", "the right answer")
        ranking = tuple(tuple(map(str, group)) for group in record.vote.ranking)
        said = Answer(record.vote.verdict, ranking, record.vote.strength)
        return record.prompt, [side.messages for side in record.completions], said, record.vote.rationale

    return pair


def _bad_line(e: BadInput, place: str = "") -> NoReturn:
    value = e.value if place in e.value else f"{place}: {e.value}"
    raise BadInput(value, expected=e.expected, fix="mend the line; nothing was changed") from e
