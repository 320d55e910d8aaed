"""The command line, run in the test's own process: starting another takes seconds, most of them imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from typer.testing import CliRunner

from rlhf_hitl.cli import app, register_commands

register_commands()


class Outcome(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run_command(*args: object, env: Mapping[str, str] | None = None) -> Outcome:
    """Run `rlhf-hitl` with these arguments. An exception that no command handles is raised."""
    done = CliRunner().invoke(app, [str(a) for a in args], prog_name="rlhf-hitl", env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Outcome(done.exit_code, done.stdout, done.stderr)
