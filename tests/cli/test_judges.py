"""The commands `judges`: what can be wrong is said before anything is kept, and a key is repeated nowhere."""

from __future__ import annotations

import json

import pytest

from command_line import run_command
from judge_server import find_answer, say, serve_judge
from rlhf_hitl.store import Store, people, projects, queue
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Answer, Role, Split, Verdict

ADDRESS = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--endpoint", "ftp://x"], "an address such as"),
        (["--endpoint", "https://me:pa55word@x.org/v1"], "give the key with --api-key-env"),
        (["--endpoint", "https://x.org/v1?key=pa55word"], "give the key with --api-key-env"),
        (["--endpoint", ADDRESS, "--api-key-env", "sk-pa55word"], "not the key itself"),
        (["--endpoint", ADDRESS, "--api-key-env", "A", "--api-key-file", "b"], "one of them"),
        (["--endpoint", ADDRESS, "--template", "nothing"], "pairwise-reasons"),
        (["--endpoint", ADDRESS, "--budget", "5"], "--price-in"),
        (["--endpoint", ADDRESS, "--budget", "-5", "--price-in", "1"], "above 0"),
        (["--api-key-env", "A"], "--endpoint"),
        (["--draws", "3"], "--endpoint"),
        (["--template", "pairwise-reasons"], "transformers serve"),
        ([], "a model folder"),
    ],
)
def test_what_a_judge_cannot_be_is_said_and_nothing_is_kept(sqlite_url, options, said):
    done = run_command("judges", "add", "j", "--model", "no/such/model", *options, "--store", sqlite_url)
    assert done.returncode == 2
    assert said in done.stderr
    assert "pa55word" not in done.stderr
    assert json.loads(run_command("judges", "list", "--json", "--store", sqlite_url).stdout) == {"judges": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("reads: '(A'", "a regular expression"),
        ("reads: 'A'", "with a group"),
        ("answers: {A: first}", "for second"),
        ("max_tokens: 0", "1 to 4000"),
        ("question: 'no places'", "{{ first }}"),
        ("more: 1", "with more"),
        ("[", "YAML"),
    ],
)
def test_a_template_that_cannot_work_is_refused(sqlite_url, tmp_path, change, said):
    good = {"about": "x", "system": "s", "question": "'{{ prompt }} {{ first }} {{ second }}'", "reads": "'(A)'"}
    good |= {"answers": "{A: first, B: second}", "max_tokens": "3"}
    name, _, value = change.partition(": ")
    rows = good | {name: value} if value else {"about": change}
    file = tmp_path / "t.yaml"
    file.write_text("".join(f"{k}: {v}\n" for k, v in rows.items()))
    done = run_command(
        "judges", "add", "j", "--model", "m", "--endpoint", ADDRESS, "--template", file, "--store", sqlite_url
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_a_judge_is_added_run_listed_and_measured_against_people(sqlite_url, add_comparisons, add_raters):
    with Store.open(sqlite_url) as store:
        made = add_comparisons(store, 12)
        projects.change_project(store, "default", judge_overlap=1)
        [person] = add_raters(store, 1)
        for _ in made:  # the person likes what ends in .0, and calls every fourth a tie
            lease = queue.lease(store, person, seconds=60)
            best = sorted(lease.comparison.completions, key=lambda c: c.text[-1])
            tie = int(best[0].text.split(".")[0]) % 4 == 0
            ranking = (tuple(c.id for c in best),) if tie else tuple((c.id,) for c in best)
            queue.submit(store, lease.id, person, Answer(Verdict.RANKED, ranking))

    def answer(body, _):
        return say("A" if find_answer(body, "A").endswith(".0") else "B")

    with serve_judge(answer) as (address, _):
        more = ["--endpoint", address, "--price-in", 2, "--budget", 1, "--store", sqlite_url, "--json"]
        assert run_command("judges", "add", "gpt", "--model", "m", *more).returncode == 0
        run = ["judges", "run", "gpt", "--store", sqlite_url, "--json"]
        reports = [json.loads(run_command(*run, "--split", split.value).stdout) for split in Split]
    judged, calls, cost = (sum(report[name] for report in reports) for name in ("judged", "calls", "cost"))
    assert (judged, calls, any(report["failed"] for report in reports)) == (12, 24, False)
    assert cost == pytest.approx(24 * 100 * 2 / 1e6)
    [row] = json.loads(run_command("judges", "list", "--json", "--store", sqlite_url).stdout)["judges"]
    narrow = run_command("judges", "list", "--store", sqlite_url, env={"COLUMNS": "80"}).stdout
    assert {"unreadable", "refused", "reliability"} <= set(narrow.split()), "no word of a heading is cut"
    assert max(map(len, narrow.splitlines())) <= 80
    assert (row["votes"], row["calls"]["answered"], row["budget"]) == (12, 24, 1.0)
    found = json.loads(run_command("judges", "report", "gpt", "--json", "--store", sqlite_url).stdout)
    assert found["agreement"]["value"] == pytest.approx(9 / 12)
    assert found["agreement"]["low"] < 9 / 12 < found["agreement"]["high"]
    assert (found["position_bias"]["value"], found["flips"]["value"]) == (0.0, 0.0)
    shown = run_command("judges", "report", "gpt", "--store", sqlite_url).stdout
    assert "agrees with people" in shown
    assert "75.0%" in shown


def test_an_export_can_leave_judges_out(sqlite_url, tmp_path, add_comparisons):
    import pyarrow.parquet

    with Store.open(sqlite_url) as store:
        add_comparisons(store, 6)
        projects.change_project(store, "default", judge_overlap=1)
    with serve_judge(lambda *_: say("A", logprobs={"A": 0.9, "B": 0.1})) as (address, _):
        run_command("judges", "add", "gpt", "--model", "m", "--endpoint", address, "--store", sqlite_url)
        for split in Split:
            run_command("judges", "run", "gpt", "--split", split.value, "--store", sqlite_url)
    with Store.open(sqlite_url) as store:
        [person] = [people.add_rater(store, "ann", Role.RATER).id]
        lease = queue.lease(store, person, seconds=60)
        best, worst = (c.id for c in lease.comparison.completions)
        queue.submit(store, lease.id, person, Answer(Verdict.RANKED, ((best,), (worst,))))
        judged = len(list(read_judgments(store)))
    for flag, wanted in (("--with-judges", {"judge", "rater"}), ("--without-judges", {"rater"})):
        out = tmp_path / flag
        done = run_command("export", out, flag, "--store", sqlite_url, "--json")
        assert done.returncode == 0, done.stderr
        rows = [r for f in out.glob("judgments/*.parquet") for r in pyarrow.parquet.read_table(f).to_pylist()]
        assert {r["role"] for r in rows} == wanted
        assert len(rows) == (judged if "judge" in wanted else 1)
        assert json.loads(done.stdout)["judge_judgments"] == (6 if "judge" in wanted else 0)
