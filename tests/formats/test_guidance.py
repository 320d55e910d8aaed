"""Guidelines and tutorials from files, through the command line too."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rlhf_hitl.cli import app, register_commands
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.guidance import guideline_to_markdown, read_bundled_tutorial, read_guideline, read_tutorial
from rlhf_hitl.store import Store, guidelines, people, projects, tutorial
from rlhf_hitl.types import DEFAULT_AXES, Answer, Axis, Guideline, Message, Role, Verdict

register_commands()

WHOLE = """---
version: 1.10
scores: off
rationale: required
axes:
  - helpful
  - to_the_point
  - {id: safe, title: Safe, description: "Nobody is hurt: «no one»."}
---

# Be fair

Look twice.

---

And again.
"""
LINE = {
    "messages": [{"role": "user", "content": "Tea?"}],
    "completions": ["Yes.", [{"role": "assistant", "content": "No."}]],
    "ranking": [[1], [0]],
    "strength": 2,
    "explanation": "It is coffee time.",
}


def run(*args: str, store: str, ok: bool = True):
    done = CliRunner().invoke(app, [*args, "--store", store, "--json"])
    assert (done.exit_code == 0) is ok, done.output
    return json.loads(done.stdout)


def test_a_guideline_is_markdown_with_its_settings_above_it(tmp_path):
    (tmp_path / "g.md").write_text(WHOLE, encoding="utf-8-sig")
    guideline = read_guideline(tmp_path / "g.md", "coding")
    assert (guideline.project, guideline.version, guideline.scores, guideline.rationale) == (
        "coding",
        "1.10",
        "off",
        "required",
    )
    assert guideline.axes == (
        DEFAULT_AXES[0], Axis("to_the_point", "To the point"), Axis("safe", "Safe", "Nobody is hurt: «no one».")
    )  # fmt: skip
    assert guideline.text == "# Be fair\n\nLook twice.\n\n---\n\nAnd again."
    assert read_guideline(tmp_path / "g.md", version="2", scores="offered", rationale=None).scores == "offered"


def test_a_file_of_text_alone_takes_its_version_from_outside(tmp_path):
    (tmp_path / "g.md").write_text("Be fair.\r\n\r\n---\r\n\r\nAlways.", newline="")
    assert read_guideline(tmp_path / "g.md", version="1") == Guideline(
        "default", "1", "Be fair.\n\n---\n\nAlways.", DEFAULT_AXES
    )
    with pytest.raises(BadInput, match="without a version"):
        read_guideline(tmp_path / "g.md")


@pytest.mark.parametrize(
    "guideline",
    [
        Guideline("default", "1.0", "Be fair.\n\n---\n\nAlways: “fair”."),
        Guideline("default", "off", "x", (), "off", "required", "hidden"),
        Guideline("default", "2026-11-30", "é", (Axis("a", "Ä: #1", "yes\nno"),), "required"),
    ],
)
def test_a_guideline_written_as_markdown_is_read_back_the_same(tmp_path, guideline):
    (tmp_path / "g.md").write_text(guideline_to_markdown(guideline), encoding="utf-8")
    assert read_guideline(tmp_path / "g.md") == guideline


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("---\nversion: [\n---\nx", "settings"),
        ("---\n- version\n---\nx", "no names"),
        ("---\nversion: 1\naxis: a\n---\nx", "axis"),
        ("---\nversion: 1\naxes: [{title: A}]\n---\nx", "axes"),
        ("---\nversion: 1\naxes: [Upper]\n---\nx", "axis 'Upper'"),
        ("---\nversion: [1]\n---\nx", "version"),
        ("---\nversion: 1\nscores: [off]\n---\nx", "scores"),
        ("---\nversion: 1\n---\n \n", "guideline"),
    ],
)
def test_a_guideline_that_cannot_be_used_names_the_file_and_the_mistake(tmp_path, text, named):
    (tmp_path / "g.md").write_text(text)
    with pytest.raises(BadInput) as caught:
        read_guideline(tmp_path / "g.md")
    assert "g.md" in caught.value.value
    assert named in caught.value.value


def test_a_file_that_is_not_text_is_bad_input(tmp_path):
    (tmp_path / "g.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        read_guideline(tmp_path / "g.md")


def lines(tmp_path, *rows):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_tutorial_is_a_line_an_example(tmp_path):
    bad = {k: v for k, v in LINE.items() if k not in ("ranking", "strength")} | {"verdict": "all_bad"}
    first, second = read_tutorial(lines(tmp_path, LINE, bad), "coding")
    assert first.messages == (Message("user", "Tea?"),)
    assert first.completions == ((Message("assistant", "Yes."),), (Message("assistant", "No."),))
    assert first.answer == Answer(Verdict.RANKED, (("1",), ("0",)), 2)
    assert (first.explanation, first.project) == ("It is coffee time.", "coding")
    assert second.answer == Answer(Verdict.ALL_BAD)
    assert read_tutorial(lines(tmp_path)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"messages": "Tea?"}, "messages"),
        ({"completions": ["one"]}, ": 1 completion"),
        ({"completions": "Yes."}, "completions"),
        ({"completions": [1, 2]}, "completion"),
        ({"ranking": [[0], [2]]}, "ranking of 0, 2"),
        ({"ranking": [0, 1]}, "ranking"),
        ({"ranking": [[True], [False]]}, "ranking"),
        ({"ranking": []}, "ranked"),
        ({"verdict": "good"}, "verdict"),
        ({"verdict": ["ranked"]}, "verdict"),
        ({"verdict": "all_bad"}, "all_bad"),
        ({"strength": 4}, "strength"),
        ({"strength": "much"}, "strength"),
        ({"explanation": ""}, "explanation"),
    ],
)
def test_a_line_that_is_not_an_example_is_named_with_its_file(tmp_path, change, named):
    with pytest.raises(BadInput) as caught:
        read_tutorial(lines(tmp_path, LINE, LINE | change))
    assert caught.value.value.startswith(f"{tmp_path}/t.jsonl:2")
    assert named in caught.value.value
    assert "--skip-bad" not in str(caught.value)


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps(LINE) + "\n{\n")
    with pytest.raises(
        BadInput, match=r"t.jsonl:2: expected JSON in UTF-8. Fix: correct the line; nothing was changed"
    ):
        read_tutorial(tmp_path / "t.jsonl")


def test_llmfaos_training_pairs_are_a_tutorial(shared_data, store):
    examples = read_tutorial(shared_data / "llmfao" / "pairs-crowd-training.jsonl")
    assert [e.answer.ranking for e in examples[:3]] == [(("0",), ("1",)), (("1",), ("0",)), (("0", "1"),)]
    assert examples[0].explanation == "System A followed the prompt better."
    assert examples[0].completions[0] == (Message("assistant", "Nike"),)
    tutorial.replace_tutorial(store, "default", examples)
    assert tutorial.list_examples(store) == examples
    assert len(examples) == 7


def test_the_bundled_tutorial_teaches_both_sides_and_both_bad():
    examples = read_bundled_tutorial()
    assert {e.answer.ranking[:1] for e in examples} == {(("0",),), (("1",),), ()}
    assert [e.answer.verdict for e in examples].count(Verdict.ALL_BAD) == 1


def test_commands_set_and_show_guidelines(store_url, tmp_path):
    (tmp_path / "g.md").write_text(WHOLE)
    with Store.open(store_url) as store:
        projects.add_project(store, "coding")
        assert run("guidelines", "show", store=store_url)["version"] == "default-1"
        output = run(
            "guidelines", "set", str(tmp_path / "g.md"), "--project", "coding", "--scores", "offered", store=store_url
        )
        assert output["axes"] == ["helpful", "to_the_point", "safe"]
        assert guidelines.get_current_guideline(store, "coding").scores == "offered"
    again = run("guidelines", "set", str(tmp_path / "g.md"), "--project", "coding", store=store_url, ok=False)
    assert "1.10" in again["error"]
    run("guidelines", "set", str(tmp_path / "g.md"), "--project", "coding", "--version", "2", store=store_url)
    shown = run("guidelines", "show", "--project", "coding", store=store_url)
    assert (shown["version"], shown["axes"][1]["title"]) == ("2", "To the point")
    assert run("guidelines", "show", "--project", "coding", "--version", "1.10", store=store_url)["scores"] == "offered"
    printed = CliRunner().invoke(app, ["guidelines", "show", "--project", "coding", "--store", store_url])
    (tmp_path / "again.md").write_text(printed.stdout)
    assert read_guideline(tmp_path / "again.md", "coding").text == "# Be fair\n\nLook twice.\n\n---\n\nAnd again."
    assert "nowhere" in run("guidelines", "show", "--project", "nowhere", store=store_url, ok=False)["error"]
    assert "none.md" in run("guidelines", "set", str(tmp_path / "none.md"), store=store_url, ok=False)["error"]


def test_commands_set_and_show_a_tutorial(store_url, tmp_path):
    path = str(lines(tmp_path, LINE, LINE | {"explanation": "Another."}))
    assert run("tutorial", "set", path, store=store_url) == {"project": "default", "examples": 2}
    with Store.open(store_url) as store:
        ann = people.add_rater(store, "ann", Role.RATER)
        tutorial.record_attempt(store, ann.id, tutorial.list_examples(store)[0].id, Answer(Verdict.ALL_BAD), False)
    shown = run("tutorial", "show", store=store_url)
    assert [e["explanation"] for e in shown["examples"]] == ["It is coffee time.", "Another."]
    assert shown["results"] == [{"rater": "ann", "agreed": 0, "tried": 1}]
    printed = CliRunner().invoke(app, ["tutorial", "show", "--store", store_url])
    assert "1. Tea?" in printed.stdout
    assert "ann" in printed.stdout
    again = lines(tmp_path, *shown["examples"])
    run("tutorial", "set", str(again), store=store_url)
    assert run("tutorial", "show", store=store_url) == shown, "what is shown can be set again"


def test_quickstart_adds_a_tutorial_and_keeps_an_existing_one(tmp_path):
    url = f"sqlite:///{tmp_path}/new.db"
    env = {"RLHF_HITL_WORKSPACE": str(tmp_path)}
    quickstart = ["quickstart", "--no-serve", "--store", url]
    assert CliRunner().invoke(app, quickstart, env=env).exit_code == 0
    with Store.open(url) as store:
        assert tutorial.list_examples(store) == read_bundled_tutorial()
        own = read_tutorial(lines(tmp_path, LINE))
        tutorial.replace_tutorial(store, "default", own)
        assert CliRunner().invoke(app, quickstart, env=env).exit_code == 0
        assert tutorial.list_examples(store) == own
