"""Names and texts that act on a terminal, cannot be seen, or are taken for another person's."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import sqlite3
import subprocess
import sys
import unicodedata
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from confusable_homoglyphs import confusables
from fastapi.testclient import TestClient

from checkout import ROOT
from command_line import run_command
from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.api.json_log import JsonFormatter
from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.cli import app, register_commands
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.store import Store, invitations, people, projects, queue, sign_in, tokens
from rlhf_hitl.store.tables import metadata, raters
from rlhf_hitl.terminal import FilteredStream
from rlhf_hitl.types import Completion, Message, Prompt, Role, Scope
from rlhf_hitl.types.names import check_name, make_name_key, make_name_skeleton
from rlhf_hitl.visible import UNSEEN_RANGE, make_all_visible

PASSWORD = "a long password"
#: A link, the clipboard, the title, colours, the whole screen, a line written over, another row, what cannot be seen.
HOSTILE = (
    "\x1b]8;;http://evil.example\x07here\x1b]8;;\x07\x1b]52;c;aGk=\x07\x1b]0;owned\x07\x1b[8;31m\x1b[2J\x9b2J\r"
    "fake\nrow\t\u202eabc\u2066\u200b\u200d\ufe0f\u2028[red]x[/red][link=http://evil.example]y[/link]:smile:"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
UNSEEN = re.compile(f"[{UNSEEN_RANGE}]")
#: Ids, words of a few, hashes and numbers: what a user cannot choose, or the code reads as more than text.
NOT_TEXTS = re.compile(
    r"(.*\.id|.*_id|.*_ids|.*\.(kind|role|split|verdict|route|proposed|action|event|events|digest|scopes|project_id|project|"
    r"version|guideline_version|family|password_hash|secret|name_key|name_skeleton|order_shown|ranking|scores|step|outcome|"
    r"idempotency_key|supersedes|chosen|rejected|language|languages|reason|backend|rationale|repeat_of|reserved_for|rewards|decided_by|"
    r"body|axes|completions|messages|probabilities|overlap_rule|qualification|filter)|lease.*|secrets\..*|rater_filters|guidelines\.scores)$"
)
COMMANDS: dict[str, Any] = {}
#: What is required and is one of a few words.
CHOICES = {"scope": "task", "event": "alert.raised"}


def _find_commands(command: Any, words: tuple[str, ...] = ()) -> None:
    if not hasattr(command, "commands"):
        COMMANDS[" ".join(words)] = command
    for name, sub in getattr(command, "commands", {}).items():
        _find_commands(sub, (*words, name))


register_commands()
_find_commands(typer.main.get_command(app))
#: They serve, train, or fetch a model where nothing stops them; with hostile options they stop at once.
LONG = {
    "evaluate",
    "serve",
    "loop",
    "generate",
    "train-reward",
    "update-reward",
    "train-dpo",
    "train-ppo",
    "train-rloo",
    "train-grpo",
    "score",
    "models get",
}


def list_acting(text: str, *, colours: bool = False) -> list[str]:
    """What of an output is no plain character: everything but line feeds and, where allowed, changes of colour."""
    return UNSEEN.findall((COLOUR.sub("", text) if colours else text).replace("\n", ""))


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory) -> Path:
    """A store with a row in every table, as an earlier version would have let strangers fill it."""
    folder = tmp_path_factory.mktemp("hostile")
    path = folder / "preferences.db"
    path.write_bytes((ROOT / "tests" / "compatibility" / "files" / "preferences.db").read_bytes())
    with Store.open(f"sqlite:///{path}", create=True) as store, store.write() as conn:
        for (name,) in conn.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            conn.exec_driver_sql(f"DROP TRIGGER {name}")
        for table in metadata.sorted_tables:
            key = next(iter(table.primary_key.columns))
            for column in table.columns:
                if NOT_TEXTS.match(f"{table.name}.{column.name}") or not isinstance(column.type, sa.String | sa.JSON):
                    continue
                for n, (row,) in enumerate(conn.execute(sa.select(key).order_by(key)).all()):
                    value: Any = f"{n} {HOSTILE}"
                    if isinstance(column.type, sa.JSON):
                        value = {value: value}
                    conn.execute(table.update().where(key == row).values({column.name: value}))
    return path


@pytest.fixture
def hostile_url(hostile_file, tmp_path, monkeypatch) -> str:
    (tmp_path / "preferences.db").write_bytes(hostile_file.read_bytes())
    (tmp_path / "preferences.db.key").write_bytes(hostile_file.with_name("preferences.db.key").read_bytes())
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/preferences.db"


def make_call(name: str, *, hostile: bool) -> list[str]:
    """The words of a call: what is required, hostile, and with `hostile` all other options that take a text as well."""
    words = name.split()
    for param in COMMANDS[name].params:
        if param.name in CHOICES and param.required:
            words += [param.opts[0], CHOICES[param.name]]
        elif (
            param.type_descriptor.annotation in (str, Path, list[str])
            and param.name != "store"
            and (param.required or hostile)
        ):
            words += [HOSTILE] if param.param_type_name == "argument" else [param.opts[0], HOSTILE]
    # What runs until somebody stops it is asked for what ends.
    return words + {"quickstart": ["--no-serve"], "learn": ["--status"]}.get(name, [])


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_command_prints_what_acts_on_a_terminal(name, hostile_url):
    for hostile in (True, False):
        if not hostile and name in LONG:
            continue
        words = make_call(name, hostile=hostile)
        with_store = ["--store", hostile_url] if any(p.name == "store" for p in COMMANDS[name].params) else []
        for as_json in ([], ["--json"]):
            done = run_command(*words, *with_store, *as_json)
            assert list_acting(done.stdout) == [], (words, as_json)
            assert list_acting(done.stderr.replace("\r", "")) == [], (words, as_json)
            if as_json and done.stdout:
                json.loads(done.stdout)


def test_what_is_listed_is_shown_by_its_names_and_json_has_it_as_it_is(hostile_url):
    listed = run_command("raters", "list", "--store", hostile_url, env={"COLUMNS": "2000"})
    assert "␛]8;;http://evil.example␇here" in listed.stdout
    assert "⟦RLO⟧abc⟦LRI⟧⟦ZWSP⟧⟦ZWJ⟧⟦U+FE0F⟧⟦LS⟧[red]x[/red]" in listed.stdout
    assert "␍fake␊row␉" in listed.stdout
    rows = json.loads(run_command("raters", "list", "--json", "--store", hostile_url).stdout)["raters"]
    assert any(row["name"] == f"0 {HOSTILE}" for row in rows)


def run_on_terminal(*arguments: str, cwd: Path) -> str:
    """Run the program with a terminal for its stdout and stderr; returns what the terminal gets."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf_hitl", *arguments],
        cwd=cwd, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    got = b""
    try:
        while block := os.read(ours, 65536):
            got += block
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
        process.wait(timeout=60)
    return got.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit",),
        ("raters", "list"),
        ("raters", "add", HOSTILE),
        ("raters", "add", "x", "--role", HOSTILE),
        ("raters", "list", f"--{HOSTILE}"),
        (HOSTILE,),
        ("import", "rows\x1b[31m\u202e.jsonl"),
    ],
)
def test_a_terminal_gets_colours_of_ours_and_nothing_else_that_acts(arguments, hostile_url, tmp_path):
    rows = '{"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}\n'
    (tmp_path / "rows\x1b[31m\u202e.jsonl").write_text(rows)
    given = () if arguments == (HOSTILE,) else ("--store", hostile_url)
    got = run_on_terminal(*arguments, *given, cwd=tmp_path)
    assert got
    shown = [part for part in list_acting(got, colours=True) if part != "\r"]  # a progress bar writes over itself
    assert shown == []
    assert "\x1b[31m" not in got
    assert "\x1b[8;31m" not in got


def test_a_stream_lets_pass_only_what_progress_bars_need():
    raw = io.StringIO()
    stream = FilteredStream(raw, colours=False)
    for text in ("\r 10% \x1b[A", "\n\n", "\x1b[A\x1b[A", "a\rb", "\x1b[31mred\n", "é ✓ 日本\n"):
        stream.write(text)
    assert raw.getvalue() == "\r 10% ␛[A\n\n\x1b[A\x1b[Aa␍b␛[31mred\né ✓ 日本\n"


def test_a_log_line_as_json_escapes_what_acts():
    record = logging.LogRecord("x", logging.ERROR, "", 0, HOSTILE, (), None)
    line = JsonFormatter().format(record)
    assert list_acting(line) == []
    assert json.loads(line)["event"] == HOSTILE


# --- names of people

HOSTILE_NAMES = {
    "escape": "le\x1b[31ma",
    "zero width": "lea\u200b",
    "joiner": "👩\u200d💻 lea",
    "override": "\u202eael",
    "isolate": "\u2066lea",
    "C1": "l\x9bea",
    "delete": "lea\x7f",
    "NUL": "lea\x00",
    "line": "lea\nadmin",
    "tab": "l\tea",
    "soft hyphen": "le\u00ada",
    "BOM": "\ufefflea",
    "variation": "lea\ufe0f",
    "filler": "lea\u3164",
    "braille": "le\u2800a",
    "tag": "lea\U000e0061",
    "private": "lea\ue000",
    "unassigned": "lea\u0378",
    "no-break": "le\u00a0a",
    "line sep": "le\u2028a",
    "two spaces": "le  a",
    "marks": "l" + "\u0301" * 9 + "ea",
    "empty": " ",
    "long": "x" * 151,
    "imported": "mt_bench:expert_1",
    "imported, wide": "mt_bench\uff1aexpert_1",
}


@pytest.mark.parametrize("kind", HOSTILE_NAMES)
def test_a_name_that_does_not_read_as_it_is_is_refused_wherever_people_come_from(kind, sqlite_store, sqlite_url):
    name = HOSTILE_NAMES[kind]
    with pytest.raises(BadInput, match="name "):
        people.add_rater(sqlite_store, name, Role.RATER)
    secret = invitations.add_invitation(sqlite_store, Role.RATER)
    with pytest.raises(BadInput, match="name "):
        invitations.accept_invitation(sqlite_store, secret, name, PASSWORD)
    assert people.list_raters(sqlite_store) == []
    if "\x00" not in name:
        refused = run_command("raters", "add", "--store", sqlite_url, "--", name)
        assert refused.returncode == 2
        assert list_acting(refused.stderr) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("rater", "Rater"),
        ("zoé", "zoe\u0301"),
        ("lea", "ｌｅａ"),
        ("straße", "STRASSE"),
        ("lea", "lеa"),
        ("lea", "1ea"),
        ("lea", "Iea"),
        ("LEA", "lеа"),
        ("tom", "torn"),
        ("Сара", "Capa"),
        ("bob 0", "bob O"),
        ("ann", "αnn"),
    ],
)
def test_a_name_that_can_be_taken_for_another_is_refused_and_both_are_named(store, first, second):
    people.add_rater(store, first, Role.RATER)
    with pytest.raises(BadInput) as caught:
        people.add_rater(store, second, Role.LEAD)
    assert repr(first) in str(caught.value) or "is free" in str(caught.value)
    assert [r.name for r in people.list_raters(store)] == [first]


def test_names_that_differ_to_the_eye_are_free(store):
    names = [
        "lea",
        "lena",
        "léa",
        "rater 1",
        "rater 2",
        "Ωmega",
        "Ольга",
        "李明",
        "李朋",
        "علي",
        "O'Brien",
        "José María",
    ]
    for name in names:
        people.add_rater(store, name, Role.RATER)
    assert sorted(r.name for r in people.list_raters(store)) == sorted(names)
    assert people.list_mistakable(store) == []


@pytest.mark.parametrize("typed", ["zoe\u0301", "ZOÉ", "Zoé", "zoé"])
def test_any_spelling_of_a_name_signs_in_to_its_account(store, typed):
    zoe = people.add_rater(store, "zoé", Role.RATER, PASSWORD)
    verified = sign_in.verify_password(store, typed, PASSWORD)
    assert verified is not None
    assert verified.rater.id == zoe.id
    assert people.get_rater_by_name(store, typed) == zoe


def test_guesses_at_one_account_are_slowed_together_however_the_name_is_spelt(sqlite_store, tmp_path):
    people.add_rater(sqlite_store, "zoé", Role.RATER, PASSWORD)
    throttle = SignInThrottle(sqlite_store, per_name=5)
    app = create_headless_app(sqlite_store, Settings(workspace=tmp_path), throttle)
    browser = TestClient(app, follow_redirects=False)
    spellings = ["zoé", "ZOÉ", "Zoé", "zoe\u0301", "zOé", "ZOe\u0301"]
    answers = [browser.post("/login", data={"name": name, "password": "wrong"}).status_code for name in spellings]
    assert answers == [401] * 5 + [429]


def test_a_store_with_names_that_clash_opens_both_sign_in_and_the_list_names_them(tmp_path):
    """As an earlier version let them be made."""
    path = tmp_path / "preferences.db"
    path.write_bytes((ROOT / "tests" / "compatibility" / "files" / "preferences.db").read_bytes())
    with closing(sqlite3.connect(path)) as database:
        columns = [c[1] for c in database.execute("PRAGMA table_info(raters)")]
        [ann] = database.execute("SELECT * FROM raters WHERE name = 'ann'")
        for n, name in enumerate(("Ann", "аnn", "ann\u200b"), 1):
            row = dict(zip(columns, ann)) | {"id": f"r_{n}", "name": name, "created_at": f"2036-01-0{n} 00:00:00"}
            database.execute(f"INSERT INTO raters VALUES ({', '.join('?' * len(row))})", list(row.values()))
        database.commit()
    with Store.open(f"sqlite:///{path}", create=True) as store:
        for name, id in {"ann": ann[columns.index("id")], "Ann": "r_1", "аnn": "r_2", "ann\u200b": "r_3"}.items():
            assert sign_in.verify_password(store, name, "a-good-password").rater.id == id
        assert sign_in.verify_password(store, "ANN", "a-good-password").rater.name == "ann"
        with store.read() as conn:
            keys = dict(conn.execute(sa.select(raters.c.name, raters.c.name_key)).all())
        assert (keys["ann"], keys["Ann"]) == ("ann", "id:r_1")
    listed = run_command("raters", "list", "--store", f"sqlite:///{path}")
    [line] = [line for line in listed.stdout.splitlines() if line.startswith("Can be taken for each other")]
    assert "'Ann' and 'ann' and" in line


# --- other names


def make_row(question: str, policy: str = "p") -> dict[str, Any]:
    """A row of the native format."""
    answers = [
        {"messages": [{"role": "assistant", "content": text}], "policy": p}
        for text, p in (("a", policy), ("b", "other"))
    ]
    return {"messages": [{"role": "user", "content": question}], "completions": answers}


def test_projects_that_look_alike_are_refused(store):
    projects.add_project(store, "model1")
    with pytest.raises(BadInput, match=r"'modell'.*'model1'"):
        projects.add_project(store, "modell")


@pytest.mark.parametrize("bad", ["b\u200b", "b\x1b[31m", "b\u202e"])
def test_a_line_with_a_name_that_cannot_be_seen_is_bad_and_its_place_is_named(sqlite_store, tmp_path, bad):
    rows = {
        "policy": make_row("Tea?", bad),
        "tag": make_row("Tea?") | {"tags": {"topic": bad}},
        "tag's name": make_row("Tea?") | {"tags": {bad: "x"}},
    }
    for kind, row in rows.items():
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps(make_row("Hi?")) + "\n" + json.dumps(row) + "\n")
        with pytest.raises(BadInput, match=r"rows\.jsonl:2: .*expected characters that can be seen") as caught:
            import_path(sqlite_store, file, format="native")
        assert list_acting(str(caught.value)) == [], kind
        report = import_path(sqlite_store, file, format="native", skip_bad=True)
        assert report.bad_lines == 1, kind
    with pytest.raises(BadInput, match="batch"):
        import_path(sqlite_store, file, format="native", batch=bad)
    with pytest.raises(BadInput, match="token name"):
        tokens.add_api_token(sqlite_store, people.add_rater(sqlite_store, "ann", Role.RATER).id, bad, [Scope.TASK])


def write_row(file: Path, question: str, policy: str = "p") -> Path:
    file.write_text(json.dumps(make_row(question, policy)) + "\n")
    return file


def test_a_batch_is_one_name_in_all_spellings_and_look_alikes_are_refused(store, tmp_path):
    file = tmp_path / "rows.jsonl"
    import_path(store, write_row(file, "1?"), format="native", batch="pilot é")
    import_path(store, write_row(file, "2?"), format="native", batch="pilot e\u0301")
    for other, message in (
        ("PILOT É", "the spelling there is, 'pilot é'"),
        ("pіlot é", "cannot be taken for 'pilot é'"),
    ):
        with pytest.raises(BadInput, match=message):
            import_path(store, write_row(file, "3?"), format="native", batch=other)
    import_path(store, write_row(file, "4?"), format="native", batch="judge1")
    import_path(store, write_row(file, "5?"), format="native", batch="judgel")
    ann = people.add_rater(store, "ann", Role.RATER)
    got = [
        queue.lease(store, ann.id, seconds=60, task_filter=queue.TaskFilter(batch="Pilot E\u0301")) for _ in range(3)
    ]
    assert got[0] is not None
    assert {lease.comparison.batch for lease in got if lease} == {"pilot é"}


def test_a_policy_that_looks_like_another_is_refused_and_plain_ones_are_told_apart(store, tmp_path):
    file = tmp_path / "rows.jsonl"
    for n, policy in enumerate(("gpt-4", "GPT-4", "gpt-l", "gpt-1", "模型")):
        import_path(store, write_row(file, f"{n}?", policy), format="native")
    with pytest.raises(BadInput, match=r"rows\.jsonl:1: policy 'gрt-4'.*'(gpt|GPT)-4'"):
        import_path(store, write_row(file, "9?", "gрt-4"), format="native")


def test_names_are_kept_in_one_form_of_unicode():
    prompt = Prompt.create((Message("user", "?"),), {"e\u0301": "e\u0301"})
    assert dict(prompt.tags) == {"é": "é"}
    assert Completion.create(prompt.id, (Message("assistant", "!"),), "e\u0301").policy == "é"
    assert check_name("name", "e\u0301") == "é"


def test_keys_and_skeletons_are_stable():
    """Also of characters whose case or form grows: a key of a key, or a skeleton of one in lower case, is the same."""
    for text in ("ẞ", "ﬃ", "ﷺ", "İ", "Ǆ", "ᾳ", "K", "Å", "Ω", "ℌ", "①", "TOM", "rn", "𝓁𝑒𝒶"):
        key = make_name_key(text)
        assert make_name_key(key) == key
        assert unicodedata.is_normalized("NFKC", key)
        assert make_name_skeleton(text) == make_name_skeleton(make_name_skeleton(text))


def test_what_unicode_says_looks_alike_has_one_skeleton():
    differ = set()
    for text, others in confusables.confusables_data.items():
        for other in others:
            pair = [f"q{side.strip(chr(0x200E))}q" for side in (text, other["c"])]
            try:
                pair = [check_name("name", name) for name in pair]
            except BadInput:  # not both can be a name
                continue
            if len({make_name_skeleton(name) for name in pair}) > 1:
                differ |= {*"".join(pair)} - set("q")
    # Of five pairs the table names other letters than it takes them apart into: Hebrew ones with points, and one more.
    assert {unicodedata.name(c).split()[0] for c in differ - set("\uab74\u01a1o\u031b")} <= {"HEBREW"}


@pytest.mark.parametrize("number", [0x1107F, 0x16FE4, 0x1D159, 0x1DA9B])
def test_a_letter_that_no_font_draws_is_in_no_name(number):
    with pytest.raises(BadInput):
        check_name("name", f"rater{chr(number)}")


def test_every_character_that_cannot_be_seen_is_shown_by_a_name():
    for number in range(0x110000):
        character = chr(number)
        if UNSEEN.match(character) and character not in "\n\t":
            shown = make_all_visible(character)
            assert not UNSEEN.search(shown), hex(number)
            assert shown.isprintable() or shown == "␉", hex(number)
