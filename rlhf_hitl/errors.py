"""Errors that are meant to be read: the value, what was expected, the fix."""


class RlhfHitlError(Exception):
    """Base of every error this package raises on purpose. The command line prints it as one line."""

    exit_code = 2


class BadInput(RlhfHitlError):
    """Something a user gave cannot be used.

    Args:
        value: what was given, named so that its owner can find it (a path, `file:line: field`, a flag).
        expected: what would have been right.
        fix: what to do now.
    """

    def __init__(self, value: str, *, expected: str, fix: str):
        self.value, self.expected, self.fix = value, expected, fix
        super().__init__(f"{value}: expected {expected}. Fix: {fix}")


class NotFound(BadInput):
    """A thing that was named does not exist."""


class Conflict(RlhfHitlError):
    """The request was fine but the store has moved on (a lease that is another's, a comparison already judged)."""
