"""Render text that a policy wrote as harmless HTML. Completions are untrusted.

HTML in the text is escaped, nothing is fetched, only http(s) links become links (with their host beside them), and a
text too long for Markdown is shown as plain text and finally cut, with a note of how much is missing.

Nothing here is bounded in time. Pages call `rendering.py`, which gives a text a budget and caches what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape as escape
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rlhf_hitl.ui.drawing_budget import DrawingBudget
from rlhf_hitl.ui.formula import FORMULA_TOKENS, add_formulas
from rlhf_hitl.ui.highlighting import highlight
from rlhf_hitl.visible import make_visible as make_visible

#: Characters up to which a text is parsed as Markdown: the worst cases of Markdown grow faster than the text.
MARKDOWN_LIMIT = 30_000
#: Levels of nesting up to which a text is parsed: markdown-it leaves out deeper blocks.
NESTING_LIMIT = 40
#: Characters after which a text is cut, so that the page stays usable.
SHOWN_LIMIT = 200_000


_LONG_OPENING = re.compile(rf"(?:^|\r)([ \t>*+-]{{{NESTING_LIMIT // 2},}})", re.MULTILINE)

# What can be costly although the text is short: code, formulas, and links that do not end.
_COSTLY = re.compile(r"[`~$\\\[<]")
_SHORT = 500  # characters


def is_quick(text: str) -> bool:
    """Return whether a text takes some milliseconds at most, whatever is in it (measured: 11)."""
    return len(text) <= _SHORT and not _COSTLY.search(text)


def is_formatted(text: str) -> bool:
    """Return whether a text is read as Markdown: it is not too long, and not nested too deep."""
    return len(text) <= MARKDOWN_LIMIT and _count_nesting(text) <= NESTING_LIMIT // 2


def render_in_stages(text: str, seconds: float) -> Iterator[str]:
    """Yield the HTML of a text that is formatted and visible, in an element that sets its own writing direction.

    If there is code or a formula in the text there are two stages: the first shows both as they were written, the
    second draws as many of them as `seconds` of this process's processor time allow, counted from now.
    """
    budget = DrawingBudget(seconds)
    md = _create_renderer()
    tokens = md.parse(text)
    if not _has_anything_to_draw(tokens):
        yield _wrap(md.renderer.render(tokens, md.options, {}), is_complete=True)
        return
    yield _wrap(md.renderer.render(tokens, md.options, {}), is_complete=False)
    drawn = md.renderer.render(tokens, md.options, {"budget": budget})
    yield _wrap(drawn, is_complete=not budget.is_exceeded)


def _has_anything_to_draw(tokens: Sequence[Token]) -> bool:
    return any(
        (token.type == "fence" and token.info.strip())
        or token.type in FORMULA_TOKENS
        or _has_anything_to_draw(token.children or ())
        for token in tokens
    )


def _wrap(html: str, is_complete: bool) -> str:
    return f'<div class="text" dir="auto">{"" if is_complete else _render_partly_note()}{html}</div>'


def render_unformatted(visible: str, missing: int = 0) -> str:
    """Return a visible text as it was written, with notes that say so and how many characters are missing."""
    html = f"<div>{escape(visible)}</div>{render_cut_note(missing)}"
    return f'<div class="text plain" dir="auto">{_render_plain_note()}{html}</div>'


def render_empty() -> str:
    """Return what stands for a text without anything to see."""
    return f'<div class="text"><p class="note">({render_translated("text_empty", "empty")})</p></div>'


def _render_plain_note() -> str:
    why = "Shown as it was written, without formatting, because drawing it takes too long"
    return f'<p class="note unformatted">{render_translated("text_plain", why)}</p>'


def _render_partly_note() -> str:
    why = "Some code or formulas are shown as they were written, because drawing them takes too long"
    return f'<p class="note unformatted">{render_translated("text_partly", why)}</p>'


def _count_nesting(text: str) -> int:
    """Return the largest number of quotes and list items that one line opens, 0 if no line opens many."""
    openings = (match[1] for match in _LONG_OPENING.finditer(text))
    return max((sum(o.count(mark) for mark in (">", "* ", "+ ", "- ")) for o in openings), default=0)


def render_cut_note(n: int) -> str:
    """Return the note that `n` characters are not shown, or "" if none are missing."""
    text = render_translated("text_cut", f"Characters that are not shown: {n:,}", n)
    return f'<p class="note">{text}</p>' if n > 0 else ""


def render_translated(key: str, english: str, n: int | None = None) -> str:
    """Return an element for a text of the interface, which i18n.js replaces by the text in the reader's language."""
    count = "" if n is None else f' data-count="{n}"'
    return f'<span data-i18n="{key}"{count}>{english}</span>'


@cache
def _create_renderer() -> MarkdownIt:
    options = {"html": False, "linkify": False, "maxNesting": NESTING_LIMIT}
    md = MarkdownIt("commonmark", options)
    md.enable(["table", "strikethrough"])
    add_formulas(md)
    md.validateLink = _is_web_link  # type: ignore[method-assign]
    md.add_render_rule("fence", _render_fence)
    md.add_render_rule("image", _render_image)
    md.add_render_rule("link_open", _open_link)
    md.add_render_rule("link_close", _close_link)
    for opening in ("paragraph_open", "heading_open", "list_item_open", "table_open", "td_open", "th_open"):
        md.add_render_rule(opening, _open_with_direction)
    return md


def _is_web_link(url: str) -> bool:
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)


def _render_image(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    # An image is never fetched: loading it would tell its owner who reads what, and when.
    alt = self.renderInlineAsText(tokens[i].children, options, env)
    description = f"{escape(alt)} — {escape(str(tokens[i].attrGet('src')))}"
    return f'<span class="image" dir="auto">[{render_translated("text_image", "image")}: {description}]</span>'


def _open_link(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    href = str(tokens[i].attrGet("href") or "")
    if not _is_web_link(href):  # an empty address would reload the page
        env.setdefault("links", []).append((None, ""))
        return ""
    env.setdefault("links", []).append((href, "".join(t.content for t in _find_tokens_inside(tokens, i))))
    return f'<a href="{escape(href)}" target="_blank" rel="noopener noreferrer nofollow">'


def _close_link(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    href, link_text = env["links"].pop()
    if href is None:
        return ""
    if link_text.strip() == href:
        return "</a>"
    return f'</a><bdi class="target"> ({escape(_get_host(href))})</bdi>'


def _find_tokens_inside(tokens: Sequence[Token], i: int) -> list[Token]:
    end = next(j for j in range(i, len(tokens)) if tokens[j].type == "link_close")
    return list(tokens[i + 1 : end])


def _get_host(href: str) -> str:
    return urlsplit(href).hostname or href


def _open_with_direction(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    tokens[i].attrSet("dir", "auto")
    return self.renderToken(tokens, i, options, env)


def _render_fence(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    budget: DrawingBudget | None = env.get("budget")
    language = next(iter(tokens[i].info.split()), "")
    code = highlight(tokens[i].content, language, budget) if language and budget else ""
    name = f' class="language-{escape(language)}"' if language else ""
    return f"<pre><code{name}>{code or escape(tokens[i].content)}</code></pre>\n"
