"""The journal of draws, where two commands want it."""

from __future__ import annotations

import pytest

from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.policy.draws import Draw, DrawJournal


def draw(text):
    return Draw({"role": "assistant", "content": text}, "eos", 3)


def test_one_command_writes_and_the_next_one_keeps_what_it_wrote(tmp_path):
    with DrawJournal(tmp_path, "same") as late:  # opened before there is anything
        with DrawJournal(tmp_path, "same") as first:
            first.add("a", draw("one"))
            with pytest.raises(RlhfHitlError, match="nobody else samples the same"):
                late.add("b", draw("two"))
            first.add("c", draw("three"))
        with open(tmp_path / "same-0.draws", "ab") as cut_off:
            cut_off.write(b'{"key": "cut o')
        late.add("b", draw("two"))
        assert [late.get(key).message["content"] for key in "acb"] == ["one", "three", "two"]
    with DrawJournal(tmp_path, "same") as again:
        assert [key in again for key in "abcd"] == [True, True, True, False]
