"""Files as other people make them: what they call their columns, how they write messages, votes and ratings.

Each is small and was read wrongly once, here or by another tool.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import datasets
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from command_line import run_command
from read_formats import read_rows
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats import FORMATS, get_format
from rlhf_hitl.formats.column_map import ColumnMap
from rlhf_hitl.formats.importing import ImportReport, import_path
from rlhf_hitl.formats.readers import hh
from rlhf_hitl.formats.readers.columns import is_model_judge
from rlhf_hitl.formats.readers.pair_ratings import find_strength
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.comparisons import count_rows, find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.tables import ratings
from rlhf_hitl.types import Role, Split, Verdict

PAIR = {"prompt": "Q", "chosen": "a", "rejected": "b"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Graz"}'}}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def prompts(store: Store) -> list[list[tuple[str, str]]]:
    """The prompts, each as (role, text)."""
    return sorted([(m.role, m.text) for m in c.prompt.messages] for c in find_comparisons(store))


def answers(store: Store) -> list[str]:
    return sorted(a.text for c in find_comparisons(store) for a in c.completions)


def votes(store: Store) -> list[tuple[str, str]]:
    """Who said what: the texts of a ranking, as `a > b`."""
    texts = {a.id: a.text for c in find_comparisons(store) for a in c.completions}
    names = {r.id: r.name.partition(":")[2] for r in people.list_raters(store)}
    return sorted(
        (names[j.rater_id], " > ".join("=".join(sorted(texts[i] for i in group)) for group in j.answer.ranking))
        for j in read_judgments(store)
    )


def read(store: Store, tmp_path: Path, *rows: object, **how) -> ImportReport:
    return import_path(store, write(tmp_path / "a.jsonl", *rows), **how)


# What columns are called.


def test_a_question_and_a_system_column_are_the_prompt_and_not_what_both_answers_share(sqlite_store, tmp_path):
    shared = {"chosen": "Sure, three spiders have 24 legs.", "rejected": "Sure, three spiders have 18 legs."}
    system = "You answer like a patient school teacher and always explain each step before the result is given."
    report = read(
        sqlite_store, tmp_path, {"system": system, "question": "How many legs?"} | shared,
        {"system": "", "question": "A river?"} | shared,
    )  # fmt: skip
    assert prompts(sqlite_store) == [[("system", system), ("user", "How many legs?")], [("user", "A river?")]]
    assert answers(sqlite_store) == sorted([*shared.values()] * 2)
    assert (report.unread, report.noted) == ({}, {})


@pytest.mark.parametrize("name", ["prompt", "question", "instruction", "query", "input"])
@pytest.mark.parametrize("system", ["system", "system_prompt", "system_message"])
def test_the_usual_names_of_a_prompt_are_read(sqlite_store, tmp_path, name, system):
    read(sqlite_store, tmp_path, {name: "Q", system: "S", "chosen": "x a", "rejected": "x b"})
    assert prompts(sqlite_store) == [[("system", "S"), ("user", "Q")]]
    assert answers(sqlite_store) == ["x a", "x b"]


def test_an_instruction_and_its_input_and_history_are_one_prompt(sqlite_store, tmp_path):
    row = {
        "instruction": "Translate.",
        "input": "The dog.",
        "history": [["Hi", "Hello"]],
        "chosen": "a",
        "rejected": "b",
    }
    read(sqlite_store, tmp_path, row)
    assert prompts(sqlite_store) == [[("user", "Hi"), ("assistant", "Hello"), ("user", "Translate.\n\nThe dog.")]]


@pytest.mark.parametrize("column", ["post", "context", "article", "conversation"])
def test_no_prompt_is_guessed_while_a_column_could_hold_it(sqlite_store, tmp_path, column):
    value = [{"role": "user", "content": "Q"}] if column == "conversation" else "What is the question?"
    with pytest.raises(BadInput, match=rf"prompt is missing.*--map {column}=prompt.*--map {column}="):
        read(sqlite_store, tmp_path, {column: value, "chosen": "so it is a", "rejected": "so it is b"})
    report = read(
        sqlite_store, tmp_path, {column: value, "chosen": "so it is a", "rejected": "so it is b"},
        column_map=ColumnMap.parse([f"{column}=prompt"]),
    )  # fmt: skip
    assert report.noted == {}
    assert answers(sqlite_store) == ["so it is a", "so it is b"]


def test_a_prompt_within_both_sides_is_counted(sqlite_store, tmp_path):
    report = read(
        sqlite_store, tmp_path, {"chosen": "The sky is blue", "rejected": "The sky is green", "source": "a b"}
    )
    assert prompts(sqlite_store) == [[("user", "The sky is")]]
    assert report.noted == {
        "prompts taken from what both sides begin with": 1, "column source kept as a tag": 1,
    }  # fmt: skip


def test_a_system_message_that_is_there_already_is_not_doubled(sqlite_store, tmp_path):
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    report = read(
        sqlite_store, tmp_path, PAIR | {"prompt": messages, "system": "S"}, PAIR | {"prompt": messages, "system": "T"}
    )
    assert {tuple(p) for p in prompts(sqlite_store)} == {(("system", "S"), ("user", "Q"))}
    assert report.unread == {"column system": 1}


def test_all_that_is_not_read_is_counted_by_name(sqlite_store, tmp_path):
    chosen = [{"role": "assistant", "content": "a", "weight": 1}]
    report = read(
        sqlite_store, tmp_path,
        PAIR | {"chosen": chosen, "rejected": [{"role": "assistant", "content": "b"}], "year": 2024, "empty": None},
        PAIR | {"year": 2025, "question": "Another?", "lang": "en"},
    )  # fmt: skip
    assert report.unread == {"column year": 2, "message key weight": 1, "column question": 1}
    done = run_command("import", tmp_path / "a.jsonl", "--store", f"sqlite:///{tmp_path}/b.db")
    assert "column year         2" in done.stdout
    done = run_command("import", tmp_path / "a.jsonl", "--json", "--store", f"sqlite:///{tmp_path}/c.db")
    assert json.loads(done.stdout)["unread"] == report.unread


def test_columns_that_become_tags_are_noted_and_those_about_a_person_are_not_read(sqlite_store, tmp_path):
    more = {
        "category": "sea", "email": "a@b.c", "E-mail": "a@b.c", "user_name": "ann", "userName": "ann", "name": "Ann",
        "ip_address": "::1", "phone": "1", "topicId": "7", "column 1": "0", "Unnamed: 0": "0",
    }  # fmt: skip
    report = read(sqlite_store, tmp_path, PAIR | more, PAIR | {"prompt": "R", "category": "air", "filename": "f"})
    tags = sorted((dict(c.prompt.tags) for c in find_comparisons(sqlite_store)), key=len)
    assert tags == [{"category": "sea"}, {"category": "air", "filename": "f"}]
    assert report.noted == {"column category kept as a tag": 2, "column filename kept as a tag": 1}
    assert report.unread == {f"column {name}": 1 for name in more if name != "category"}
    done = run_command("import", tmp_path / "a.jsonl", "--store", f"sqlite:///{tmp_path}/b.db")
    assert "column category kept as a tag" in done.stdout


def test_what_is_not_read_is_in_one_order_the_most_first(sqlite_store, tmp_path):
    names = [f"{letter}{number}" for letter in "zmbay" for number in range(9)]
    report = read(sqlite_store, tmp_path, PAIR | dict.fromkeys(names, 1), PAIR | {"prompt": "R", "m3": 1})
    expected = ["column m3", *(f"column {name}" for name in sorted(names) if name != "m3")]
    assert list(report.unread) == expected
    path, more = tmp_path / "a.jsonl", ("--store", f"sqlite:///{tmp_path}/b.db")
    assert list(json.loads(run_command("import", path, "--check", "--json", *more).stdout)["unread"]) == expected
    assert list(json.loads(run_command("import", path, "--json", *more).stdout)["unread"]) == expected
    assert "… and 15 more that were not read" in run_command("import", path, "--check", *more).stdout


def test_bad_lines_that_are_skipped_are_of_all_rows(tmp_path):
    good = [PAIR | {"prompt": f"Q{i}"} for i in range(3)]
    path, more = write(tmp_path / "a.jsonl", *good, {"chosen": 1}, [5]), ("--skip-bad", "--store")
    assert "Of 5 rows" in run_command("import", path, *more, f"sqlite:///{tmp_path}/b.db").stdout
    report = json.loads(run_command("import", path, "--json", *more, f"sqlite:///{tmp_path}/c.db").stdout)
    assert (report["rows"], report["bad_lines"]) == (3, 2)


def test_no_more_than_a_thousand_tags_are_noted_by_name(sqlite_store, tmp_path):
    report = read(sqlite_store, tmp_path, PAIR | {f"tag {i}": "x" for i in range(1100)})
    assert (len(report.noted), report.noted["other columns kept as tags"]) == (1001, 100)


def test_the_list_of_formats_has_a_gap_between_name_and_text():
    names = {line.split("  ")[0] for line in run_command("import", "--formats").stdout.splitlines()}
    assert {*FORMATS, "archive"} <= names


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "None"), (5, "5"), (5.5, "5.5"), ({"x": "y" * 70}, "{'x': '" + "y" * 53)]
)
def test_an_error_shows_a_value_with_its_type(sqlite_store, tmp_path, value, shown):
    with pytest.raises(BadInput) as error:
        read(sqlite_store, tmp_path, PAIR, {"prompt": "R", "chosen": "a", "rejected": value})
    assert error.value.value.endswith(f"a.jsonl:2: rejected = {shown}")


def test_an_error_shows_a_text_as_one(sqlite_store, tmp_path):
    with pytest.raises(BadInput, match="simulated = '5': "):
        read(sqlite_store, tmp_path, PAIR | {"simulated": "5"})


def test_a_file_of_a_folder_with_other_names_is_refused_with_the_likely_one(sqlite_store, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.csv").write_text("prompt,chosen,rejected\nQ,a,b\n")
    (folder / "b.csv").write_text("Prompt,Chosen,Rejected\nR,a,b\n")
    with pytest.raises(
        BadInput, match=r"b\.csv:2: chosen is missing.*did you mean chosen for Chosen\? Rename the column"
    ):
        import_path(sqlite_store, folder)
    write(folder / "b.jsonl", PAIR, {"prompt": "R", "chosen": "a", "topic": "b"})
    with pytest.raises(BadInput, match=r"rejected is missing.*Fix: correct the line"):
        import_path(sqlite_store, folder / "b.jsonl")


def test_one_of_two_numbered_columns_is_no_misspelling_of_the_other(sqlite_store, tmp_path):
    row = {"prompt": "Q", "response_a": "a", "response_b": "b", "model_a": "m", "model_b": "n", "winner": "model_a"}
    path = write(tmp_path / "a.jsonl", row, {k: v for k, v in row.items() if k != "response_b"})
    with pytest.raises(BadInput) as error:
        import_path(sqlite_store, path)
    assert "did you mean" not in error.value.fix


# --map.


def test_columns_and_what_is_within_them_can_be_renamed(sqlite_store, tmp_path):
    row = {"data": {"text": "Q", "lang": "en"}, "responses": ["a", "b"], "who": 0, "prompt": None}
    mapping = ColumnMap.parse(["data.text=prompt,responses.0=rejected", "responses.1=chosen", "who=rater"])
    report = read(sqlite_store, tmp_path, row, column_map=mapping)
    assert (prompts(sqlite_store), votes(sqlite_store)) == ([[("user", "Q")]], [("0", "b > a")])
    assert next(iter(find_comparisons(sqlite_store))).prompt.tags == {"data.lang": "en"}
    assert report.unread == {}


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ("qestion=prompt", "no such column: expected one of question, chosen, rejected. Fix: did you mean question"),
        ("question=promt", "no format reads 'promt'.*did you mean prompt"),
        ("question.text=prompt", "no such column"),
        ("question=chosen", "there is a column 'chosen'.*--map chosen="),
        ("question", "expected COLUMN=NAME"),
        ("question=prompt,question=system", "'question' twice"),
        ("question=prompt,chosen=prompt", "'prompt' twice"),
    ],
)
def test_a_mapping_that_cannot_be_is_one_line(tmp_path, mapping, says):
    path = write(tmp_path / "a.jsonl", {"question": "Q", "chosen": "a", "rejected": "b"})
    done = run_command("import", path, "--map", mapping, "--store", f"sqlite:///{tmp_path}/b.db")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert __import__("re").search(says, done.stderr), done.stderr
    assert not (tmp_path / "b.db").exists()


def test_a_target_is_a_column_that_a_reader_reads_and_few_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "Q", "chosen": "a", "rejected": "b"})
    for word in ("promt", "CSV", "and", "0", "JSON", "texts"):
        with pytest.raises(BadInput) as error:
            import_path(None, path, column_map=ColumnMap.parse([f"question={word}"]))
        assert f"no format reads '{word}'" in error.value.value
        assert error.value.expected.count(", ") <= 12
        assert word != "promt" or error.value.expected.startswith("a column that one reads: prompt, ")
    for name in FORMATS:
        assert all(column.isprintable() and column for column in get_format(name).COLUMNS), name


def test_two_columns_can_change_places():
    mapping = ColumnMap.parse(["a=b,b=a"])
    assert mapping.apply({"a": 1, "b": 2, "c": 3}) == {"a": 2, "b": 1, "c": 3}
    assert mapping.apply({"c": 3}) == {"c": 3}


NAMES = st.text("abc.", min_size=1, max_size=4).filter(lambda name: name.strip(".") == name)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES | st.sampled_from(["a.0", "b.c"]), NAMES))
def test_a_mapping_of_any_row_loses_no_value_that_it_does_not_take(row, pairs):
    mapping = ColumnMap(tuple((source, f"new {target}") for source, target in pairs.items()))
    mapped = mapping.apply(row)
    untouched = {name for name in row if not any(s == name or s.startswith(f"{name}.") for s in pairs)}
    assert {name: mapped[name] for name in untouched} == {name: row[name] for name in untouched}


# Messages as text.

TALK = [{"role": "user", "content": "Name a prime."}, {"role": "assistant", "content": "7"}]
OTHER = [TALK[0], {"role": "assistant", "content": "9"}]
WRITTEN = {
    "JSON": json.dumps,
    "JSON within an object": lambda talk: json.dumps({"messages": talk}),
    "Python": repr,
    "NumPy": lambda talk: "[" + "\n ".join(map(repr, talk)) + "]",
    "NumPy's repr": lambda talk: "array([" + ",\n       ".join(map(repr, talk)) + "], dtype=object)",
}


@pytest.mark.parametrize("write_talk", WRITTEN.values(), ids=WRITTEN.keys())
@pytest.mark.parametrize("prompt", [{}, {"prompt": "Name a prime."}])
def test_messages_that_are_written_as_text_are_messages(sqlite_store, tmp_path, write_talk, prompt):
    report = read(sqlite_store, tmp_path, prompt | {"chosen": write_talk(TALK), "rejected": write_talk(OTHER)})
    assert (prompts(sqlite_store), answers(sqlite_store)) == ([[("user", "Name a prime.")]], ["7", "9"])
    assert report.unread == {}


def test_another_prompt_than_that_of_the_conversation_is_counted(sqlite_store, tmp_path):
    report = read(sqlite_store, tmp_path, {"prompt": "Else?", "chosen": TALK, "rejected": OTHER})
    assert report.unread == {"column prompt, for the conversation holds another prompt": 1}


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'user', 'content': 'Q'}, {'role': 'assistant', 'content': open('x')}]",
        '[{"role": "user", "content": "Q"',
    ],
)
def test_messages_that_cannot_be_decoded_are_refused_with_the_line(sqlite_store, tmp_path, text):
    with pytest.raises(BadInput, match=r"a\.jsonl:2: chosen = .*messages that can be read"):
        read(sqlite_store, tmp_path, PAIR, PAIR | {"chosen": text, "rejected": text})
    report = read(sqlite_store, tmp_path, PAIR, PAIR | {"chosen": text, "rejected": text}, skip_bad=True)
    assert (report.judgments, report.bad_lines) == (1, 1)


def test_an_answer_that_is_json_stays_text(sqlite_store, tmp_path):
    rows = [
        '{"name": "Ann", "role": "admin"}',
        '[{"role": 3, "content": 4}]',
        '{"model": "x", "messages": [{"role": "u", "content": "c"}]}',
    ]
    read(sqlite_store, tmp_path, *(PAIR | {"prompt": text, "chosen": text} for text in rows))
    assert answers(sqlite_store) == sorted([*rows, "b", "b", "b"])


def test_one_side_as_messages_and_one_as_text_is_refused(sqlite_store, tmp_path):
    with pytest.raises(BadInput, match="what `chosen` is: messages, and not text"):
        read(sqlite_store, tmp_path, PAIR | {"chosen": json.dumps(TALK)})


def test_messages_that_arrow_turned_into_lists_are_messages(sqlite_store, tmp_path):
    columns = [{key: [m[key] for m in talk] for key in ("role", "content")} for talk in (TALK, OTHER)]
    read(sqlite_store, tmp_path, dict(zip(("chosen", "rejected"), columns)))
    assert answers(sqlite_store) == ["7", "9"]


# Tool calls, reasoning, tools, images.


@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}], ids=["null", "empty", "missing"])
def test_answers_that_differ_in_their_tool_calls_only_are_two(sqlite_store, tmp_path, content):
    other = CALL | {"function": {"name": "weather", "arguments": '{"city": "Linz"}'}}
    sides = [[{"role": "assistant", "tool_calls": [call]} | content] for call in (CALL, other)]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    report = read(
        sqlite_store, tmp_path,
        {"prompt": [{"role": "user", "content": "Rain?"}], "chosen": sides[0], "rejected": sides[1], "tools": tools},
    )  # fmt: skip
    assert (report.identical_sides, report.judgments, report.unread) == (0, 1, {})
    (comparison,) = find_comparisons(sqlite_store)
    assert sorted(c.messages[0].tool_calls[0].arguments for c in comparison.completions) == [
        '{"city": "Graz"}', '{"city": "Linz"}',
    ]  # fmt: skip
    assert [tool.to_plain() for tool in comparison.prompt.tools] == tools


def test_a_function_call_of_the_old_kind_is_refused_with_what_to_write(sqlite_store, tmp_path):
    call = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
    with pytest.raises(BadInput, match=r"a\.jsonl:1: chosen: .*write function_call as tool_calls"):
        read(sqlite_store, tmp_path, PAIR | {"chosen": [call], "rejected": [{"role": "assistant", "content": "b"}]})


def test_answers_that_differ_in_their_reasoning_only_are_two(sqlite_store, tmp_path):
    sides = [[{"role": "assistant", "content": "4", "reasoning_content": text}] for text in ("two and two", "a guess")]
    report = read(sqlite_store, tmp_path, {"prompt": TALK[:1], "chosen": sides[0], "rejected": sides[1]})
    assert (report.identical_sides, report.judgments) == (0, 1)


def png(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(data, "PNG")
    return data.getvalue()


def url(colour: str) -> str:
    return "data:image/png;base64," + base64.b64encode(png(colour)).decode()


def images_of(store: Store) -> list[list[str]]:
    """The parts of the prompts, an image as the word `image`."""
    return [
        ["image" if not hasattr(part, "text") else part.text for part in m.content]
        for c in find_comparisons(store) for m in c.prompt.messages if not isinstance(m.content, str)
    ]  # fmt: skip


def test_images_of_a_column_come_before_the_text_or_where_they_have_a_place(sqlite_store, tmp_path):
    placed = [{"role": "user", "content": [{"type": "text", "text": "See "}, {"type": "image"}]}]
    side = [[{"role": "assistant", "content": text}] for text in "ab"]
    read(sqlite_store, tmp_path, PAIR | {"images": [url("red")]})
    read(sqlite_store, tmp_path, {"prompt": placed, "chosen": side[0], "rejected": side[1], "images": [url("red")]})
    assert sorted(images_of(sqlite_store)) == [["See ", "image"], ["image", "Q"]]


@pytest.mark.parametrize(
    ("prompt", "images", "says"),
    [
        ([{"type": "image"}, {"type": "image"}], [url("red")], "as many images as there are places for them: 1 and 2"),
        ([{"type": "image"}], [url("red"), url("blue")], "2 and 1"),
        ([{"type": "image"}], [], "paths and addresses are never fetched|the image as bytes"),
        ([{"type": "text", "text": "Q"}], ["/etc/passwd"], "never fetched"),
        ([{"type": "text", "text": "Q"}], [{"bytes": None, "path": "http://10.0.0.1/a.png"}], "never fetched"),
    ],
)
def test_images_that_do_not_fit_are_refused_with_the_line(sqlite_store, tmp_path, prompt, images, says):
    side = [[{"role": "assistant", "content": text}] for text in "ab"]
    row = {"prompt": [{"role": "user", "content": prompt}], "chosen": side[0], "rejected": side[1], "images": images}
    with pytest.raises(BadInput, match=rf"a\.jsonl:1: .*({says})"):
        read(sqlite_store, tmp_path, row)


def test_images_of_a_saved_dataset_are_read_and_a_path_in_it_is_never_opened(sqlite_store, tmp_path):
    features = datasets.Features(
        {name: datasets.Value("string") for name in PAIR} | {"images": datasets.List(datasets.Image())}
    )
    good = datasets.Dataset.from_list([PAIR | {"images": [{"bytes": png("red"), "path": None}]}], features=features)
    good.save_to_disk(str(tmp_path / "good"))
    assert import_path(sqlite_store, tmp_path / "good").images == 1
    assert images_of(sqlite_store) == [["image", "Q"]]
    (tmp_path / "secret.png").write_bytes(png("blue"))
    # Saved as plain columns, for `datasets` puts a file into the set where it knows that it is an image.
    plain = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    named = datasets.Dataset.from_list(
        [PAIR | {"images": [{"bytes": None, "path": str(tmp_path / "secret.png")}]}],
        features=datasets.Features(features | {"images": datasets.List(plain)}),
    )
    named.save_to_disk(str(tmp_path / "bad"))
    (tmp_path / "bad" / "dataset_info.json").write_text((tmp_path / "good" / "dataset_info.json").read_text())
    loaded = datasets.load_from_disk(str(tmp_path / "bad"))
    assert loaded.features == features
    assert loaded[0]["images"][0].size == (2, 2)  # so others open it
    with pytest.raises(BadInput, match=r"row 1: .*never fetched"):
        import_path(sqlite_store, tmp_path / "bad")


# Ratings, strengths and margins.


@pytest.mark.parametrize(
    ("more", "ranking", "strength", "noted"),
    [
        ({"chosen-rating": 4.5, "rejected-rating": 4.5}, 1, None, "ties, for both ratings are equal"),
        ({"chosen-rating": 1.0, "rejected-rating": 4.5}, 2, None, "rating contradicts the choice, which is kept"),
        ({"chosen_rating": 5, "rejected_rating": 1}, 2, 3, "strengths from ratings, scale 1 to 5"),
        ({"chosen_rating": "4", "rejected_rating": "3"}, 2, 1, "strengths from ratings, scale 1 to 5"),
        ({"score_chosen": 8.0, "score_rejected": 3.0}, 2, 2, "strengths from ratings, scale 1 to 10"),
        ({"score_chosen": 0.9, "score_rejected": 0.1}, 2, None, "ratings outside 1 to 10, taken without a scale"),
        ({"chosen_score": 9, "rejected_score": 2}, 2, None, None),
        ({"chosen_score": 9, "rejected_score": 9}, 1, None, "ties, for both ratings are equal"),
        ({"strength": 3, "margin": 0.5}, 2, 3, None),
        ({"strength": 0}, 1, None, None),
        ({"margin": 0.0}, 1, None, "ties, for the margin is 0"),
        ({"margin": -1}, 2, None, "margin contradicts the choice, which is kept"),
        ({"margin": 2.5}, 2, None, None),
    ],
)
def test_ratings_make_strengths_and_ties_and_never_turn_a_choice(
    sqlite_store, tmp_path, more, ranking, strength, noted
):
    report = read(sqlite_store, tmp_path, PAIR | more)
    (judgment,) = read_judgments(sqlite_store)
    assert (len(judgment.answer.ranking), judgment.answer.strength) == (ranking, strength)
    assert list(report.noted) == ([] if noted is None else [noted])
    assert report.ratings == (2 if any("rating" in name or "score" in name for name in more) else 0)
    assert ("column margin" in report.unread) == (more.get("margin", 0) > 0)
    if ranking == 2:
        assert votes(sqlite_store)[0][1] == "a > b"


@pytest.mark.parametrize(
    "more", [{"strength": 4}, {"strength": "very"}, {"chosen_rating": "good", "rejected_rating": 1}]
)
def test_a_rating_that_is_none_is_refused_and_can_be_left_out(sqlite_store, tmp_path, more):
    name = next(iter(more))
    with pytest.raises(BadInput, match=rf"a\.jsonl:1: {name} = .*--map {name}="):
        read(sqlite_store, tmp_path, PAIR | more)
    assert read(sqlite_store, tmp_path, PAIR | more, column_map=ColumnMap.parse([f"{name}="])).judgments == 1


@given(st.floats(0, 4, exclude_min=True))
def test_a_strength_is_the_third_of_the_scale(difference):
    assert find_strength(difference, 4) == min(int(difference / 4 * 3 - 1e-9) + 1, 3)


# Raters.


def test_raters_are_read_under_their_usual_names_and_each_has_a_vote(sqlite_store, tmp_path):
    rows = [{"chosen": "Pear", "rejected": "Fig"}, {"chosen": "Fig", "rejected": "Pear"}]
    for i, name in enumerate(["annotator", "worker_id", "user_id", "rater", "judge", "labeler"]):
        read(sqlite_store, tmp_path, {"prompt": "Best?", name: i} | rows[i > 0])
    assert votes(sqlite_store) == [("0", "Pear > Fig"), *((str(i), "Fig > Pear") for i in range(1, 6))]


def test_votes_without_a_rater_are_votes_of_their_own_and_come_in_once(store, tmp_path):
    flipped = {"prompt": "Q", "chosen": "b", "rejected": "a"}
    first = read(store, tmp_path, PAIR, flipped, flipped)
    assert (first.judgments, first.raters, first.repeated_votes) == (3, 3, 0)
    assert votes(store) == [("unnamed", "a > b"), ("unnamed 2", "b > a"), ("unnamed 3", "b > a")]
    again = read(store, tmp_path, PAIR, flipped, flipped)
    assert (again.judgments, again.repeated_rows, again.repeated_votes) == (0, 3, 0)
    reordered = read(store, tmp_path, flipped, PAIR, flipped, flipped)
    assert (reordered.judgments, reordered.repeated_rows) == (1, 3)
    assert [said for _, said in votes(store)].count("b > a") == 3


def test_votes_without_a_rater_in_two_files_are_all_kept(sqlite_store, tmp_path):
    read(sqlite_store, tmp_path, PAIR)
    assert read(sqlite_store, tmp_path, {"prompt": "Q", "chosen": "b", "rejected": "a"}).judgments == 1


def test_a_named_raters_second_vote_is_counted_and_the_first_kept(sqlite_store, tmp_path):
    report = read(
        sqlite_store, tmp_path, PAIR | {"rater": "ann"}, {"prompt": "Q", "chosen": "b", "rejected": "a", "rater": "ann"}
    )
    assert (report.judgments, report.repeated_votes) == (1, 1)
    assert votes(sqlite_store) == [("ann", "a > b")]


def test_a_rater_called_0_is_a_rater_and_null_is_nobody(sqlite_store, tmp_path):
    row = {"prompt": "P?", "completions": ["a", "b", "c"], "ranking": [[0], [1], [2]]}
    read(sqlite_store, tmp_path, *(row | {"rater": rater} for rater in (0, 1, None, 2.0)))
    assert [name for name, _ in votes(sqlite_store)] == ["0", "1", "2", "unnamed"]


BATTLE = {
    "question_id": "q1", "model_a": "m1", "model_b": "m2", "turn": 1, "winner": "model_a",
    "conversation_a": TALK, "conversation_b": OTHER,
}  # fmt: skip


@pytest.mark.parametrize(
    ("winner", "verdict"),
    [("both_bad", "all_bad"), ("bothbad", "all_bad"), ("tie (bothbad)", "all_bad"), ("Tie (both bad)", "all_bad"),
     ("TIE", "ranked"), ("model_b", "ranked")],
)  # fmt: skip
def test_winners_of_an_arena_are_read_as_published_sets_write_them(sqlite_store, tmp_path, winner, verdict):
    read(sqlite_store, tmp_path, BATTLE | {"judge": 7, "winner": winner, "tstamp": 1_700_000_000.5})
    (judgment,) = read_judgments(sqlite_store)
    assert judgment.answer.verdict is Verdict(verdict)
    assert judgment.created_at.isoformat().startswith("2023-11-14T22:13:20.5")
    assert [name for name, _ in votes(sqlite_store)] == ["7"]


def test_rankings_have_rationales_strengths_scores_and_times(sqlite_store, tmp_path):
    row = {
        "prompt": "P?", "completions": ["a", "b"], "ranking": [[1], [0]], "rater": "ann", "rationale": "shorter",
        "strength": 2, "scores": {"style": [2, 5], "facts": [None, 4]}, "judged_at": "2026-05-01T12:00:00+02:00",
    }  # fmt: skip
    report = read(sqlite_store, tmp_path, row)
    (judgment,) = read_judgments(sqlite_store)
    ids = {c.text: c.id for comparison in find_comparisons(sqlite_store) for c in comparison.completions}
    assert (judgment.answer.rationale, judgment.answer.strength) == ("shorter", 2)
    assert judgment.answer.scores == {"style": {ids["a"]: 2, ids["b"]: 5}, "facts": {ids["b"]: 4}}
    assert judgment.created_at.isoformat() == "2026-05-01T10:00:00+00:00"
    assert report.unread == {}


def test_votes_of_our_own_lines_have_them_too(sqlite_store, tmp_path):
    completions = [{"messages": [{"role": "assistant", "content": t}], "policy": "p", "flaw": "x"} for t in "ab"]
    vote = {
        "rater": "ann", "ranking": [[1], [0]], "rationale": "shorter", "strength": 2, "scores": {"style": [2, 5]},
        "judged_at": 1_777_000_000, "mood": "good",
    }  # fmt: skip
    report = read(sqlite_store, tmp_path, {"messages": TALK[:1], "completions": completions, "votes": [vote]})
    (judgment,) = read_judgments(sqlite_store)
    assert (judgment.answer.rationale, judgment.answer.strength) == ("shorter", 2)
    assert sorted(judgment.answer.scores["style"].values()) == [2, 5]
    assert report.unread == {"completion key flaw": 2, "vote key mood": 1}


# Doors that refuse what a database cannot hold.


@pytest.mark.parametrize("text", ["an\x00n", "an\ud800n"], ids=["NUL", "half a surrogate pair"])
@pytest.mark.parametrize(
    "field",
    ["rater", "rationale", "prompt", "completions", "policies", "tags", "tag name", "axis", "tools", "batch"],
)
def test_what_a_database_cannot_hold_is_refused_at_every_door(store, tmp_path, field, text):
    row = {"prompt": "P?", "completions": ["a", "b"], "ranking": [[0], [1]]}
    bad: dict[str, object] = {
        "completions": {"completions": [text, "b"]},
        "policies": {"policies": [text, "b"]},
        "tags": {"tags": {"a": text}},
        "tag name": {"tags": {text: "a"}},
        "axis": {"scores": {text: [1, 2]}},
        "tools": {"tools": [{"name": text}]},
    }.get(field, {field: text})
    how = {"batch": text} if field == "batch" else {}
    path = write(tmp_path / "a.jsonl", row if how else row | bad)
    if field in ("prompt", "completions", "tools") and text == "an\x00n":
        import_path(store, path)  # JSON columns hold a NUL as an escape
        assert list(find_comparisons(store))
        return
    with pytest.raises(BadInput):
        import_path(store, path, **how)
    assert count_rows(store)["prompts"] == 0


# Folders.


def test_the_folders_of_a_set_are_batches(sqlite_store, tmp_path):
    for name in ("Natural", "Adversarial/Neighbor"):
        folder = tmp_path / "set" / name
        folder.mkdir(parents=True)
        items = [{"input": name, "output_1": "a", "output_2": "b", "label": 1}]
        (folder / "dataset.json").write_text(json.dumps(items))
    (tmp_path / "set" / "notes.txt").write_text("x")
    report = import_path(sqlite_store, tmp_path / "set")
    assert {c.batch for c in find_comparisons(sqlite_store)} == {"Natural", "Neighbor"}
    assert report.unread == {"file ending in .txt": 1}


def test_folders_that_are_splits_are_no_batches(sqlite_store, tmp_path):
    for name in ("helpful/test", "helpful/train", "harmless/data"):
        (tmp_path / "set" / name).mkdir(parents=True)
        write(tmp_path / "set" / name / "a.jsonl", PAIR | {"prompt": name})
    import_path(sqlite_store, tmp_path / "set")
    found = {c.prompt.messages[0].text: (c.batch, c.prompt.split.value) for c in find_comparisons(sqlite_store)}
    assert found["helpful/test"] == ("helpful", "heldout")
    assert (found["helpful/train"][0], found["harmless/data"][0]) == ("helpful", "harmless")


# --check.


def test_a_check_shows_the_first_rows_and_makes_no_store(tmp_path):
    rows = [
        {"question": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}", "rater": i, "year": 1} for i in range(8)
    ]
    path = write(tmp_path / "a.jsonl", *rows, {"question": "", "chosen": "a", "rejected": "b"})
    done = run_command("import", path, "--check", "--store", f"sqlite:///{tmp_path}/b.db")
    assert done.returncode == 0
    assert not (tmp_path / "b.db").exists()
    assert "is read as trl: the first row" in done.stdout
    assert "good 4" in done.stdout
    assert "good 5" not in done.stdout
    assert "rater 0" in done.stdout
    assert "column year  8" in done.stdout
    assert "1 bad line: the import stops at the first" in done.stdout
    done = run_command("import", path, "--check", "--check-rows", 1, "--json", "--store", f"sqlite:///{tmp_path}/b.db")
    said = json.loads(done.stdout)
    assert (said["format"], said["counts"]["votes"], said["counts"]["raters"]) == ("trl", 8, 8)
    assert said["columns"] == {"question": "prompt", "chosen": "chosen", "rejected": "rejected", "rater": "rater"}
    assert (said["unread"], said["bad_lines"]) == ({"column year": 8}, 1)
    assert [row["vote"]["said"] for row in said["first"]] == ["A > B"]
    assert not (tmp_path / "b.db").exists()


# Who judged, and what is held out.


@pytest.mark.parametrize(
    ("name", "is_model"),
    [*((name, True) for name in (
        "gpt-4", "gpt4_pair", "GPT-4o-mini", "openai/gpt-4", "chatgpt-4o", "gpt-oss-20b", "gpt-4 pair-v2", "claude-v1",
        "claude-3-opus", "anthropic/claude-sonnet-4", "llama-3-70b-judge",
    )), *((name, False) for name in (
        "author_1", "expert_22", "arena_user_9", "Claude", "claude@example.org", "Claudette 3", "gptom", "llama7",
        "Llama", "unnamed 2", "",
    ))],
)  # fmt: skip
def test_models_that_judge_are_known_by_their_names_and_people_are_not_taken_for_them(name, is_model):
    assert is_model_judge(name) == is_model


def ask(judge: object) -> dict[str, object]:
    """A vote of MT-Bench."""
    sides = {
        f"conversation_{side}": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": side}]
        for side in "ab"
    }
    return {"judge": judge, "model_a": "m1", "model_b": "m2", "turn": 1, "winner": "model_b"} | sides


def who_judged(store: Store) -> dict[str, tuple[bool, bool]]:
    """Rater → whether they are a judge, which is never simulated, and whether the order they saw is known."""
    raters = {r.id: r for r in people.list_raters(store)}
    judgments = list(read_judgments(store))
    assert not any(j.simulated for j in judgments)
    assert all((j.role is Role.JUDGE) == (raters[j.rater_id].role is Role.JUDGE) for j in judgments)
    return {raters[j.rater_id].name.partition(":")[2]: (j.role is Role.JUDGE, bool(j.order_shown)) for j in judgments}


def test_models_among_the_judges_of_mt_bench_are_judges_and_people_are_not(sqlite_store, tmp_path):
    judges = ["gpt4_pair", ["gpt-4", "pair-v2"], "author_0", "expert_12"]
    report = read(sqlite_store, tmp_path, *map(ask, judges))
    people_and_models = {"gpt4_pair": True, "gpt-4 pair-v2": True, "author_0": False, "expert_12": False}
    assert who_judged(sqlite_store) == {name: (flag, not flag) for name, flag in people_and_models.items()}
    assert report.noted == {"votes of a model judge: gpt4_pair": 1, "votes of a model judge: gpt-4 pair-v2": 1}


def test_the_people_of_mt_bench_stay_people(shared_data, sqlite_store):
    report = import_path(sqlite_store, shared_data / "mt_bench" / "mtbench_human_joined.jsonl.gz", limit=300)
    assert report.noted == {}
    assert set(who_judged(sqlite_store).values()) == {(False, True)}


def test_ratings_and_votes_of_a_model_beside_chosen_are_those_of_a_judge(sqlite_store, tmp_path):
    report = read(sqlite_store, tmp_path, PAIR | {"judge": "gpt-4", "chosen_rating": 5, "rejected_rating": 1})
    assert who_judged(sqlite_store) == {"gpt-4": (True, False)}
    with sqlite_store.read() as conn:
        assert set(conn.execute(sa.select(ratings.c.simulated)).scalars()) == {False}
    assert report.noted["ratings of a model judge: gpt-4"] == 2


@pytest.mark.parametrize(
    ("value", "flag"),
    [("True", True), ("true", True), ("1", True), (1, True), (1.0, True), (True, True), ("False", False), ("0", False),
     (0, False), ("", False), (None, False)],
)  # fmt: skip
def test_simulated_may_be_text_or_a_number(sqlite_store, tmp_path, value, flag):
    read(sqlite_store, tmp_path, PAIR | {"simulated": value})
    assert [j.simulated for j in read_judgments(sqlite_store)] == [flag]


@pytest.mark.parametrize("value", ["maybe", 2, -1, [True]])
def test_simulated_that_is_neither_true_nor_false_is_named(sqlite_store, tmp_path, value):
    with pytest.raises(BadInput, match=r"a\.jsonl:2: simulated = .*true or false"):
        read(sqlite_store, tmp_path, PAIR, PAIR | {"simulated": value})


def test_simulated_in_a_csv_file_is_read(sqlite_store, tmp_path):
    (path := tmp_path / "a.csv").write_text("prompt,chosen,rejected,simulated\nQ,a,b,True\nR,a,b,False\n")
    import_path(sqlite_store, path)
    assert sorted(j.simulated for j in read_judgments(sqlite_store)) == [False, True]


ROWS_WITH_SPLITS = {
    "trl": lambda text: {"prompt": text, "chosen": "a", "rejected": "b"},
    "kwise": lambda text: {"prompt": text, "completions": ["a", "b"], "ranking": [[0], [1]]},
    "kto": lambda text: {"prompt": text, "completion": "a", "label": True},
    "alpaca": lambda text: {"instruction": text, "input": "", "output": ["a", "b"]},
    "several_votes": lambda text: {"prompt": text, "response1": "a", "response2": "b", "rater_1": 2},
    "sharegpt": lambda text: {
        "conversations": [{"from": "human", "value": text}], "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "helpsteer2": lambda text: {"prompt": text, "response_1": "a", "response_2": "b", "preference_strength": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS_WITH_SPLITS)
@pytest.mark.parametrize(
    ("word", "split"),
    [("test", Split.HELDOUT), ("Test_prefs", Split.HELDOUT), ("validation", Split.CALIBRATION), ("train", None)],
)
def test_a_column_of_splits_says_what_is_not_for_training(sqlite_store, tmp_path, name, word, split):
    rows = [ROWS_WITH_SPLITS[name](f"Q{i}") | {"split": word} for i in range(20)]
    report = read(sqlite_store, tmp_path, *rows)
    assert report.format == name
    assert report.unread == {}
    if split is None:
        assert report.by_split["train"] > 0
    else:
        assert report.by_split == {s.value: 20 if s is split else 0 for s in Split}
    assert not any("split" in c.prompt.tags for c in find_comparisons(sqlite_store))


def test_a_value_that_names_no_split_is_a_tag_and_noted(sqlite_store, tmp_path):
    report = read(sqlite_store, tmp_path, PAIR | {"split": "north"})
    assert [c.prompt.tags for c in find_comparisons(sqlite_store)] == [{"split": "north"}]
    assert report.noted == {"values of the column split that name no split": 1, "column split kept as a tag": 1}


# Answers that begin like transcripts.


def test_answers_that_begin_like_a_transcript_beside_a_question_are_answers():
    row = {"question": "What did they say?", "chosen": "\n\nHuman: Hello!", "rejected": "\n\nAssistant: Bye."}
    [record], _ = read_rows("trl", row)
    assert [m.text for m in record.prompt] == ["What did they say?"]
    assert [c.messages[0].text for c in record.completions] == ["\n\nHuman: Hello!", "\n\nAssistant: Bye."]
    assert not hh.matches(row)
    assert hh.matches({name: text for name, text in row.items() if name != "question"})
