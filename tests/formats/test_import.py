"""Files into the store: what is counted, what is kept, and that a file read twice or backwards changes nothing."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from command_line import Outcome, run_command
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store, people, projects, queue
from rlhf_hitl.store.comparisons import count_rows, find_comparisons, list_prompts
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Message, Split, Verdict, hash_prompt_family, split_for_family


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def vote(judge: str, winner: str = "model_a", *, question: str = "Q", a: str = "A", b: str = "B", **more) -> dict:
    return {
        "judge": judge, "model_a": f"model {a}", "model_b": f"model {b}", "turn": 1, "winner": winner,
        "conversation_a": [user(question), assistant(a)], "conversation_b": [user(question), assistant(b)],
    } | more  # fmt: skip


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def said(store) -> list[tuple[str, list[list[str]]]]:
    """Who said what, in texts instead of ids."""
    texts = {c.id: c.text for comparison in find_comparisons(store) for c in comparison.completions}
    names = {r.id: r.name for r in people.list_raters(store)}
    return sorted(
        (names[j.rater_id], [sorted(texts[i] for i in group) for group in j.answer.ranking])
        for j in read_judgments(store)
    )


def totals(store) -> dict[str, int]:
    return count_rows(store)


# Real sets. The counts beside an import's are made here, from the file alone.


def test_mt_bench_is_imported_completely(shared_data, sqlite_store):
    path = shared_data / "mt_bench" / "mtbench_human_joined.jsonl.gz"
    with gzip.open(path, "rt") as f:
        rows = [json.loads(line) for line in f]
    differ = [r for r in rows if r["conversation_a"] != r["conversation_b"]]
    report = import_path(sqlite_store, path)

    votes = {(r["judge"], r["question_id"], r["turn"], *sorted((r["model_a"], r["model_b"]))): r for r in differ}
    assert (report.rows, report.identical_sides) == (len(rows), len(rows) - len(differ))
    assert report.judgments == len(votes)
    assert report.repeated_rows + report.repeated_votes == len(differ) - len(votes)
    assert report.comparisons == len({key[1:] for key in votes})
    assert report.raters == len({r["judge"] for r in rows})
    assert report.prompts == len({r["question_id"] for r in rows})
    ties = sum(len(j.answer.ranking) == 1 for j in read_judgments(sqlite_store))
    assert ties == sum(r["winner"] == "tie" for r in votes.values())


def test_llmfao_is_imported_completely(shared_data, sqlite_store):
    folder = shared_data / "llmfao"
    with (folder / "crowd-comparisons.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    report = import_path(sqlite_store, folder)

    assert (report.judgments, report.repeated_votes, report.identical_sides) == (len(rows), 0, 0)
    assert report.raters == len({r["worker"] for r in rows})
    assert report.comparisons == len({(r["prompt"], r["model_x"], r["model_y"]) for r in rows})
    assert report.completions == len({(r["prompt"], r[m]) for r in rows for m in ("model_x", "model_y")})
    by_name = {r.name.removeprefix("llmfao:"): r.id for r in people.list_raters(sqlite_store)}
    votes_by_rater = Counter(j.rater_id for j in read_judgments(sqlite_store))
    assert votes_by_rater == {by_name[worker]: n for worker, n in Counter(r["worker"] for r in rows).items()}
    wins = Counter(r["winner"] for r in rows)
    shown_first = Counter(
        "tie" if len(j.answer.ranking) == 1 else "left" if j.answer.ranking[0][0] == j.order_shown[0] else "right"
        for j in read_judgments(sqlite_store)
    )
    assert shown_first == wins


@pytest.mark.parametrize("part", ["base", "online"])
def test_hh_is_imported_completely(shared_data, sqlite_store, part):
    path = shared_data / "hh_rlhf" / f"helpful-{part}.test.jsonl.gz"
    with gzip.open(path, "rt") as f:
        rows = [json.loads(line) for line in f]
    differ = [r for r in rows if r["chosen"] != r["rejected"]]
    report = import_path(sqlite_store, path)

    assert (report.rows, report.identical_sides) == (len(rows), len(rows) - len(differ))
    assert report.judgments + report.repeated_rows + report.repeated_votes == len(differ)
    for c in find_comparisons(sqlite_store):
        assert c.prompt.messages[-1].role == "user"
        assert all(a.messages[0].role == "assistant" for a in c.completions)
        assert c.prompt.split is split_for_family(hash_prompt_family(c.prompt.messages))


@pytest.mark.parametrize(
    "name", ["mt_bench/mtbench_human_joined.jsonl.gz", "llmfao", "hh_rlhf/helpful-online.test.jsonl.gz"]
)
def test_a_real_set_read_again_adds_nothing(shared_data, sqlite_store, name):
    first = import_path(sqlite_store, shared_data / name)
    before = totals(sqlite_store)
    again = import_path(sqlite_store, shared_data / name)
    assert totals(sqlite_store) == before
    assert (again.prompts, again.completions, again.comparisons, again.judgments, again.raters) == (0,) * 5
    assert again.repeated_rows == first.judgments + first.repeated_rows


# Small files.


def test_importing_twice_adds_nothing_on_either_database(store, tmp_path):
    path = write(tmp_path / "a.jsonl", vote("ann"), vote("bob", "tie"), vote("cy", "model_b", question="Q2"))
    first = import_path(store, path)
    before = totals(store)
    again = import_path(store, path)
    assert (first.prompts, first.completions, first.comparisons, first.judgments, first.raters) == (2, 4, 2, 3, 3)
    assert (again.prompts, again.completions, again.comparisons, again.judgments, again.raters) == (0,) * 5
    assert again.repeated_rows == 3
    assert totals(store) == before


def test_a_pair_seen_the_other_way_round_is_the_same_comparison_and_the_same_vote(sqlite_store, tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        vote("ann", "model_a", a="good", b="bad"),
        vote("bob", "model_b", a="bad", b="good"),
        vote("ann", "model_b", a="bad", b="good"),
    )
    report = import_path(sqlite_store, path)
    assert (report.comparisons, report.judgments, report.repeated_rows) == (1, 2, 1)
    assert said(sqlite_store) == [(f"mt_bench:{name}", [["good"], ["bad"]]) for name in ("ann", "bob")]


def test_ties_and_both_bad_stay_what_they_are(sqlite_store, tmp_path):
    import_path(sqlite_store, write(tmp_path / "a.jsonl", vote("ann", "tie"), vote("bob", "tie (bothbad)")))
    assert said(sqlite_store) == [("mt_bench:ann", [["A", "B"]]), ("mt_bench:bob", [])]
    assert [j.answer.verdict for j in read_judgments(sqlite_store)] == [Verdict.RANKED, Verdict.ALL_BAD]


def test_a_tie_seen_the_other_way_round_is_a_repeated_row(sqlite_store, tmp_path):
    path = write(tmp_path / "a.jsonl", vote("ann", "tie", a="x", b="y"), vote("ann", "tie", a="y", b="x"))
    report = import_path(sqlite_store, path)
    assert (report.judgments, report.repeated_rows, report.repeated_votes) == (1, 1, 0)


def test_of_two_votes_of_one_rater_on_one_comparison_the_first_is_kept(sqlite_store, tmp_path):
    path = write(tmp_path / "a.jsonl", vote("ann", "model_a"), vote("ann", "model_b"))
    report = import_path(sqlite_store, path)
    assert (report.judgments, report.repeated_votes, report.repeated_rows) == (1, 1, 0)
    assert said(sqlite_store) == [("mt_bench:ann", [["A"], ["B"]])]


def test_identical_sides_are_dropped_and_counted(sqlite_store, tmp_path):
    report = import_path(sqlite_store, write(tmp_path / "a.jsonl", vote("ann", a="same", b="same"), vote("ann")))
    assert (report.identical_sides, report.comparisons) == (1, 1)


def test_a_prompt_in_two_subsets_of_a_benchmark_is_told_apart_and_a_given_batch_wins(sqlite_store, tmp_path):
    row = {"prompt": "Q", "chosen": "yes", "chosen_model": "a", "rejected": "no", "rejected_model": "b"}
    path = write(tmp_path / "a.jsonl", row | {"subset": "easy"}, row | {"rejected": "nay", "subset": "hard"})
    assert import_path(sqlite_store, path).prompts == 1
    assert sorted(c.batch for c in find_comparisons(sqlite_store)) == ["easy", "hard"]
    again = write(tmp_path / "b.jsonl", row | {"rejected": "never", "subset": "hard"})
    import_path(sqlite_store, again, batch="mine")
    assert sorted(c.batch for c in find_comparisons(sqlite_store)) == ["easy", "hard", "mine"]


def test_rankings_of_k_by_several_raters_come_in_with_their_ties(sqlite_store, tmp_path):
    row = {"prompt": "Q", "completions": ["a", "b", "c", "d"], "ranking": [[2], [0, 3], [1]]}
    path = write(tmp_path / "a.jsonl", row | {"rater": "ann"}, row | {"rater": "bob", "ranking": [[1], [0]]})
    report = import_path(sqlite_store, path, split=Split.HELDOUT)
    assert (report.format, report.comparisons, report.judgments, report.raters) == ("kwise", 1, 2, 2)
    assert said(sqlite_store) == [("kwise:ann", [["c"], ["a", "d"], ["b"]]), ("kwise:bob", [["b"], ["a"]])]


def test_the_order_shown_is_kept_where_the_file_tells_it_and_left_open_where_not(sqlite_store, tmp_path):
    import_path(sqlite_store, write(tmp_path / "a.jsonl", vote("ann", "model_b", a="left", b="right")))
    import_path(sqlite_store, write(tmp_path / "b.jsonl", {"prompt": "Q", "chosen": "a", "rejected": "b"}))
    first, second = read_judgments(sqlite_store)
    comparison = next(find_comparisons(sqlite_store, ids=[first.comparison_id]))
    assert [comparison.find_completion(i).text for i in first.order_shown] == ["left", "right"]
    assert second.order_shown == ()


def test_nothing_is_imported_if_a_line_is_bad(sqlite_store, tmp_path):
    path = write(tmp_path / "a.jsonl", *[vote(f"ann {i}", question=f"Q{i}") for i in range(1500)], vote("x", "nobody"))
    with pytest.raises(BadInput, match=r"a\.jsonl:1501: winner = 'nobody'"):
        import_path(sqlite_store, path)
    assert not any(totals(sqlite_store).values())


def test_bad_lines_are_skipped_counted_and_quoted_when_asked(sqlite_store, tmp_path):
    half = vote("dee", question="\ud800")  # half of a surrogate pair: JSON, but no text
    path = write(tmp_path / "a.jsonl", vote("ann"), vote("x", "nobody"), [1], half, vote("bob", question=" "))
    path.write_text(path.read_text() + "{\n" + json.dumps(vote("cy")) + "\n")
    report = import_path(sqlite_store, path, skip_bad=True)
    assert (report.judgments, report.bad_lines) == (2, 5)
    assert [reason.split(": expected")[0].split(":")[1] for reason in report.bad_reasons] == ["2", "3", "4", "5", "6"]


def test_a_file_of_bad_lines_only_is_refused(sqlite_store, tmp_path):
    with pytest.raises(BadInput, match="winner"):
        import_path(sqlite_store, write(tmp_path / "a.jsonl", vote("x", "nobody")), skip_bad=True)


def test_votes_from_outside_open_no_places_unless_asked(sqlite_store, tmp_path):
    import_path(sqlite_store, write(tmp_path / "a.jsonl", vote("ann")))
    assert queue.count_places(sqlite_store)["free"] == 0
    import_path(sqlite_store, write(tmp_path / "b.jsonl", vote("ann", question="Q2")), queue=True, overlap=2)
    assert queue.count_places(sqlite_store)["free"] == 2


def test_comparisons_without_votes_wait_for_raters(sqlite_store, tmp_path):
    completions = [{"messages": [assistant(t)], "policy": "p"} for t in "abcd"]
    path = write(tmp_path / "a.jsonl", {"messages": [user("Q")], "completions": completions}, {"messages": [user("R")]})
    report = import_path(sqlite_store, path, overlap=3)
    assert (report.prompts, report.completions, report.comparisons, report.judgments) == (2, 4, 2, 0)
    assert queue.count_places(sqlite_store)["free"] == 6
    again = import_path(sqlite_store, path, overlap=3)
    assert (again.prompts, again.completions, again.comparisons, again.repeated_rows) == (0, 0, 0, 3)
    more = import_path(sqlite_store, path, pairs="all")
    assert more.comparisons == 4


def test_held_out_prompts_are_pinned_and_stay_so(sqlite_store, tmp_path):
    questions = [f"Question {i}" for i in range(40)]
    held = write(tmp_path / "held.jsonl", *[vote("ann", question=q) for q in questions])
    report = import_path(sqlite_store, held, split=Split.HELDOUT)
    assert report.by_split == {"train": 0, "calibration": 0, "heldout": 40}
    # The same openings in other spellings, asked for training: the family's split stands.
    more = write(tmp_path / "more.jsonl", *[vote("bob", question=f"{q.upper()} ") for q in questions])
    report = import_path(sqlite_store, more, split=Split.TRAIN)
    assert report.by_split == {"train": 0, "calibration": 0, "heldout": 40}
    assert report.splits_kept == 40
    assert {p.split for p in list_prompts(sqlite_store)} == {Split.HELDOUT}


def test_without_a_pin_the_split_is_the_familys_hash(sqlite_store, tmp_path):
    path = write(tmp_path / "a.jsonl", *[vote("ann", question=f"Question {i}") for i in range(100)])
    report = import_path(sqlite_store, path)
    expected = Counter(
        split_for_family(hash_prompt_family((Message("user", f"Question {i}"),))).value for i in range(100)
    )
    assert report.by_split == expected
    assert min(report.by_split.values()) > 0


def test_a_label_made_by_a_model_is_not_imported_as_a_vote(sqlite_store, tmp_path):
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", "label_source": "model"}
    report = import_path(sqlite_store, write(tmp_path / "a.jsonl", row))
    assert (report.comparisons, report.judgments) == (1, 0)


def test_comparisons_go_to_the_project_and_the_batch_that_are_named(store, tmp_path):
    path = write(tmp_path / "a.jsonl", vote("ann"), vote("bob", question="Q2"))
    projects.add_project(store, "sea")
    first = import_path(store, path)
    second = import_path(store, path, project="sea", batch="May")
    assert (first.comparisons, second.comparisons, second.judgments) == (2, 2, 2)
    assert (second.prompts, second.completions) == (0, 0)  # texts are shared by projects, judgments are not
    assert {(c.project, c.batch) for c in find_comparisons(store, project="sea")} == {("sea", "May")}
    assert {(c.project, c.batch) for c in find_comparisons(store, project="default")} == {("default", "")}


def test_an_unknown_project_or_a_batch_without_end_is_refused(sqlite_store, tmp_path):
    path = write(tmp_path / "a.jsonl", vote("ann"))
    with pytest.raises(NotFound, match="project 'see'"):
        import_path(sqlite_store, path, project="see")
    with pytest.raises(BadInput, match="batch 'x"):
        import_path(sqlite_store, path, batch="x" * 300)
    assert not any(totals(sqlite_store).values())


def test_an_import_updates_the_statistics_of_postgres(postgres_url, tmp_path):
    # Not told, it goes on with plans made for empty tables: each transaction reads all judgments there are.
    store = Store.open(postgres_url)
    path = write(tmp_path / "a.jsonl", *[vote(f"ann {i}", question=f"Q{i % 300}") for i in range(2500)])
    import_path(store, path)
    with store.read() as conn:
        row_estimates = dict(conn.execute(sa.text("SELECT relname, reltuples FROM pg_class WHERE relkind = 'r'")).all())
    store.close()
    assert row_estimates["comparisons"] == 300
    assert 1000 <= row_estimates["judgments"] <= 2500, "after the first thousand"


def test_limit_reads_the_first_rows_only(sqlite_store, tmp_path):
    path = write(tmp_path / "a.jsonl", vote("ann"), vote("bob"), vote("x", "nobody"))
    assert import_path(sqlite_store, path, limit=2).judgments == 2


def run(*args: object, cwd: Path) -> Outcome:
    with contextlib.chdir(cwd):
        return run_command(*args)


def test_the_command_prints_one_json_object_and_no_bar_where_nobody_watches(tmp_path):
    path = write(tmp_path / "a.jsonl", vote("ann"), vote("bob", "nobody"))
    done = run("import", path, "--skip-bad", "--batch", "May", "--json", "--store", "sqlite:///new.db", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["judgments"] == 1
    assert done.stderr == ""


def test_the_command_says_what_is_wrong_in_one_line_and_leaves_nothing(tmp_path):
    write(tmp_path / "a.jsonl", vote("ann", "nobody"))
    done = run("import", "a.jsonl", "--store", "sqlite:///new.db", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: a.jsonl:1: winner = 'nobody': expected model_a, A, left or first" in done.stderr
    assert "Traceback" not in done.stderr
    missing = run("import", "none.jsonl", "--store", "sqlite:///other.db", cwd=tmp_path)
    assert missing.returncode == 2
    assert not (tmp_path / "other.db").exists()
