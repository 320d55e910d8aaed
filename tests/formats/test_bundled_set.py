"""The bundled set is what its card says."""

import ast
import json
import re
from collections import Counter
from itertools import combinations

import pytest

from checkout import ROOT
from rlhf_hitl.formats.importing import import_bundled
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.simulate import GRADES
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.types import Split, parse_messages
from rlhf_hitl.types.splits import hash_prompt_family

BUNDLED = ROOT / "rlhf_hitl" / "bundled"


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in (BUNDLED / "set.jsonl").read_text(encoding="utf-8").splitlines()]


def written(row: dict) -> list[dict]:
    return [c for c in row["completions"] if "grade" in c["sampling"]]


def text(completion: dict) -> str:
    [message] = completion["messages"]
    return message["content"]


def test_each_prompt_has_four_written_answers_and_what_is_wrong_with_two_of_them(rows):
    for row in rows:
        assert Counter(c["sampling"]["grade"] for c in written(row)) == Counter(list(GRADES)), row["messages"]
        for completion in written(row):
            is_good = completion["sampling"]["grade"] in ("good", "also good")
            assert is_good or (completion["sampling"]["fault"] and completion["sampling"]["kind"])
        assert len({text(c) for c in row["completions"]}) == len(row["completions"])


def test_the_prompts_are_as_varied_as_the_card_says(rows):
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    several = sum(len(row["messages"]) > 1 for row in rows)
    foreign = [row["tags"]["language"] for row in rows if row["tags"]["language"] != "en"]
    sampled = sum(len(row["completions"]) - len(written(row)) for row in rows)
    assert f"{len(rows)} prompts" in card
    assert f"{several} have\nseveral turns" in card
    assert f"{len(foreign)} are in one of {len(set(foreign))} languages other than English" in card
    assert f"{sampled} have a fifth" in card
    assert len({hash_prompt_family(parse_messages(row["messages"])) for row in rows}) == len(rows) >= 240
    assert several >= 40
    assert len(foreign) >= 30
    topics = {"writing", "reasoning", "advice", "coding", "support", "moderation", "safety"}
    assert {row["tags"]["topic"] for row in rows} == topics
    for kind, least in (("|---", 10), ("```", 40), ("$", 10)):
        assert sum(kind in re.sub(r"[ :]", "", "".join(map(text, written(row)))) for row in rows) >= least, kind


def test_length_does_not_tell_quality(rows):
    longer_is_better = []
    for row in rows:
        for a, b in combinations(written(row), 2):
            grades = [round(GRADES[c["sampling"]["grade"]]) for c in (a, b)]  # "also good" is as good
            if grades[0] != grades[1]:
                longer_is_better.append((len(text(a)) > len(text(b))) == (grades[0] > grades[1]))
    assert 0.45 < sum(longer_is_better) / len(longer_is_better) < 0.55


def test_python_in_good_answers_is_python(rows):
    blocks = [
        block
        for row in rows
        for c in written(row)
        if c["sampling"]["grade"] in ("good", "also good")
        for block in re.findall(r"```python\n(.*?)```", text(c), re.DOTALL)
    ]
    assert len(blocks) >= 20
    for block in blocks:
        ast.parse(block)


def test_prompts_come_with_the_authors_rankings_and_the_others_wait_for_raters(sqlite_store):
    import_bundled(sqlite_store)
    for split in Split:
        labels = read_labels(sqlite_store, split=split)
        assert len({c.prompt.id for c in find_comparisons(sqlite_store, split=split, judged=True)}) >= 40
        assert all(label.simulated for label in labels)
        comparisons = {c.id: c for c in find_comparisons(sqlite_store, split=split)}
        for label in labels:
            first, second = (
                GRADES[comparisons[label.comparison_id].find_completion(id).sampling["grade"]]
                for id in (label.first, label.second)
            )
            assert (label.preferred is None) == (round(first) == round(second))
            assert label.preferred in (None, label.first if first > second else label.second)
    waiting = list(find_comparisons(sqlite_store, judged=False))
    assert len({c.prompt.id for c in waiting}) == 56
    assert {c.prompt.split for c in waiting} == {Split.TRAIN}
