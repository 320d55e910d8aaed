"""Images are kept once, with their rows; an import brings them, and the API gives them to whom they concern."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from starlette.testclient import TestClient

from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.cli.serve import _say_where_images_are
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.formats.archive import restore_archive, write_archive
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store, people, queue, tokens
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.images import ImageFolder, describe_missing
from rlhf_hitl.store.tables import images
from rlhf_hitl.types import Role, Scope
from rlhf_hitl.types.images import read_image


def encode(colour: tuple[int, int, int], format: str = "PNG") -> str:
    data = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(data, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def ask(text: str, *urls: str) -> list[dict]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]


def write_rows(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


RED, BLUE = encode((255, 0, 0)), encode((0, 0, 255))
ANSWERS = [{"role": "assistant", "content": "Red."}], [{"role": "assistant", "content": "Blue."}]


def test_an_import_keeps_each_image_once_and_reads_it_back(store, tmp_path):
    rows = [
        {"prompt": ask("Which colour?", RED), "chosen": ANSWERS[0], "rejected": ANSWERS[1]},
        {"prompt": ask("And these?", RED, BLUE), "chosen": ANSWERS[0], "rejected": ANSWERS[1]},
        {
            "prompt": [{"role": "user", "content": "Draw something red."}],
            "chosen": [{"role": "assistant", "content": [{"type": "image", "image": RED, "alt": "a square"}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "image", "image": BLUE}]}],
        },
    ]
    report = import_path(store, write_rows(tmp_path / "a.jsonl", *rows))
    assert (report.images, report.comparisons) == (2, 3)
    again = import_path(store, tmp_path / "a.jsonl")
    assert (again.images, again.comparisons, again.repeated_rows) == (0, 0, 3)
    comparisons = list(find_comparisons(store))
    ids = {i.id for c in comparisons for m in c.prompt.messages for i in m.images}
    assert ids == {read_image(RED)[0], read_image(BLUE)[0]}
    assert {read_image(store.images.load(id))[0] for id in ids} == ids
    assert len(list(Path(store.images.address).rglob("*.png"))) == 2
    drawn = next(c for c in comparisons if not c.prompt.messages[0].images)
    assert {m.images[0].alt for a in drawn.completions for m in a.messages} == {"a square", ""}


def test_a_path_or_an_address_is_refused_with_its_line_and_nothing_is_kept(sqlite_store, tmp_path):
    good = {"prompt": ask("Which colour?", RED), "chosen": ANSWERS[0], "rejected": ANSWERS[1]}
    for bad in ("file:///etc/passwd", "http://10.0.0.1/x.png", "cat.png"):
        row = good | {"prompt": ask("Which?", bad)}
        with pytest.raises(BadInput, match=r":2.*never fetched"):
            import_path(sqlite_store, write_rows(tmp_path / "a.jsonl", good, row))
        report = import_path(sqlite_store, tmp_path / "a.jsonl", skip_bad=True)
        assert report.bad_lines == 1


def test_an_id_counts_only_where_the_store_has_the_image(sqlite_store, tmp_path):
    named = {"type": "image", "image": read_image(RED)[0]}
    row = {"prompt": [{"role": "user", "content": [named]}], "chosen": ANSWERS[0], "rejected": ANSWERS[1]}
    with pytest.raises(BadInput, match="one that the store keeps"):
        import_path(sqlite_store, write_rows(tmp_path / "a.jsonl", row))
    import_path(
        sqlite_store,
        write_rows(tmp_path / "b.jsonl", {"prompt": ask("?", RED), "chosen": ANSWERS[0], "rejected": ANSWERS[1]}),
    )
    assert import_path(sqlite_store, tmp_path / "a.jsonl").comparisons == 1


def test_an_archive_brings_its_images(store, tmp_path, sqlite_template):
    row = {"prompt": ask("Which colour?", RED), "chosen": ANSWERS[0], "rejected": ANSWERS[1]}
    tools = {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"z": 1, "a": 2}}}]}
    native = {"messages": ask("And now?", BLUE), "completions": [{"messages": a, "policy": "p"} for a in ANSWERS]}
    import_path(store, write_rows(tmp_path / "a.jsonl", row))
    import_path(store, write_rows(tmp_path / "b.jsonl", native | tools))
    write_archive(store, tmp_path / "a.archive")
    restored = Store.open(f"sqlite:///{tmp_path}/restored.db", create=True)
    restore_archive(restored, tmp_path / "a.archive")
    assert list(find_comparisons(restored)) == list(find_comparisons(store))
    assert restored.images.load(read_image(RED)[0]) == store.images.load(read_image(RED)[0])
    restored.close()


def test_images_may_be_anywhere_that_fsspec_knows():
    folder = ImageFolder("memory://images")
    from rlhf_hitl.types import ImagePart

    id, png = read_image(RED)
    folder.save(ImagePart(id, png=png))
    assert ImageFolder("memory://images").load(id) == png
    with pytest.raises(NotFound):
        folder.load(read_image(BLUE)[0])
    with pytest.raises(NotFound):
        folder.load("../../etc/passwd")
    with pytest.raises(BadInput, match="fsspec"):
        ImageFolder("nowhere://x").load(id)


def test_a_rater_holds_the_images_of_what_they_lease(store, tmp_path, add_raters):
    row = {"messages": ask("Which colour?", RED), "completions": [{"messages": a, "policy": "p"} for a in ANSWERS]}
    import_path(store, write_rows(tmp_path / "a.jsonl", row))
    ann, bob = add_raters(store, 2)
    assert queue.lease(store, ann, seconds=60)
    assert queue.holds_image(store, ann, read_image(RED)[0])
    assert not queue.holds_image(store, bob, read_image(RED)[0])
    assert not queue.holds_image(store, ann, read_image(BLUE)[0])


def test_the_api_takes_images_and_tool_calls_and_gives_them_back(store, tmp_path):
    ann, lead = (people.add_rater(store, name, role) for name, role in (("ann", Role.RATER), ("lea", Role.LEAD)))
    settings = Settings(store=store.url, workspace=tmp_path)
    with TestClient(create_headless_app(store, settings)) as http:
        keys = {rater.id: tokens.add_api_token(store, rater.id, "", list(Scope)) for rater in (ann, lead)}

        def call(rater, method, path, **body):
            return http.request(method, f"/api/v1{path}", headers={"authorization": f"Bearer {keys[rater.id]}"}, **body)

        asked = [{"role": "user", "content": [{"type": "text", "text": "Which?"}, {"type": "image", "image": RED}]}]
        tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
        sent = call(lead, "POST", "/prompts", json={"prompts": [{"messages": asked, "tools": tools}]})
        [prompt_id] = sent.json()["ids"]
        answers = [
            [{"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"z": 1, "a": None}}}]}],
            [{"role": "assistant", "content": "Red.", "reasoning_content": "It looks red."}],
        ]
        made = [{"prompt_id": prompt_id, "messages": answer, "policy": "p"} for answer in answers]
        ids = call(lead, "POST", "/completions", json={"completions": made}).json()["ids"]
        body = {"comparisons": [{"prompt_id": prompt_id, "completion_ids": ids}]}
        assert call(lead, "POST", "/comparisons", json=body).status_code == 201
        image_id = read_image(RED)[0]
        assert call(ann, "GET", f"/images/{image_id}").status_code == 404
        [lease] = call(ann, "POST", "/leases", json={}).json()["leases"]
        assert lease["tools"] == tools
        assert lease["prompt"][0]["content"][1] == {"type": "image", "image": image_id}
        shown = [c["messages"][0] for c in lease["completions"]]
        call_shown = {"role": "assistant", "content": None, "tool_calls": answers[0][0]["tool_calls"]}
        assert sorted(shown, key=str) == sorted([call_shown, answers[1][0]], key=str)
        got = call(ann, "GET", f"/images/{image_id}")
        assert (got.status_code, got.headers["content-type"]) == (200, "image/png")
        assert read_image(got.content)[0] == image_id
        assert call(lead, "GET", f"/images/{read_image(BLUE)[0]}").status_code == 404


def test_a_file_that_is_missing_is_told_to_who_asks_to_the_log_and_to_operators(store, tmp_path, add_raters, caplog):
    row = {"messages": ask("Which colour?", RED), "completions": [{"messages": a, "policy": "p"} for a in ANSWERS]}
    import_path(store, write_rows(tmp_path / "a.jsonl", row))
    lead = people.add_rater(store, "lea", Role.LEAD)
    bearer = {"authorization": f"Bearer {tokens.add_api_token(store, lead.id, '', list(Scope))}"}
    settings, image_id = Settings(store=store.url, workspace=tmp_path), read_image(RED)[0]
    with TestClient(create_headless_app(store, settings)) as http:
        assert http.get(f"/api/v1/images/{image_id}", headers=bearer).headers["cache-control"] == "private, no-store"
        assert http.get("/readyz").json()["images"] == "ok"
    assert describe_missing(store) == ""
    shutil.rmtree(store.images.address)
    assert image_id in describe_missing(store)
    assert store.images.address in describe_missing(store)
    with TestClient(create_headless_app(store, settings)) as http:
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["images"]) == (200, "missing")
        got = http.get(f"/api/v1/images/{image_id}", headers=bearer)
        assert got.status_code == 404
        assert "expected its file on this server" in got.json()["detail"]
        assert store.images.address not in got.text
        [line] = [r.getMessage() for r in caplog.records if r.name == "rlhf_hitl.api.images"]
        assert image_id in line
        assert store.images.address in line
        unknown = http.get(f"/api/v1/images/{read_image(BLUE)[0]}", headers=bearer)
        assert (unknown.status_code, "expected one of this store" in unknown.text) == (404, True)
        assert len([r for r in caplog.records if r.name == "rlhf_hitl.api.images"]) == 1


def test_a_folder_that_does_not_answer_is_no_error_of_the_server(store, tmp_path, monkeypatch):
    row = {"messages": ask("Which colour?", RED), "completions": [{"messages": a, "policy": "p"} for a in ANSWERS]}
    import_path(store, write_rows(tmp_path / "a.jsonl", row))
    monkeypatch.setitem(vars(store), "images", ImageFolder("nowhere://x"))
    assert describe_missing(store).startswith("nowhere://x does not answer")


def test_serve_says_where_images_are_that_other_servers_need(store, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RLHF_HITL_IMAGES", raising=False)
    monkeypatch.setenv("RLHF_HITL_WORKSPACE", str(tmp_path))
    _say_where_images_are(store)
    assert capsys.readouterr().err == "", "the store has no images"
    row = {"messages": ask("Which colour?", RED), "completions": [{"messages": a, "policy": "p"} for a in ANSWERS]}
    import_path(store, write_rows(tmp_path / "a.jsonl", row))
    _say_where_images_are(store)
    said = capsys.readouterr().err
    assert ("several servers need RLHF_HITL_IMAGES" in said) is not store.is_sqlite
    assert said.count("\n") == (0 if store.is_sqlite else 1)
    monkeypatch.setenv("RLHF_HITL_IMAGES", store.images.address)
    _say_where_images_are(store)
    assert capsys.readouterr().err == ""
    shutil.rmtree(store.images.address)
    _say_where_images_are(store)
    assert capsys.readouterr().err.startswith(f"warning: images are missing: {read_image(RED)[0]}")


def read_sizes(store: Store) -> dict[str, int]:
    with store.read() as conn:
        return {row.id: row.bytes for row in conn.execute(sa.select(images))}


def test_an_image_that_is_named_and_has_no_row_has_the_size_of_its_file(store, tmp_path):
    id, png = read_image(RED)
    row = {"prompt": ask("Which colour?", RED), "chosen": ANSWERS[0], "rejected": ANSWERS[1]}
    with pytest.raises(BadInput):  # it leaves its file
        import_path(store, write_rows(tmp_path / "a.jsonl", row, {"prompt": 1}))
    assert read_sizes(store) == {}
    named = row | {"prompt": [{"role": "user", "content": [{"type": "image", "image": id}]}]}
    assert import_path(store, write_rows(tmp_path / "b.jsonl", named)).images == 1
    assert read_sizes(store) == {id: len(png)}
    write_archive(store, tmp_path / "a.archive")
    with Store.open(f"sqlite:///{tmp_path}/restored.db", create=True) as restored:
        restore_archive(restored, tmp_path / "a.archive")
        assert read_sizes(restored) == {id: len(png)}


def test_an_archive_in_which_an_image_has_no_size_is_restored_with_it(store, tmp_path):
    row = {"prompt": ask("Which colour?", RED), "chosen": ANSWERS[0], "rejected": ANSWERS[1]}
    import_path(store, write_rows(tmp_path / "a.jsonl", row))
    with store.write() as conn:
        conn.execute(images.update().values(bytes=0))
    write_archive(store, tmp_path / "a.archive")
    with Store.open(f"sqlite:///{tmp_path}/restored.db", create=True) as restored:
        restore_archive(restored, tmp_path / "a.archive")
        assert read_sizes(restored) == {read_image(RED)[0]: len(read_image(RED)[1])}
