"""Text a policy wrote → HTML that can do nothing. Completions are hostile until shown otherwise.

No HTML of the text's own survives, nothing is fetched, only http(s) links are links (and say where they lead), and a
text too long for the page is shown plainly and then cut, with a note of how much is missing.
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

#: Beyond this many characters a text is shown as it is: Markdown's worst cases grow faster than the text.
MARKDOWN_LIMIT = 30_000
#: Beyond this many levels Markdown's blocks are left out, so a text that has them is shown as it is.
NESTING_LIMIT = 40
#: Beyond this many it is cut, so that the page stays usable.
SHOWN_LIMIT = 200_000
HIGHLIGHT_LIMIT = 20_000

# What can reorder or hide the text around it is shown by name; other control characters by their pictures.
_NAMES = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
_TURNING = dict(zip((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), _NAMES))
_VISIBLE = (
    {c: f"⟦{name}⟧" for c, name in _TURNING.items()}
    | {0x7F: "␡"}
    | {c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in "\t\n\r"}
)


def render(text: str) -> str:
    """Markdown as HTML, in an element of its own that settles its own writing direction."""
    text = visible(text)
    if not text.strip():
        return f'<div class="text"><p class="note">({translated("text_empty", "empty")})</p></div>'
    if len(text) > MARKDOWN_LIMIT or _nesting(text) > NESTING_LIMIT // 2:
        return f'<div class="text plain" dir="auto">{plain(text)}</div>'
    return f'<div class="text" dir="auto">{_markdown().render(text)}</div>'


def _nesting(text: str) -> int:
    """The most quotes and list items one line opens."""
    openings = (line[: len(line) - len(line.lstrip(" \t>*+-"))] for line in text.splitlines())
    return max((sum(o.count(mark) for mark in (">", "* ", "+ ", "- ")) for o in openings), default=0)


def plain(text: str) -> str:
    """Text as it is, escaped, cut at `SHOWN_LIMIT` characters."""
    return f"<div>{escape(text[:SHOWN_LIMIT])}</div>{rest(len(text) - SHOWN_LIMIT)}"


def rest(n: int) -> str:
    """The note that so many characters are not shown; nothing for none."""
    said = translated("text_cut", f"Characters that are not shown: {n:,}", n)
    return f'<p class="note">{said}</p>' if n > 0 else ""


def translated(key: str, english: str, n: int | None = None) -> str:
    """A word of the interface within a text: i18n.js puts it in the reader's language."""
    count = "" if n is None else f' data-count="{n}"'
    return f'<span data-i18n="{key}"{count}>{english}</span>'


def visible(text: str) -> str:
    """The text with overriding and control characters made visible and lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode().translate(_VISIBLE)


@cache
def _markdown() -> MarkdownIt:
    options = {"html": False, "linkify": False, "maxNesting": NESTING_LIMIT, "highlight": _highlight}
    md = MarkdownIt("commonmark", options)
    md.enable(["table", "strikethrough"])
    add_formulas(md)
    md.validateLink = _is_web  # type: ignore[method-assign]
    md.add_render_rule("image", _image)
    md.add_render_rule("link_open", _link_open)
    md.add_render_rule("link_close", _link_close)
    for block in ("paragraph_open", "heading_open", "list_item_open", "table_open", "td_open", "th_open"):
        md.add_render_rule(block, _with_direction)
    return md


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)


def _image(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    # Never fetched: loading it would tell its owner who reads what, and when.
    alt = self.renderInlineAsText(tokens[i].children, options, env)
    said = f"{escape(alt)} — {escape(str(tokens[i].attrGet('src')))}"
    return f'<span class="image" dir="auto">[{translated("text_image", "image")}: {said}]</span>'


def _link_open(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    href = str(tokens[i].attrGet("href") or "")
    if not _is_web(href):  # an empty one would open the page anew
        env.setdefault("links", []).append((None, ""))
        return ""
    env.setdefault("links", []).append((href, "".join(t.content for t in _inside(tokens, i))))
    return f'<a href="{escape(href)}" target="_blank" rel="noopener noreferrer nofollow">'


def _link_close(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    href, words = env["links"].pop()
    if href is None:
        return ""
    if words.strip() == href:
        return "</a>"
    return f'</a><bdi class="target"> ({escape(_host(href))})</bdi>'


def _inside(tokens: Sequence[Token], i: int) -> list[Token]:
    end = next(j for j in range(i, len(tokens)) if tokens[j].type == "link_close")
    return list(tokens[i + 1 : end])


def _host(href: str) -> str:
    return urlsplit(href).hostname or href


def _with_direction(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    tokens[i].attrSet("dir", "auto")
    return self.renderToken(tokens, i, options, env)


def _highlight(code: str, language: str, _attrs: str) -> str:
    """Pygments' spans for a language it knows; empty leaves the code to be escaped as it is."""
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


def code_css() -> str:
    """The colours of highlighted code, light and dark, of `accessible-pygments`: each is told from the box it is in."""
    from pygments.formatters import HtmlFormatter

    css = []
    for style, where in (("a11y-high-contrast-light", ".text pre"), ("github-dark-high-contrast", ".dark .text pre")):
        rules = HtmlFormatter(style=style).get_style_defs(where).splitlines()
        css += [rule for rule in rules if rule.startswith(f"{where} .")]
    return "\n".join(css)
