"""What votes reward: effects that simulated tastes have, groups of raters, and what cannot be known."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from scipy.special import expit

from command_line import run_command
from handmade_votes import answer, ask, fill
from rlhf_hitl.labels.answer_features import find_prompt_script, find_script, read_features
from rlhf_hitl.labels.bias import FEATURES, MIN_GROUP_RATERS, measure_bias
from rlhf_hitl.store import people
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.judgments import judgment_to_row
from rlhf_hitl.store.tables import judgments
from rlhf_hitl.types import Answer, Comparison, Role, Route, Verdict, utc_now


def features(text, asked="Why?"):
    prompt = ask(asked)
    return read_features(answer(prompt, text), find_prompt_script(prompt))


def effect(report, key) -> Any:
    """The effect of a report or a group, whose ends may be None."""
    return next(e for e in report.effects if e.key == key)


def test_tastes_are_found_within_their_intervals(store, add_raters):
    tastes = {"position": 0.4, "length": 0.2, "bold": -0.6, "good": 0.8, "bad": -0.8}
    fill(store, add_raters(store, 6), 1500, votes=2, tastes=tastes, policies=("good", "middling", "bad"))
    report = measure_bias(store)
    assert (report.votes, report.comparisons, report.raters, report.is_sample) == (3000, 1500, 6, False)
    # Against the average of the policies, whose taste is 0.
    expected = {"position": 0.4, "length": 0.2, "bold": -0.6, "policy:good": 0.8, "policy:middling": 0.0}
    for key, logit in expected.items():
        found = effect(report, key)
        assert found.low < expit(logit) < found.high, key
        assert found.high - found.low < 0.1, key
    assert effect(report, "list").value is None, "no answer has a list"
    assert effect(report, "list").votes == 0


def test_raters_without_a_taste_reward_nothing(store, add_raters):
    fill(store, add_raters(store, 4), 600)
    report = measure_bias(store)
    for key in ("position", "length", "bold"):
        found = effect(report, key)
        assert abs(found.value - 0.5) < found.high - found.low < 0.15, "within four standard errors"
    assert [e for e in report.effects if e.kind == "policy"] == [], "all answers are of one policy"


def test_judges_and_simulated_raters_are_measured_apart(sqlite_store, add_raters):
    ann, judge, bot = add_raters(sqlite_store, 3)
    fill(sqlite_store, [ann], 200, seed=1, tastes={"position": 1.0})
    fill(sqlite_store, [judge], 210, seed=2, tastes={"position": -1.0}, role=Role.JUDGE.value)
    fill(sqlite_store, [bot], 220, seed=3, simulated=True)
    found = {p: measure_bias(sqlite_store, p) for p in ("people", "judges", "simulated")}
    assert {p: r.votes for p, r in found.items()} == {"people": 200, "judges": 210, "simulated": 220}
    assert effect(found["people"], "position").low > 0.5
    assert effect(found["judges"], "position").high < 0.5


def test_groups_of_fewer_than_five_raters_are_not_shown(sqlite_store, add_raters):
    raters = add_raters(sqlite_store, 14)
    names = [people.get_rater(sqlite_store, id).name for id in raters]
    for name in names[:6]:
        people.change_rater(sqlite_store, name, attributes={"region": "north"})
    for name in names[6:10]:
        people.change_rater(sqlite_store, name, attributes={"region": "south"})
    fill(sqlite_store, raters[:6], 300, seed=1, tastes={"position": 1.0})
    fill(sqlite_store, raters[6:10], 300, seed=2)
    fill(sqlite_store, raters[10:], 300, seed=3)  # they are in no group
    report = measure_bias(sqlite_store)
    [north] = report.groups["rater:region"]
    assert (north.group, north.raters, north.votes) == ("north", 6, 300)
    assert effect(north, "position").low > 0.6
    assert report.too_small == {"rater:region": 1}
    assert "south" not in json.dumps(report.as_dict())
    shown = run_command("report", "--store", sqlite_store.url).stdout
    assert f"Not shown: 1 group of region with fewer than {MIN_GROUP_RATERS} raters." in shown
    assert "north" in shown
    people.change_rater(sqlite_store, names[0], attributes={"region": ""})
    people.change_rater(sqlite_store, names[1], attributes={"region": ""})
    assert measure_bias(sqlite_store).groups["rater:region"] == []


def test_languages_are_compared_where_each_has_enough_votes(sqlite_store, add_raters):
    raters = add_raters(sqlite_store, 2)
    fill(sqlite_store, raters, 200, seed=1, language="en", tastes={"length": 0.5})
    fill(sqlite_store, raters, 150, seed=2, language="fr", tastes={"length": -0.5})
    fill(sqlite_store, raters, 20, seed=3, language="ga")
    report = measure_bias(sqlite_store)
    length = {g.group: effect(g, "length") for g in report.groups["language"]}
    assert list(length) == ["en", "fr"]
    assert length["en"].low > 0.5 > length["fr"].high
    assert report.too_small["language"] == 1


def test_policies_that_no_chain_of_votes_connects_are_held_against_their_own(sqlite_store, add_raters):
    raters = add_raters(sqlite_store, 3)
    fill(sqlite_store, raters, 400, seed=1, policies=("a", "b"), tastes={"a": 1.0})
    fill(sqlite_store, raters, 400, seed=2, policies=("c", "d"))
    report = measure_bias(sqlite_store)
    a, b, c = (effect(report, f"policy:{name}") for name in "abc")
    assert a.low < expit(0.5) < a.high
    assert a.value == pytest.approx(1 - b.value)
    assert c.high - c.low < 0.2
    assert c.low < 0.5 < c.high


def test_of_too_many_comparisons_a_random_part_is_read_and_said_so(sqlite_store, add_raters):
    fill(sqlite_store, add_raters(sqlite_store, 2), 300, votes=2)
    report = measure_bias(sqlite_store, max_comparisons=50)
    assert (report.comparisons, report.votes, report.is_sample) == (50, 100, True)
    assert measure_bias(sqlite_store, max_comparisons=50) == report, "the same part each time"


def test_without_votes_and_with_one_nothing_is_known(sqlite_store, add_raters):
    nothing = measure_bias(sqlite_store)
    assert [e.key for e in nothing.effects] == list(FEATURES)
    assert all(e.value is None for e in nothing.effects)
    fill(sqlite_store, add_raters(sqlite_store, 1), 1)
    one = measure_bias(sqlite_store)
    assert one.votes == 1
    assert all(e.value is None for e in one.effects)
    assert "NaN" not in json.dumps(one.as_dict(), allow_nan=True)


def test_a_rater_who_always_takes_the_left_has_a_wide_interval_and_not_a_certain_one(sqlite_store, add_raters):
    fill(sqlite_store, add_raters(sqlite_store, 1), 20, tastes={"position": 1000.0})
    position = effect(measure_bias(sqlite_store), "position")
    assert position.low < 0.9 < position.value


def test_votes_whose_order_nobody_knows_say_nothing_of_position(sqlite_store, add_raters):
    [ann] = add_raters(sqlite_store, 1)
    prompts = [ask(f"{i}?") for i in range(30)]
    made = [Comparison.create(p, [answer(p, "aa"), answer(p, "bbbb")]) for p in prompts]
    with sqlite_store.write() as conn:
        insert_comparisons(sqlite_store, conn, made)
        for c in made:
            ranking = tuple((a.id,) for a in sorted(c.completions, key=lambda a: len(a.text)))
            row = judgment_to_row(
                Answer(Verdict.RANKED, ranking), comparison_id=c.id, rater_id=ann, order_shown=[],
                route=Route.HUMAN.value, idempotency_key=c.id, created_at=utc_now(),
            )  # fmt: skip
            conn.execute(judgments.insert(), row)
    report = measure_bias(sqlite_store)
    assert effect(report, "position").value is None
    assert effect(report, "length").high < 0.5


def test_formatting_is_what_markdown_makes_of_a_text():
    plain = features("A dash - here, 2. there, a*b*c, x ** y, # no heading\n#hashtag\nsnake__case__name `code`")
    assert not any((plain.has_list, plain.has_heading, plain.has_bold, plain.has_code))
    assert features("Do:\n- one\n- two").has_list
    assert features("1. one\n2) two").has_list
    assert not features("- only one").has_list
    assert features("## Title\ntext").has_heading
    assert features("This is **bold**.").has_bold
    assert features("This is __bold__.").has_bold
    assert features("```python\nx = 1\n```").has_code
    assert features("четыре").characters == 6


def test_an_answer_in_another_script_than_the_question_is_foreign():
    assert features("Потому что", "Why?").is_foreign
    assert not features("because", "Warum?").is_foreign
    assert not features("漢字とひらがな", "カタカナ").is_foreign
    assert not features("42", "Why?").is_foreign, "it has no letters"
    assert find_script("") == ""
    assert find_script("Привет, world and everybody") == "LATIN"


@pytest.mark.parametrize(
    "text", ["*" * 200_000, "**a" * 70_000, "__a" * 70_000, "- " * 100_000, "\n" * 200_000, "#" * 200_000]
)
def test_features_of_hostile_texts_are_read_at_once(text):
    began = time.process_time()
    features(text)
    assert time.process_time() - began < 1


def test_attributes_of_raters_are_set_shown_and_taken_away(store, add_raters):
    [id] = add_raters(store, 1)
    name, url = people.get_rater(store, id).name, store.url
    shown = run_command(
        "raters", "set", name, "--attribute", "region=north", "--attribute", "age = 30-39", "--store", url, "--json"
    )
    assert json.loads(shown.stdout)["attributes"] == {"age": "30-39", "region": "north"}
    people.change_rater(store, name, quota=5)
    assert people.get_rater(store, id).attributes == {"age": "30-39", "region": "north"}, "others do not touch them"
    assert "region=north" in run_command("raters", "set", name, "--attribute", "age=", "--store", url).stdout
    assert people.get_rater(store, id).attributes == {"region": "north"}
    run_command("raters", "set", name, "--attribute", "region=", "--store", url)
    assert people.get_rater(store, id).attributes == {}
    audit = run_command("audit", "--store", url, "--json").stdout
    assert "region" in audit
    assert "north" not in audit, "what somebody is may be forgotten; the audit log is for ever"
    for wrong in ("region", "=north", "x" * 81 + "=y", "a=b\u202e"):
        refused = run_command("raters", "set", name, "--attribute", wrong, "--store", url)
        assert refused.returncode == 2, wrong
        assert "fix:" in refused.stderr.lower()
