"""That a message says in our own words what is wrong, and not in those of pydantic, typer or Python."""

from __future__ import annotations

LEAKS = (
    "input should", "value error", "pydantic", "valid integer", "valid string", "field required", "truthy",
    "invalid int", "should have at", "should match", "not permitted", "unable to parse", "traceback",
)  # fmt: skip


def assert_plain(text: str) -> None:
    for leak in LEAKS:
        assert leak not in text.lower(), text
