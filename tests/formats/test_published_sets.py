"""Sets that others publish, each as a small file after its documentation: what is in the store is what the file says.

The counts beside an import's are made here, from the file alone.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import gzip
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from read_formats import read_file
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import open_source
from rlhf_hitl.formats.checking import check_path
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.formats.record import ImportRecord
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.comparisons import count_rows, find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Message, Messages, Split

#: (rater, verdict, groups of texts, best first)
Said = tuple[str, str, tuple[tuple[str, ...], ...]]


def write(path: Path, rows: list[dict]) -> Path:
    if path.name.endswith(".csv"):
        with path.open("w", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.name.endswith(".parquet"):
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        text = json.dumps(rows) if path.name.endswith(".json") else "".join(json.dumps(r) + "\n" for r in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def records(path: Path, format: str = "auto") -> list[ImportRecord]:
    return read_file(path, format)[1]


def texts(messages: Messages) -> str:
    return "|".join(m.text for m in messages)


def chat(*parts: str) -> Messages:
    return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(parts))


def said(store: Store) -> list[Said]:
    """Return who said what in a store, in texts instead of ids."""
    by_id = {c.id: texts(c.messages) for comparison in find_comparisons(store) for c in comparison.completions}
    names = {r.id: r.name.partition(":")[2] for r in people.list_raters(store)}
    return sorted(
        (
            names[j.rater_id],
            j.answer.verdict.value,
            tuple(tuple(sorted(by_id[i] for i in group)) for group in j.answer.ranking),
        )
        for j in read_judgments(store)
    )


def pair(rater: str, outcome: str, a: str, b: str) -> Said:
    groups = {"a": ((a,), (b,)), "b": ((b,), (a,)), "tie": (tuple(sorted((a, b))),), "bad": ()}[outcome]
    return rater, "all_bad" if outcome == "bad" else "ranked", groups


def ranked(rater: str, ranks: list[tuple[str, float | None]]) -> list[Said]:
    """Return the one vote that texts with ranks are, or none."""
    known = sorted({rank for _, rank in ranks if rank is not None})
    groups = tuple(tuple(sorted(text for text, rank in ranks if rank == value)) for value in known)
    return [(rater, "ranked", groups)] if sum(map(len, groups)) > 1 else []


# OpenAssistant


def node(id: str, text: str, role: str, *replies: dict, **more: Any) -> dict:
    return {
        "message_id": id, "parent_id": None, "user_id": "u1", "text": text, "role": role, "lang": "en",
        "review_count": 3, "review_result": True, "deleted": False, "rank": None, "synthetic": False,
        "model_name": None, "emojis": {"+1": 2},
        "labels": {"quality": {"value": 0.75, "count": 3}, "spam": {"value": 0.0, "count": 3}},
        "replies": list(replies),
    } | more  # fmt: skip


def tree(prompt: dict) -> dict:
    link(prompt)
    return {"message_tree_id": prompt["message_id"], "tree_state": "ready_for_export", "prompt": prompt}


def link(message: dict) -> None:
    for reply in message["replies"]:
        reply["parent_id"] = message["message_id"]
        link(reply)


def flatten(message: dict, tree_id: str) -> list[dict]:
    own = {k: v for k, v in message.items() if k not in ("replies", "labels", "emojis")}
    names = list(message["labels"])
    labels = {"name": names, "value": [message["labels"][n]["value"] for n in names], "count": [3 for _ in names]}
    rows = [own | {"message_tree_id": tree_id, "tree_state": "ready_for_export", "labels": labels}]
    return rows + [row for reply in message["replies"] for row in flatten(reply, tree_id)]


def said_by_tree(message: dict) -> list[Said]:
    if message["deleted"] or message["review_result"] is False:
        return []
    replies = [r for r in message["replies"] if not r["deleted"] and r["review_result"] is not False]
    own = ranked("OpenAssistant", [(r["text"], r["rank"]) for r in replies]) if message["role"] == "prompter" else []
    return own + [vote for reply in message["replies"] for vote in said_by_tree(reply)]


TREES = [
    tree(
        node("p", "Name a sea.", "prompter",
            node("a1", "The Baltic.", "assistant",
                node("q1", "Another?", "prompter",
                    node("b1", "The Aral.", "assistant", rank=1),
                    node("b2", "The Black Sea.", "assistant", rank=0),
                    node("b3", "Paris.", "assistant"),
                ),
                node("q2", "Why?", "prompter", node("b4", "It is one.", "assistant")),
                rank=0,
            ),
            node("a2", "No.", "assistant", rank=2),
            node("a3", "A lake.", "assistant", rank=1, synthetic=True, model_name="tiny"),
            node("a4", "Buy this!", "assistant", node("q3", "What?", "prompter"), rank=3, review_result=False),
        )
    ),
    tree(node("p2", "Hola", "prompter", node("c1", "Hola.", "assistant"), node("c2", "Hi.", "assistant"), lang="es")),
    tree(node("p3", "Gone", "prompter", node("d1", "x", "assistant"), deleted=True)),
]  # fmt: skip
MESSAGES = [row for t in TREES for row in flatten(t["prompt"], t["message_tree_id"])]

# Chatbot Arena


def turns(*parts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(parts)]


def part_turns(*parts: str) -> list[dict]:
    return [
        m | {"content": [{"type": "text", "text": m["content"], "image": None, "mimeType": None}]}
        for m in turns(*parts)
    ]


ARENA_33K = [
    {
        "question_id": f"q{i}", "model_a": "m1", "model_b": "m2", "winner": winner, "judge": f"arena_user_{i % 2}",
        "conversation_a": turns(f"Q{i}", "A", "More", "A2"), "conversation_b": turns(f"Q{i}", "B", "More", "B2"),
        "turn": 2, "anony": True, "language": "English", "tstamp": 1682351591.1322 + i,
        "openai_moderation": {"flagged": False}, "toxic_chat_tag": {"roberta-large": {"flagged": False}},
    }
    for i, winner in enumerate(["model_a", "model_b", "tie", "tie (bothbad)"])
]  # fmt: skip
ARENA_140K = [
    {
        "id": f"i{i}", "model_a": "m1", "model_b": "m2", "winner": winner, "evaluation_session_id": f"s{i % 2}",
        "evaluation_order": 1 + i % 2, "conversation_a": part_turns(f"Q{i}", "A"),
        "conversation_b": part_turns(f"Q{i}", "B"),
        "full_conversation": [{"user": part_turns(f"Q{i}")[0]}], "conv_metadata": {"turns": 1},
        "category_tag": {"math_v0.1": {"math": True}, "if_v0.1": {"if": False, "score": 3}}, "language": "pl",
        "is_code": False, "timestamp": "2025-05-29T14:48:41.602925",
    }
    for i, winner in enumerate(["model_a", "model_b", "tie", "both_bad"])
]  # fmt: skip
ARENA_WINNERS = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "bad", "both_bad": "bad"}


def said_by_arena(row: dict, rater: str) -> Said:
    a, b = (row[f"conversation_{side}"][1:] for side in "ab")
    flat = [
        "|".join(m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in c) for c in (a, b)
    ]
    return pair(rater, ARENA_WINNERS[row["winner"]], *flat)


ARENA_55K = [
    {
        "id": i, "model_a": "m1", "model_b": "m2", "prompt": json.dumps([f"Q{i}", "More"]),
        "response_a": json.dumps(["A", "A2"]), "response_b": json.dumps(["B", None if i == 1 else "B2"]),
        "winner_model_a": int(i == 0), "winner_model_b": int(i == 1), "winner_tie": int(i == 2),
    }
    for i in range(3)
]  # fmt: skip


def said_by_55k(row: dict) -> Said:
    questions, a, b = (json.loads(row[name]) for name in ("prompt", "response_a", "response_b"))
    flat = [f"{side[0] or ''}" + "".join(f"|{q}|{t or ''}" for q, t in zip(questions[1:], side[1:])) for side in (a, b)]
    return pair("unnamed", "a" if row["winner_model_a"] else "b" if row["winner_model_b"] else "tie", *flat)


# Others

PANDALM = [
    {
        "idx": i, "motivation_app": "Gmail", "cmp_key": "bloom-7b_llama-7b", "instruction": "Say it shorter.",
        "input": f"Thank you {i}" if i else float("nan"), "response1": "Thanks", "response2": "Ta",
        "annotator1": votes[0], "annotator2": votes[1], "annotator3": votes[2],
    }
    for i, votes in enumerate([(1, 1, 2), (0, 2, 2), (0, 0, None)])
]  # fmt: skip
ROW_VOTES = [
    {"prompt": "Best fruit?", "response_a": "Pear", "response_b": "Fig", "annotator": rater, "vote": vote,
     "reason": why, "timestamp": "2024-02-01T10:00:00+01:00"}
    for rater, vote, why in [(0, "A", "sweet"), ("bob", "B", ""), ("cyd", "tie", None), ("dan", "both_bad", "no")]
]  # fmt: skip
KTO = [
    {"prompt": "Hello", "completion": "Hi!", "label": True},
    {"prompt": [turns("Bye")[0]], "completion": [turns("", "Go away.")[1]], "label": False},
    {"prompt": None, "completion": turns("One?", "Two."), "label": True},
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": "Q1"}], "chosen": {"from": "gpt", "value": "good"},
     "rejected": {"from": "gpt", "value": "bad"}, "system": "Be kind."},
    {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Q2"},
                       {"from": "gpt", "value": "A2"}, {"from": "human", "value": "Q3", "weight": 1}],
     "chosen": {"from": "gpt", "value": "fine"}, "rejected": {"from": "gpt", "value": "worse"}},
]  # fmt: skip
ALPACA = [
    {"instruction": "Translate.", "input": "chat", "output": ["cat", "dog"], "history": [["Hi", "Hello"]],
     "system": "You know French."},
    {"instruction": "Count.", "input": "", "output": ["1, 2", "3"]},
]  # fmt: skip
NECTAR = [
    {
        "prompt": "\n\nHuman: Hi \n\nAssistant: Hello \n\nHuman: A colour? \n\nAssistant: ",
        "answers": [{"answer": f"c{i}", "model": f"m{i}", "rank": r} for i, r in enumerate([3, 1, 2, 2, 5, 6, 7])],
        "turns": 2, "num_responses": 7, "source": ["sharegpt"], "good_natured": True,
    },
    {
        "prompt": "\n\nHuman: A number? \n\nAssistant: ",
        "answers": [
            {"answer": t, "model": "m", "rank": r} for t, r in [("1", 1.0), ("2", 2.0), ("1", 3.0), ("4", None)]
        ],
        "turns": 1, "num_responses": 4, "source": ["flan"], "good_natured": False,
    },
]  # fmt: skip
SHP = [
    {
        "post_id": f"p{i}", "domain": f"askculinary_{cut}", "upvote_ratio": 0.98, "history": f"How long? {i}",
        "c_root_id_A": "x", "c_root_id_B": "y", "created_at_utc_A": 1600000000, "created_at_utc_B": 1600000500,
        "score_A": 5, "score_B": 3, "human_ref_A": "An hour.", "human_ref_B": "A day.", "labels": label,
        "seconds_difference": 500.0, "score_ratio": 1.7,
    }
    for i, (cut, label) in enumerate([("train", 1), ("validation", 0), ("test", 1)])
]  # fmt: skip


def said_by_nectar(row: dict) -> list[Said]:
    first = {a["answer"]: a["rank"] for a in reversed(row["answers"])}  # the first of two that say the same
    return ranked("gpt-4", list(first.items()))


def said_by_panda(row: dict) -> list[Said]:
    return [
        pair(f"annotator{n}", {1: "a", 2: "b", 0: "tie"}[row[f"annotator{n}"]], row["response1"], row["response2"])
        for n in (1, 2, 3)
        if row[f"annotator{n}"] is not None
    ]


def flatten_list(votes: list[list[Said]]) -> list[Said]:
    return [vote for several in votes for vote in several]


SAID_BY_TREES = flatten_list([said_by_tree(t["prompt"]) for t in TREES])
#: name → (format, file, rows, the votes that the rows hold)
SETS: dict[str, tuple[str, str, list[dict], list[Said]]] = {
    "oasst trees": ("oasst", "x.trees.jsonl.gz", TREES, SAID_BY_TREES),
    "oasst messages": ("oasst", "x.jsonl", MESSAGES, SAID_BY_TREES),
    "oasst messages on the hub": ("oasst", "x.parquet", MESSAGES, SAID_BY_TREES),
    "arena 33k": ("mt_bench", "x.parquet", ARENA_33K, [said_by_arena(r, r["judge"]) for r in ARENA_33K]),
    "arena 140k": (
        "arena", "x.parquet", ARENA_140K, [said_by_arena(r, r["evaluation_session_id"]) for r in ARENA_140K],
    ),
    "arena 55k": ("arena55k", "train.csv", ARENA_55K, [said_by_55k(r) for r in ARENA_55K]),
    "pandalm": ("several_votes", "x.json", PANDALM, flatten_list([said_by_panda(r) for r in PANDALM])),
    "a vote a row": (
        "several_votes", "x.jsonl", ROW_VOTES,
        [pair(str(r["annotator"]), {"A": "a", "B": "b", "tie": "tie", "both_bad": "bad"}[r["vote"]], "Pear", "Fig")
         for r in ROW_VOTES],
    ),
    "kto": ("kto", "x.jsonl", KTO, []),
    "sharegpt": (
        "sharegpt", "x.json", SHAREGPT,
        [pair("unnamed", "a", r["chosen"]["value"], r["rejected"]["value"]) for r in SHAREGPT],
    ),
    "alpaca": ("alpaca", "x.json", ALPACA, [pair("unnamed", "a", *r["output"]) for r in ALPACA]),
    "nectar": ("nectar", "rlaif.parquet", NECTAR, flatten_list([said_by_nectar(r) for r in NECTAR])),
    "shp": (
        "shp", "x.jsonl", SHP,
        [pair("SHP", "a" if r["labels"] else "b", r["human_ref_A"], r["human_ref_B"]) for r in SHP],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_what_is_in_the_store_is_what_the_file_says_and_reading_it_again_adds_nothing(tmp_path, sqlite_store, name):
    file_format, file, rows, votes = SETS[name]
    path = write(tmp_path / file, rows)
    report = import_path(sqlite_store, path)
    assert report.format == file_format
    assert said(sqlite_store) == sorted(votes)
    assert report.judgments == len(votes)
    before = count_rows(sqlite_store)
    again = import_path(sqlite_store, path)
    assert (again.prompts, again.completions, again.comparisons, again.judgments) == (0, 0, 0, 0)
    assert count_rows(sqlite_store) == before


@pytest.mark.parametrize("name", [name for name in SETS if name != "arena 33k"])
def test_what_is_not_read_is_counted_by_name(tmp_path, name):
    _, file, rows, _ = SETS[name]
    strange = {f"strange{i}": i for i in range(3)} | {"strange and null": None, "strange and empty": ""}
    _, _, counted = read_file(write(tmp_path / f"x.{file.split('.', 1)[1]}", [row | strange for row in rows]))
    assert {k: v for k, v in counted.items() if "strange" in k} == {f"column strange{i}": len(rows) for i in range(3)}


@pytest.mark.parametrize("name", SETS)
def test_each_column_is_read_or_counted_and_not_both(tmp_path, name):
    file_format, file, rows, _ = SETS[name]
    report = check_path(write(tmp_path / file, rows))
    unread = {what.removeprefix("column ") for what in report.unread if what.startswith("column ")}
    assert report.format == file_format
    assert not unread & report.columns.keys()
    holding = {column for row in rows for column, value in row.items() if value not in (None, "", [], {})}
    assert holding <= unread | report.columns.keys()


# OpenAssistant


def test_a_prompt_is_the_path_to_it_and_its_replies_are_the_completions(tmp_path, sqlite_store):
    _, by_tree, counted = read_file(write(tmp_path / "x.jsonl", TREES))
    assert [(texts(r.prompt), [texts(c.messages) for c in r.completions]) for r in by_tree] == [
        ("Name a sea.", ["The Baltic.", "No.", "A lake."]),
        ("Name a sea.|The Baltic.|Another?", ["The Aral.", "The Black Sea.", "Paris."]),
        ("Name a sea.|The Baltic.|Why?", ["It is one."]),
        ("Hola", ["Hola.", "Hi."]),
    ]
    assert [r.vote.ranking if r.vote else None for r in by_tree] == [((0,), (2,), (1,)), ((1,), (0,)), None, None]
    assert [c.policy for c in by_tree[0].completions] == ["oasst", "oasst", "tiny"]
    assert [r.tags["language"] for r in by_tree] == ["en", "en", "en", "es"]
    assert not any(r.order_known for r in by_tree)
    report = import_path(sqlite_store, tmp_path / "x.jsonl")
    assert report.ratings == sum(2 for r in by_tree for _ in r.completions)  # quality and spam
    quality = [r for r in by_tree[0].ratings if r.axis == "quality"]
    assert [(r.completion, r.value, r.lowest, r.highest) for r in quality] == [(i, 0.75, 0.0, 1.0) for i in range(3)]
    assert counted["messages that were deleted"] == counted["messages that reviewers refused (spam)"] == 1
    assert counted["messages below one that is left out"] == 2
    assert counted["replies without a rank"] == 3
    assert counted["message key emojis"] == counted["message key user_id"] == 13


@pytest.mark.parametrize("file", ["x.jsonl", "x.parquet"])
def test_messages_a_row_in_any_order_are_the_same_as_their_trees(tmp_path, file):
    as_trees = records(write(tmp_path / "trees.jsonl", TREES))
    for rows in (MESSAGES, MESSAGES[::-1]):
        _, by_row, counted = read_file(write(tmp_path / file, rows))
        order = {texts(r.prompt): i for i, r in enumerate(as_trees)}
        by_row.sort(key=lambda r: order[texts(r.prompt)])
        for one, other in zip(by_row, as_trees, strict=True):
            assert (one.prompt, one.tags) == (other.prompt, other.tags)
            assert sorted(map(str, one.completions)) == sorted(map(str, other.completions))
            assert sorted(map(str, {r.value for r in one.ratings})) == sorted(
                map(str, {r.value for r in other.ratings})
            )
            assert (one.vote is None) == (other.vote is None)
        assert counted["messages below one that is left out"] == 2


def test_trees_without_an_object_around_them_are_the_same(tmp_path):
    as_trees = records(write(tmp_path / "x.jsonl", TREES))
    nested = [tree["prompt"] for tree in TREES]
    _, by_message, counted = read_file(write(tmp_path / "y.jsonl", nested))
    assert [(r.prompt, r.completions, r.vote) for r in by_message] == [
        (r.prompt, r.completions, r.vote) for r in as_trees
    ]
    assert (counted["message key user_id"], counted["column user_id"]) == (11, 3)  # of replies, and of first messages
    for rows in ([*nested, message("a", "p")], [message("p", None), message("q", None, replies=[message("a", "q")])]):
        with pytest.raises(BadInput, match=r"z\.jsonl:[24]: (parent_id|replies) = "):
            records(write(tmp_path / "z.jsonl", rows))


def message(id: str, parent: str | None, role: str = "", **more: Any) -> dict:
    role = role or ("assistant" if parent and parent.startswith("p") else "prompter")
    return {"message_id": id, "parent_id": parent, "text": id, "role": role, "lang": "en", "rank": None} | more


@pytest.mark.parametrize(
    ("rows", "place", "expected"),
    [
        ([message("p", None), message("a", "gone")], 2, "parent_id = 'gone'"),
        ([message("p", None), message("pa", "b", "prompter"), message("b", "pa", "assistant")], 2, "round in a circle"),
        ([message("p", None), message("q", "q")], 2, "round in a circle"),
        ([message("p", None), message("p", None)], 2, "an id that no other message has"),
        ([message("p", None), message("q", "p", "prompter")], 2, "prompter and assistant in turn"),
        ([message("p", None), message("a", None, "assistant")], 2, "the prompter first"),
        ([message("p", None), message("a", "p", rank="first")], 2, "rank = 'first'"),
        ([message("p", None), message("a", "p", text=None)], 2, "text = None"),
        ([message("p", None), message("a", "p", "robot")], 2, "role = 'robot'"),
        ([message("p", None), message("a", 7, "assistant")], 2, "parent_id = 7"),
        ([message("p", None), message("a", "p", labels={"quality": {"value": 7}})], 2, "labels"),
        ([message("p", None), message("a", "p", labels=[3])], 2, "labels"),
    ],
)  # fmt: skip
def test_a_message_without_a_place_in_a_tree_is_named_and_can_be_skipped(tmp_path, sqlite_store, rows, place, expected):
    path = write(tmp_path / "x.jsonl", rows)
    with pytest.raises(BadInput) as error:
        records(path)
    assert f"x.jsonl:{place}: " in str(error.value)
    assert expected in str(error.value)
    report = import_path(sqlite_store, path, skip_bad=True)
    assert (report.prompts, report.bad_lines) == (1, len(rows) - 1)


def test_a_chain_of_many_messages_ends_in_a_line_and_soon(tmp_path):
    names = [f"{'pa'[i % 2]}{i}" for i in range(20_000)]
    rows = [message(name, above) for above, name in zip([None, *names], names)]
    path = write(tmp_path / "x.jsonl", rows)
    started = time.perf_counter()
    with pytest.raises(BadInput, match=r"x\.jsonl:201: a conversation of more than 200 messages"):
        records(path)
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("depth", [150, 450, 5000])
def test_a_deep_tree_is_read_or_refused_in_a_line(tmp_path, depth):
    text = json.dumps(node("m", "x", "prompter") | {"replies": 0})
    inner = "[]"
    for i in range(depth, 0, -1):
        own = json.dumps({"message_id": f"m{i}", "text": f"t{i}", "role": ("prompter", "assistant")[i % 2]})
        inner = "[" + own[:-1] + f', "replies": {inner}' + "}]"
    text = text.replace('"replies": 0', f'"replies": {inner}')
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"message_tree_id": "m"})[:-1] + f', "prompt": {text}' + "}\n")
    if depth < 200:
        assert len(records(path)) == 76
        return
    with pytest.raises(BadInput) as error:
        records(path, "oasst")
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "prompt",
    [None, "text", 5, [], {"message_id": "m"}, node("m", "x", "assistant"),
     node("m", "x", "prompter", replies={"a": 1}), node("m", "x", "prompter", replies=["text"]),
     node("m", "x", "prompter", replies=[[]]),
     node("m", "x", "prompter", node("n", "y", "prompter")), node("", "x", "prompter")],
)  # fmt: skip
def test_a_tree_of_the_wrong_kind_is_one_line(tmp_path, prompt):
    path = write(tmp_path / "x.jsonl", [TREES[0], {"message_tree_id": "m", "prompt": prompt}])
    with pytest.raises(BadInput, match=r"x\.jsonl:2: "):
        records(path)


# Chatbot Arena


def test_arena_140k_reads_parts_both_bad_tags_and_says_what_it_leaves_out(tmp_path):
    _, read_records, counted = read_file(write(tmp_path / "x.jsonl", ARENA_140K))
    assert [c.messages for c in read_records[0].completions] == [chat("", "A")[1:], chat("", "B")[1:]]
    assert {r.vote.rater for r in read_records} == {"s0", "s1"}
    assert read_records[0].vote.judged_at == datetime(2025, 5, 29, 14, 48, 41, 602925, UTC)
    assert read_records[0].tags == {"language": "pl", "is_code": "false", "category": "math"}
    assert counted.pop(next(k for k in counted if k.startswith("votes whose conversation went on"))) == 2
    assert counted == {f"column {name}": 4 for name in ("id", "full_conversation", "conv_metadata")}


def test_arena_100k_has_conversations_as_json_text_and_a_hash_of_the_judge(tmp_path):
    row = ARENA_33K[0] | {"judge_hash": "af3e", "conversation_a": json.dumps(ARENA_33K[0]["conversation_a"])}
    del row["judge"]
    (record,) = records(write(tmp_path / "x.jsonl", [row]))
    assert (record.vote.rater, texts(record.completions[0].messages)) == ("af3e", "A|More|A2")
    assert record.vote.judged_at == datetime.fromtimestamp(1682351591.1322, UTC)


def test_arena_55k_reads_nulls_as_empty_answers_and_counts_them(tmp_path):
    _, read_records, counted = read_file(write(tmp_path / "x.csv", ARENA_55K))
    assert [texts(c.messages) for c in read_records[1].completions] == ["A|More|A2", "B|More|"]
    assert counted == {"nulls in response_b, read as empty answers": 1, "column id": 3}


# Several votes


def test_each_column_of_votes_is_a_rater(tmp_path):
    _, read_records, counted = read_file(write(tmp_path / "x.json", PANDALM))
    assert [texts(r.prompt) for r in read_records[::3]] == ["Say it shorter.", "Say it shorter.\n\nThank you 1", *[
        "Say it shorter.\n\nThank you 2"]]  # fmt: skip
    assert {c.policy for r in read_records for c in r.completions} == {"bloom-7b", "llama-7b"}
    assert counted == {"column idx": 3, "column motivation_app": 3}


def test_a_vote_a_row_keeps_rater_reason_and_time(tmp_path):
    votes = [r.vote for r in records(write(tmp_path / "x.jsonl", ROW_VOTES))]
    assert [v.rater for v in votes] == ["0", "bob", "cyd", "dan"]
    assert [v.rationale for v in votes] == ["sweet", "", "", "no"]
    assert {v.judged_at for v in votes} == {datetime(2024, 2, 1, 9, tzinfo=UTC)}


@pytest.mark.parametrize(
    "names", [("rater_1", "rater_2"), ("vote1", "vote2"), ("label_0", "label_1"), ("Judge 1", "Judge 2")]
)
@pytest.mark.parametrize(
    ("values", "outcomes"),
    [((1, 2), "ab"), (("A", "tie"), "at"), ((2.0, 0.0), "bt"), (("first", "response2"), "ab"), (("B", None), "b")],
)
def test_votes_are_found_under_many_names_and_in_many_words(tmp_path, names, values, outcomes):
    rows = [{"question": "Q", "response1": "A", "response2": "B"} | dict(zip(names, values))]
    found = [r.vote for r in records(write(tmp_path / "x.jsonl", rows))]
    rankings = {"a": ((0,), (1,)), "b": ((1,), (0,)), "t": ((0, 1),)}
    assert [(v.rater, v.ranking) for v in found] == [(n, rankings[o]) for n, o in zip(names, outcomes)]


def test_a_response_that_pandas_took_for_a_truth_or_a_number_is_its_text(tmp_path):
    row = {"prompt": "Is it?", "response1": True, "response2": 7, "rater_1": 2}
    _, (record,), counted = read_file(write(tmp_path / "x.jsonl", [row]))
    assert [texts(c.messages) for c in record.completions] == ["True", "7"]
    assert counted["response1 that are no text, read as their text"] == 1


def test_votes_of_0_and_1_only_are_refused_since_0_may_be_the_first_or_a_tie(tmp_path):
    rows = [{"prompt": "Q", "response1": "A", "response2": "B", "rater_1": 0, "rater_2": 1}]
    with pytest.raises(BadInput, match=r"x\.jsonl:1: rater_1 = 0, and no vote of the file is 2"):
        records(write(tmp_path / "x.jsonl", rows))
    assert len(records(write(tmp_path / "y.jsonl", [*rows, rows[0] | {"rater_1": 2}]))) == 4


@pytest.mark.parametrize("tie", ["tie", "both_bad", "neither", None])
def test_a_tie_in_a_word_does_not_tell_what_0_means(tmp_path, tie):
    votes = [tie, 0, 1]
    rows = [{"prompt": f"Q{i}", "response1": "A", "response2": "B", "rater_1": v} for i, v in enumerate(votes)]
    with pytest.raises(BadInput, match=r"x\.jsonl:2: rater_1 = 0, and no vote of the file is 2"):
        records(write(tmp_path / "x.jsonl", rows))
    for clear in (2, "B", "left"):
        found = records(write(tmp_path / "y.jsonl", [*rows, rows[0] | {"rater_1": clear}]))
        assert [r.vote.ranking for r in found if r.vote][-3:-1] == [((0, 1),), ((0,), (1,))]


@pytest.mark.parametrize("vote", [{"preference": None, "annotator": "ann"}, {"label_0": None}])
def test_a_number_is_the_response_that_is_called_so_where_they_are_called_0_and_1(tmp_path, vote):
    (column, *_) = vote
    row = {"prompt": "Q", "output_0": "A", "output_1": "B"} | vote
    rows = [row | {column: value} for value in (0, 1, "1", "tie", "output_1", "A")]
    _, found, counted = read_file(write(tmp_path / "x.jsonl", rows))
    first, second, tie = ((0,), (1,)), ((1,), (0,)), ((0, 1),)
    assert [r.vote.ranking for r in found] == [first, second, second, tie, second, first]
    assert counted["votes 0 and 1, read as output_0 and output_1"] == 3
    with pytest.raises(BadInput, match=rf"y\.jsonl:7: {column} = 2, and the responses are called 0 and 1"):
        records(write(tmp_path / "y.jsonl", [*rows, row | {column: 2}]))
    with pytest.raises(BadInput, match=rf"z\.jsonl:1: {column} = 3.*0 or 1, as the responses are called"):
        records(write(tmp_path / "z.jsonl", [row | {column: 3}]))


@pytest.mark.parametrize(
    ("name", "known"),
    [("pandalm", False), ("a vote a row", False), ("sharegpt", False), ("alpaca", False), ("shp", False),
     ("nectar", False), ("arena 33k", True), ("arena 140k", True), ("arena 55k", True)],
)  # fmt: skip
def test_the_order_on_the_screen_is_known_only_where_a_format_has_it(tmp_path, sqlite_store, name, known):
    _, file, rows, _ = SETS[name]
    path = write(tmp_path / file, rows)
    assert {r.order_known for r in records(path) if r.vote} == {known}
    import_path(sqlite_store, path)
    assert {bool(j.order_shown) for j in read_judgments(sqlite_store)} == {known}


# ShareGPT, Alpaca, KTO


def test_sharegpt_reads_system_messages_and_turns(tmp_path):
    _, (first, second), counted = read_file(write(tmp_path / "x.json", SHAREGPT))
    assert [(m.role, m.text) for m in first.prompt] == [("system", "Be kind."), ("user", "Q1")]
    assert [(m.role, m.text) for m in second.prompt] == [
        ("system", "Be brief."), ("user", "Q2"), ("assistant", "A2"), ("user", "Q3"),
    ]  # fmt: skip
    assert counted == {"message key weight": 1}


CALL = {"name": "find", "arguments": {"title": "Dune"}}
TOOL_TURNS = [
    {"from": "human", "value": "Who wrote Dune?"}, {"from": "function_call", "value": json.dumps(CALL)},
    {"from": "observation", "value": '{"author": "Herbert"}'}, {"from": "gpt", "value": "Frank Herbert."},
]  # fmt: skip


def test_sharegpt_calls_of_functions_are_tool_calls_and_a_conversation_alone_is_no_vote(tmp_path):
    row = {"conversations": TOOL_TURNS, "tools": json.dumps([{"name": "find", "parameters": {}}])}
    (record,) = records(write(tmp_path / "x.json", [row]))
    assert [m.role for m in record.prompt] == ["user", "assistant", "tool"]
    (call,) = record.prompt[1].tool_calls
    assert (call.name, call.arguments) == ("find", {"title": "Dune"})
    assert [t.to_plain()["name"] for t in record.tools] == ["find"]
    assert [texts(c.messages) for c in record.completions] == ["Frank Herbert."]
    assert record.vote is None


def make_png() -> str:
    from PIL import Image

    with io.BytesIO() as f:
        Image.new("RGB", (2, 2), "red").save(f, "PNG")
        return "data:image/png;base64," + base64.b64encode(f.getvalue()).decode()


def test_sharegpt_images_take_the_place_of_their_marks(tmp_path):
    row = SHAREGPT[0] | {"conversations": [{"from": "human", "value": "<image>What is it?"}]}
    (record,) = records(write(tmp_path / "x.json", [row | {"images": [make_png()]}]))
    assert len(record.prompt[1].images) == 1
    assert record.prompt[1].text == "What is it?"
    (without,) = records(write(tmp_path / "y.json", [row]))
    assert without.prompt[1].text == "<image>What is it?"
    for images in (["/etc/passwd"], ["file:///etc/passwd"], [make_png()] * 2):
        with pytest.raises(BadInput, match=r"z\.json: item 1"):
            records(write(tmp_path / "z.json", [row | {"images": images}]))


def test_alpaca_pairs_read_input_history_and_system(tmp_path):
    first, second = records(write(tmp_path / "x.json", ALPACA))
    assert [(m.role, m.text) for m in first.prompt] == [
        ("system", "You know French."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Translate.\n\nchat"),
    ]  # fmt: skip
    assert texts(second.prompt) == "Count."
    (third,) = records(write(tmp_path / "y.json", [ALPACA[1] | {"instruction": " ", "input": "Count."}]))
    assert third.prompt == second.prompt


KTO_FORMS = [
    {"prompt": "Q", "completion": "A", "label": False},
    {"prompt": "\n\nHuman: Q\n\nAssistant:", "completion": "A", "label": 0},
    {"prompt": [turns("Q")[0]], "completion": [turns("Q", "A")[1]], "label": False},
    {"completion": turns("Q", "A"), "label": False},
    *({"prompt": "Q", "completion": "A", "label": label} for label in ("False", "false ", "0", 0.0, "0.0")),
    {"messages": turns("Q", "A"), "label": "FALSE"},
    {"messages": turns("Q", "A"), "kto_tag": 0},
    {"prompt": "Q", "completion": turns("Q", "A"), "label": False},
    {"messages": turns("Q", "A"), "label": False},
    {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "kto_tag": False},
    {"instruction": "Q", "input": "", "output": "A", "kto_tag": False},
]


@pytest.mark.parametrize("row", KTO_FORMS, ids=range(len(KTO_FORMS)))
def test_every_way_to_write_a_kto_row_is_the_same_rating_and_no_comparison(tmp_path, sqlite_store, row):
    path = write(tmp_path / "x.jsonl", [row])
    (record,) = records(path)
    assert (record.prompt, [c.messages for c in record.completions], record.vote) == (
        chat("Q"),
        [chat("", "A")[1:]],
        None,
    )
    assert [(r.axis, r.value, r.lowest, r.highest) for r in record.ratings] == [("desirable", 0.0, 0.0, 1.0)]
    report = import_path(sqlite_store, path)
    assert (report.prompts, report.completions, report.comparisons, report.judgments) == (1, 1, 0, 0)
    assert report.ratings == 1
    assert import_path(sqlite_store, path).ratings == 0


def test_a_label_of_kto_that_is_neither_true_nor_false_is_named(tmp_path):
    rows = [{"prompt": "Q", "completion": "A", "label": label} for label in ("True", 2)]
    with pytest.raises(BadInput, match=r"x\.jsonl:2: label = 2.*true or false"):
        records(write(tmp_path / "x.jsonl", rows))


def test_a_row_with_messages_and_no_label_stays_our_own_format(tmp_path):
    assert open_source(write(tmp_path / "x.jsonl", [{"messages": turns("Q")}]))[1].NAME == "native"


# Nectar and SHP


def test_nectar_votes_are_a_models_and_say_so(tmp_path):
    _, (first, second), counted = read_file(write(tmp_path / "x.jsonl", NECTAR))
    assert texts(first.prompt) == "Hi |Hello |A colour? "
    assert first.vote.judge
    assert first.vote.ranking == ((1,), (2, 3), (0,), (4,), (5,), (6,))
    assert [c.policy for c in first.completions] == [f"m{i}" for i in range(7)]
    assert first.tags == {"source": "sharegpt", "good_natured": "true"}
    assert [texts(c.messages) for c in second.completions] == ["1", "2", "4"]
    assert counted["completions that repeat another of their prompt"] == counted["answers without a rank"] == 1


def test_shp_domains_are_tags_and_say_the_split(tmp_path):
    _, read_records, counted = read_file(write(tmp_path / "x.jsonl", SHP))
    assert [r.split for r in read_records] == [None, Split.CALIBRATION, Split.HELDOUT]
    assert {r.tags["domain"] for r in read_records} == {"askculinary"}
    assert counted["column score_A"] == counted["column score_ratio"] == 3


# Bad rows

BAD: dict[str, tuple[str, dict, str]] = {
    "arena, winner": ("arena 140k", {"winner": "model_c"}, "winner"),
    "arena, no model": ("arena 140k", {"model_a": None}, "model_a"),
    "arena, other question": ("arena 140k", {"conversation_b": part_turns("R", "B")}, "conversation_b"),
    "arena, text": ("arena 140k", {"conversation_a": "not JSON"}, "conversation_a"),
    "arena, deep": ("arena 140k", {"conversation_a": "[" * 100_000}, "conversation_a"),
    "arena, null": ("arena 140k", {"conversation_a": None}, "conversation_a"),
    "arena, time": ("arena 140k", {"timestamp": "yesterday"}, "timestamp"),
    "arena, a time too late": ("arena 140k", {"timestamp": 1e300}, "timestamp"),
    "55k, two winners": ("arena 55k", {"winner_model_b": 1}, "winner_model_b"),
    "55k, no winner": ("arena 55k", {"winner_model_a": 0}, "winner_tie"),
    "55k, flag": ("arena 55k", {"winner_tie": "yes"}, "winner_tie"),
    "55k, turns": ("arena 55k", {"response_b": '["B"]'}, "response_b"),
    "55k, prompt": ("arena 55k", {"prompt": "[null, null]"}, "prompt"),
    "55k, no list": ("arena 55k", {"prompt": "3"}, "prompt"),
    "panda, vote": ("pandalm", {"annotator2": 3}, "annotator2"),
    "panda, flag": ("pandalm", {"annotator2": True}, "annotator2"),
    "panda, response": ("pandalm", {"response2": None}, "response2"),
    "panda, input": ("pandalm", {"input": 3}, "input"),
    "panda, no prompt": ("pandalm", {"instruction": None, "input": None}, "prompt"),
    "row, vote": ("a vote a row", {"vote": "C"}, "vote"),
    "row, time": ("a vote a row", {"timestamp": "noon"}, "timestamp"),
    "kto, label": ("kto", {"label": "maybe"}, "label"),
    "kto, no label": ("kto", {"label": None}, "label"),
    "kto, prompt": ("kto", {"prompt": 5}, "prompt"),
    "kto, completion": ("kto", {"completion": None}, "completion"),
    "kto, other prompt": ("kto", {"prompt": "Other", "completion": turns("One?", "Two.")}, "prompt"),
    "kto, no answer": ("kto", {"prompt": None, "completion": turns("One?")}, "completion"),
    "sharegpt, role": ("sharegpt", {"chosen": {"from": "cat", "value": "a"}}, r"chosen\[0\]: from"),
    "sharegpt, value": ("sharegpt", {"chosen": {"from": "gpt", "value": 3}}, r"chosen\[0\]: value"),
    "sharegpt, turn": ("sharegpt", {"conversations": ["Q"]}, r"conversations\[0\]: turn"),
    "sharegpt, one side": ("sharegpt", {"rejected": None}, "rejected"),
    "sharegpt, call": (
        "sharegpt", {"conversations": [*TOOL_TURNS[:1], {"from": "function_call", "value": "{"}]},
        r"conversations\[1\]: value",
    ),
    "sharegpt, call of nothing": (
        "sharegpt", {"conversations": [*TOOL_TURNS[:1], {"from": "function_call", "value": "3"}, TOOL_TURNS[2]]},
        "conversations",
    ),
    "sharegpt, no human": ("sharegpt", {"conversations": [{"from": "system", "value": "s"}]}, "conversations"),
    "sharegpt, answered": ("sharegpt", {"conversations": TOOL_TURNS}, "conversations"),
    "sharegpt, tools": ("sharegpt", {"tools": "{"}, "tools"),
    "sharegpt, system": ("sharegpt", {"system": 3}, "system"),
    "alpaca, three": ("alpaca", {"output": ["a", "b", "c"]}, "output"),
    "alpaca, text": ("alpaca", {"output": "a"}, "output"),
    "alpaca, null": ("alpaca", {"output": ["a", None]}, "output"),
    "alpaca, history": ("alpaca", {"history": [["only one"]]}, "history"),
    "alpaca, no prompt": ("alpaca", {"instruction": "", "input": ""}, "instruction"),
    "nectar, rank": ("nectar", {"answers": [{"answer": "a", "rank": "best"}]}, r"answers\[0\]: rank"),
    "nectar, infinite": ("nectar", {"answers": [{"answer": "a", "rank": float("inf")}]}, r"answers\[0\]: rank"),
    "nectar, answer": ("nectar", {"answers": [{"answer": None, "rank": 1}]}, r"answers\[0\]: answer"),
    "nectar, no list": ("nectar", {"answers": {"a": 1}}, "answers"),
    "nectar, texts": ("nectar", {"answers": ["a", "b"]}, "answers"),
    "shp, label": ("shp", {"labels": 2}, "labels"),
    "shp, comment": ("shp", {"human_ref_B": None}, "human_ref_B"),
    "shp, domain": ("shp", {"domain": 5}, "domain"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_field_is_named_by_line_and_field_and_can_be_skipped(tmp_path, sqlite_store, case):
    name, changes, field = BAD[case]
    rows = SETS[name][2]
    path = write(tmp_path / "x.jsonl", [rows[0], rows[0] | changes, rows[1]])
    with pytest.raises(BadInput, match=rf"x\.jsonl:2: {field}") as error:
        records(path)
    assert len(str(error.value)) - len(str(tmp_path)) < 500
    report = import_path(sqlite_store, path, skip_bad=True)
    assert report.bad_lines == 1


ANYTHING = [None, "", "x", 0, 1.5, True, [], [None], [[]], {}, {"a": None}, float("nan"), "\x00", "[" * 2000]


@pytest.mark.parametrize("name", SETS)
def test_values_of_any_kind_are_read_or_refused_in_a_line(tmp_path, name):
    file_format, _, rows, _ = SETS[name]
    for column in rows[0]:
        for value in ANYTHING:
            path = write(tmp_path / "x.jsonl", [rows[0], rows[1] | {column: value}])
            with contextlib.suppress(BadInput):  # and nothing else
                records(path, file_format)


@pytest.mark.parametrize("name", [name for name in SETS if name != "arena 33k"])
def test_a_thousand_columns_are_counted_and_not_a_thousand_times_a_thousand(tmp_path, name):
    file_format, _, rows, _ = SETS[name]
    found, _, counted = read_file(write(tmp_path / "x.jsonl", [rows[0] | {f"c{i}": 1 for i in range(1000)}]))
    assert file_format == found
    assert sum(n for what, n in counted.items() if what.startswith(("column c", "other column"))) >= 1000
    assert len(counted) <= 1000 + 20


# Rows of all kinds

TEXTS = st.sampled_from(["yes", "no", "", "so so", "ja\n"])
Drawn = tuple[list[dict], list[Said]]


def index_rows(strategy: st.SearchStrategy[dict], finish: Callable[[int, dict], tuple[dict, list[Said]]]) -> Any:
    """Return a strategy of rows with the votes in them; each row has a prompt of its own."""

    def build(drawn: list[dict]) -> Drawn:
        pairs = [finish(i, row) for i, row in enumerate(drawn)]
        return [row for row, _ in pairs], flatten_list([votes for _, votes in pairs])

    return st.lists(strategy, min_size=1, max_size=5).map(build)


SIDES = {"a": TEXTS, "b": TEXTS}


def finish_arena(i: int, d: dict) -> tuple[dict, list[Said]]:
    row = ARENA_140K[0] | {
        "winner": d["winner"], "evaluation_session_id": d["rater"], "conversation_a": part_turns(f"Q{i}", d["a"]),
        "conversation_b": part_turns(f"Q{i}", d["b"]),
    }  # fmt: skip
    return row, [] if d["a"] == d["b"] else [said_by_arena(row, d["rater"])]


def finish_55k(i: int, d: dict) -> tuple[dict, list[Said]]:
    row = ARENA_55K[0] | {f"winner_{n}": int(d["winner"] == n) for n in ("model_a", "model_b", "tie")}
    row |= {"prompt": json.dumps([f"Q{i}"]), "response_a": json.dumps([d["a"]]), "response_b": json.dumps([d["b"]])}
    return row, [] if (d["a"] or "") == (d["b"] or "") else [said_by_55k(row)]


def finish_panda(i: int, d: dict) -> tuple[dict, list[Said]]:
    row = {"instruction": f"Q{i}", "response1": d["a"], "response2": d["b"]}
    row |= {f"annotator{n}": vote for n, vote in enumerate(d["votes"], 1)}
    return row, [] if d["a"] == d["b"] else said_by_panda(row)


def finish_nectar(i: int, d: dict) -> tuple[dict, list[Said]]:
    row = NECTAR[0] | {"prompt": f"\n\nHuman: Q{i}\n\nAssistant: "}
    row["answers"] = [{"answer": text, "model": "m", "rank": rank} for text, rank in d["answers"]]
    return row, [] if len({text for text, _ in d["answers"]}) == 1 else said_by_nectar(row)


def finish_shp(i: int, d: dict) -> tuple[dict, list[Said]]:
    row = SHP[0] | {"history": f"Q{i}", "human_ref_A": d["a"], "human_ref_B": d["b"], "labels": d["label"]}
    return row, [] if d["a"] == d["b"] else [pair("SHP", "a" if d["label"] else "b", d["a"], d["b"])]


def finish_sharegpt(i: int, d: dict) -> tuple[dict, list[Said]]:
    row = {"conversations": [{"from": "human", "value": f"Q{i}"}]}
    row |= {side: {"from": "gpt", "value": d[key]} for side, key in (("chosen", "a"), ("rejected", "b"))}
    return row, [] if d["a"] == d["b"] else [pair("unnamed", "a", d["a"], d["b"])]


def finish_alpaca(i: int, d: dict) -> tuple[dict, list[Said]]:
    row = {"instruction": f"Q{i}", "input": d["input"], "output": [d["a"], d["b"]]}
    return row, [] if d["a"] == d["b"] else [pair("unnamed", "a", d["a"], d["b"])]


def finish_tree(i: int, d: dict) -> tuple[dict, list[Said]]:
    def build(replies: list, id: str) -> list[dict]:
        return [
            node(f"{id}.{n}", f"{id}.{n}", ("prompter", "assistant")[id.count(".") % 2 == 0],
                 *build(below, f"{id}.{n}"), rank=rank, deleted=deleted, review_result=result)
            for n, (rank, deleted, result, below) in enumerate(replies)
        ]  # fmt: skip

    row = tree(node(f"t{i}", f"t{i}", "prompter", *build(d["replies"], f"t{i}")))
    return row, said_by_tree(row["prompt"])


RANK = st.none() | st.integers(0, 3)
DELETED, REVIEWED = st.sampled_from([False, False, True]), st.sampled_from([True, True, None, False])
REPLIES = st.recursive(
    st.just([]), lambda below: st.lists(st.tuples(RANK, DELETED, REVIEWED, below), max_size=4), max_leaves=12
)
PANDA_VOTES = st.tuples(*[st.sampled_from([0, 1, 2, None])] * 3)
GENERATED = {
    "oasst": index_rows(st.fixed_dictionaries({"replies": REPLIES}), finish_tree),
    "arena": index_rows(
        st.fixed_dictionaries(
            SIDES | {"rater": st.sampled_from(["s0", "s1"]), "winner": st.sampled_from(sorted(ARENA_WINNERS))}
        ),
        finish_arena,
    ),
    "arena55k": index_rows(
        st.fixed_dictionaries(
            {"a": TEXTS | st.none(), "b": TEXTS | st.none(), "winner": st.sampled_from(["model_a", "model_b", "tie"])}
        ),
        finish_55k,
    ),
    "several_votes": index_rows(st.fixed_dictionaries(SIDES | {"votes": PANDA_VOTES}), finish_panda),
    "nectar": index_rows(
        st.fixed_dictionaries({"answers": st.lists(st.tuples(TEXTS, RANK), min_size=2, max_size=7)}), finish_nectar
    ),
    "shp": index_rows(st.fixed_dictionaries(SIDES | {"label": st.sampled_from([0, 1])}), finish_shp),
    "sharegpt": index_rows(st.fixed_dictionaries(SIDES), finish_sharegpt),
    "alpaca": index_rows(st.fixed_dictionaries(SIDES | {"input": TEXTS}), finish_alpaca),
}


@pytest.mark.parametrize("name", GENERATED)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_votes_in_are_the_votes_in_the_store_and_what_is_dropped_is_named(sqlite_template, name, data):
    rows, votes = data.draw(GENERATED[name])
    if name == "several_votes":  # one vote says 2, or 0 could be the first of two
        rows.append({"instruction": "last", "response1": "x", "response2": "y", "annotator1": 2})
        votes = [*votes, pair("annotator1", "b", "x", "y")]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(sqlite_template, Path(folder) / "preferences.db")
        with Store.open(f"sqlite:///{folder}/preferences.db") as store:
            path = write(Path(folder) / "x.jsonl", rows)
            report = import_path(store, path, format=name)
            assert said(store) == sorted(votes)
            assert report.judgments == len(votes)
            assert report.bad_lines == report.repeated_votes == 0


@pytest.mark.parametrize("file", ["trees", "messages"])
@settings(max_examples=40, deadline=None)
@given(index_rows(st.fixed_dictionaries({"replies": REPLIES}), finish_tree))
def test_every_message_of_generated_trees_is_read_or_counted(file, drawn):
    rows, votes = drawn
    flat = [row for t in rows for row in flatten(t["prompt"], t["message_tree_id"])]
    with tempfile.TemporaryDirectory() as folder:
        _, found, counted = read_file(write(Path(folder) / "x.jsonl", rows if file == "trees" else flat), "oasst")
    left_out = sum(n for what, n in counted.items() if what.startswith("messages "))
    read_messages = len(found) + sum(len(r.completions) for r in found)
    assert read_messages + left_out == len(flat)
    assert sum(r.vote is not None for r in found) == len(votes)
