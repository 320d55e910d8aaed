"""Errors that tell their reader the value, what was expected, and the fix."""

import json
import os
from contextlib import suppress
from pathlib import Path

#: A variable that is set for the processes a command launches: the file in which the first that fails says why. Their
#: seconds are the command's.
LAUNCHED = "RLHF_HITL_LAUNCHED"


class RlhfHitlError(Exception):
    """Base of every error that this package raises on purpose. The command line prints it as one line."""

    exit_code = 2


class BadInput(RlhfHitlError):
    """A value that a user gave cannot be used.

    Args:
        value: what was given, described so that the user can find it (a path, `file:line: field`, a flag).
        expected: what would have been accepted.
        fix: what the user can do.
    """

    def __init__(self, value: str, *, expected: str, fix: str):
        self.value, self.expected, self.fix = value, expected, fix
        super().__init__(f"{value}: expected {expected}. Fix: {fix}")


class NotFound(BadInput):
    """Something that a user named does not exist."""


class Conflict(RlhfHitlError):
    """The request is valid but conflicts with the store's state: another rater's lease, a comparison judged already."""


def hand_on_error(message: str, exit_code: int, error: RlhfHitlError | None = None) -> bool:
    """Tell the command that launched this process why it fails, so that one line says it for all processes.

    Returns whether that command says it; if not, this process has to.
    """
    if (file := os.environ.get(LAUNCHED)) is None:
        return False
    row = {"message": message, "exit_code": exit_code}
    row |= {"value": error.value, "expected": error.expected, "fix": error.fix} if isinstance(error, BadInput) else {}
    try:
        with suppress(FileExistsError), open(file, "x", encoding="utf-8") as f:
            json.dump(row, f)
    except OSError:
        return False
    return True


def read_handed_error(file: Path) -> RlhfHitlError | None:
    """Return the error that a launched process handed on, or None where none did."""
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if "value" in row:
        error = BadInput(row["value"], expected=row["expected"], fix=row["fix"])
    else:
        error = RlhfHitlError(row["message"])
    error.exit_code = row["exit_code"]
    return error


def describe_system_error(e: OSError) -> str:
    """Return what to tell a user of a full disk, missing rights or a missing file, which a traceback does not help."""
    where, why = e.filename or "the system", e.strerror or str(e)
    return f"{where}: expected a file that can be used ({why.lower()}). Fix: check the path, the space and the rights"
