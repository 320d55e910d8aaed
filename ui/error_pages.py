"""Errors in a browser as pages: a heading, one sentence and a link back, in the language the browser asks for.

Which answers become such a page is decided by `api/error_pages.py`.
"""

from __future__ import annotations

from functools import lru_cache

from rlhf_hitl.ui.pages import load_templates
from rlhf_hitl.ui.sign_in import describe_reader

#: The errors with words of their own: X of the translation keys `error_X` and `error_X_why`. Numbers are HTTP statuses.
EXPLAINED = ("400", "401", "403", "404", "405", "413", "429", "500", "503", "invitation", "role")
#: Those after which one signs in; all others lead back to one's own page.
NEEDS_SIGN_IN = ("401", "invitation")


def name_error(status: int) -> str:
    """Return which of EXPLAINED explains an HTTP status: its own, or that of all mistakes of a client or a server."""
    name = str(status)
    return name if name in EXPLAINED else "400" if status < 500 else "500"


def render_error_page(accept_language: str, error: str, prefix: str = "") -> str:
    """Return the page as HTML.

    Args:
        accept_language: the Accept-Language header.
        error: one of EXPLAINED.
        prefix: the path below which the site is, such as `/hitl`.
    """
    return _render(describe_reader(accept_language)["language"], error, prefix)


@lru_cache(1024)
def _render(language: str, error: str, prefix: str) -> str:
    context = describe_reader(language) | {"error": error, "prefix": prefix, "needs_sign_in": error in NEEDS_SIGN_IN}
    return load_templates().get_template("error.html").render(context)
