"""Argilla 2's records and settings, a dataset for each number of answers: all of a ranking have to be ranked there.

OUT/2_answers/records.json             for `dataset.records.from_json`
OUT/2_answers/.argilla/settings.json   for `rg.Settings.from_json`
OUT/2_answers/.argilla/users.json      the ids of Argilla's users, which are UUIDs, and the raters they stand for

Ranks are written with each answer, ties too. A skipped comparison is a discarded response. A question of its own says
that a response is simulated, or that of a judge.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlhf_hitl.formats.export_files import WrittenTables
from rlhf_hitl.formats.json_array import JsonArrayWriter
from rlhf_hitl.formats.judged_texts import (
    ALL_BAD,
    STRENGTHS,
    JudgedTexts,
    count_left_out,
    make_tags,
    read_judged_texts,
)
from rlhf_hitl.formats.readers.questions import JUDGE, SIMULATED
from rlhf_hitl.formats.snapshot import Snapshot
from rlhf_hitl.store.export_query import JsonFields
from rlhf_hitl.types import Role, Split, Verdict

SKIPPED = "skipped"
_LEFT_OUT = {
    "created_at": "judgment whose time is left out",
    "active_seconds": "judgment whose active seconds are left out",
}
_NAMESPACE = uuid.UUID("6f1c3c5e-52b7-4a4e-9d0e-3f1d8f6f7a11")


def write_argilla(snapshot: Snapshot, folder: Path) -> WrittenTables:
    """Write the comparisons that are of texts as records. What has no place there is counted in the filters."""
    with ExitStack() as stack:
        writers: dict[int, JsonArrayWriter] = {}
        for split in Split:
            for judged in read_judged_texts(snapshot, split):
                n = len(judged.texts)
                if n not in writers:
                    made = folder / f"{n}_answers"
                    (made / ".argilla").mkdir(parents=True)
                    (made / ".argilla" / "settings.json").write_text(json.dumps(_make_settings(n), indent=2))
                    writers[n] = stack.enter_context(JsonArrayWriter(made / "records.json"))
                writers[n].write(_make_record(judged, snapshot))
    users = [{"id": name_user(rater), "rater_id": rater} for rater in sorted(snapshot.raters)]
    for n in writers:
        (folder / f"{n}_answers" / ".argilla" / "users.json").write_text(json.dumps(users, indent=2) + "\n")
    return WrittenTables(changed=Counter({"raters, called by UUIDs that .argilla/users.json explains": len(users)}))


def name_user(rater_id: str) -> str:
    """Return the id of the user of Argilla that stands for a rater."""
    return str(uuid.uuid5(_NAMESPACE, rater_id))


def _make_record(judged: JudgedTexts, snapshot: Snapshot) -> JsonFields:
    names = [f"answer_{n}" for n in range(1, len(judged.texts) + 1)]
    responses: dict[str, list[JsonFields]] = {}
    for judgment, ranks in zip(judged.judgments, judged.ranks, strict=True):
        if judgment["verdict"] == Verdict.FLAGGED:
            snapshot.filters["flag, which Argilla has no place for"] += 1
            continue
        count_left_out(judgment, snapshot.filters, _LEFT_OUT)
        status = "discarded" if judgment["verdict"] == Verdict.SKIPPED else "submitted"
        user = {"user_id": name_user(judgment["rater_id"]), "status": status}
        for question, value in _make_values(judgment, ranks, names).items():
            responses.setdefault(question, []).append({"value": value} | user)
    policies = {
        f"{name}_policy": completion["policy"]
        for name, completion in zip(names, judged.comparison["completions"], strict=True)
    }
    return {
        "id": judged.comparison["comparison_id"],
        "fields": {"prompt": judged.comparison["prompt"]} | dict(zip(names, judged.texts, strict=True)),
        "metadata": make_tags(judged) | policies,
        "suggestions": {},
        "responses": responses,
        "vectors": {},
        "status": "completed" if responses else "pending",
    }


def _make_values(judgment: JsonFields, ranks: list[int | None], names: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if judgment["verdict"] == Verdict.RANKED:
        placed = zip(names, ranks, strict=True)
        values["ranking"] = [{"value": name, "rank": rank} for name, rank in placed]
    else:
        values["verdict"] = ALL_BAD if judgment["verdict"] == Verdict.ALL_BAD else SKIPPED
    if judgment["strength"] is not None:
        values["strength"] = STRENGTHS[judgment["strength"]]
    if judgment["rationale"]:
        values["rationale"] = judgment["rationale"]
    if judgment["simulated"] or judgment["role"] == Role.JUDGE:
        values[SIMULATED] = SIMULATED if judgment["simulated"] else JUDGE
    return values


def _make_settings(n: int) -> JsonFields:
    """Return the settings of a dataset as `rg.Settings.to_json` writes them."""
    names = [f"answer_{i}" for i in range(1, n + 1)]

    def ask(name: str, kind: str, title: str, options: list[str] | None = None) -> JsonFields:
        settings: JsonFields = {"type": kind}
        if options is not None:
            settings["options"] = [{"value": o, "text": o, "description": None} for o in options]
        return {"name": name, "title": title, "required": False, "settings": settings}

    def show(name: str, kind: str) -> JsonFields:
        settings = {"type": kind, "use_markdown": True}
        return {"name": name, "title": name.replace("_", " "), "required": True, "settings": settings}

    ranking = ask("ranking", "ranking", "Which answers are better? Equal ranks are a tie.", names)
    return {
        "guidelines": None,
        "fields": [show("prompt", "chat"), *(show(name, "text") for name in names)],
        "questions": [
            ranking | {"settings": {"type": "ranking", "options": [{"value": o, "text": o} for o in names]}},
            ask("verdict", "label_selection", "Or is none of them good?", [ALL_BAD, SKIPPED]),
            ask("strength", "label_selection", "By how much is the best one better?", list(STRENGTHS.values())),
            ask("rationale", "text", "Why?"),
            ask(SIMULATED, "label_selection", "Did a program say this, and no person?", [SIMULATED, JUDGE]),
        ],
        "vectors": [],
        "metadata": [],
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None,
    }
