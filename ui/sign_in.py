"""The sign-in page, in the language the browser asks for."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_hitl.ui.pages import templates, translations

RIGHT_TO_LEFT = ("ar",)
#: Problem → the fields it is about. The others are about none.
WRONG = {"mismatch": ("name", "password"), "name": ("name",), "password": ("password",)}


def language(accepted: str, known: Sequence[str]) -> str:
    """The one of the known languages that an Accept-Language header likes best; the first of them where it likes none.

    Regions are not told apart: `es-MX` is read in `es`. What is malformed is passed over.
    """
    liking: dict[str, float] = {}
    for part in accepted.split(","):
        tag, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        try:
            liked = float(weight)
        except ValueError:
            continue
        name = known[0] if tag == "*" else tag.split("-")[0]
        if name in known and 0 < liked <= 1:
            liking[name] = max(liked, liking.get(name, 0))
    return max(liking, key=liking.__getitem__, default=known[0])


def sign_in(accepted: str, *, problem: str = "", minutes: int = 0, name: str = "", invited: bool = False) -> str:
    """The page as HTML.

    Args:
        accepted: the Accept-Language header.
        problem: what went wrong, one of the words `login_…`; `minutes` are those to wait.
        name: what was entered before.
        invited: whether a name and a password are chosen rather than asked for.
    """
    tongue = language(accepted, list(translations()))
    words = translations()[tongue]
    shown = {
        "t": words.__getitem__,
        "language": tongue,
        "direction": "rtl" if tongue in RIGHT_TO_LEFT else "ltr",
        "problem": words[f"login_{problem}"].format(minutes=minutes) if problem else "",
        "wrong": WRONG.get(problem, ()),
        "focus": "name" if problem == "name" or not name else "password",
        "fields": problem != "not_yours",
        "name": name,
        "invited": invited,
    }
    return templates().get_template("login.html").render(shown)
