"""What is sent to the hub, measured at a stand-in of its HTTP interface."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import run_command
from hub_stand_in import TOKEN, StandInHub, run_stand_in_hub
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store
from rlhf_hitl.types import Split

DATA = ("dataset", "acme/preferences")


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its servers are not the hub's
    with run_stand_in_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def filled_store(sqlite_store, tmp_path) -> Store:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question {i}?"}],
            "chosen": [{"role": "assistant", "content": "Yes."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        }
        for i in range(5)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_path(sqlite_store, tmp_path / "rows.jsonl", split=Split.TRAIN)
    return sqlite_store


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def push(store: Store, out: Path, *more: object):
    return run_command("export", out, "--push-to-hub", DATA[1], "--store", store.url, *more)


def test_an_export_is_on_the_hub_as_it_is_on_the_disk_and_private(hub: StandInHub, filled_store, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    done = push(filled_store, tmp_path / "out", "--license", "cc-by-4.0", "--json")
    assert done.returncode == 0, done.stderr
    assert hub.repos == {DATA: True}
    assert hub.files[*DATA, "main"] == read_files(tmp_path / "out")
    assert json.loads(done.stdout)["pushed_to"] == DATA[1]
    card = hub.files[*DATA, "main"]["README.md"].decode()
    assert 'load_dataset("acme/preferences")' in card
    assert "license: cc-by-4.0" in card
    assert not [text for text in (done.stdout, done.stderr, caplog.text, *map(str, hub.calls)) if TOKEN in text]
    assert not [path for path, data in read_files(tmp_path / "out").items() if TOKEN.encode() in data]
    again = push(filled_store, tmp_path / "out", "--overwrite")
    assert again.returncode == 0, again.stderr


def test_a_branch_is_made_and_the_main_one_left_alone(hub: StandInHub, filled_store, tmp_path):
    for name in ("a", "b"):
        done = push(filled_store, tmp_path / name, "--revision", "v2", "--public")
        assert done.returncode == 0, done.stderr
    assert hub.repos == {DATA: False}
    assert hub.files[*DATA, "main"] == {}
    assert hub.files[*DATA, "v2"] == read_files(tmp_path / "b")


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_nothing_goes_to_a_public_repository_unasked(hub: StandInHub, filled_store, tmp_path, kind):
    repo = (kind, DATA[1])
    hub.repos[repo], hub.files[*repo, "main"] = False, {"README.md": b"mine"}
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    export = ("export", tmp_path / "out", "--overwrite", "--push-to-hub")
    words = export if kind == "dataset" else ("models", "push", tmp_path / "policy")
    refused = run_command(*words, DATA[1], "--store", filled_store.url)
    assert refused.returncode == 2
    assert f"{DATA[1]} on the hub is public: expected a private repository" in refused.stderr
    assert ("The export is whole in" in refused.stderr) == (kind == "dataset")
    assert hub.files[*repo, "main"] == {"README.md": b"mine"}
    assert hub.objects == {}
    again = run_command(*words, DATA[1], "--public", "--store", filled_store.url)
    assert again.returncode == 0, again.stderr
    assert hub.repos == {repo: False}
    assert len(hub.files[*repo, "main"]) > 1 or kind == "model"


def test_what_an_earlier_export_left_is_deleted_with_the_same_commit_and_other_files_stay(
    hub: StandInHub, filled_store, tmp_path
):
    assert push(filled_store, tmp_path / "lines", "--format", "jsonl").returncode == 0
    hub.files[*DATA, "main"] |= {"notes.md": b"mine", "pairs/mine.parquet": b"x"}
    assert "train.jsonl" in hub.files[*DATA, "main"]
    done = push(filled_store, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    mine = {"notes.md": b"mine", "pairs/mine.parquet": b"x"}
    assert hub.files[*DATA, "main"] == read_files(tmp_path / "out") | mine
    assert sum("/commit/" in call for call in hub.calls) == 2


def test_where_no_export_was_nothing_is_deleted(hub: StandInHub, filled_store, tmp_path):
    hub.repos[DATA], hub.files[*DATA, "main"] = True, {"train.jsonl": b"mine"}
    done = push(filled_store, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert hub.files[*DATA, "main"] == read_files(tmp_path / "out") | {"train.jsonl": b"mine"}


@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        ("/api/repos/create", 401, "the hub answered 401 (make acme/preferences): expected a token that the hub knows"),
        ("/api/repos/create", 403, "answered 403 (make acme/preferences): expected a token that may write there"),
        ("/api/repos/create", 500, "answered 500 (make acme/preferences): expected that the hub takes it"),
        ("/preupload/", 403, "answered 403 (send files to acme/preferences)"),
        ("/commit/", 409, "answered 409 (send files to acme/preferences): expected nobody else to change it"),
        ("/commit/", 412, "answered 412 (send files to acme/preferences): expected nobody else to change it"),
        ("/objects/batch", 403, "answered 403 (send files to acme/preferences)"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_the_export_stays(hub, filled_store, tmp_path, call, status, says):
    hub.refuse[call] = status
    done = push(filled_store, tmp_path / "out")
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert says in line
    assert f"The export is whole in {tmp_path / 'out'}" in line
    assert TOKEN not in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert not any(hub.files.values())


def test_without_a_network_one_line_says_so(hub, filled_store, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    done = push(filled_store, tmp_path / "out")
    assert done.returncode == 2
    assert "the hub (make acme/preferences): expected that it can be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_import_without_a_network_says_so_in_one_line_and_soon(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "import sys, time; from rlhf_hitl.formats.source import RowSource; start = time.monotonic()\n"
        "try: next(RowSource('acme/preferences').rows())\n"
        "except Exception as e: print(e); print(time.monotonic() - start)"
    )
    env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    line, seconds = done.stdout.splitlines()
    assert "check the name and the network (the hub does not answer: " in line
    assert done.stderr == ""
    assert float(seconds) < 15  # most of it is the import of `datasets`; its own tries take 25 s


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--push-to-hub", "preferences"), "a name on the hub, OWNER/NAME"),
        (("--push-to-hub", "a/b/c"), "a name on the hub, OWNER/NAME"),
        (("--public",), "--public: expected --push-to-hub"),
        (("--revision", "v2"), "--revision: expected --push-to-hub"),
        (("--license", "CC BY 4.0"), "--license 'CC BY 4.0'"),
        (("--format", "archive", "--push-to-hub", "acme/x"), "--push-to-hub: expected none of them"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(hub, filled_store, tmp_path, words, says):
    done = run_command("export", tmp_path / "out", *words, "--store", filled_store.url)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "out").exists()
    assert hub.calls == []


def test_without_a_token_nothing_is_written_or_sent(hub, filled_store, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    done = push(filled_store, tmp_path / "out")
    assert done.returncode == 2
    assert "HF_TOKEN: expected a token" in done.stderr
    assert not (tmp_path / "out").exists()
    assert hub.calls == []


def test_a_model_goes_without_what_its_training_left_beside_it(hub, filled_store, tmp_path):
    folder = tmp_path / "policy"
    for name in ("config.json", "model.safetensors", "README.md", "checkpoint-5/model.safetensors", "features/x", ".a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    done = run_command("models", "push", folder, "acme/policy", "--store", filled_store.url, "--json")
    assert done.returncode == 0, done.stderr
    assert hub.repos == {("model", "acme/policy"): True}
    assert set(hub.files["model", "acme/policy", "main"]) == {"config.json", "model.safetensors", "README.md"}
    missing = run_command("models", "push", "nobody", "acme/policy", "--store", filled_store.url)
    assert missing.returncode == 2
    assert "nobody" in missing.stderr
