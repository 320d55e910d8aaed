"""The navigation that all pages share: one list of pages, of which each person sees those that they may open."""

from __future__ import annotations

from rlhf_hitl.api.auth import ROLES_OF_PAGE
from rlhf_hitl.ui.pages import load_templates, load_translations

#: The pages in the order of their links. A page's title is the text `page_NAME` of `assets/words/`.
PAGES = ("rate", "adjudicate", "lead", "data", "raters", "people", "policies", "replay")


def render_navigation(current: str) -> str:
    """Return the links to all pages as HTML, for the page `current`.

    A page is drawn once for everybody who may open it. Links that some of them may not follow are hidden until
    `navigation.js` knows who it is.
    """
    readers = ROLES_OF_PAGE[f"/{current}"]
    texts = load_translations()["en"]
    links = [
        {"name": name, "title": texts[f"page_{name}"], "for_all": readers <= ROLES_OF_PAGE[f"/{name}"]}
        for name in PAGES
    ]
    return load_templates().get_template("navigation.html").render(links=links, current=current)


def get_page_title(name: str) -> str:
    """Return the title of a page's document, in English, as it is until the page's script runs."""
    return f"{load_translations()['en'][f'page_{name}']} · rlhf_hitl"
