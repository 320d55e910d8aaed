"""Evaluations on disk: a folder with `evaluation.json` (the figures) and `examples.jsonl` (one line for each pair)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import atomic_file, make_private_folder
from rlhf_hitl.reward.evaluation_record import EvaluatedPair, Evaluation
from rlhf_hitl.validation import describe_expected, describe_place

T = TypeVar("T")

SUMMARY_FILE, PAIRS_FILE = "evaluation.json", "examples.jsonl"


def save_evaluation(folder: Path, evaluation: Evaluation, pairs: Iterable[EvaluatedPair]) -> None:
    """Write both files atomically, in place of an earlier evaluation in that folder."""
    make_private_folder(folder)
    with atomic_file(folder / SUMMARY_FILE) as summary_draft, atomic_file(folder / PAIRS_FILE) as pairs_draft:
        with pairs_draft.open("w", encoding="utf-8") as f:
            f.writelines(json.dumps(pair.as_dict(), ensure_ascii=False) + "\n" for pair in pairs)
        summary = json.dumps(evaluation.as_dict(), indent=2, ensure_ascii=False) + "\n"
        summary_draft.write_text(summary, encoding="utf-8")


def load_evaluation(folder: Path) -> Evaluation:
    """Load the figures of an evaluation.

    Raises:
        NotFound: the folder holds no evaluation.
        BadInput: it was written by another version.
    """
    path = folder / SUMMARY_FILE
    if not path.is_file():
        raise NotFound(
            f"evaluation {folder}", expected=f"a folder with {SUMMARY_FILE}", fix="make one with `rlhf-hitl evaluate`"
        )
    return _parse(TypeAdapter(Evaluation), path.read_bytes(), str(path))


def load_evaluation_for_page(folder: Path) -> Evaluation:
    """Load as `load_evaluation` does, with an error that names the evaluation and no path where it cannot be read."""
    try:
        return load_evaluation(folder)
    except (BadInput, OSError, ValueError) as e:
        raise make_unreadable_error(folder.name) from e


def read_evaluated_pairs(folder: Path) -> Iterator[EvaluatedPair]:
    """Yield an evaluation's pairs, in the order in which they were evaluated."""
    form = TypeAdapter(EvaluatedPair)
    with (folder / PAIRS_FILE).open("rb") as f:
        for number, line in enumerate(f, 1):
            yield _parse(form, line, f"{folder / PAIRS_FILE}:{number}")


def list_evaluation_folders(workspace: Path) -> list[Path]:
    """Return the folders of a workspace's evaluations, newest first."""
    folders = [path.parent for path in (workspace / "evaluations").glob(f"*/{SUMMARY_FILE}")]
    return sorted(folders, key=lambda folder: (folder / SUMMARY_FILE).stat().st_mtime, reverse=True)


def find_evaluation_folder(workspace: Path, name: str) -> Path:
    """Return the folder of the workspace's evaluation of this name. The name can reach no other folder.

    Raises:
        NotFound: the workspace has no such evaluation.
    """
    folders = {path.parent.name: path.parent for path in (workspace / "evaluations").glob(f"*/{SUMMARY_FILE}")}
    if name not in folders:
        raise NotFound(f"evaluation {name[:80]!r}", expected="one of the workspace's", fix="choose one from the list")
    return folders[name]


def make_unreadable_error(name: str) -> NotFound:
    """Return the error for an evaluation whose files are gone, incomplete or of another version."""
    return NotFound(f"evaluation {name!r}", expected="whole files of this version", fix="evaluate again")


def _parse(form: TypeAdapter[T], text: bytes, place: str) -> T:
    try:
        return form.validate_json(text)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where, expected = describe_place(first), describe_expected(first)
        raise BadInput(
            f"{place}: {where}" if where else place,
            expected=f"{expected}, as `evaluate` of this version writes it",
            fix="evaluate again",
        ) from e
