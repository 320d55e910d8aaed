"""What a replay found: kept on disk, in figures that are worked by hand, held against gates, shown."""

import html
import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.reward import evaluation, plots
from rlhf_hitl.reward.evaluation import Bin, Evaluation, Example, Share
from rlhf_hitl.types import Message


def example(i: int = 0, **fields) -> Example:
    """A label on which the model agrees, of a prompt of its own."""
    given: dict = {
        "comparison_id": f"x_{i}", "prompt_id": f"p_{i}", "family": f"f{i}",
        "prompt": (Message("user", f"question {i}"),), "chosen": (Message("assistant", "good"),),
        "rejected": (Message("assistant", "bad"),), "chosen_id": f"c_{i}a", "rejected_id": f"c_{i}b",
        "chosen_policy": "one", "rejected_policy": "two", "votes": 1, "agreement": 1.0, "margin": 1.0,
        "uncertainty": 0.5, "probability": 0.7, "correct": 1.0, "tags": {"category": "math"},
    }  # fmt: skip
    return Example(**given | fields)


def an_evaluation(**fields) -> Evaluation:
    given: dict = {
        "name": "heldout", "reward_model_id": "m_1", "created_at": "2026-11-26T03:00:00+00:00",
        "data_hash": "sha256:0", "n": 40, "ties": 2, "dropped": 1, "trained_on": 0,
        "accuracy": Share(0.7, 0.6, 0.8, 40), "longer": Share(0.55, 0.4, 0.7, 40), "bag_of_words": None,
        "ece": 0.05, "ece_low": 0.01, "ece_high": 0.1, "reliability": (Bin(0.6, Share(0.5, 0.2, 0.8, 4)),),
        "slices": {"category": {"math": Share(0.5, 0.3, 0.7, 12)}}, "noise_ceiling": Share(0.9, 0.8, 0.95, 40),
        "simulated": False,
    }  # fmt: skip
    return Evaluation(**given | fields)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
chats = st.lists(st.builds(Message, texts, texts), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.tuples(chats, texts, st.floats(-1e6, 1e6), st.sampled_from([None, 0.0, 0.5, 1.0])), max_size=4))
def test_an_evaluation_and_its_examples_are_read_as_they_were_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("evaluation")
    examples = [
        example(i, prompt=chat, rejected=chat, tags={text: text}, margin=margin, correct=correct)
        for i, (chat, text, margin, correct) in enumerate(rows)
    ]
    found = an_evaluation()
    evaluation.save(folder, found, examples)
    assert evaluation.load(folder) == found
    assert list(evaluation.examples(folder)) == examples
    assert json.loads((folder / "evaluation.json").read_text())["above_floors"] is True


def test_what_is_no_evaluation_is_said_with_its_place(tmp_path):
    with pytest.raises(NotFound, match="rlhf-hitl evaluate"):
        evaluation.load(tmp_path)
    evaluation.save(tmp_path, an_evaluation(), [example()])
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    del summary["accuracy"]
    (tmp_path / "evaluation.json").write_text(json.dumps(summary))
    with pytest.raises(BadInput, match=r"evaluation\.json.*accuracy.*evaluate again"):
        evaluation.load(tmp_path)
    with (tmp_path / "examples.jsonl").open("a") as f:
        f.write('{"comparison_id": 1}\n')
    with pytest.raises(BadInput, match=r"examples\.jsonl:2"):
        list(evaluation.examples(tmp_path))


def test_the_evaluations_of_a_workspace_come_newest_first(tmp_path):
    import os

    for age, name in enumerate(("new", "old")):
        folder = tmp_path / "evaluations" / name
        evaluation.save(folder, an_evaluation(name=name), [])
        os.utime(folder / "evaluation.json", (1000 - age, 1000 - age))
    (tmp_path / "evaluations" / "empty").mkdir()
    assert [folder.name for folder in evaluation.evaluations(tmp_path)] == ["new", "old"]


# Plots


def test_every_plot_is_one_svg_that_says_what_it_shows_and_escapes_what_it_is_given():
    hostile = "<script>alert('$1')</script> & $x^2$"
    found = an_evaluation(slices={"category": {hostile: Share(0.5, 0.3, 0.7, 12)}}, simulated=True)
    examples = [example(i, margin=i - 3.0, correct=float(i > 3)) for i in range(8)]
    texts = [plot(found) for plot in (plots.accuracy, plots.slices, plots.reliability)]
    texts += [plot(found, examples) for plot in (plots.margins, plots.lengths)]
    for text in texts:
        root = ElementTree.fromstring(text)  # noqa: S314 - our own text
        assert root.tag.endswith("svg")
        assert root.get("aria-label")
        assert "simulated" in text
        assert "<script" not in text
    assert hostile in html.unescape(texts[1])
    assert "0.500  (12)" in texts[1]
    assert plots.slices(an_evaluation(slices={})) == ""
    assert plots.accuracy(found) == texts[0]
