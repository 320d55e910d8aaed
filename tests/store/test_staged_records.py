"""What is staged comes back as it was, also from batches of earlier versions, and quick ways give what slow ones do."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.store.imports.records import Batch, BatchBuilder, StagedRecord, StagedVote, encode_messages
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Verdict, messages_to_dicts
from rlhf_hitl.types.messages import TextPart

CHATS = st.lists(
    st.builds(
        Message,
        st.text(),
        st.text() | st.lists(st.builds(TextPart, st.text()), min_size=2).map(tuple),
        name=st.just("") | st.text(),
        reasoning_content=st.just("") | st.text(),
    )
).map(tuple)


@given(CHATS)
def test_messages_are_encoded_as_sqlalchemy_does(chat):
    assert encode_messages(chat) == json.dumps(messages_to_dicts(chat))


def make_record(question: int, rater: str, *, comparison: bool = True) -> StagedRecord:
    prompt = Prompt.create((Message("user", f"Question {question}?"),), {"topic": "sea"})
    completions = tuple(Completion.create(prompt.id, (Message("assistant", text),), "A") for text in ("yes", "no"))
    if not comparison:
        return StagedRecord(prompt, completions[:1], None, None, None)
    pair = Comparison.create(prompt, completions)
    answer = Answer(Verdict.RANKED, tuple((c.id,) for c in completions), 2)
    vote = StagedVote(rater, answer, tuple(c.id for c in completions), False, f"{question} {rater}")
    return StagedRecord(prompt, completions, pair, vote, None)


RECORDS = [(q, r, c) for q in (1, 2, 1) for r in ("ann", "bob") for c in (True, True, False)]


def build(records) -> Batch:
    builder = BatchBuilder()
    for question, rater, comparison in records:
        builder.add(make_record(question, rater, comparison=comparison))
    return builder.take()


def resolve(batch: Batch) -> list:
    """Return the records with all that they name in place of positions, without the judgments' ids."""
    records = []
    for task, split, vote, ratings, is_identical in batch.records:
        prompt, completions, comparison, images = batch.tasks[task]
        said = None if vote is None else (batch.votes[vote][0] == task, *batch.votes[vote][1:-2])
        at = None if comparison is None else tuple(batch.comparisons[comparison])
        answers = [tuple(batch.completions[i]) for i in completions]
        records.append((tuple(batch.prompts[prompt]), answers, at, images, split, said, ratings, is_identical))
    return records


def test_a_batch_comes_back_as_it_was_and_in_parts():
    batch = build(RECORDS)
    assert len(batch.prompts) == len(batch.comparisons) == 2
    again = Batch.unpack(batch.pack())
    assert resolve(again) == resolve(batch)
    for cut in range(1, len(RECORDS)):
        assert resolve(again.slice(0, cut)) + resolve(again.slice(cut, len(RECORDS))) == resolve(batch)
    assert len(again.slice(0, 2).prompts) == 1, "only what its records name"


def test_judgments_of_a_batch_have_ids_that_follow_each_other_and_no_other_has():
    ids = [row[-3] for _ in range(20) for row in build(RECORDS).votes]
    assert len(set(ids)) == len(ids) == 20 * 12
    assert all(len(id) == 34 and id.startswith("j_") for id in ids)
    first = [row[-3] for row in build(RECORDS).votes]
    assert first == sorted(first)


@pytest.mark.parametrize("fields", [5, 7])
def test_a_batch_of_an_earlier_version_is_read(fields):
    batch = build(RECORDS)
    rows = {kind: getattr(batch, kind) for kind in ("prompts", "completions", "comparisons")}
    records = []
    for task, split, vote, *_ in batch.records:
        prompt, completions, comparison, _ = batch.tasks[task]
        said = None if vote is None else list(batch.votes[vote][1:-1])  # without what marks a judge
        if said is not None and fields == 5:  # without scores and a time
            del said[10], said[5]
        records.append([prompt, completions, comparison, split, said, [], []][:fields])
    if fields == 7:
        rows |= {"images": [], "ratings": []}
    packed = zlib.compress(json.dumps(rows | {"records": records}).encode())
    assert resolve(Batch.unpack(packed)) == resolve(batch)


def test_a_batch_that_was_staged_before_identical_sides_were_marked_is_read():
    batch = build(RECORDS)
    packed = json.loads(zlib.decompress(batch.pack()))
    assert len(packed["records"]) == 5
    del packed["records"][4]
    assert resolve(Batch.unpack(zlib.compress(json.dumps(packed).encode()))) == resolve(batch)
