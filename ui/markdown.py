"""Render text that a policy wrote as harmless HTML. Completions are untrusted.

HTML in the text is escaped, nothing is fetched, only http(s) links become links (with their host beside them), and a
text too long for Markdown is shown as plain text and finally cut, with a note of how much is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape as escape
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rlhf_hitl.ui.formula import add_formulas

#: Characters up to which a text is parsed as Markdown: the worst cases of Markdown grow faster than the text.
MARKDOWN_LIMIT = 30_000
#: Levels of nesting up to which a text is parsed: markdown-it leaves out deeper blocks.
NESTING_LIMIT = 40
#: Characters after which a text is cut, so that the page stays usable.
SHOWN_LIMIT = 200_000
#: Characters up to which code is highlighted.
HIGHLIGHT_LIMIT = 20_000

# Characters that reorder the text around them are shown by their names, other control characters by their pictures.
_BIDI_NAMES = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
_BIDI_CONTROLS = dict(zip((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), _BIDI_NAMES))
_VISIBLE = (
    {c: f"⟦{name}⟧" for c, name in _BIDI_CONTROLS.items()}
    | {0x7F: "␡"}
    | {c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in "\t\n\r"}
)


def render(text: str) -> str:
    """Return Markdown as HTML, in an element of its own that sets its own writing direction."""
    text = make_visible(text)
    if not text.strip():
        return f'<div class="text"><p class="note">({render_translated("text_empty", "empty")})</p></div>'
    if len(text) > MARKDOWN_LIMIT or _count_nesting(text) > NESTING_LIMIT // 2:
        return f'<div class="text plain" dir="auto">{render_plain(text)}</div>'
    return f'<div class="text" dir="auto">{_create_renderer().render(text)}</div>'


def _count_nesting(text: str) -> int:
    """Return the largest number of quotes and list items that one line opens."""
    openings = (line[: len(line) - len(line.lstrip(" \t>*+-"))] for line in text.splitlines())
    return max((sum(o.count(mark) for mark in (">", "* ", "+ ", "- ")) for o in openings), default=0)


def render_plain(text: str) -> str:
    """Return text without Markdown, escaped and cut at `SHOWN_LIMIT` characters."""
    return f"<div>{escape(text[:SHOWN_LIMIT])}</div>{render_cut_note(len(text) - SHOWN_LIMIT)}"


def render_cut_note(n: int) -> str:
    """Return the note that `n` characters are not shown, or "" if none are missing."""
    text = render_translated("text_cut", f"Characters that are not shown: {n:,}", n)
    return f'<p class="note">{text}</p>' if n > 0 else ""


def render_translated(key: str, english: str, n: int | None = None) -> str:
    """Return an element for a text of the interface, which i18n.js replaces by the text in the reader's language."""
    count = "" if n is None else f' data-count="{n}"'
    return f'<span data-i18n="{key}"{count}>{english}</span>'


def make_visible(text: str) -> str:
    """Return the text with control characters made visible and lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode().translate(_VISIBLE)


@cache
def _create_renderer() -> MarkdownIt:
    options = {"html": False, "linkify": False, "maxNesting": NESTING_LIMIT, "highlight": _highlight}
    md = MarkdownIt("commonmark", options)
    md.enable(["table", "strikethrough"])
    add_formulas(md)
    md.validateLink = _is_web_link  # type: ignore[method-assign]
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


def _highlight(code: str, language: str, _attrs: str) -> str:
    """Return the code with spans of Pygments, or "" if it does not know the language."""
    if not language or len(code) > HIGHLIGHT_LIMIT:
        return ""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


def render_code_css() -> str:
    """Return the styles of highlighted code, light and dark, from `accessible-pygments`."""
    from pygments.formatters import HtmlFormatter

    css = []
    for style, selector in (
        ("a11y-high-contrast-light", ".text pre"),
        ("github-dark-high-contrast", ".dark .text pre"),
    ):
        rules = HtmlFormatter(style=style).get_style_defs(selector).splitlines()
        css += [rule for rule in rules if rule.startswith(f"{selector} .")]
    return "\n".join(css)
