"""Reward models and evaluations have names for people, which commands print and take, and which never change hands."""

from __future__ import annotations

import html
import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from checkout import ROOT
from command_line import Outcome, run_command
from rlhf_hitl import simulate
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.reward.model_card import render_card
from rlhf_hitl.store import Store
from rlhf_hitl.store.reward_models import (
    MONTHS,
    RewardModelRecord,
    add_reward_model,
    display_evaluation_name,
    display_name,
    display_name_of_id,
    find_evaluation_name,
    get_reward_model,
    list_reward_models,
)
from rlhf_hitl.store.tables import reward_models
from rlhf_hitl.types import utc_now

YEAR = utc_now().year
DAY = datetime(YEAR, 1, 28, 12, tzinfo=UTC)


def make_record(id: str, at: datetime, backend: str = "head") -> RewardModelRecord:
    return RewardModelRecord(id, backend, f"/models/{id}", "tiny", "sha256:0", False, {"train_labels": 9}, at)


@pytest.fixture
def named(store):
    """Five models: three of one day in January, one of the next day, one of a year before."""
    for n, (at, backend) in enumerate(
        [
            (DAY.replace(year=YEAR - 1), "head"),
            (DAY, "head"),
            (DAY + timedelta(hours=1), "full"),
            (DAY + timedelta(hours=2), "head"),
            (DAY + timedelta(days=1), "head"),
        ]
    ):
        add_reward_model(store, make_record(f"m_{n}{'abcde'[n] * 23}", at, backend))
    return store


def test_a_name_is_the_backend_the_day_and_the_number_of_that_day(named):
    models = list_reward_models(named)
    assert [display_name(m) for m in models] == [
        f"head · 28 Jan {YEAR - 1} · 1",
        "head · 28 Jan · 1",
        "full · 28 Jan · 2",
        "head · 28 Jan · 3",
        "head · 29 Jan · 1",
    ]
    assert display_name(models[2], with_id=True) == "full · 28 Jan · 2 (m_2ccccccc)"
    assert models[2].figures == {"train_labels": 9}


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("full · 28 Jan · 2", 2),
        ("full · 28 Jan · 2 (m_2ccccccc)", 2),
        ("full-28-jan-2", 2),
        ("FULL 28 JAN 2", 2),
        ("28 Jan 2", 2),
        ("full", 2),
        ("2", 2),
        ("3", 3),
        ("29 Jan", 4),
        (f"28 Jan {YEAR - 1}", 0),
        (f"head · 28 Jan {YEAR} · 1", 1),
        ("m_2", 2),
        ("m_2ccccccccccccccccccccccc", 2),
    ],
)
def test_a_model_is_found_by_all_ways_to_write_its_name(named, text, index):
    assert get_reward_model(named, text) == list_reward_models(named)[index]


def test_a_name_that_several_models_have_lists_them_and_one_that_none_has_lists_the_newest(named):
    with pytest.raises(BadInput) as caught:
        get_reward_model(named, "head-28-jan-1")
    assert f"may be head · 28 Jan · 1 (m_1bbbbbbb), head · 28 Jan {YEAR - 1} · 1 (m_0aaaaaaa)." in str(caught.value)
    with pytest.raises(BadInput, match=r"head · 29 Jan · 1 \(m_4eeeeeee\), .* and 1 more"):
        get_reward_model(named, "head")
    for unknown in ("9", "m_9", "head-30-Jan-1", "", "·"):
        with pytest.raises(NotFound, match=r"head · 29 Jan · 1 .* and 2 more.*models list"):
            get_reward_model(named, unknown)
    assert get_reward_model(named) == list_reward_models(named)[-1]


def test_a_name_never_goes_to_another_model(named):
    """A model that is trained again becomes the newest, and keeps its number where that was on the same day."""
    before = {m.id: display_name(m) for m in list_reward_models(named)}
    first = list_reward_models(named)[1]
    again = add_reward_model(named, replace(first, created_at=DAY + timedelta(hours=5)))
    assert display_name(again) == "head · 28 Jan · 1"
    assert {m.id: display_name(m) for m in list_reward_models(named)} == before
    again = add_reward_model(named, replace(first, created_at=DAY + timedelta(days=1, hours=3)))
    assert display_name(again) == "head · 29 Jan · 2"
    assert get_reward_model(named).id == first.id
    others = {m.id: display_name(m) for m in list_reward_models(named) if m.id != first.id}
    assert others.items() <= before.items()
    new = add_reward_model(named, make_record("m_new", DAY + timedelta(minutes=1)))
    assert display_name(new) == "head · 28 Jan · 4"
    assert {m.id: display_name(m) for m in list_reward_models(named) if m.id in others} == others


def test_models_of_an_earlier_version_are_numbered_in_their_order(store):
    rows = [vars(make_record(f"m_{n}", DAY + timedelta(minutes=n))) for n in range(3)]
    with store.write() as conn:
        conn.execute(reward_models.insert(), [{k: v for k, v in row.items() if k != "number"} for row in rows])
    assert [m.number for m in list_reward_models(store)] == [1, 2, 3]
    assert add_reward_model(store, make_record("m_old", DAY - timedelta(hours=1))).number == 4
    assert {m.id: m.number for m in list_reward_models(store)} == {"m_0": 1, "m_1": 2, "m_2": 3, "m_old": 4}


def test_an_evaluation_is_called_after_its_model(named):
    models = list_reward_models(named)
    names = [f"heldout-{models[3].id}", f"train-{models[3].id}", f"round-2-{models[4].id}", "first"]
    shown = [display_evaluation_name(name, models) for name in names]
    assert shown == ["heldout · head · 28 Jan · 3", "train · head · 28 Jan · 3", "round-2 · head · 29 Jan · 1", "first"]
    for name, text in zip(names, shown):
        assert find_evaluation_name(text, names, models) == name
        assert find_evaluation_name(text.replace(" · ", "-"), names, models) == name
    assert find_evaluation_name("heldout 3", names, models) == names[0]
    with_ids = [display_evaluation_name(name, models, with_id=True) for name in names]
    assert with_ids[0] == "heldout · head · 28 Jan · 3 (m_3ddddddd)"
    assert with_ids[3] == "first"
    assert [find_evaluation_name(text, names, models) for text in with_ids] == names
    assert find_evaluation_name("heldout · head · 28 Jan · 3 (m_1bbbbbbb)", names, models) is None
    assert find_evaluation_name(f"heldout-{models[3].id[:6]}", names, models) == names[0]
    assert find_evaluation_name("3", names, models) is None
    assert find_evaluation_name("second", names, models) is None
    twins = [f"heldout-{m.id}" for m in models[:2]]
    with pytest.raises(BadInput, match=r"may be heldout · head · 28 Jan .*1 \(m_0aaaaaaa\), heldout · head"):
        find_evaluation_name("heldout 1", twins, models)
    assert find_evaluation_name("heldout 1 (m_0aaaaaaa)", twins, models) == twins[0]


def test_a_model_is_called_by_its_name_where_the_store_knows_its_id(named):
    models = list_reward_models(named)
    assert display_name_of_id(models[3].id, models) == "head · 28 Jan · 3 (m_3ddddddd)"
    assert display_name_of_id("m_elsewhere", models) == "m_elsewhere"


# --- on the command line


def run_on(url: str, workspace: Path, *words: object, code: int = 0) -> Outcome:
    """Run a command on the store at `url`, which has to end with exit code `code`."""
    done = run_command(*words, "--store", url, env={"RLHF_HITL_WORKSPACE": str(workspace), "COLUMNS": "300"})
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def trained_folder(sqlite_template, tiny_model, tmp_path_factory) -> Path:
    """What `trained` copies: a part of the bundled set, judged by simulated raters too, and two models of it."""
    folder = tmp_path_factory.mktemp("named")
    url = f"sqlite:///{folder}/preferences.db"
    shutil.copy(sqlite_template, folder / "preferences.db")
    with (ROOT / "rlhf_hitl" / "bundled" / "set.jsonl").open(encoding="utf-8") as lines:
        (folder / "part.jsonl").write_text("".join(islice(lines, 60)), encoding="utf-8")
    with Store.open(url) as store:
        import_path(store, folder / "part.jsonl", format="native", pairs="all")
        simulate.judge_queue(store, 90)
    for layer in (1, 2):
        run_on(url, folder / "workspace", "train-reward", "--backbone", tiny_model, "--layer", layer)
    return folder


@pytest.fixture
def trained(sqlite_store, trained_folder, tmp_path):
    """A store with two reward models, and a way to run commands on it."""
    with (
        closing(sqlite3.connect(trained_folder / "preferences.db")) as made,
        closing(sqlite3.connect(tmp_path / "preferences.db")) as copy,
    ):
        made.backup(copy)
    shutil.copytree(trained_folder / "workspace", tmp_path / "workspace")
    with sqlite_store.write() as conn:
        for model in list_reward_models(sqlite_store):
            path = tmp_path / Path(model.path).relative_to(trained_folder)
            conn.execute(reward_models.update().where(reward_models.c.id == model.id).values(path=str(path)))
    return partial(run_on, sqlite_store.url, tmp_path / "workspace")


def test_commands_print_the_name_and_take_it_and_the_list_has_what_is_known(trained, sqlite_store, tmp_path):
    first, second = list_reward_models(sqlite_store)
    today = f"{second.created_at.day} {MONTHS[second.created_at.month - 1]}"
    assert [display_name(first), display_name(second)] == [f"head · {today} · 1", f"head · {today} · 2"]
    assert f"Scored with head · {today} · 1 ({first.short_id})" in trained("score", "--reward-model", "1").stdout
    routed = trained("route", "--reward-model", f"head-{today.replace(' ', '-')}-2")
    assert f"Routed with head · {today} · 2 ({second.short_id})" in routed.stdout
    trained("evaluate", "--reward-model", "1", "--name", "first")
    said = trained("evaluate", "--reward-model", first.id[:9]).stdout
    assert f"Model: head · {today} · 1 ({first.short_id}). Kept as heldout · head · {today} · 1 in " in said
    result = json.loads(trained("evaluate", "--against", "heldout-1", "--json").stdout)
    assert result["reward_model_id"] == second.id
    assert result["difference"]["against"] == "heldout-1"

    for rival, called in {
        "heldout-1": f"heldout · head · {today} · 1 ({first.short_id})",
        first.short_id: f"head · {today} · 1 ({first.short_id})",
    }.items():
        page = tmp_path / "report.html"
        said = trained("evaluate", "--no-worse-than", rival, "--html", page).stdout
        assert f"Against {called}: " in said
        assert re.search(rf"Gate passed: no-worse-than: .* {re.escape(called)}: ", said)
        text = html.unescape(page.read_text())
        assert f"<h1>Evaluation heldout · head · {today} · 2</h1>" in text
        assert f"Reward model head · {today} · 2 ({second.short_id}), " in text
        assert f"Against {called}" in text
        assert second.id not in text

    card = (tmp_path / "workspace" / "reward" / second.id / "README.md").read_text()
    assert f"# Reward model head · {today} · 2 ({second.short_id})\n" in card
    assert f"| id | {second.id} |" in card
    assert f"| trained on | {second.created_at.date()} |" in card
    assert f"| heldout · head · {today} · 2 |" in card
    data = json.loads((tmp_path / "workspace" / "reward" / second.id / "reward_model.json").read_text())
    assert (data["id"], data["name"]) == (second.id, f"head · {today} · 2")
    assert [*data["evaluations"]] == [f"heldout-{second.id}"]

    listed = json.loads(trained("models", "list", "--json").stdout)
    assert [m["name"] for m in listed["language_models"]] == ["smollm2-135m-instruct"]
    newest, oldest = listed["reward_models"]
    assert (newest["name"], newest["id"]) == (f"head · {today} · 2", second.id)
    assert newest["labels"] == second.figures["train_labels"] > 0
    assert newest["accuracy"] == result["accuracy"]["value"]
    assert newest["simulated"] is True
    assert (oldest["evaluation"], oldest["id"]) == (f"heldout-{first.id}", first.id)
    figures = second.figures
    learnt = figures["train_labels"] + figures["calibration_labels"]
    assert (newest["simulated_labels"], newest["calibration_labels"]) == (learnt, figures["calibration_labels"])
    text = trained("models", "list").stdout
    assert f"head · {today} · 2" in text
    assert f"  {learnt:,} simulated labels  " in text
    assert second.short_id in text
    assert "simulated" in text

    missing = trained("route", "--reward-model", "7", code=2).stderr
    assert f"one of this store's (head · {today} · 2 ({second.short_id})" in missing
    evaluation = tmp_path / "workspace" / "evaluations" / "first" / "evaluation.json"
    evaluation.write_text("{")
    assert "1 evaluation cannot be read: first" in trained("models", "list").stdout


def test_the_list_shows_the_newest_heldout_evaluation_and_else_names_what_was_replayed(trained, sqlite_store, tmp_path):
    """A replay of three labels came later and stood in place of the evaluation that says how good a model is."""
    rankings = tmp_path / "rankings.jsonl"
    rows = [{"prompt": f"Tea {n}?", "chosen": "Yes, with milk.", "rejected": "No."} for n in range(3)]
    rankings.write_text("".join(json.dumps(row) + "\n" for row in rows))
    heldout = json.loads(trained("evaluate", "--json").stdout)
    for model in ("1", "2"):
        trained("evaluate", "--reward-model", model, "--data", rankings)
    trained("evaluate", "--split", "train")
    newest, oldest = json.loads(trained("models", "list", "--json").stdout)["reward_models"]
    assert newest["evaluation"] == f"heldout-{newest['id']}"
    assert newest["accuracy"] == heldout["accuracy"]["value"]
    assert oldest["evaluation"] == f"rankings-{oldest['id']}"
    text = trained("models", "list").stdout
    assert f"accuracy {heldout['accuracy']['value']:.1%} on {heldout['n']} held-out labels  " in text
    assert f"accuracy {oldest['accuracy']:.1%} on 3 labels of rankings.jsonl  " in text
    trained("evaluate", "--reward-model", "1", "--split", "train")
    assert " train labels  " in trained("models", "list").stdout


def test_a_baseline_is_replaced_by_another_model_or_data_only_with_overwrite(trained, sqlite_store, tmp_path):
    first, second = list_reward_models(sqlite_store)
    trained("evaluate", "--reward-model", first.id, "--name", "first")
    baseline = (tmp_path / "workspace" / "evaluations" / "first" / "evaluation.json").read_bytes()
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Tea?", "chosen": "Yes, with milk.", "rejected": "No."}) + "\n")
    same = trained("evaluate", "--reward-model", first.id, "--name", "first", "--no-worse-than", "first", "--json")
    assert json.loads(same.stdout)["difference"]["is_same_model"] is True, "the same model may be evaluated again"
    said = trained("evaluate", "--reward-model", first.id, "--against", "first").stdout
    assert "The model is compared with itself" in said
    said = trained("evaluate", "--against", "first").stdout
    assert "compared with itself" not in said

    heads = [Path(model.path) / "reward_head.safetensors" for model in (first, second)]
    whole = [head.read_bytes() for head in heads]
    for head in heads:
        head.write_bytes(b"")  # whoever loads a model says that it is damaged
    for words, expected in (
        ((), f"this evaluation is of {display_name(first, with_id=True)}"),
        (("--no-worse-than", "first"), f"this evaluation is of {display_name(first, with_id=True)}"),
        (("--reward-model", "1", "--data", rows), "this evaluation is on other data ("),
        (("--reward-model", "1", "--split", "train"), "this evaluation is on other data ("),
    ):
        [line] = trained("evaluate", "--name", "first", *words, code=2).stderr.strip().splitlines()
        assert line.startswith("error: --name first: expected a new name: ")
        assert expected in line
        assert line.endswith("Fix: choose another name, or replace it with --overwrite")
    kept = json.loads((tmp_path / "workspace" / "evaluations" / "first" / "evaluation.json").read_bytes())
    assert kept | {"created_at": ""} == json.loads(baseline) | {"created_at": ""}
    for head, content in zip(heads, whole):
        head.write_bytes(content)
    said = trained("evaluate", "--name", "first", "--overwrite", "--against", "first").stdout
    assert "compared with itself" not in said, "it was compared with what it replaced"
    trained("evaluate", "--name", "first", "--overwrite", "--data", rows)
    assert json.loads(trained("evaluate", "--name", "first", "--data", rows, "--json").stdout)["n"] == 1


def test_an_empty_name_of_a_model_is_refused_as_of_a_variable_that_is_not_set(sqlite_store, add_comparisons):
    add_comparisons(sqlite_store, 1)
    add_reward_model(sqlite_store, make_record("m_one", DAY))
    for words in (
        ["evaluate", "--reward-model", ""],
        ["score", "--reward-model", " "],
        ["route", "--reward-model", ""],
        ["train-ppo", "--reward-model", ""],
        ["train-dpo", "--reward-model", ""],
        ["evaluate", "--against", ""],
        ["evaluate", "--no-worse-than", ""],
        ["generate", "--policy", ""],
        ["train-reward", "--backbone", ""],
        ["loop", "--policy", ""],
    ):
        done = run_command(*words, "--store", sqlite_store.url)
        assert done.returncode == 2, words
        [line] = done.stderr.strip().splitlines()
        assert repr(words[-1]) in line, words
        assert "Fix: name one, or leave it out" in line, words


def test_a_card_without_a_name_gets_one_with_its_first_evaluation(trained, sqlite_store):
    """As an earlier version left it, and as a script does that knows no store."""
    record = list_reward_models(sqlite_store)[-1]
    path = Path(record.path) / "reward_model.json"
    card = json.loads(path.read_text())
    nameless = {key: value for key, value in card.items() if key not in ("name", "trained_on")}
    assert f"# Reward model {record.id}\n" in render_card(nameless)
    path.write_text(json.dumps(nameless))
    trained("evaluate")
    written = json.loads(path.read_text())
    assert {key: value for key, value in written.items() if key != "evaluations"} == card


def test_models_are_listed_where_there_is_no_store_yet_and_a_wrong_store_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_HITL_MODELS", str(tmp_path / "models"))
    done = run_command("models", "list")
    assert done.returncode == 0
    assert "not fetched" in done.stdout
    assert "there is no store here yet: to try things out run `rlhf-hitl quickstart`" in done.stdout
    assert not Path("workspace").exists()
    (tmp_path / "models" / "smollm2-135m-instruct").mkdir(parents=True)
    (tmp_path / "models" / "smollm2-135m-instruct" / "source.json").write_text('{"source": "hub:x"}')
    [model] = json.loads(run_command("models", "list", "--json").stdout)["language_models"]
    assert model["source"] == "hub:x"
    assert model["path"] == str(tmp_path / "models" / "smollm2-135m-instruct")
    assert run_command("models", "list", "--store", f"sqlite:///{tmp_path}/other.db").returncode == 2
