"""An export in the hands of others: `datasets`, TRL's own command line, pyarrow and pandas."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trl.data_utils import prepare_multimodal_messages

from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.export_schema import CONFIGS
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store, people, queue
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Answer, Role, Split, Verdict

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
#: What the template of the tiny model knows, and tool calls and reasoning, whose keys are in no order of the alphabet.
CALL = {"type": "function", "function": {"name": "find", "arguments": {"z": 1, "a": [{"y": "é", "b": None}]}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


def make_png(shade: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(out, "PNG")
    return out.getvalue()


def make_rows(n: int, *, calls: bool = False, images: bool = False) -> list[dict]:
    rows = []
    for i in range(n):
        prompt = [{"role": "user", "content": f"Tell of the sea, {i}."}]
        chosen, rejected = [[{"role": "assistant", "content": f"{word} {i}"}] for word in ("Waves", "No")]
        if calls:
            chosen[:0] = [
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "wet", "name": "find"},
            ]
            rejected[0]["reasoning_content"] = "I do not know."
        if images:
            url = "data:image/png;base64," + base64.b64encode(make_png(i)).decode()
            prompt[0]["content"] = [
                {"type": "image", "image": url, "alt": "red"},
                {"type": "text", "text": f"What, {i}?"},
            ]
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def fill(store: Store, folder: Path, rows: list[dict], split: Split | None = None) -> Store:
    file = folder / f"rows-{split}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_path(store, file, split=split)
    return store


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder in which `datasets` keeps what it reads."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def run_trl(command: str, dataset: Path, model: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [
        str(Path(sys.executable).parent / "trl"), command, "--dataset_name", str(dataset),
        "--model_name_or_path", str(model), "--output_dir", str(out), "--max_steps", "1", "--use_cpu", "true",
        "--per_device_train_batch_size", "2", "--report_to", "none", "--bf16", "false", "--save_strategy", "no",
        "--disable_tqdm", "true", *more,
    ]  # fmt: skip
    environment = os.environ | OFFLINE | {"HF_HOME": str(out.parent / "hf")}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("command", "calls", "more"),
    [
        ("reward", False, ("--eval_strategy", "steps", "--dataset_test_split", "heldout")),
        ("dpo", True, ()),
    ],
)
def test_trls_own_command_line_trains_on_an_export_as_it_is(sqlite_store, tmp_path, tiny_model, command, calls, more):
    for split in (Split.TRAIN, Split.HELDOUT):
        rows = make_rows(4, calls=calls)
        for row in rows:
            row["prompt"][0]["content"] += f" ({split.value})"
        fill(sqlite_store, tmp_path, rows, split)
    export_snapshot(sqlite_store, tmp_path / "out")
    done = run_trl(command, tmp_path / "out", tiny_model, tmp_path / "model", *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert ("eval_loss" in done.stdout) == bool(more)


def judge(store: Store, rater: str, rewrite: str = "") -> None:
    while lease := queue.lease(store, rater, seconds=1800):
        first, *rest = (c.id for c in lease.comparison.completions)
        queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, ((first,), tuple(rest)), rewrite=rewrite))


@pytest.mark.parametrize("images", [False, True])
def test_messages_come_back_as_they_were_with_their_keys_in_order(sqlite_store, tmp_path, cache, images):
    from datasets import load_dataset

    rows = make_rows(3, calls=True, images=images)
    fill(sqlite_store, tmp_path, rows, Split.TRAIN)
    export_snapshot(sqlite_store, tmp_path / "out")
    loaded = load_dataset(str(tmp_path / "out"))["train"]
    by_answer = {row["chosen"][-1]["content"]: row for row in loaded}
    for i, given in enumerate(rows):
        row = by_answer[f"Waves {i}"]
        assert row["chosen"] == given["chosen"]
        assert row["rejected"] == given["rejected"]
        assert json.dumps(row["chosen"][0]["tool_calls"]) == json.dumps([CALL])
        if images:
            assert row["prompt"][0]["content"][0] == {"type": "image", "alt": "red"}
            assert [image.getpixel((0, 0)) for image in row["images"]] == [(i, 0, 0)]
            [message] = prepare_multimodal_messages(row["prompt"], row["images"])
            assert message["content"][0]["image"].size == (8, 8)
        else:
            assert "images" not in loaded.column_names


def test_plain_readers_get_text_and_every_file_is_there(sqlite_store, tmp_path):
    import pandas
    import pyarrow.parquet

    fill(sqlite_store, tmp_path, make_rows(3, calls=True), Split.TRAIN)
    manifest = export_snapshot(sqlite_store, tmp_path / "out")
    for config in CONFIGS:
        for split in Split:
            path = tmp_path / "out" / config / f"{split.value}.parquet"
            counted = manifest["rows" if config == "pairs" else config][split.value]
            assert len(pandas.read_parquet(path)) == pyarrow.parquet.read_metadata(path).num_rows == counted
    row = pandas.read_parquet(tmp_path / "out" / "pairs" / "train.parquet").iloc[0]
    assert json.loads(row["chosen"][0])["tool_calls"] == [CALL]


def test_each_configuration_has_the_rows_that_the_manifest_counts(sqlite_store, tmp_path, cache, add_comparisons):
    from datasets import get_dataset_config_names, load_dataset

    fill(sqlite_store, tmp_path, make_rows(5))
    add_comparisons(sqlite_store, 4, k=3)
    judge(sqlite_store, people.add_rater(sqlite_store, "ann", Role.RATER).id, rewrite="Better.")
    manifest = export_snapshot(sqlite_store, tmp_path / "out", license="cc-by-4.0")
    names = get_dataset_config_names(str(tmp_path / "out"))
    assert set(names) == {"pairs", "rankings", "judgments", "demonstrations"}
    for name in names:
        counts = manifest["rows" if name == "pairs" else name]
        loaded = load_dataset(str(tmp_path / "out"), name)
        assert {split: len(part) for split, part in loaded.items()} == {s: n for s, n in counts.items() if n}
    assert sum(manifest["judgments"].values()) == len(list(read_judgments(sqlite_store)))
    assert manifest["raters"] == 2


def test_a_second_export_in_the_same_place_is_read_anew(sqlite_store, tmp_path, cache):
    from datasets import load_dataset

    fill(sqlite_store, tmp_path, make_rows(3), Split.TRAIN)
    export_snapshot(sqlite_store, tmp_path / "out")
    assert len(load_dataset(str(tmp_path / "out"))["train"]) == 3
    fill(sqlite_store, tmp_path, make_rows(6), Split.TRAIN)
    export_snapshot(sqlite_store, tmp_path / "out", overwrite=True)
    assert len(load_dataset(str(tmp_path / "out"))["train"]) == 6


def test_numbers_of_more_than_64_bits_are_in_json_text_and_counted(sqlite_store, tmp_path, cache):
    from datasets import load_dataset

    rows = make_rows(1, calls=True)
    rows[0]["chosen"][0]["tool_calls"] = [{"type": "function", "function": {"name": "f", "arguments": {"n": 2**70}}}]
    fill(sqlite_store, tmp_path, rows, Split.TRAIN)
    manifest = export_snapshot(sqlite_store, tmp_path / "out")
    row = load_dataset(str(tmp_path / "out"))["train"][0]
    assert json.loads(row["chosen"][0]["tool_calls"][0]["function"]["arguments"]) == {"n": 2**70}
    assert sum(manifest["changed"].values()) >= 1


def test_json_lines_hold_images_themselves(sqlite_store, tmp_path):
    rows = make_rows(2, images=True)
    fill(sqlite_store, tmp_path, rows, Split.TRAIN)
    as_lines = export_snapshot(sqlite_store, tmp_path / "lines", format="jsonl")
    assert as_lines["content_hash"] == export_snapshot(sqlite_store, tmp_path / "out")["content_hash"]
    again = Store.open(f"sqlite:///{tmp_path / 'again.db'}", create=True)
    import_path(again, tmp_path / "lines" / "train.jsonl")
    assert {p.id for p in list_prompts(again)} == {p.id for p in list_prompts(sqlite_store)}
    again.close()


def test_reward_bench_gets_whole_conversations_and_the_rest_is_counted(sqlite_store, tmp_path, cache):
    from datasets import load_dataset

    fill(sqlite_store, tmp_path, make_rows(3), Split.HELDOUT)
    fill(sqlite_store, tmp_path, make_rows(2, calls=True), Split.HELDOUT)
    manifest = export_snapshot(sqlite_store, tmp_path / "out", format="rewardbench")
    loaded = load_dataset(str(tmp_path / "out"))["heldout"]
    assert len(loaded) == manifest["rows"]["heldout"] == 3
    assert sum(n for why, n in manifest["filters"].items() if "reward-bench" in why) == 2
    for row in loaded:
        prompt = row["chosen"][:-1]  # what reward-bench takes as the prompt
        assert prompt == row["rejected"][:-1]
        assert [m["role"] for m in row["chosen"]] == ["user", "assistant"]
        assert row["chosen"][-1]["content"].startswith("Waves")


def test_ratings_and_tools_are_read_as_they_are_in_the_store(sqlite_store, tmp_path, cache):
    from datasets import load_dataset

    file = tmp_path / "rated.jsonl"
    schema = TOOL | {"function": TOOL["function"] | {"description": "é"}}
    rows = [
        {"prompt": f"Is {i} even?", "completion": answer, "label": i % 2 == (answer == "No"), "rater": "ann"}
        for i in range(3)
        for answer in ("Yes", "No")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_path(sqlite_store, file, format="kto", split=Split.TRAIN)
    fill(sqlite_store, tmp_path, [row | {"tools": [schema]} for row in make_rows(2)], Split.TRAIN)
    manifest = export_snapshot(sqlite_store, tmp_path / "out")
    rated = load_dataset(str(tmp_path / "out"), "ratings")["train"]
    assert manifest["ratings"]["train"] == len(rated) == 6
    found = {
        (r["prompt"][0]["content"], r["completion"][0]["content"], r["axis"], r["value"], r["lowest"], r["highest"])
        for r in rated
    }
    assert found == {(r["prompt"], r["completion"], "desirable", float(r["label"]), 0, 1) for r in rows}
    assert len({r["rater_id"] for r in rated}) == 1
    assert not any(rated["simulated"])
    assert set(rated["tools"]) == {None}
    pairs = load_dataset(str(tmp_path / "out"))["train"]
    assert [json.loads(tools) for tools in pairs["tools"]] == [[schema]] * 2
    again = Store.open(f"sqlite:///{tmp_path / 'again.db'}", create=True)
    import_path(again, tmp_path / "out")
    with_tools = {p.id for p in list_prompts(sqlite_store) if p.tools}
    assert {p.id for p in list_prompts(again)} == with_tools
    again.close()
    lines = export_snapshot(sqlite_store, tmp_path / "lines", format="jsonl")
    assert lines["content_hash"] == manifest["content_hash"]
    written = [json.loads(line) for line in (tmp_path / "lines" / "ratings" / "train.jsonl").read_text().splitlines()]
    assert sorted(r["rating_id"] for r in written) == sorted(rated["rating_id"])


def test_without_tools_there_is_no_column_for_them(sqlite_store, tmp_path, cache):
    from datasets import load_dataset

    fill(sqlite_store, tmp_path, make_rows(1), Split.TRAIN)
    export_snapshot(sqlite_store, tmp_path / "out")
    assert "tools" not in load_dataset(str(tmp_path / "out"))["train"].column_names
