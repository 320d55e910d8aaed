"""Processes that a command launches: what ends them is said once."""

from __future__ import annotations

import pytest

from rlhf_hitl.cli.launch import launch_processes
from rlhf_hitl.errors import BadInput

PROGRAM = """
from rlhf_hitl.arguments import run_script
from rlhf_hitl.errors import BadInput

def main():
    raise BadInput("--x 3", expected="an even number", fix="change x")

run_script(main)
"""


def test_an_error_of_all_processes_is_the_commands_and_nothing_else_is_printed(tmp_path, monkeypatch, capfd):
    (tmp_path / "failing.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"^--x 3: expected an even number. Fix: change x$") as raised:
        launch_processes("failing", [], 2)
    assert (raised.value.value, raised.value.exit_code) == ("--x 3", 2)
    printed = "".join(capfd.readouterr())
    assert "--x 3" not in printed
    assert "Traceback" not in printed
