"""How policies came about: what is recorded, the lineage, and folders that are gone."""

import json
import shutil

import pytest

from handmade_votes import answer, ask, vote
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store.comparisons import insert_comparisons, insert_completions
from rlhf_hitl.store.policies import PolicyMethod, list_policies, read_lineage, record_policy
from rlhf_hitl.store.policy_changes import PairDecision, count_shared_prompts, find_changes, list_policy_names
from rlhf_hitl.types import Comparison


def test_a_policy_is_recorded_once_and_the_newest_of_a_name_counts(store, tmp_path):
    made = {"path": tmp_path, "method": PolicyMethod.DPO, "parent": "base", "round": 1, "settings": {"beta": 0.1}}
    first = record_policy(store, "tuned", **made, reward_model_id="m_1")
    assert record_policy(store, "tuned", **made, reward_model_id="m_1") == first
    assert [(p.name, p.parent, p.round, p.reward_model_id) for p in list_policies(store)] == [
        ("tuned", "base", 1, "m_1")
    ]
    same = record_policy(store, "other", **made | {"round": 2})
    assert same.settings_digest == first.settings_digest != ""
    again = record_policy(store, "tuned", **made | {"settings": {"beta": 0.2}})
    assert again.settings_digest != first.settings_digest
    assert [(p.name, p.replaced) for p in list_policies(store)] == [("other", 0), ("tuned", 1)]


def test_the_lineage_lists_policies_below_what_they_were_made_of(store):
    for name, parent in (("a", "hub/base"), ("b", "a"), ("c", "a"), ("d", "b"), ("alone", None)):
        record_policy(store, name, path=name, parent=parent, method=PolicyMethod.PPO)
    assert [(e.depth, e.name, e.parent) for e in read_lineage(store)] == [
        (0, "hub/base", None), (1, "a", "hub/base"), (2, "b", "a"), (3, "d", "b"), (2, "c", "a"), (0, "alone", None),
    ]  # fmt: skip
    assert read_lineage(store)[0].record is None
    record_policy(store, "a", path="a", parent="d", method=PolicyMethod.PPO)  # its name is used again
    assert sorted(e.name for e in read_lineage(store)) == ["a", "alone", "b", "c", "d"]


def test_policies_that_came_with_an_import_are_recorded_with_where_from(store, tmp_path):
    record_policy(store, "known", path="known", method=PolicyMethod.BASE)
    rows = [
        {
            "prompt": f"Q {n}?", "completions": ["yes", "no", "so", "well"], "ranking": [[0], [1], [2], [3]],
            "policies": ["known", "other", "unknown", last],
        }
        for n, last in enumerate(("one", "two"))
    ]  # fmt: skip
    (tmp_path / "k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        import_path(store, tmp_path / "k.jsonl")
    found = {r.name: (r.method, r.path, r.place, r.replaced) for r in list_policies(store)}
    assert found.pop("known") == (PolicyMethod.BASE, "known", "elsewhere", 0)
    assert found == dict.fromkeys(["one", "other", "two"], (PolicyMethod.IMPORT, "kwise:k.jsonl", "elsewhere", 0))
    record_policy(store, "tuned", path="x", parent="two", method=PolicyMethod.DPO)
    assert [(e.depth, e.name) for e in read_lineage(store)][:2] == [(0, "two"), (1, "tuned")], "lines come first"


def test_a_folder_that_was_deleted_or_moved_is_said_to_be_gone(store, tmp_path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    record_policy(store, "tuned", path=folder, parent="base", method=PolicyMethod.DPO)
    record_policy(store, "hub/model", path="hub/model", method=PolicyMethod.BASE)
    assert [p.place for p in list_policies(store)] == ["here", "elsewhere"]
    shutil.rmtree(folder)
    assert [p.place for p in list_policies(store)] == ["gone", "elsewhere"]


@pytest.mark.parametrize(("name", "parent"), [("", None), ("x" * 501, None), ("a", "a"), ("a", "\x00")])
def test_names_that_no_policy_may_have_are_refused(store, name, parent):
    with pytest.raises(BadInput):
        record_policy(store, name, path="x", parent=parent, method=PolicyMethod.BASE)


def test_the_same_prompt_before_and_after_with_how_raters_decided(store, add_raters):
    ann, ben, bot = add_raters(store, 3)
    made = []
    for n in range(7):
        prompt = ask(f"Question {n}?")
        sides = [answer(prompt, f"old {n}", "base"), answer(prompt, f"New Ähre {n}", "tuned")]
        made.append(Comparison.create(prompt, sides))
    alone = ask("Only one has answered?")
    with store.write() as conn:
        insert_comparisons(store, conn, made)
        insert_comparisons(store, conn, [Comparison.create(alone, [answer(alone, t, "tuned") for t in "ab"])])
        insert_completions(store, conn, [answer(c.prompt, "another", "base") for c in made])
    first = made[3]
    new = next(n for n, c in enumerate(first.completions) if c.policy == "tuned")
    vote(store, first, ann, f"{new}>{1 - new}")
    vote(store, first, ben, "=")
    vote(store, first, bot, f"{1 - new}>{new}", simulated=True)
    assert list_policy_names(store) == ["base", "tuned"]
    assert count_shared_prompts(store, "base", "tuned") == 7
    seen, start = [], ""
    while start is not None:
        page = find_changes(store, "base", "tuned", start=start, limit=3)
        seen += page.changes
        start = page.next
    assert [c.prompt.id for c in seen] == sorted(c.prompt.id for c in made)
    assert all(c.answers == (2, 1) and c.before.text.startswith("old") for c in seen), "two that were compared"
    [decided] = [c for c in seen if c.decisions]
    assert decided.prompt.id == first.prompt.id
    assert decided.decisions == {"people": PairDecision(after=1, tie=1), "simulated": PairDecision(before=1)}
    [found] = find_changes(store, "base", "tuned", words="ÄHRE  question 5?").changes
    assert found.after.text == "New Ähre 5"
    assert find_changes(store, "base", "tuned", decided=True).changes == [decided]
    nothing = find_changes(store, "base", "tuned", words="nowhere")
    assert (nothing.changes, nothing.next, nothing.looked_at) == ([], None, 7)
    assert find_changes(store, "base", "nobody").changes == []
