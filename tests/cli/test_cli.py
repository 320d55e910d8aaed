"""Conventions of the command line, checked on every registered command."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner

import rlhf_hitl.cli
from forked_processes import run_module
from rlhf_hitl.cli import Result, app, command, register_commands
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store, StoreFailure, people, tables
from rlhf_hitl.types import Role, utc_now


def leaves(command: Any, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command that does something, by the words that call it."""
    if not hasattr(command, "commands"):
        return {} if command.hidden else {" ".join(words): command}  # a former name, which says so in a line of its own
    return {k: v for name, sub in command.commands.items() for k, v in leaves(sub, (*words, name)).items()}


register_commands()
COMMANDS = leaves(typer.main.get_command(app))
WITH_STORE = [name for name, c in COMMANDS.items() if any("--store" in p.opts for p in c.params)]
#: These make the store where it is missing; all others ask for `init`.
MAKE_A_STORE = {"init", "import", "loop", "quickstart"}

#: What is required and is one of a few words.
CHOICES = {"scope": "task", "event": "alert.raised", "where": "route=human", "budget": "1", "number": "1"}

every_command = pytest.mark.parametrize("name", list(COMMANDS))


def test_help_lists_the_commands_of_every_module():
    for module in pkgutil.iter_modules(rlhf_hitl.cli.__path__, "rlhf_hitl.cli."):
        importlib.import_module(module.name)
    assert leaves(typer.main.get_command(app)).keys() == COMMANDS.keys()


def options(name: str) -> list[Any]:
    return [p for p in COMMANDS[name].params if p.param_type_name == "option"]


def call(name: str, *args: str, folder):
    """Run a command in this process. What it requires is given a file to read (`path`) or a name that is not taken."""
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}\n')
    given = list(args)
    for param in COMMANDS[name].params:
        if param.required or param.name == "path":  # `import --formats` takes no path
            value = CHOICES.get(param.name) or str(rows if param.name == "path" else folder / "new")
            given += [param.opts[0], value] if param.param_type_name == "option" else [value]
    return CliRunner().invoke(app, [*name.split(), *given], prog_name="rlhf-hitl")


def test_all_documented_commands_exist():
    wanted = "init import generate serve export train-reward score evaluate route train-dpo train-ppo loop report "
    wanted += "train-rloo train-grpo"
    assert set(wanted.split()) | {"quickstart", "models get", "raters add", "raters list"} <= set(COMMANDS)


@every_command
def test_help_explains_the_command_and_each_of_its_options(name):
    done = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="rlhf-hitl")
    assert done.exit_code == 0, done.output
    assert f"rlhf-hitl {name}" in " ".join(done.stdout.split())
    assert (COMMANDS[name].help or "").strip()
    assert [p.opts[0] for p in options(name) if not getattr(p, "help", None)] == []


@every_command
def test_every_command_has_a_json_option(name):
    assert any("--json" in p.opts for p in options(name))


@every_command
def test_options_are_words_joined_by_hyphens(name):
    long = [o for p in options(name) for o in (*p.opts, *p.secondary_opts) if o.startswith("--")]
    assert [o for o in long if not re.fullmatch(r"--[a-z0-9]+(-[a-z0-9]+)*", o)] == []


def assert_refused(done, value: str) -> None:
    """Exit 2 and one line that names the value, what was expected and the fix, in JSON too."""
    assert done.exit_code == 2, done.output
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert value in line
    assert "expected" in line
    assert "Fix: " in line
    assert json.loads(done.stdout) == {"error": line.removeprefix("error: ")}


@pytest.mark.parametrize("name", WITH_STORE)
def test_a_store_of_an_unknown_kind_is_refused_in_one_line(name, tmp_path):
    assert_refused(call(name, "--json", "--store", "mysql://host/db", folder=tmp_path), "mysql://host/db")


@pytest.mark.parametrize("name", [name for name in WITH_STORE if name not in MAKE_A_STORE])
def test_a_missing_store_is_refused_in_one_line_and_not_created(name, tmp_path):
    url = f"sqlite:///{tmp_path}/missing/preferences.db"
    assert_refused(call(name, "--json", "--store", url, folder=tmp_path), url)
    assert not (tmp_path / "missing").exists()


def test_without_json_a_failed_command_prints_nothing_on_stdout(tmp_path):
    done = call("raters list", "--store", f"sqlite:///{tmp_path}/missing.db", folder=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")


@pytest.mark.parametrize("name", ["[/x]", "[bold]", ":smile:", "[red]ann[/red]"])
def test_a_name_with_brackets_is_printed_unchanged(sqlite_store, sqlite_url, name):
    """A new person gets no such name; a store of an earlier version may hold one."""
    people.add_rater(sqlite_store, "ann", Role.RATER)
    with sqlite_store.write() as conn:
        conn.execute(tables.raters.update().values(name=name, name_key=name))
    for words in (["password", name], ["list"], ["disable", name]):
        done = CliRunner().invoke(app, ["raters", *words, "--store", sqlite_url])
        assert done.exit_code == 0, done.output
        assert name in done.stdout


def test_an_import_report_is_printed_as_it_is_whatever_brackets_it_has(sqlite_url, tmp_path):
    (tmp_path / "[").mkdir()
    rows = tmp_path / "[" / "INST].jsonl"
    rows.write_text(
        '{"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}\n{"prompt": "[/INST]", "chosen": "[/INST]"\n'
    )
    done = CliRunner().invoke(app, ["import", str(rows), "--skip-bad", "--format", "trl", "--store", sqlite_url])
    assert done.exit_code == 0, done.output
    assert "[/INST].jsonl (trl)" in done.stdout


def test_json_has_null_for_nan_and_infinity():
    alone = typer.Typer()

    @command("figures", alone)
    def figures(json: bool = False) -> Result:
        return Result({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (float("-inf"), "x")}})

    done = CliRunner().invoke(alone, ["--json"])
    assert json.loads(done.stdout, parse_constant=pytest.fail) == {"a": None, "b": [1.5, None], "c": {"d": [None, "x"]}}


@pytest.mark.parametrize(
    ("name", "value"), [("RLHF_HITL_LEASE_SECONDS", "abc"), ("RLHF_HITL_LEASE_SECONDS", "0"), ("RLHF_HITL_LEESE", "1")]
)
def test_an_invalid_environment_variable_is_refused_in_one_line(tmp_path, name, value):
    done = subprocess.run(
        [sys.executable, "-c", "from rlhf_hitl.cli import main; main()", "report", "--json"],
        env=os.environ | {name: value}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert re.match(rf"error: {name}(={value})?: expected .*\. Fix: ", line)
    assert json.loads(done.stdout) == {"error": line.removeprefix("error: ")}


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ann:secret-word@host/db",
        "mysql:/ann:secret-word@host/db",
        "postgresql://ann:secret-word@host:port/db",
        "mysql://host/db?user=ann&password=secret-word",
    ],
)
def test_a_refused_url_is_shown_without_its_password(url):
    with pytest.raises(BadInput) as caught:
        Store.open(url)
    assert "secret-word" not in str(caught.value)
    assert "host" in str(caught.value)


def test_an_error_about_missing_prompts_names_the_store(sqlite_url, tmp_path):
    done = CliRunner().invoke(app, ["generate", "--store", sqlite_url, "--json"])
    assert_refused(done, f"store {sqlite_url}")


def test_a_violated_constraint_is_a_store_failure_and_writes_nothing(sqlite_store):
    row = {"id": "c_1", "prompt_id": "p_nobody", "policy": "", "sampling": {}, "messages": [], "created_at": utc_now()}
    with pytest.raises(StoreFailure, match="FOREIGN KEY"), sqlite_store.write() as conn:
        conn.execute(tables.completions.insert(), [row])
    with sqlite_store.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(tables.completions)) == 0


@pytest.mark.parametrize(
    ("name", "args", "value"),
    [
        ("serve", ("--port", "99999"), "99999"),
        ("serve", ("--workers=0",), "'0'"),
        ("raters set", ("ann",), "nothing to change"),
        ("raters set", ("ann", "--languages", "en,!!"), "!!"),
        ("raters invite", ("--address", "foo"), "'foo'"),
    ],
)
def test_a_refused_value_is_named_in_the_error(sqlite_store, sqlite_url, name, args, value):
    people.add_rater(sqlite_store, "ann", Role.RATER)
    # In a process of its own: a value that the parser itself refuses is said in one line by `main`.
    done = run_module("rlhf_hitl", *name.split(), *args, "--store", sqlite_url)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert value in line
    assert "Fix: " in line
