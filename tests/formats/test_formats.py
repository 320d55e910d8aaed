"""Each outside format, row by row: what it becomes, and how a bad line is named."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import FORMATS, describe_formats, get_format, open_source
from rlhf_hitl.formats.hh import parse_transcript
from rlhf_hitl.formats.record import ImportRecord, split_shared_prompt
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages, Split, Verdict, messages_to_dicts

USER, ASSISTANT = "user", "assistant"


def chat(*texts: str) -> Messages:
    """Turns that alternate, the user first."""
    return tuple(Message((USER, ASSISTANT)[i % 2], text) for i, text in enumerate(texts))


def reply(text: str) -> Messages:
    return (Message(ASSISTANT, text),)


def transcript(messages: Messages) -> str:
    return "".join(f"\n\n{'Human' if m.role == USER else 'Assistant'}: {m.content}" for m in messages)


def write_jsonl(path: Path, *rows: object) -> Path:
    text = "".join(json.dumps(r) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def records(path: Path | str, format: str = "auto", pairs: str = "adjacent") -> list[ImportRecord]:
    source, file_format = open_source(path, format)
    read = file_format.make_reader(source, pairs)
    return [record for row in source.rows() for record in read(row)]


def sides(record: ImportRecord) -> list[Messages]:
    return [c.messages for c in record.completions]


VOTE = {
    "judge": "ann", "model_a": "m1", "model_b": "m2", "turn": 1, "winner": "model_b", "category": "math",
    "conversation_a": messages_to_dicts(chat("Q", "A1", "Q2", "A2")),
    "conversation_b": messages_to_dicts(chat("Q", "B1", "Q2", "B2")),
}  # fmt: skip


turns = st.lists(st.text().filter(lambda t: "\n\nHuman:" not in t and "\n\nAssistant:" not in t), min_size=1)


@given(turns)
def test_a_transcript_reads_back_as_the_turns_it_was_written_from(texts):
    messages = chat(*texts)
    assert parse_transcript(transcript(messages)) == messages


@given(turns, turns, st.lists(st.text(), max_size=4))
def test_a_pair_is_split_without_losing_a_turn(ours, theirs, start):
    first, second = (chat("Q", *start, *rest) for rest in (ours, theirs))
    parted = split_shared_prompt(first, second)
    assert parted is not None
    prompt, rest, other = parted
    assert (prompt + rest, prompt + other) == (first, second)
    assert prompt[-1].role != ASSISTANT
    assert rest[0].role == other[0].role == ASSISTANT
    assert rest[:2] != other[:2] or min(len(rest), len(other)) < 3  # no longer start would do


def test_a_text_that_is_not_a_transcript_is_none():
    assert parse_transcript("Human: hello") is None


def test_hh_pairs_share_the_prompt_up_to_the_last_common_question(tmp_path):
    chosen, rejected = chat("Q1", "A1", "Q2", "good"), chat("Q1", "A1", "Q2", "bad")
    path = write_jsonl(tmp_path / "a.jsonl", {"chosen": transcript(chosen), "rejected": transcript(rejected)})
    (record,) = records(path)
    assert record.prompt == chat("Q1", "A1", "Q2")
    assert sides(record) == [reply("good"), reply("bad")]
    assert record.vote is not None
    assert record.vote.ranking == ((0,), (1,))
    assert not record.order_known


def test_hh_sides_that_differ_before_the_last_turn_become_completions_of_several_messages(tmp_path):
    chosen, rejected = chat("Q1", "A1", "Q2", "A2"), chat("Q1", "B1", "Q3", "B2")
    path = write_jsonl(tmp_path / "a.jsonl", {"chosen": transcript(chosen), "rejected": transcript(rejected)})
    (record,) = records(path)
    assert record.prompt == chat("Q1")
    assert sides(record) == [chosen[1:], rejected[1:]]


def test_hh_policies_do_not_tell_which_side_was_chosen(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl", {"chosen": transcript(chat("Q", "a")), "rejected": transcript(chat("Q", "b"))}
    )
    (record,) = records(path)
    assert len({c.policy for c in record.completions}) == 1


@pytest.mark.parametrize(
    ("winner", "verdict", "ranking"),
    [
        ("model_a", Verdict.RANKED, ((0,), (1,))),
        ("model_b", Verdict.RANKED, ((1,), (0,))),
        ("tie", Verdict.RANKED, ((0, 1),)),
        ("tie (inconsistent)", Verdict.RANKED, ((0, 1),)),
        ("tie (bothbad)", Verdict.ALL_BAD, ()),
    ],
)
def test_mt_bench_winners_keep_their_meaning(tmp_path, winner, verdict, ranking):
    (record,) = records(write_jsonl(tmp_path / "a.jsonl.gz", VOTE | {"winner": winner}))
    assert record.vote is not None
    assert (record.vote.verdict, record.vote.ranking, record.vote.rater) == (verdict, ranking, "ann")
    assert record.tags == {"category": "math"}
    assert record.order_known


def test_mt_bench_reads_a_conversation_up_to_the_judged_turn(tmp_path):
    first, second = records(write_jsonl(tmp_path / "a.jsonl", VOTE, VOTE | {"turn": 2}))
    assert first.prompt == second.prompt == chat("Q")
    assert sides(first) == [reply("A1"), reply("B1")]
    assert sides(second) == [chat("Q", "A1", "Q2", "A2")[1:], chat("Q", "B1", "Q2", "B2")[1:]]


def llmfao_folder(folder: Path, *votes: tuple[str, str, str, str, str]) -> Path:
    pair = {"prompt": 0, "text": "Q", "model_x": 0, "result_x": "X", "model_y": 7, "result_y": "Y", "type": "knowledge"}
    write_jsonl(folder / "pairs-crowd.jsonl", pair)
    write_jsonl(folder / "models.jsonl", {"id": 0, "name": "Nought"}, {"id": 7, "name": "Seven"})
    with (folder / "crowd-comparisons.csv").open("w", newline="") as f:
        csv.writer(f).writerows([("prompt", "model_x", "model_y", "worker", "winner"), *votes])
    return folder


def test_llmfao_votes_find_the_texts_beside_them_in_either_order(tmp_path):
    llmfao_folder(tmp_path, ("0", "0", "7", "58", "left"), ("0", "7", "0", "83", "tie"))
    for path in (tmp_path, tmp_path / "crowd-comparisons.csv"):
        first, second = records(path)
        assert [(c.policy, c.messages) for c in first.completions] == [("Nought", reply("X")), ("Seven", reply("Y"))]
        assert first.completions == second.completions[::-1]
        assert [r.vote and (r.vote.rater, r.vote.ranking) for r in (first, second)] == [
            ("58", ((0,), (1,))),
            ("83", ((0, 1),)),
        ]


def test_llmfao_pairs_alone_come_without_votes_and_with_the_same_policies(tmp_path):
    llmfao_folder(tmp_path, ("0", "0", "7", "58", "left"))
    (pair,) = records(tmp_path / "pairs-crowd.jsonl")
    assert pair.vote is None
    assert pair.completions == records(tmp_path)[0].completions


def test_llmfao_votes_without_their_texts_say_what_is_missing(tmp_path):
    llmfao_folder(tmp_path, ("0", "0", "7", "58", "left"))
    (tmp_path / "pairs-crowd.jsonl").unlink()
    with pytest.raises(BadInput, match=r"pairs-crowd\.jsonl in the same folder"):
        records(tmp_path)


TRL_ROWS = {
    "messages, explicit": {
        "prompt": messages_to_dicts(chat("Q")), "chosen": messages_to_dicts(reply("a")),
        "rejected": messages_to_dicts(reply("b")),
    },
    "messages, implicit": {"chosen": messages_to_dicts(chat("Q", "a")), "rejected": messages_to_dicts(chat("Q", "b"))},
    "messages with a text prompt beside them": {
        "prompt": "Q", "chosen": messages_to_dicts(chat("Q", "a")), "rejected": messages_to_dicts(chat("Q", "b")),
    },
    "text, explicit": {"prompt": "Q", "chosen": "a", "rejected": "b"},
    "text, implicit": {"chosen": "Q a", "rejected": "Q b"},
    "transcript prompt": {"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": "a", "rejected": "b"},
    "transcripts beside their prompt": {
        "prompt": "Q", "chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b",
    },
}  # fmt: skip


@pytest.mark.parametrize("row", TRL_ROWS.values(), ids=TRL_ROWS.keys())
def test_every_way_to_write_a_trl_pair_is_the_same_pair(tmp_path, row):
    (record,) = records(write_jsonl(tmp_path / "a.jsonl", row))
    assert record.prompt == chat("Q")
    assert sides(record) == [reply("a"), reply("b")]
    assert record.vote is not None
    assert record.vote.ranking == ((0,), (1,))


def test_trl_columns_that_are_short_texts_become_tags_and_models_policies(tmp_path):
    more = {"topic": "sea", "score_chosen": 3.5, "prompt_id": "abc", "notes": "x" * 200, "chosen-model": "m1"}
    (record,) = records(write_jsonl(tmp_path / "a.jsonl", {"prompt": "Q", "chosen": "a", "rejected": "b"} | more))
    assert record.tags == {"topic": "sea"}
    assert [c.policy for c in record.completions] == ["m1", "unknown"]


def test_native_pairs_are_adjacent_or_all(tmp_path):
    completions = [
        {"messages": messages_to_dicts(reply(str(i))), "policy": "p", "sampling": {"seed": i}} for i in range(4)
    ]
    path = write_jsonl(
        tmp_path / "a.jsonl",
        {"messages": messages_to_dicts(chat("Q")), "tags": {"topic": "sea"}, "completions": completions},
        {"messages": messages_to_dicts(chat("Q2")), "split": "heldout"},
    )

    def texts(pairs: str) -> list[str]:
        return ["".join(m.content for side in sides(r) for m in side) for r in records(path, pairs=pairs)]

    assert texts("adjacent") == ["01", "23", ""]
    assert texts("all") == ["01", "02", "03", "12", "13", "23", ""]
    assert records(path)[0].completions[1].sampling == {"seed": 1}
    assert records(path)[0].tags == {"topic": "sea"}
    assert [r.split for r in records(path)] == [None, None, Split.HELDOUT]


def test_native_keeps_a_completion_that_has_no_partner(tmp_path):
    completions = [{"messages": messages_to_dicts(reply(str(i))), "policy": "p"} for i in range(3)]
    path = write_jsonl(tmp_path / "a.jsonl", {"messages": messages_to_dicts(chat("Q")), "completions": completions})
    assert [len(r.completions) for r in records(path)] == [2, 1]


def test_native_votes_rank_pairs_of_the_completions(tmp_path):
    completions = [{"messages": messages_to_dicts(reply(str(i))), "policy": "p"} for i in range(4)]
    votes = [
        {"rater": "ann", "ranking": [[2], [0, 1]], "simulated": True},
        {"rater": "bob", "ranking": [[1], [0], [3]]},
    ]
    row = {"messages": messages_to_dicts(chat("Q")), "completions": completions, "votes": votes}
    read = records(write_jsonl(tmp_path / "a.jsonl", row), pairs="all")
    said = [
        ("".join(m.content for side in sides(r) for m in side), r.vote and (r.vote.rater, r.vote.ranking)) for r in read
    ]
    first, second, tie = ((0,), (1,)), ((1,), (0,)), ((0, 1),)
    assert said == [
        ("01", ("ann", tie)), ("01", ("bob", second)), ("02", ("ann", second)), ("03", ("bob", first)),
        ("12", ("ann", second)), ("13", ("bob", first)), ("23", None),
    ]  # fmt: skip
    assert [r.vote.simulated for r in read if r.vote] == [True, False, True, False, True, False]
    assert len(records(tmp_path / "a.jsonl", pairs="adjacent")) == len(read), "no ranking is read in part"


def test_a_pair_reads_the_same_from_every_kind_of_file(tmp_path):
    import datasets

    rows = [{"prompt": f"Q{i}", "chosen": "a", "rejected": "b"} for i in range(3)]
    dataset = datasets.Dataset.from_list(rows)
    write_jsonl(tmp_path / "a.jsonl", *rows)
    write_jsonl(tmp_path / "b.jsonl.gz", *rows)
    (tmp_path / "c.json").write_text(json.dumps(rows))
    with (tmp_path / "d.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    dataset.to_parquet(tmp_path / "e.parquet")
    dataset.save_to_disk(tmp_path / "f")
    (tmp_path / "g.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes() + b"\n\n")
    read = {p.name: [(r.prompt, sides(r)) for r in records(p)] for p in sorted(tmp_path.iterdir())}
    assert len(read) == 7
    assert all(found == read["a.jsonl"] for found in read.values())
    assert len(read["a.jsonl"]) == 3


def test_a_saved_dataset_pins_its_test_rows_and_gives_them_first(tmp_path):
    import datasets

    pair = {"chosen": ["a"], "rejected": ["b"]}
    parts = {n: datasets.Dataset.from_dict({"prompt": [n]} | pair) for n in ("train_prefs", "validation", "test_prefs")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    first_prompts = [(r.prompt[0].content, r.split) for r in records(tmp_path / "set")]
    assert first_prompts == [("test_prefs", Split.HELDOUT), ("validation", Split.CALIBRATION), ("train_prefs", None)]


BAD = {
    "native": ({"messages": [{"role": "user"}]}, "messages"),
    "native, no policy": (
        {"messages": messages_to_dicts(chat("Q")), "completions": [{"messages": messages_to_dicts(reply("a"))}]},
        "policy",
    ),
    "native, tags": ({"messages": messages_to_dicts(chat("Q")), "tags": {"n": 1}}, "tags"),
    "native, split": ({"messages": messages_to_dicts(chat("Q")), "split": "test"}, "split"),
    "native, votes": ({"messages": messages_to_dicts(chat("Q")), "votes": {"ann": 1}}, "votes"),
    "hh": ({"chosen": transcript(chat("Q", "a")), "rejected": "Q b"}, "rejected"),
    "hh, other question": (
        {"chosen": transcript(chat("Q", "a")), "rejected": transcript(chat("R", "b"))}, "rejected",
    ),
    "mt_bench": (VOTE | {"winner": "model_c"}, "winner"),
    "mt_bench, turn": (VOTE | {"turn": 3}, "conversation_a"),
    "mt_bench, other question": (VOTE | {"conversation_b": messages_to_dicts(chat("R", "b"))}, "conversation_b"),
    "trl": ({"prompt": "Q", "chosen": 3, "rejected": "b"}, "chosen"),
    "trl, no sides": ({"prompt": "Q"}, "chosen"),
    "trl, mixed": ({"prompt": "Q", "chosen": messages_to_dicts(reply("a")), "rejected": "b"}, "rejected"),
    "trl, no prompt": ({"chosen": "yes", "rejected": "no"}, "prompt"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("vote", "field"),
    [
        ({"ranking": [[0], [2]]}, "ranking"),
        ({"ranking": [[0]]}, "ranking"),
        ({"ranking": [[0], [0]]}, "ranking"),
        ({"ranking": [0, 1]}, "ranking"),
        ({"ranking": [[True], [0]]}, "ranking"),
        ({"rater": "ann"}, "ranking"),
        ("ann", "ranking"),
        ({"ranking": [[0], [1]], "rater": ""}, "rater"),
        ({"ranking": [[0], [1]], "simulated": "no"}, "simulated"),
    ],
)
def test_a_bad_vote_of_the_native_format_is_named(tmp_path, vote, field):
    completions = [{"messages": messages_to_dicts(reply(str(i))), "policy": "p"} for i in range(2)]
    row = {"messages": messages_to_dicts(chat("Q")), "completions": completions, "votes": [vote]}
    with pytest.raises(BadInput, match=rf"a\.jsonl:1: votes\[0\]: {field}"):
        records(write_jsonl(tmp_path / "a.jsonl", row), "native")


@pytest.mark.parametrize(("row", "field"), BAD.values(), ids=BAD.keys())
def test_a_bad_line_is_named_by_file_line_and_field(tmp_path, request, row, field):
    name = request.node.callspec.id.split(",")[0]
    with pytest.raises(BadInput) as error:
        records(write_jsonl(tmp_path / "a.jsonl", row), name)
    assert f"a.jsonl:1: {field}" in str(error.value) or f"a.jsonl:1: completions[0]: {field}" in str(error.value)


def test_a_bad_llmfao_vote_is_named_by_file_line_and_field(tmp_path):
    llmfao_folder(tmp_path, ("0", "0", "7", "58", "left"), ("0", "0", "9", "58", "left"))
    with pytest.raises(BadInput, match=r"crowd-comparisons\.csv:3: prompt"):
        records(tmp_path)


REWARDBENCH = {
    "prompt": "What is 2 + 3?", "chosen": "5", "chosen_model": "m1", "rejected": "", "rejected_model": "m2",
    "subset": "math-prm", "id": 7,
}  # fmt: skip
REWARDBENCH2 = {
    "id": "tied:3", "prompt": "Name a prime.", "chosen": ["2", "3"], "rejected": ["4", "6", "8"], "num_correct": 2,
    "num_incorrect": 3, "total_completions": 5, "models": ["a", "b", "c", "d", "e"], "subset": "Ties",
}  # fmt: skip
LLMBAR = {"input": "Say hi in French.", "output_1": "Hello!", "output_2": "Bonjour !", "label": 2}
KWISE = {
    "prompt": "Name a colour.", "completions": ["red", "rot", "blue", "7"], "ranking": [[2], [0, 1], [3]],
    "rater": "ann", "policies": ["p0", "p1", "p2", "p3"], "tags": {"category": "colours"},
}  # fmt: skip


def test_a_rewardbench_row_is_a_pair_in_the_batch_of_its_subset(tmp_path):
    (record,) = records(write_jsonl(tmp_path / "a.jsonl", REWARDBENCH))
    assert (record.prompt, sides(record)) == (chat("What is 2 + 3?"), [reply("5"), reply("")])
    assert [c.policy for c in record.completions] == ["m1", "m2"]
    assert record.vote.ranking == ((0,), (1,))
    assert record.batch == "math-prm"
    assert not record.order_known


def test_rows_of_rewardbench_that_its_scores_leave_out_are_left_out(tmp_path):
    import datasets

    parts = {name: datasets.Dataset.from_list([REWARDBENCH | {"prompt": name}]) for name in ("raw", "filtered")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    assert [r.prompt for r in records(tmp_path / "set")] == [chat("filtered")]


def test_a_rewardbench_2_row_is_a_ranking_of_right_above_wrong(tmp_path):
    one = REWARDBENCH2 | {"id": "12", "chosen": ["yes"], "rejected": ["a", "b", "c"], "models": ["m"], "subset": "Math"}
    tied, single = records(write_jsonl(tmp_path / "a.jsonl", REWARDBENCH2, one))
    assert sides(tied) == [reply(t) for t in "23468"]
    assert [c.policy for c in tied.completions] == list("abcde")
    assert tied.vote.ranking == ((0, 1), (2, 3, 4))
    assert (tied.batch, tied.tags) == ("Ties", {"id": "tied:3"})
    assert single.vote.ranking == ((0,), (1, 2, 3))
    assert {c.policy for c in single.completions} == {"unknown"}


def test_an_llmbar_label_says_which_output_is_better_and_its_folder_which_set(tmp_path):
    folder = tmp_path / "Adversarial" / "Neighbor"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps([LLMBAR, LLMBAR | {"input": "Q", "label": "1"}]))
    two, one = records(folder / "dataset.json")
    assert (two.prompt, sides(two)) == (chat("Say hi in French."), [reply("Hello!"), reply("Bonjour !")])
    assert (two.vote.ranking, one.vote.ranking) == (((1,), (0,)), ((0,), (1,)))
    assert two.batch == "Neighbor"
    assert len({c.policy for c in two.completions}) == 1


def test_a_ranking_of_k_keeps_its_ties_its_rater_and_what_it_leaves_out(tmp_path):
    messages = KWISE | {
        "prompt": messages_to_dicts(chat("Q")),
        "completions": [messages_to_dicts(reply("a")), "b", "c"],
        "ranking": [2, 0],
    }
    del messages["policies"]
    whole, partial = records(write_jsonl(tmp_path / "a.jsonl", KWISE, messages))
    assert sides(whole) == [reply(t) for t in ("red", "rot", "blue", "7")]
    assert whole.vote.ranking == ((2,), (0, 1), (3,))
    assert (whole.vote.rater, whole.tags) == ("ann", {"category": "colours"})
    assert [c.policy for c in whole.completions] == ["p0", "p1", "p2", "p3"]
    assert (partial.prompt, partial.vote.ranking) == (chat("Q"), ((2,), (0,)))


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (REWARDBENCH | {"chosen_model": ""}, "chosen_model"),
        (REWARDBENCH2 | {"rejected": []}, "rejected"),
        (REWARDBENCH2 | {"subset": None}, "subset"),
        (LLMBAR | {"label": 3}, "label"),
        (LLMBAR | {"output_1": 5}, "output_1"),
        (KWISE | {"ranking": [[0], [0, 1]]}, "ranking"),
        (KWISE | {"ranking": [[0], [4]]}, "ranking"),
        (KWISE | {"ranking": [[0, 1], []]}, "ranking"),
        (KWISE | {"ranking": [[True], [0]]}, "ranking"),
        (KWISE | {"completions": ["red"]}, "completions"),
        (KWISE | {"completions": ["red", 3, "a", "b"]}, r"completions\[1\]"),
        (KWISE | {"policies": ["p"]}, "policies"),
        (KWISE | {"tags": ["x"]}, "tags"),
    ],
)
def test_a_bad_field_of_a_benchmark_is_named_by_line_and_field(tmp_path, row, field):
    good = (
        REWARDBENCH
        if "chosen_model" in row
        else REWARDBENCH2
        if "chosen" in row
        else LLMBAR
        if "input" in row
        else KWISE
    )
    path = write_jsonl(tmp_path / "a.jsonl", good, row)
    with pytest.raises(BadInput, match=rf"a\.jsonl:2: {field}"):
        records(path)


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", VOTE)
    path.write_bytes(path.read_bytes() + b'{"judge": \n')
    with pytest.raises(BadInput, match=r"a\.jsonl:2: expected JSON"):
        records(path)


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", VOTE)
    path.write_bytes(path.read_bytes() + b'{"judge": "\xff"}\n')
    with pytest.raises(BadInput, match=r"a\.jsonl:2"):
        records(path)


def test_a_cut_off_gzip_file_is_named(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl.gz", *[VOTE | {"judge": str(i)} for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"a\.jsonl\.gz: expected a whole gzip file"):
        records(path)


def test_an_unknown_format_is_refused_shortly_and_the_list_is_pointed_to(tmp_path):
    for ask in (lambda: get_format("argilla9"), lambda: records(write_jsonl(tmp_path / "a.jsonl", {"question": "?"}))):
        with pytest.raises(BadInput, match="`rlhf-hitl import --formats` lists what can be read") as error:
            ask()
        assert len(str(error.value).replace(str(tmp_path), "")) < 200
    assert describe_formats().keys() == FORMATS.keys()


def test_an_empty_file_a_missing_one_and_an_unknown_kind_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(BadInput, match="empty"):
        records(tmp_path / "empty.jsonl")
    with pytest.raises(BadInput, match="check the path"):
        RowSource(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="convert or rename"):
        RowSource(tmp_path / "a.xlsx")


def test_a_hub_that_cannot_be_reached_is_one_line():
    with pytest.raises(BadInput) as error:  # the tests run with HF_HUB_OFFLINE=1
        records("nobody/no-such-dataset")
    assert "check the name and the network" in str(error.value)
    assert "\n" not in str(error.value)
