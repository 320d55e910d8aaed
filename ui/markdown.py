"""Render text that a policy wrote as harmless HTML. Completions are untrusted.

HTML in the text is escaped, nothing is fetched, only http(s) links become links (with their host beside them), and a
text too long for Markdown is shown as plain text and finally cut, with a note of how much is missing. Line breaks stay,
and a note says how much of a text its formatting hides. `render_as_written` shows all of it.

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
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from rlhf_hitl.ui.drawing_budget import DrawingBudget
from rlhf_hitl.ui.formula import FORMULA_TOKENS, add_formulas
from rlhf_hitl.ui.hidden_text import count_hidden_words
from rlhf_hitl.ui.highlighting import highlight
from rlhf_hitl.visible import make_visible as make_visible
from rlhf_hitl.visible import show_unseen

#: Characters up to which a text is parsed as Markdown: the worst cases of Markdown grow faster than the text.
MARKDOWN_LIMIT = 30_000
#: Levels of nesting up to which a text is parsed: markdown-it leaves out deeper blocks.
NESTING_LIMIT = 40
#: Characters after which a text is cut, so that the page stays usable.
SHOWN_LIMIT = 200_000
#: Why a text is shown without formatting.
WHY_PLAIN = "Shown as it was written, without formatting, because drawing it takes too long"
#: How the HTML of a text without formatting begins.
PLAIN_OPENING = '<div class="text plain" dir="auto">'

_LONG_OPENING = re.compile(rf"(?:^|\r)([ \t>*+-]{{{NESTING_LIMIT // 2},}})", re.MULTILINE)

# What can be costly although the text is short: code, formulas, and links that do not end.
_COSTLY = re.compile(r"[`~$\\\[<]")
_SHORT = 500  # characters
_CHANGED_SPACE = re.compile(r"[ \t]{2}|\t|[ \t]\n|\n[ \t]|\n\n\n")
_STAR_IN_WORD = re.compile(r"[A-Za-z0-9_)][*][A-Za-z0-9_(]")


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
    hidden_note = _render_hidden_note(count_hidden_words(text, tokens))
    first = md.renderer.render(tokens, md.options, {}) + hidden_note
    if not _has_anything_to_draw(tokens):
        yield _wrap(first, is_complete=True)
        return
    yield _wrap(first, is_complete=False)
    drawn = md.renderer.render(tokens, md.options, {"budget": budget}) + hidden_note
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
    return f"{PLAIN_OPENING}{_render_plain_note()}{html}</div>"


def render_as_written(text: str) -> str:
    """Return a text exactly as it was written: line breaks, spaces at the ends of lines, and what cannot be seen."""
    lines = []
    for line in show_unseen(text[:SHOWN_LIMIT]).split("\n"):
        written = line.rstrip(" \t")
        blanks = line[len(written) :].replace(" ", "·").replace("\t", "→")
        lines.append(escape(written) + (f'<span class="blanks">{blanks}</span>' if blanks else ""))
    html = "\n".join(lines)
    return f'<div class="raw" dir="auto">{html}</div>'


def is_as_written(text: str, html: str) -> bool:
    """Return whether the HTML of a text shows it as it was written, so that the raw view needs nothing else."""
    if show_unseen(text[:SHOWN_LIMIT]) != text[:SHOWN_LIMIT]:
        return False
    if html.startswith(PLAIN_OPENING):
        return True
    if len(text) > MARKDOWN_LIMIT or text != text.strip() or _CHANGED_SPACE.search(text):
        return False
    paragraphs = (escape(paragraph).replace("\n", "<br />\n") for paragraph in text.split("\n\n"))
    return html == _wrap("".join(f'<p dir="auto">{paragraph}</p>\n' for paragraph in paragraphs), is_complete=True)


def render_empty() -> str:
    """Return what stands for a text without anything to see."""
    return f'<div class="text"><p class="note">({render_translated("text_empty", "empty")})</p></div>'


def _render_plain_note() -> str:
    return f'<p class="note unformatted">{render_translated("text_plain", WHY_PLAIN)}</p>'


def _render_partly_note() -> str:
    why = "Some code or formulas are shown as they were written, because drawing them takes too long"
    return f'<p class="note unformatted">{render_translated("text_partly", why)}</p>'


def _render_hidden_note(n: int) -> str:
    text = render_translated("text_hidden", f"Characters that the formatting hides: {n:,}. The raw view shows them", n)
    return f'<p class="note hidden-text">{text}</p>' if n else ""


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
    options = {"html": False, "linkify": False, "breaks": True, "maxNesting": NESTING_LIMIT}
    md = MarkdownIt("commonmark", options)
    md.enable(["table", "strikethrough"])
    add_formulas(md)
    md.inline.ruler.before("emphasis", "product", _keep_star_in_word)
    md.validateLink = _is_web_link  # type: ignore[method-assign]
    md.add_render_rule("fence", _render_fence)
    md.add_render_rule("image", _render_image)
    md.add_render_rule("link_open", _open_link)
    md.add_render_rule("link_close", _close_link)
    for opening in ("paragraph_open", "heading_open", "table_open", "td_open", "th_open"):
        md.add_render_rule(opening, _open_with_direction)
    md.add_render_rule("list_item_open", _open_list_item)
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


def _open_list_item(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    if tokens[i].info:  # the number as it was written: a browser would count on from the first one
        tokens[i].attrSet("value", tokens[i].info)
    return _open_with_direction(self, tokens, i, options, env)


def _keep_star_in_word(state: StateInline, silent: bool) -> bool:
    """Take a single star between two letters or digits as a star: `2*3*4` is a product. Other scripts need the rest."""
    at = state.pos
    if not _STAR_IN_WORD.match(state.src, max(0, at - 1), at + 2) or state.src[at] != "*":
        return False
    if not silent:
        state.pending += "*"
    state.pos += 1
    return True


def _render_fence(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    budget: DrawingBudget | None = env.get("budget")
    language = next(iter(tokens[i].info.split()), "")
    code = highlight(tokens[i].content, language, budget) if language and budget else ""
    name = f' class="language-{escape(language)}"' if language else ""
    return f"<pre><code{name}>{code or escape(tokens[i].content)}</code></pre>\n"
