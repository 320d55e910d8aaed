"""The sign-in page, in the language the browser asks for. Its routes are in `api/sign_in.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_hitl.ui.pages import load_templates, load_translations

RIGHT_TO_LEFT = ("ar",)
#: The fields that a problem marks as invalid. Problems that are not listed mark none.
INVALID_FIELDS = {"mismatch": ("name", "password"), "name": ("name",), "password": ("password",)}


def choose_language(accept_language: str, supported: Sequence[str]) -> str:
    """Return the supported language that an Accept-Language header prefers, or the first where it names none of them.

    Regions are ignored: `es-MX` is read in `es`. So are malformed parts.
    """
    preferences: dict[str, float] = {}
    for part in accept_language[:200].split(","):  # browsers send some dozens of letters
        tag, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        try:
            preference = float(weight)
        except ValueError:
            continue
        code = supported[0] if tag == "*" else tag.split("-")[0]
        if code in supported and 0 < preference <= 1:
            preferences[code] = max(preference, preferences.get(code, 0))
    return max(preferences, key=preferences.__getitem__, default=supported[0])


def describe_reader(accept_language: str) -> dict[str, Any]:
    """Return what a template needs to speak the reader's language: `t` (the texts), `language` and `direction`."""
    language = choose_language(accept_language, list(load_translations()))
    return {
        "t": load_translations()[language].__getitem__,
        "language": language,
        "direction": "rtl" if language in RIGHT_TO_LEFT else "ltr",
    }


def render_sign_in_page(
    accept_language: str,
    *,
    problem: str = "",
    minutes: int = 0,
    name: str = "",
    invited: bool = False,
    prefix: str = "",
) -> str:
    """Return the page as HTML.

    Args:
        accept_language: the Accept-Language header.
        problem: what went wrong: X of a translation key `login_X`.
        minutes: how long to wait, where the problem is "throttled".
        name: the name that was entered before.
        invited: whether a new name and password are chosen, rather than asked for.
        prefix: the path below which the site is, such as `/hitl`.
    """
    reader = describe_reader(accept_language)
    context = reader | {
        "problem": reader["t"](f"login_{problem}").format(minutes=minutes) if problem else "",
        "invalid_fields": INVALID_FIELDS.get(problem, ()),
        "focus": "name" if problem == "name" or not name else "password",
        "name": name,
        "invited": invited,
        "prefix": prefix,
    }
    return load_templates().get_template("login.html").render(context)
