"""Code in colours, by the lexers of Pygments. A lexer may take hours for a few thousand characters: see the budget."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import Any

from rlhf_hitl.ui.drawing_budget import DrawingBudget

#: Characters up to which code is highlighted.
HIGHLIGHT_LIMIT = 20_000
_TOKENS_AT_ONCE = 50  # between two looks at the clock

#: Languages that are loaded before the first text that uses them: those most seen in answers of language models.
COMMON_LANGUAGES = (
    "python", "javascript", "bash", "json", "html", "css", "typescript", "sql", "java", "c", "cpp", "csharp", "go",
    "rust", "yaml", "xml", "php", "ruby", "kotlin", "swift", "r", "latex", "markdown", "diff", "jsx", "console",
)  # fmt: skip


def highlight(code: str, language: str, budget: DrawingBudget) -> str:
    """Return the code with spans of Pygments, or "" where it knows no such language or the budget is exceeded."""
    lexer = find_lexer(language.lower())
    if lexer is None or not budget.allows(len(code), HIGHLIGHT_LIMIT):
        return ""
    html: list[str] = []
    for i, (kind, code_part) in enumerate(lexer.get_tokens(code)):
        if i % _TOKENS_AT_ONCE == 0 and not budget.allows():
            return ""
        css_class = _find_css_class(kind)
        html.append(f'<span class="{css_class}">{escape(code_part)}</span>' if css_class else escape(code_part))
    return "".join(html)


@cache
def _find_css_class(kind: Any) -> str:
    """Return the class by which the styles of Pygments know a kind of token, that of a broader kind if need be."""
    from pygments.token import STANDARD_TYPES

    while kind not in STANDARD_TYPES:
        kind = kind.parent
    return STANDARD_TYPES[kind]


@cache
def find_lexer(alias: str) -> Any:
    """Return the lexer of a language, None if Pygments brings none.

    `pygments.lexers.get_lexer_by_name` also looks through all installed packages for a name it does not know, which
    takes longer than drawing a text.
    """
    from pygments.lexers import find_lexer_class

    name = _list_lexers().get(alias)
    lexer_class = find_lexer_class(name) if name else None
    return lexer_class(stripnl=False) if lexer_class else None


@cache
def _list_lexers() -> dict[str, str]:
    """Return the name of each lexer by its aliases, the first that claims an alias first."""
    from pygments.lexers import get_all_lexers

    lexers: dict[str, str] = {}
    for name, aliases, _, _ in get_all_lexers(plugins=False):
        for alias in aliases:
            lexers.setdefault(alias.lower(), name)
    return lexers


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
