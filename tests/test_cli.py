"""What every command of the command line keeps to, found by looking at the commands there are."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import rlhf_hitl.cli
from rlhf_hitl.cli import app


def leaves(command: Any, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every command that does something, by the words that call it."""
    if not hasattr(command, "commands"):
        return {" ".join(words): command}
    return {k: v for name, sub in command.commands.items() for k, v in leaves(sub, (*words, name)).items()}


for module in pkgutil.iter_modules(rlhf_hitl.cli.__path__, "rlhf_hitl.cli."):
    importlib.import_module(module.name)  # importing registers its commands
COMMANDS = leaves(typer.main.get_command(app))
WITH_STORE = [name for name, c in COMMANDS.items() if any("--store" in p.opts for p in c.params)]
#: These make the store where it is missing; all others ask for `init`.
MAKE_A_STORE = {"init", "import", "loop", "quickstart"}

every_command = pytest.mark.parametrize("name", list(COMMANDS))


def options(name: str) -> list[Any]:
    return [p for p in COMMANDS[name].params if p.param_type_name == "option"]


def call(name: str, *args: str, folder):
    """Run a command in this process. What it requires is given a file to read (`path`) or a name that is not taken."""
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}\n')
    given = list(args)
    for param in COMMANDS[name].params:
        if param.required:
            value = str(rows if param.name == "path" else folder / "new")
            given += [param.opts[0], value] if param.param_type_name == "option" else [value]
    return CliRunner().invoke(app, [*name.split(), *given], prog_name="rlhf-hitl")


def test_the_commands_of_the_design_are_there():
    wanted = "init import generate serve export train-reward score evaluate route train-dpo train-ppo loop report"
    assert set(wanted.split()) | {"quickstart", "models get", "raters add", "raters list"} <= set(COMMANDS)


@every_command
def test_help_says_what_the_command_and_each_of_its_options_is_for(name):
    done = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="rlhf-hitl")
    assert done.exit_code == 0, done.output
    assert f"rlhf-hitl {name}" in " ".join(done.stdout.split())
    assert (COMMANDS[name].help or "").strip()
    assert [p.opts[0] for p in options(name) if not getattr(p, "help", None)] == []


@every_command
def test_every_command_speaks_json(name):
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
def test_a_store_that_is_missing_is_refused_in_one_line_and_not_made(name, tmp_path):
    url = f"sqlite:///{tmp_path}/missing/preferences.db"
    assert_refused(call(name, "--json", "--store", url, folder=tmp_path), url)
    assert not (tmp_path / "missing").exists()


def test_without_json_nothing_is_said_on_stdout_when_a_command_fails(tmp_path):
    done = call("raters list", "--store", f"sqlite:///{tmp_path}/missing.db", folder=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
