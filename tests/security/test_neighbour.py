"""Another user of the machine: what they can read in files, in the list of processes, in a copy of the database."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from checkout import ROOT
from command_line import run_command
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_folder, make_private_folder
from rlhf_hitl.formats import archive
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.store import Store, people, tokens, webhooks
from rlhf_hitl.store.sign_in import verify_password
from rlhf_hitl.store.webhooks.sender import WebhookSender
from rlhf_hitl.types import Event, Role, Scope
from rlhf_hitl.workspace import protect_workspace

FILES = ROOT / "tests" / "compatibility" / "files"
OLD_SECRET = b"whsec_"


@pytest.fixture(autouse=True)
def careless_umask():
    """A program that uses the package may have the umask of any login, under which all can read what it writes."""
    before = os.umask(0o000)
    yield
    os.umask(before)


def list_open(folder: Path) -> dict[str, str]:
    """Everything in a folder, itself included, that group or others have any right on, with its mode."""
    return {
        str(path): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    }


def open_up(folder: Path) -> None:
    """Give the modes that an earlier version left."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def program(*arguments: object, cwd: Path, env: dict[str, str] | None = None, **options):
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf_hitl", *map(str, arguments)],
        cwd=cwd, env=os.environ | (env or {}), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_program_leaves_no_file_of_a_workspace_open_to_others(tmp_path):
    """Under the umask 000, from the first start on, and while a server runs."""
    with program("quickstart", "--port", 0, "--json", cwd=tmp_path) as server:
        assert server.stdout.readline(), "it says where it listens"
        workspace = tmp_path / "workspace"
        assert {p.name for p in workspace.iterdir()} >= {"preferences.db", "preferences.db-wal", "sign-in.txt"}
        assert list_open(workspace) == {}
        added = subprocess.run(
            [sys.executable, "-m", "rlhf_hitl", "webhooks", "add", "http://h.example/", "--event", "judgment.created"],
            cwd=tmp_path, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "whsec_" in added.stdout
        assert list_open(workspace) == {}
    assert list_open(workspace) == {}


def test_the_library_leaves_no_file_open_to_others_and_the_umask_as_it_was(tmp_path, judged_template, backbone):
    workspace = tmp_path / "deep" / "workspace"
    make_private_folder(workspace)
    with Store.open(f"sqlite:///{workspace}/preferences.db", create=True) as store:
        archive.write_archive(_open_judged(tmp_path, judged_template), workspace / "backup.zip")
        archive.restore_archive(store, workspace / "backup.zip")
        train_head(store, backbone, workspace)
        export_snapshot(store, workspace / "exports" / "first")
        webhooks.add_webhook(store, "http://h.example/", [Event.JUDGMENT_CREATED])
        assert {p.name for p in workspace.iterdir()} >= {
            "preferences.db", "preferences.db-wal", "preferences.db-shm", "preferences.db.key",
            "backup.zip", "features", "reward", "exports",
        }  # fmt: skip
        assert list_open(tmp_path / "deep") == {}
    assert os.umask(0) == 0


def _open_judged(tmp_path: Path, template: Path) -> Store:
    (tmp_path / "judged.db").write_bytes(template.read_bytes())
    return Store.open(f"sqlite:///{tmp_path}/judged.db")


def test_a_folder_that_a_library_filled_is_private_once_it_is_in_place(tmp_path):
    with atomic_folder(tmp_path / "model") as draft:
        (draft / "part").mkdir()
        (draft / "part" / "weights").write_text("w")
        assert stat.S_IMODE(draft.stat().st_mode) == 0o700
    assert list_open(tmp_path / "model") == {}


def test_a_workspace_made_before_is_closed_at_opening_with_one_line(tmp_path, caplog):
    workspace = tmp_path / "workspace"
    store_url = f"sqlite:///{workspace}/preferences.db"
    Store.open(store_url, create=True).close()
    (workspace / "features").mkdir()
    (workspace / "features" / "shard.npz").write_text("x")
    open_up(workspace)
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_hitl", "raters", "list"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert list_open(workspace) == {}
    [line] = done.stderr.splitlines()
    assert "could read 4 files and folders" in line
    assert str(workspace) in line
    protect_workspace(workspace)
    assert caplog.records == []


def test_the_files_of_a_store_in_a_shared_folder_are_closed_and_the_folder_is_not(tmp_path, caplog):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    url = f"sqlite:///{shared}/x.db"
    Store.open(url, create=True).close()
    assert list_open(shared) == {str(shared): "0o1777"}
    (shared / "x.db").chmod(0o664)
    (shared / "others.txt").write_text("x")
    caplog.set_level(logging.WARNING)
    Store.open(url).close()
    assert list_open(shared).keys() == {str(shared), str(shared / "others.txt")}
    assert [r.getMessage() for r in caplog.records] == [
        f"store {shared}/x.db: other users of this machine could read x.db; now only you can"
    ]


def test_in_a_home_or_a_checkout_only_what_is_ours_is_closed(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    Store.open(f"sqlite:///{home}/preferences.db", create=True).close()
    (home / "features").mkdir()
    (home / "site").mkdir()
    (home / "site" / "index.html").write_text("for all")
    open_up(home)
    protect_workspace(home)
    assert list_open(home).keys() == {str(home), str(home / "site"), str(home / "site" / "index.html")}


def test_links_are_not_followed_and_what_is_not_ours_is_named_and_left(tmp_path, caplog, monkeypatch):
    workspace, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    for folder in (workspace, elsewhere):
        folder.mkdir(mode=0o755)
    (elsewhere / "page.html").write_text("for all")
    (workspace / "link").symlink_to(elsewhere)
    (workspace / "file").symlink_to(elsewhere / "page.html")
    open_before = list_open(elsewhere)
    protect_workspace(workspace)
    assert list_open(elsewhere) == open_before
    assert list_open(workspace) == {}
    workspace.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    caplog.clear()
    protect_workspace(workspace)
    assert stat.S_IMODE(workspace.stat().st_mode) == 0o755
    [record] = caplog.records
    assert "not yours to change" in record.getMessage()


def test_a_link_to_nothing_is_no_place_for_a_store(tmp_path):
    (tmp_path / "x.db").symlink_to(tmp_path / "victim")
    with pytest.raises(BadInput, match="a link to nothing"):
        Store.open(f"sqlite:///{tmp_path}/x.db", create=True)
    assert not (tmp_path / "victim").exists()


def test_a_backup_and_what_is_restored_from_it_are_private(tmp_path, judged_template):
    _open_judged(tmp_path, judged_template).close()
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    out = f"sqlite:///{folder}/new.db"
    assert (
        run_command(
            "export", folder / "b.zip", "--format", "archive", "--store", f"sqlite:///{tmp_path}/judged.db"
        ).returncode
        == 0
    )
    assert run_command("import", folder / "b.zip", "--store", out).returncode == 0
    assert list_open(folder) == {}


def read_bytes_of(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".key"))


def test_no_secret_of_a_webhook_is_in_the_database_or_its_backup(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/store/x.db", create=True) as store:
        hook = webhooks.add_webhook(store, "http://h.example/", [Event.JUDGMENT_CREATED])
        again = webhooks.renew_webhook_secret(store, hook.id)
        archive.write_archive(store, tmp_path / "store" / "backup.zip")
        [listed] = webhooks.list_webhooks(store)
        found = read_bytes_of(tmp_path / "store")
        for secret in (hook.secret, again.secret):
            assert secret.startswith("whsec_")
            assert secret.removeprefix("whsec_").encode() not in found
        assert OLD_SECRET not in found
        assert again.secret not in repr(again)
        assert listed.secret is None
        assert listed.can_be_signed


def test_an_upgrade_leaves_no_secret_in_the_clear_in_any_file(tmp_path):
    """Also not in a page of SQLite that is free, or in its log; and the receivers' secrets go on working."""
    path = tmp_path / "preferences.db"
    path.write_bytes((FILES / "preferences.db").read_bytes())
    with closing(sqlite3.connect(path)) as database:
        secrets = dict(database.execute("SELECT id, secret FROM webhooks").fetchall())
        # A webhook whose row has moved, and its old place is free.
        database.execute("PRAGMA secure_delete = OFF")
        database.execute(
            "INSERT INTO webhooks SELECT 'w_moved', url, 'whsec_bW92ZWQ=', events, created_at, ended_at "
            "FROM webhooks LIMIT 1"
        )
        database.commit()
        database.execute("DELETE FROM webhooks WHERE id = 'w_moved'")
        database.commit()
    assert OLD_SECRET in path.read_bytes()
    with Store.open(f"sqlite:///{path}", create=True) as store:
        assert OLD_SECRET not in read_bytes_of(tmp_path)
        with store.read() as conn:
            sealed = dict(conn.exec_driver_sql("SELECT id, secret FROM webhooks").all())
        assert {id: store.sealer.unseal(text) for id, text in sealed.items()} == secrets


def test_an_upgrade_that_was_killed_before_it_erased_is_made_up_for(tmp_path, caplog):
    path = tmp_path / "preferences.db"
    path.write_bytes((FILES / "preferences.db").read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM webhooks").fetchone()  # a reader keeps the old log alive
        caplog.set_level(logging.WARNING)
        Store.open(f"sqlite:///{path}", create=True).close()
        assert "may still hold secrets" in caplog.text
    Store.open(f"sqlite:///{path}").close()
    assert OLD_SECRET not in read_bytes_of(tmp_path)


def test_without_its_key_a_webhook_is_not_signed_and_a_new_secret_mends_it(store_url, tmp_path, monkeypatch):
    with Store.open(store_url) as store:
        hook = webhooks.add_webhook(store, "http://127.0.0.1:9/", [Event.ALERT_RAISED])
        with store.write() as conn:
            webhooks.enqueue_event(conn, Event.ALERT_RAISED, {"alert": "x"})
    monkeypatch.setenv("RLHF_HITL_SECRET_KEY_FILE", str(tmp_path / "other.key"))
    with Store.open(store_url) as store:
        assert WebhookSender(store).send_due() == 1
        with store.read() as conn:
            [error] = conn.exec_driver_sql("SELECT last_error FROM deliveries").scalars()
        assert "cannot be signed: a secret sealed with key" in error
        assert "other.key" in error
        with pytest.raises(BadInput, match=r"another key sealed.*webhooks renew"):
            webhooks.add_webhook(store, "http://127.0.0.1:9/", [Event.ALERT_RAISED])
        listed = run_command("webhooks", "list", "--store", store_url)
        assert "cannot be signed" in listed.stdout
        renewed = webhooks.renew_webhook_secret(store, hook.id)
        assert renewed.secret != hook.secret
        assert [w.can_be_signed for w in webhooks.list_webhooks(store)] == [True]


def test_several_processes_agree_on_one_key(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    Store.open(url, create=True).close()
    stores = [Store.open(url) for _ in range(8)]
    sealed = [s.sealer.seal("secret") for s in stores]
    assert {s.sealer.unseal(text) for s in stores for text in sealed} == {"secret"}
    assert sorted(p.name for p in tmp_path.iterdir() if "key" in p.name) == ["x.db.key"]
    for s in stores:
        s.close()


def test_a_key_is_replaced_by_a_new_one_in_front_of_it(sqlite_store, sqlite_url, tmp_path):
    old = sqlite_store.sealer.seal("secret")
    file = tmp_path / "preferences.db.key"
    other = Store.open(f"sqlite:///{tmp_path}/other.db", create=True)
    other.sealer.seal("x")
    file.write_text((tmp_path / "other.db.key").read_text() + file.read_text())
    with Store.open(sqlite_url) as store:
        assert store.sealer.unseal(old) == "secret"
        new = store.sealer.seal("secret")
    assert other.sealer.unseal(new) == "secret"
    with pytest.raises(BadInput, match="sealed with key"):
        other.sealer.unseal(old)


def test_no_password_is_an_argument(sqlite_url, tmp_path):
    refused = run_command("raters", "add", "ann", "--password", "a long password", "--store", sqlite_url)
    assert refused.returncode == 2
    with program(
        "raters", "add", "ann", "--password-stdin", "--store", sqlite_url, cwd=tmp_path, stdin=subprocess.PIPE
    ) as adding:
        out, _ = adding.communicate("a long password\n", timeout=60)
    assert adding.returncode == 0
    assert "a long password" not in out
    with Store.open(sqlite_url) as store:
        assert verify_password(store, "ann", "a long password") is not None


def test_a_password_in_the_url_of_a_store_is_warned_of(tmp_path):
    url = "postgresql://me:hunter2@127.0.0.1:1/none"
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_hitl", "init", "--store", url], cwd=tmp_path, capture_output=True, text=True
    )
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: a password on the command line")
    assert "hunter2" not in done.stderr + done.stdout
    assert error.startswith("error: store postgresql")


def test_a_new_password_ends_api_tokens_unless_they_are_kept(sqlite_store, sqlite_url):
    ann = people.add_rater(sqlite_store, "ann", Role.RATER, "a long password")
    tokens.add_api_token(sqlite_store, ann.id, "", [Scope.TASK])
    kept = run_command("raters", "password", "ann", "--keep-tokens", "--store", sqlite_url)
    assert "0 API tokens. Their API tokens go on." in kept.stdout
    assert tokens.count_api_tokens(sqlite_store, ann.id) == 1
    ended = run_command("raters", "password", "ann", "--store", sqlite_url)
    assert "1 API token." in ended.stdout
    assert tokens.count_api_tokens(sqlite_store, ann.id) == 0
