"""What goes wrong in the first ten minutes is said at once, in one line that names the mistake and the fix."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile

import pytest
import yaml

from checkout import ROOT
from command_line import Outcome, run_command
from forked_processes import ForkedProcess, run_module
from plain_words import assert_plain
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.importing import import_bundled, import_path
from rlhf_hitl.loop.config import LoopConfig
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.types import Message, Prompt, Role, Split

HEAVY = ("torch", "transformers", "datasets", "gradio", "trl.trainer", "sklearn", "peft", "accelerate")

#: Runs commands in turn in one fresh process, and tells after each what it made the process import, and the seconds of
#: a processor that it took.
PROGRAM = """
import json, sys, time
from typer.testing import CliRunner
from rlhf_hitl.cli import app, register_commands
register_commands()
for words in json.loads(sys.argv[1]):
    before = time.process_time()
    done = CliRunner().invoke(app, words, prog_name="rlhf-hitl")
    heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print(json.dumps([done.exit_code, done.stderr, heavy, repr(done.exception), time.process_time() - before]))
"""


def make_mistakes(calls: list[list[str]], workspace: Path, models: Path) -> list[str]:
    """Return the one line that each of these commands ends with. None may import anything heavy, or take 3 seconds."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls), json.dumps(HEAVY)],
        env=os.environ | {"RLHF_HITL_WORKSPACE": str(workspace), "RLHF_HITL_MODELS": str(models)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(calls)
    lines = []
    for words, (code, stderr, heavy, exception, seconds) in zip(calls, outcomes):
        assert heavy == [], words
        assert code == 2, (words, exception)
        assert seconds < 3, words
        lines.append(the_line(Outcome(code, "", stderr)))
        assert_plain(lines[-1])
    return lines


def make_row(**fields) -> str:
    return json.dumps(fields) + "\n"


def the_line(done: Outcome, code: int = 2) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert len(line) <= 360  # the path of a test's folder is long
    return line


@pytest.fixture
def bundled(sqlite_store):
    import_bundled(sqlite_store)
    return sqlite_store


def test_what_is_missing_is_said_before_anything_heavy_is_imported(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = f"sqlite:///{tmp_path}/nowhere/preferences.db"
    (tmp_path / "loop.yaml").write_text("backbone: ./nowhere\n")
    (tmp_path / "store.yaml").write_text("store: sqlite:///other.db\n")
    (tmp_path / "taken.yaml").write_text(f"output_dir: {tmp_path}\n")
    without_store = [
        [name, "--store", missing]
        for name in (
            "route",
            "score",
            "evaluate",
            "train-reward",
            "train-dpo",
            "train-ppo",
            "train-grpo",
            "generate",
            "serve",
        )
    ]
    without_more = [
        [*words, "--store", bundled.url]
        for words in (
            ["route"],
            ["route", "--max-error", "2"],
            ["route", "--reward-model", "head-28-Nov-3"],
            ["score", "--reward-model", "./nowhere"],
            ["evaluate"],
            ["evaluate", "--min-slice", "math"],
            ["train-reward", "--backbone", "./nowhere"],
            ["train-dpo"],
            ["train-dpo", "--set", "foo=1"],
            ["train-dpo", "--config", "nowhere.yaml"],
            ["train-ppo"],
            ["train-rloo", "--set", "foo=1"],
            ["train-grpo", "--set", "log_completions=true"],
            ["train-ppo", "--set", "steps=many"],
            ["train-ppo", "--set", "minibatch=3"],
            ["train-ppo", "--set", "store=nosuch"],
            ["train-ppo", "--set", "output_dir=nosuch"],
            ["train-ppo", "--config", "store.yaml"],
            ["train-ppo", "--config", "taken.yaml"],
            ["promote", "--end", "1", "--list"],
            ["promote", "--list", "--no-wait"],
            ["promote", "--policy", "a", "--against", "b", "--simulate", "--no-wait"],
            ["generate", "--policy", "./nowhere"],
            ["generate", "--prompts", "nowhere.jsonl"],
            ["generate", "--temperature", "0", "--completions", "4"],
            ["loop", "--config", "loop.yaml"],
            ["loop", "--policy", "smollm2-135m-instrct"],
            ["import", "nowhere.jsonl"],
        )
    ]
    lines = make_mistakes([*without_store, *without_more], tmp_path / "work", tmp_path / "none")
    [taken] = [line for line in lines if "output_dir" in line and "--set" not in line]
    assert f"{tmp_path}: expected a folder that is not there yet" in taken  # the file's folder is followed


def test_too_few_judgments_are_told_before_anything_heavy_is_imported(sqlite_store, add_comparisons, tmp_path):
    """A store without judgments, and one with three: eight labels of the train split are the fewest to learn from."""
    add_comparisons(sqlite_store, 30)
    unjudged = ["--store", sqlite_store.url]
    few = ["--store", f"sqlite:///{tmp_path}/few.db"]
    with Store.open(few[1], create=True) as store:
        rows = [
            json.loads(make_row(prompt=f"Tea {n}?", chosen="Yes.", rejected="No.", split="train")) for n in range(3)
        ]
        (tmp_path / "votes.jsonl").write_text("".join(make_row(**row) for row in rows))
        import_path(store, tmp_path / "votes.jsonl", split=Split.TRAIN)
    lines = make_mistakes(
        [
            ["train-reward", *unjudged],
            ["train-reward", "--backend", "full", *unjudged],
            ["train-dpo", "--human-only", *unjudged],
            ["train-dpo", "--set", "human_only=true", *unjudged],
            ["train-reward", *few],
            ["train-reward", "--backend", "full", *few],
        ],
        tmp_path / "work",
        tmp_path / "none",
    )
    for line, labels in zip([*lines[:2], *lines[4:]], (0, 0, 3, 3)):
        assert f"error: {labels} labels with a preference in the train split of sqlite:///" in line
        assert "expected 8 or more. Fix: rate more comparisons (`rlhf-hitl serve`)" in line
    for line in lines[2:4]:
        assert "pairs for DPO in sqlite:///" in line
        assert "Fix: have comparisons rated" in line


def test_a_slice_that_there_is_not_is_told_before_anything_heavy_is_imported(judged_store, trained_model, tmp_path):
    [line] = make_mistakes(
        [["evaluate", "--min-slice", "topic=poetry:0.5", "--store", judged_store.url]], tmp_path, tmp_path / "none"
    )
    assert "--min-slice topic=poetry: expected a slice of this evaluation" in line


def test_a_store_that_is_missing_is_made_by_quickstart_or_init(tmp_path):
    line = the_line(run_command("raters", "list", "--store", f"sqlite:///{tmp_path}/none.db"))
    assert "rlhf-hitl quickstart" in line
    assert "rlhf-hitl init" in line


# --- settings, in our words


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lease_seconds", "soon", "expected a whole number"),
        ("lease_seconds", "0", "expected a number above 0"),
        ("max_expansion", "0.5", "expected 1 or more"),
        ("max_line_mb", "2000", "expected 1024 or less"),
        ("log", "loud", "expected 'quiet' or 'json'"),
        ("trusted_proxies", "here", "'here' does not appear to be an IPv4 or IPv6"),
    ],
)
def test_a_setting_of_the_environment_is_refused_in_plain_words(monkeypatch, name, value, expected):
    monkeypatch.setenv(f"RLHF_HITL_{name.upper()}", value)
    with pytest.raises(BadInput) as caught:
        load_settings()
    assert f"RLHF_HITL_{name.upper()}={value}: " in str(caught.value)
    assert expected in str(caught.value)
    assert_plain(str(caught.value))


def test_a_setting_that_there_is_not_is_answered_with_the_nearest(monkeypatch):
    monkeypatch.setenv("RLHF_HITL_LEASE_SECOND", "1")
    with pytest.raises(BadInput, match=r"did you mean RLHF_HITL_LEASE_SECONDS\?"):
        load_settings()


@pytest.mark.parametrize("field", [*LoopConfig.model_fields])
def test_a_setting_of_a_loop_is_refused_in_plain_words(sqlite_url, tmp_path, field):
    for value in ("many", -1, [[]], None, 1e99, ""):
        (tmp_path / "loop.yaml").write_text(yaml.safe_dump({field: value}))
        try:
            LoopConfig(**{field: value})
            continue
        except ValueError:
            line = the_line(run_command("loop", "--config", tmp_path / "loop.yaml", "--store", sqlite_url))
        assert f"loop.yaml: {field}" in line
        assert_plain(line)


def test_the_flag_is_blamed_for_what_the_flag_said_and_the_file_for_what_the_file_said(bundled, tmp_path):
    (tmp_path / "loop.yaml").write_text("seeed: 1\n")
    line = the_line(run_command("loop", "--config", tmp_path / "loop.yaml", "--store", bundled.url))
    assert "loop.yaml: seeed = 1" in line
    assert "did you mean seed?" in line
    for method in ("dpo", "ppo"):
        line = the_line(run_command(f"train-{method}", "--set", "foo=1", "--store", bundled.url))
        assert line.startswith("error: --set foo=1: expected a setting")
        assert f"{method}.yaml" not in line
    (tmp_path / "ppo.yaml").write_text("steps: many\n")
    line = the_line(run_command("train-ppo", "--config", tmp_path / "ppo.yaml", "--store", bundled.url))
    assert f"{tmp_path}/ppo.yaml: steps many: expected a whole number" in line
    line = the_line(run_command("train-ppo", "--set", "steps=0", "--store", bundled.url))
    assert line.startswith("error: --set steps=0: expected 1 or more")
    line = the_line(run_command("train-grpo", "--set", "num_generations=1", "--store", bundled.url))
    assert line.startswith("error: --set num_generations=1: expected 2 or more")
    line = the_line(run_command("train-dpo", "--set", "ties=maybe", "--store", bundled.url))
    assert line.startswith("error: --set ties=maybe: expected one of davidson, half, leave_out")
    line = the_line(run_command("train-dpo", "--set", "loss_type=sigmoyd", "--store", bundled.url))
    assert line.startswith("error: --set loss_type=sigmoyd: expected one of sigmoid, hinge")
    assert line.endswith("did you mean sigmoid?")
    (tmp_path / "bad.yaml").write_text("a: 1\nb: c: d\n")
    line = the_line(run_command("train-dpo", "--config", tmp_path / "bad.yaml", "--store", bundled.url))
    assert "bad.yaml:2: expected YAML" in line


def run_process(*words: object, cwd: Path) -> Outcome:
    """Run a command in a process of its own: what the parser refuses is said in one line by `main`."""
    return run_module("rlhf_hitl", *words, cwd=cwd)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "train-reward --backend heads",
            "--backend 'heads': expected one of head, full, classifier. Fix: did you mean head?",
        ),
        ("generate --split test", "--split 'test': expected one of train, calibration, heldout"),
        ("generate --backend other", "--backend 'other': expected one of transformers, vllm"),
        ("serve --port 99999", "--port '99999': expected 65535 or less"),
        ("serve --workers many", "--workers 'many': expected a whole number"),
        ("raters add ann --role boss", "--role 'boss': expected one of rater, "),
        ("tokens add ann --scope evrything", "--scope 'evrything': expected one of "),
        ("tokens add ann", "--scope: expected a value, and none is given"),
        ("raters add", "NAME: expected a value, and none is given"),
        ("raters list --jsn", "--jsn: expected an option of `rlhf-hitl raters list`. Fix: did you mean --json?"),
        ("serve --port", "--port: expected a value after it"),
        (
            "evaluate --model 1",
            "--model: expected an option of `rlhf-hitl evaluate`. Fix: did you mean --reward-model?",
        ),
        ("evaluate --agianst 1", "--agianst: expected an option of `rlhf-hitl evaluate`. Fix: did you mean --against?"),
        ("evalute", "evalute: expected a command of `rlhf-hitl`. Fix: did you mean evaluate?"),
        ("raters remove ann", "remove: expected a command of `rlhf-hitl raters`"),
    ],
)
def test_what_the_parser_refuses_is_said_in_the_same_form(words, said, tmp_path):
    line = the_line(run_process(*words.split(), cwd=tmp_path))
    assert said in line
    assert_plain(line)


def test_an_error_is_printed_once_where_json_and_errors_go_to_one_place(tmp_path):
    """Two readers get it once each; on a terminal, and in a file that has both, it stood twice."""
    for words in (["evaluate", "--model", "1", "--json"], ["raters", "list", "--json", "--store", "sqlite:///no.db"]):
        both = run_in_one_stream(*words, cwd=tmp_path)
        apart = run_process(*words, cwd=tmp_path)
        assert json.loads(both) == json.loads(apart.stdout) == {"error": the_line(apart).removeprefix("error: ")}
        assert run_in_one_stream(*(word for word in words if word != "--json"), cwd=tmp_path) == apart.stderr


def run_in_one_stream(*words: str, cwd: Path) -> str:
    """Run a command whose standard output and standard error are one file, and return what is in it."""
    with TemporaryFile("w+") as file:
        ForkedProcess("rlhf_hitl", words, os.environ, [file.fileno()] * 2, cwd).wait()
        file.seek(0)
        return file.read()


# --- data


def test_an_unknown_format_is_answered_shortly_with_the_nearest_and_where_the_list_is(sqlite_url, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(make_row(prompt="Tea?", choosen="Yes.", rejected="No."))
    line = the_line(run_command("import", rows, "--format", "trll", "--store", sqlite_url))
    assert "format 'trll'" in line
    assert "did you mean trl?" in line
    line = the_line(run_command("import", rows, "--store", sqlite_url))
    assert "with the fields prompt, choosen, rejected" in line
    assert "did you mean chosen for choosen?" in line
    assert "rlhf-hitl import --formats" in line
    listed = run_command("import", "--formats")
    assert listed.returncode == 0
    for name in ("native", "trl", "mt_bench", "archive"):
        assert f"\n{name} " in f"\n{listed.stdout}"
    assert json.loads(run_command("import", "--formats", "--json").stdout)["formats"]["trl"].startswith("TRL")


def test_a_folders_file_and_line_are_blamed_and_its_splits_are_kept(sqlite_store, tmp_path):
    folder = tmp_path / "votes"
    folder.mkdir()
    good = [make_row(prompt=f"Question {n}?", chosen="Yes.", rejected="No.") for n in range(3)]
    assert Prompt.create((Message("user", "Question 2?"),)).split is not Split.HELDOUT  # by its hash
    (folder / "train.jsonl").write_text(good[0] + good[1])
    (folder / "test-00000-of-00001.jsonl").write_text(good[2])
    (folder / "README.md").write_text("# Votes")
    (folder / "dataset_info.json").write_text("{}")
    report = import_path(sqlite_store, folder)
    assert (report.rows, report.comparisons) == (3, 3)
    assert {p.messages[0].content: p.split for p in list_prompts(sqlite_store)}["Question 2?"] is Split.HELDOUT
    (folder / "train.jsonl").write_text(good[0] + '{"prompt": "Tea?", "chosen": "Yes."}\n')
    line = the_line(run_command("import", folder, "--store", sqlite_store.url))
    assert f"{folder}/train.jsonl:2" in line
    (folder / "train.jsonl").write_text(good[0] + "{")
    assert f"{folder}/train.jsonl:2" in the_line(run_command("import", folder, "--store", sqlite_store.url))
    (tmp_path / "nothing").mkdir()
    line = the_line(run_command("import", tmp_path / "nothing", "--store", sqlite_store.url))
    assert "expected a folder with files ending in" in line


def test_prompts_are_texts_or_messages_and_another_line_is_named(tmp_path, sqlite_url):
    from rlhf_hitl.policy.completion_files import read_prompts

    path = tmp_path / "prompts.jsonl"
    message = {"role": "user", "content": "Tea?"}
    path.write_text(
        make_row(prompt="Tea?", tags={"topic": "drinks"})
        + "\n"
        + make_row(prompt=[message])
        + make_row(messages=[message])
    )
    text, messages, same = read_prompts(path)
    assert text.messages == messages.messages == same.messages
    assert text.tags == {"topic": "drinks"}
    for bad, said in {
        '{"question": "Tea?"}': 'prompts.jsonl:1: with question: expected a JSON object with "prompt"',
        '{"prompt": 3}': "prompts.jsonl:1: ",
        '{"prompt": ""}': "prompts.jsonl:1: prompt '': expected a text that is not empty",
        '{"prompt": [{"role": "user"}]}': "prompts.jsonl:1: messages[0]",
        '{"prompt": "Tea?", "tags": [1]}': "prompts.jsonl:1: ",
        '{"prompt": "Tea?"': "prompts.jsonl:1: expected a JSON object",
        '["Tea?"]': "prompts.jsonl:1: ",
    }.items():
        path.write_text(bad + "\n")
        line = the_line(run_command("generate", "--prompts", path, "--store", sqlite_url))
        assert said in line, bad
        assert "Error(" not in line


# --- people, projects, tokens


def test_a_name_says_what_it_may_hold_and_one_that_is_there_goes_on(sqlite_store, sqlite_url):
    line = the_line(run_command("raters", "add", "bad name!", "--store", sqlite_url))
    assert "name 'bad name!': expected letters and digits" in line
    assert "write it without !" in line
    people.add_rater(sqlite_store, "ann", Role.RATER, "a long password")
    with sqlite_store.write() as conn:  # as an earlier version let it be made
        conn.exec_driver_sql("UPDATE raters SET name = 'bad name!', name_key = 'bad name!' WHERE name = 'ann'")
    for words in (["set", "bad name!", "--quota", "5"], ["password", "bad name!"], ["disable", "bad name!"]):
        assert run_command("raters", *words, "--store", sqlite_url).returncode == 0


def test_to_open_a_paused_project_ends_the_pause_and_to_close_it_does_not(sqlite_url):
    def show() -> tuple[bool, bool]:
        [project] = json.loads(run_command("projects", "list", "--json", "--store", sqlite_url).stdout)["projects"]
        return project["open"], project["paused"]

    def change(*flags: str) -> Outcome:
        return run_command("projects", "set", "default", *flags, "--store", sqlite_url)

    run_command("init", "--store", sqlite_url)
    assert change("--paused").returncode == 0
    assert change("--open").returncode == 0
    assert show() == (True, False)
    assert "It is paused" in change("--paused").stdout
    assert show() == (True, True)
    assert "It is paused" in change("--members-only").stdout
    assert show() == (False, True)
    assert change("--paused", "--open").returncode == 0
    assert show() == (True, True)
    listed = run_command("projects", "list", "--store", sqlite_url).stdout
    assert "everybody" in listed
    assert "paused" in listed
    assert "nothing to change" in the_line(change())


def test_an_overlap_rule_is_set_shown_and_taken_back(sqlite_store, sqlite_url, add_comparisons):
    def change(rule: str) -> Outcome:
        return run_command("projects", "set", "default", "--overlap-rule", rule, "--store", sqlite_url)

    add_comparisons(sqlite_store, 2, overlap=3)
    assert "2 comparisons looked at anew" in change("least=1,most=4,price=0.02").stdout
    assert "least=1,most=4,price=0.02" in run_command("projects", "list", "--store", sqlite_url).stdout
    [shown] = json.loads(run_command("projects", "list", "--json", "--store", sqlite_url).stdout)["projects"]
    assert shown["overlap_rule"] == {"least": 1, "most": 4, "vote_price": 0.02, "escalate": "none"}
    assert shown["free"] == 2
    assert "expected 5 to 1000" in the_line(change("least=5,most=4"))
    assert change("fixed").returncode == 0
    [shown] = json.loads(run_command("projects", "list", "--json", "--store", sqlite_url).stdout)["projects"]
    assert shown["overlap_rule"] is None


def test_what_ends_for_good_is_ended_and_the_former_verb_goes_on_and_says_so(sqlite_store, sqlite_url):
    people.add_rater(sqlite_store, "ann", Role.RATER)
    for verb in ("end", "revoke"):
        run_command("tokens", "add", "ann", "--scope", "task", "--store", sqlite_url)
        rows = json.loads(run_command("tokens", "list", "--json", "--store", sqlite_url).stdout)["tokens"]
        [token] = [row["id"] for row in rows if row["holds"]]
        done = run_command("tokens", verb, token, "--store", sqlite_url)
        assert done.returncode == 0
        assert ("`revoke` is now called `end`" in done.stderr) is (verb == "revoke")
    assert "revoke" not in run_command("tokens", "--help").stdout


# --- running


def test_simulated_raters_without_work_say_why(sqlite_store, add_comparisons):
    done = run_command("simulate", "--store", sqlite_store.url)
    assert "quickstart --no-serve" in done.stdout
    add_comparisons(sqlite_store, 1)
    assert "1 simulated judgment;" in run_command("simulate", "--store", sqlite_store.url).stdout
    assert "All that was wanted is judged" in run_command("simulate", "--store", sqlite_store.url).stdout


def test_an_interrupted_command_says_what_is_kept_and_how_to_go_on(sqlite_store, add_comparisons, tmp_path):
    add_comparisons(sqlite_store, 3000)
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf_hitl", "simulate", "--judgments", "100000", "--store", sqlite_store.url],
        env=os.environ | {"RLHF_HITL_WORKSPACE": str(tmp_path)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not count_judgments(sqlite_store) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "error: interrupted: the judgments made so far are kept. The same command makes more\n"
    assert 0 < count_judgments(sqlite_store) < 3000


def count_judgments(store: Store) -> int:
    from rlhf_hitl.store.judgments import read_store_revision

    return read_store_revision(store)


def test_the_box_of_a_server_says_how_to_call_the_commands_where_they_are_not_found(tmp_path):
    program = Path(sys.executable).with_name("rlhf-hitl")
    words = [program, "quickstart", "--no-serve", "--store", f"sqlite:///{tmp_path}/preferences.db"]
    env = os.environ | {"RLHF_HITL_WORKSPACE": str(tmp_path), "COLUMNS": "300"}

    def quickstart(path: str, *command: object) -> str:
        done = subprocess.run(
            [*map(str, command or words)], cwd=tmp_path, env=env | {"PATH": path}, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    said = quickstart("/usr/bin:/bin")
    assert f"Here the commands are called with {program}" in said
    assert f"or with rlhf-hitl alone, after source {program.with_name('activate')}" in said
    assert "called with" not in quickstart(f"{program.parent}:/usr/bin:/bin")
    assert "called with" not in quickstart("/usr/bin:/bin", *words, "--json")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "rlhf-hitl").symlink_to(program)  # as pipx and uv do
    assert "called with" not in quickstart(f"{tmp_path}/tools:/usr/bin:/bin")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_to_run_takes_less_to_be_installed_than_to_test(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)

    def list_installs(target: str) -> list[str]:
        planned = subprocess.run(
            ["make", "--dry-run", target], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return [line.split(" install ")[1] for line in planned.stdout.splitlines() if "-m pip" in line]

    needed = [
        "--constraint requirements.lock setuptools",
        "--constraint requirements.lock --no-build-isolation -e '.[all]'",
    ]
    assert list_installs("run") == needed
    assert list_installs("test") == [*needed, "-r requirements.lock"]
