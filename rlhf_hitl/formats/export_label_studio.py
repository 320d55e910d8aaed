"""Label Studio's tasks: `tasks.json` to import, and `labelling_config.xml` for the project that takes them.

A ranking is in numbered buckets of a Ranker, so that answers in one bucket are equal. What a program said, and no
person, is marked by a choice of its own. `completed_by` has the ids of
raters in place of e-mail addresses: Label Studio takes them in where it is set to
ALLOW_IMPORT_TASKS_WITH_UNKNOWN_EMAILS=true, or where its members are called so.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

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

TASKS_FILE, CONFIG_FILE = "tasks.json", "labelling_config.xml"

_CONFIG = """<View>
  <Paragraphs name="conversation" value="$prompt" nameKey="role" textKey="content" layout="dialogue"/>
  <List name="answers" value="$answers" title="Answers"/>
  <Ranker name="ranking" toName="answers">
{buckets}
  </Ranker>
  <Choices name="verdict" toName="conversation" choice="single">
    <Choice value="{all_bad}"/>
  </Choices>
  <Choices name="strength" toName="conversation" choice="single">
{strengths}
  </Choices>
  <TextArea name="rationale" toName="conversation"/>
  <Choices name="{simulated}" toName="conversation" choice="single">
    <Choice value="{simulated}"/>
    <Choice value="{judge}"/>
  </Choices>
</View>
"""


def write_label_studio(snapshot: Snapshot, folder: Path) -> WrittenTables:
    """Write the comparisons that are of texts as tasks. The others are counted in the snapshot's filters."""
    most = 2
    with JsonArrayWriter(folder / TASKS_FILE) as tasks:
        for split in Split:
            for judged in read_judged_texts(snapshot, split):
                most = max(most, len(judged.texts))
                tasks.write(_make_task(judged, snapshot))
    buckets = "\n".join(f'    <Bucket name="rank_{n}" title={quoteattr(f"{n}.")}/>' for n in range(1, most + 1))
    strengths = "\n".join(f'    <Choice value="{words}"/>' for words in STRENGTHS.values())
    config = _CONFIG.format(buckets=buckets, strengths=strengths, all_bad=ALL_BAD, simulated=SIMULATED, judge=JUDGE)
    (folder / CONFIG_FILE).write_text(config, encoding="utf-8")
    return WrittenTables(changed=Counter({"raters, called by their ids in place of their names": len(snapshot.raters)}))


def _make_task(judged: JudgedTexts, snapshot: Snapshot) -> JsonFields:
    names = [f"answer_{n}" for n in range(1, len(judged.texts) + 1)]
    answers = [
        {"id": name, "title": f"Answer {n}", "body": text, "policy": completion["policy"]}
        for n, (name, text, completion) in enumerate(zip(names, judged.texts, judged.comparison["completions"]), 1)
    ]
    annotations = []
    for judgment, ranks in zip(judged.judgments, judged.ranks, strict=True):
        if judgment["verdict"] == Verdict.FLAGGED:
            snapshot.filters["flag, which Label Studio has no place for"] += 1
            continue
        count_left_out(judgment, snapshot.filters)
        annotations.append(
            {
                "completed_by": {"email": judgment["rater_id"]},
                "was_cancelled": judgment["verdict"] == Verdict.SKIPPED,
                "created_at": judgment["created_at"],
                "lead_time": judgment["active_seconds"],
                "result": list(_make_results(judgment, ranks, names)),
            }
        )
    return {
        "data": make_tags(judged) | {"prompt": judged.comparison["prompt"], "answers": answers},
        "annotations": annotations,
        "meta": {"comparison_id": judged.comparison["comparison_id"], "split": judged.split.value},
    }


def _make_results(judgment: JsonFields, ranks: list[int | None], names: list[str]) -> Any:
    if judgment["verdict"] == Verdict.RANKED:
        buckets: dict[str, list[str]] = {}
        for name, rank in zip(names, ranks, strict=True):
            buckets.setdefault("_" if rank is None else f"rank_{rank}", []).append(name)
        yield _make_result("ranking", "answers", "ranker", {"ranker": buckets})
    elif judgment["verdict"] == Verdict.ALL_BAD:
        yield _make_result("verdict", "conversation", "choices", {"choices": [ALL_BAD]})
    if judgment["strength"] is not None:
        yield _make_result("strength", "conversation", "choices", {"choices": [STRENGTHS[judgment["strength"]]]})
    if judgment["rationale"]:
        yield _make_result("rationale", "conversation", "textarea", {"text": [judgment["rationale"]]})
    if judgment["simulated"] or judgment["role"] == Role.JUDGE:
        said = SIMULATED if judgment["simulated"] else JUDGE
        yield _make_result(SIMULATED, "conversation", "choices", {"choices": [said]})


def _make_result(control: str, about: str, kind: str, value: JsonFields) -> JsonFields:
    return {"id": control, "from_name": control, "to_name": about, "type": kind, "value": value}
