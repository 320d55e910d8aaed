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

from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split

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
        rows = [row | {"prompt": row["prompt"]} for row in make_rows(4, calls=calls)]
        for row in rows:
            row["prompt"][0]["content"] += f" ({split.value})"
        fill(sqlite_store, tmp_path, rows, split)
    export_snapshot(sqlite_store, tmp_path / "out")
    done = run_trl(command, tmp_path / "out", tiny_model, tmp_path / "model", *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert ("eval_loss" in done.stdout) == bool(more)
