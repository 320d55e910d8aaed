"""Errors that tell their reader the value, what was expected, and the fix."""


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


def describe_system_error(e: OSError) -> str:
    """Return what to tell a user of a full disk, missing rights or a missing file, which a traceback does not help."""
    where, why = e.filename or "the system", e.strerror or str(e)
    return f"{where}: expected a file that can be used ({why.lower()}). Fix: check the path, the space and the rights"
