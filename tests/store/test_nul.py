"""A NUL in messages and tools is kept by both databases: in JSON it is an escape, and no SQL makes a text of it."""

from __future__ import annotations

import json

import pytest

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.archive import restore_archive, write_archive
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store, queue
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.types import Answer, Verdict

CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": "x\0y"}}}
WRITTEN = {"type": "function", "function": {"name": "f", "arguments": json.dumps({"a": "x\0y"})}}


def make_row(text: str = "Q", **more: object) -> dict[str, object]:
    answers = [{"messages": [{"role": "assistant", "content": answer}], "policy": "p"} for answer in "ab"]
    return {"messages": [{"role": "user", "content": text}], "completions": answers, **more}


def write(path, row):
    path.write_text(json.dumps(row) + "\n")
    return path


def test_a_nul_in_messages_calls_and_tools_comes_back_everywhere(store, tmp_path, add_raters):
    row = make_row("Q\0", tools=[{"type": "function", "function": {"name": "f", "description": "d\0e"}}])
    calls = [{"role": "assistant", "content": None, "tool_calls": [call]} for call in (CALL, WRITTEN)]
    row["completions"] = [{"messages": [call], "policy": "p"} for call in calls]
    row["tags"] = {"language": "en"}
    assert import_path(store, write(tmp_path / "a.jsonl", row)).comparisons == 1
    assert import_path(store, tmp_path / "a.jsonl").repeated_rows == 1
    [ann] = add_raters(store, 1)
    lease = queue.lease(store, ann, seconds=60, task_filter=queue.TaskFilter(tags={"language": "en"}))
    [comparison] = find_comparisons(store)
    assert comparison.prompt.messages[0].text == "Q\0"
    assert comparison.prompt.tools[0].to_plain()["function"]["description"] == "d\0e"
    assert {str(c.messages[0].tool_calls[0].arguments) for c in comparison.completions} == {
        str(call["function"]["arguments"]) for call in (CALL, WRITTEN)
    }
    assert lease is not None
    answer = Answer(Verdict.RANKED, tuple((id,) for id in lease.order_shown))
    queue.submit(store, lease.id, ann, answer)
    export_snapshot(store, tmp_path / "export")
    with Store.open(f"sqlite:///{tmp_path}/again.db", create=True) as again:
        import_path(again, tmp_path / "export")
        assert [c.prompt for c in find_comparisons(again)] == [comparison.prompt]
    write_archive(store, tmp_path / "a.archive")
    with Store.open(f"sqlite:///{tmp_path}/restored.db", create=True) as restored:
        restore_archive(restored, tmp_path / "a.archive")
        assert list(find_comparisons(restored)) == [comparison]


@pytest.mark.parametrize("tags", [{"topic": "a\0b"}, {"to\0pic": "a"}, {"language": "e\0n"}])
def test_a_nul_in_a_tag_is_refused(store, tmp_path, tags):
    with pytest.raises(BadInput, match="expected"):
        import_path(store, write(tmp_path / "a.jsonl", make_row(tags=tags)))
