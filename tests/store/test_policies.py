"""How policies came about: what is recorded, the lineage, and folders that are gone."""

import shutil

import pytest

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.policies import PolicyMethod, list_policies, read_lineage, record_policy


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
