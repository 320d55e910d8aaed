r"""Render LaTeX formulas in the text of a policy as MathML, which browsers draw themselves. The text is untrusted.

`$…$`, `$$…$$`, `\(…\)`, `\[…\]` and environments such as `align` are formulas. A formula that is too long, too deep or
not understood, or whose MathML has anything that is not expected there, is shown as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future
from html import escape, unescape
from threading import Lock, Thread, local, stack_size
from typing import Any, TypeVar
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from math_core import LatexError, LatexToMathML
from mdit_py_plugins.dollarmath import dollarmath_plugin

from rlhf_hitl.ui.drawing_budget import DrawingBudget

#: Characters up to which a formula is converted.
FORMULA_LIMIT = 2_000
#: Levels of elements up to which MathML is accepted; each nested fraction adds two or four.
DEPTH_LIMIT = 80
#: Lengths that MathML may use, in em, ex or rem, so that a formula does not cover the text around it.
LONGEST, MOST_NEGATIVE = 10.0, -1.0

#: The kinds of tokens that a formula in a text becomes.
FORMULA_TOKENS = frozenset({"formula", "formula_display", "math_inline", "math_inline_double", "math_block"})

# Bytes. The converter recurses, and a stack overflow would end the whole process. A level takes at least one character
# and at most 3 KB (measured), so this is more than twice what a formula can need. macOS gives a thread 0.5 MB.
_STACK_SIZE = 16 * 2**20
_stack_size_lock = Lock()
_thread = local()

T = TypeVar("T")

# A definition would let a short formula expand without limit.
_DEFINITION = re.compile(r"\\(?:[egx]?def|let|global|(?:new|renew|provide)command)(?![A-Za-z])")
# Equations are not numbered, since the numbers would begin at 1 in each formula.
_NUMBERED_ENVIRONMENT = re.compile(r"(\\(?:begin|end)\s*\{(?:align|equation|gather|multline))\}")
_LABEL = re.compile(r"\\(?:label\s*\{[^{}]*\}|(?:nonumber|notag)(?![A-Za-z]))")
# LaTeX ignores the rest of a line after a bare %, which a reader should still see.
_COMMENT = re.compile(r"(\\.)|%", re.DOTALL)
_NAMED_ENTITY = re.compile(r"&(?!(?:lt|gt|amp|quot|apos);)[A-Za-z]+;")

_TAG = re.compile(
    "math|mrow|mi|mn|mo|ms|mtext|mspace|mfrac|msqrt|mroot|mpadded|mphantom|msub|msup|msubsup|munder|mover|munderover"
    "|mmultiscripts|mprescripts|mtable|mtr|mtd|menclose|b|i|em|code|s|u|span"
)
_ATTRIBUTE = re.compile(
    "display|displaystyle|scriptlevel|mathvariant|stretchy|symmetric|largeop|movablelimits|fence|separator|form|accent"
    "|accentunder|columnalign|columnspan|rowspan|lspace|rspace|minsize|maxsize|width|height|depth|linethickness"
)
_PROPERTY = re.compile(
    "width|margin-(?:left|right)|padding(?:-left|-right|-top|-bottom)?|border-(?:top|left|right)|text-align"
    "|justify-items|font-size|font-variant-caps|color|math-(?:shift|depth)"
)
_VALUE = re.compile(r"[\w\s.#%+-]*")
_LENGTH = re.compile(r"(-?[\d.]+(?:e-?\d+)?)(?:em|ex|rem)")
_NOTATIONS = frozenset({"box", "updiagonalstrike", "downdiagonalstrike"})
_CLASS = re.compile(r"math-core-[a-z-]+|menclose-[a-z]+")


def add_formulas(md: MarkdownIt) -> None:
    """Add formulas to a Markdown renderer."""
    dollarmath_plugin(
        md, allow_labels=False, allow_space=False, allow_digits=False, allow_blank_lines=False, double_inline=True
    )
    md.inline.ruler.before("escape", "formula", _parse_inline)
    md.block.ruler.before("fence", "formula", _parse_block, {"alt": ["paragraph", "reference", "blockquote"]})
    for kind in FORMULA_TOKENS:
        md.add_render_rule(kind, _create_render_rule(display=kind not in ("formula", "math_inline")))


def render_formula(tex: str, display: bool) -> str:
    """Return a formula as HTML, on a line of its own if `display`."""
    math = _to_harmless_mathml(tex, display)
    if math is None:
        return _render_source(tex)
    return f'<span class="math{" display" if display else ""}" dir="ltr">{math}</span>'


def _render_source(tex: str) -> str:
    return f'<code class="tex" dir="ltr">{escape(tex.strip())}</code>'


def _create_render_rule(display: bool) -> Any:
    def render_token(self: Any, tokens: Any, i: int, options: Any, env: Any) -> str:
        budget: DrawingBudget | None = env.get("budget")
        tex = tokens[i].content
        return render_formula(tex, display) if budget and budget.allows_formula() else _render_source(tex)

    return render_token


# --- LaTeX → MathML


def _to_harmless_mathml(tex: str, display: bool) -> str | None:
    """Return the MathML of a formula, or None if it cannot be converted or is not harmless."""
    if len(tex) > FORMULA_LIMIT or _DEFINITION.search(tex):
        return None
    tex = _COMMENT.sub(lambda m: m[1] or r"\%", tex)
    mathml = _convert(_LABEL.sub(" ", _NUMBERED_ENVIRONMENT.sub(r"\1*}", tex)), display)
    if mathml is None:
        return None
    mathml = _NAMED_ENTITY.sub(lambda entity: unescape(entity[0]), mathml)  # XML knows only five of the names
    try:
        tree = ElementTree.fromstring(mathml)  # noqa: S314 - of the converter, which lets no text open a tag
    except ElementTree.ParseError:
        return None
    return mathml if _is_harmless(tree) else None


def _convert(tex: str, display: bool) -> str | None:
    """Convert LaTeX. Return None for LaTeX that is not understood."""

    def convert() -> str | None:
        converter = LatexToMathML(fancy_error=False, allow_unreliable_rendering=True)
        try:
            return converter.convert_with_local_state(tex, displaystyle=display)
        except LatexError:
            return None

    return convert() if getattr(_thread, "has_large_stack", False) else run_with_large_stack(convert)


def run_with_large_stack(function: Callable[[], T]) -> T:
    """Call a function in a thread whose stack is large enough for any formula, and return what it returns."""
    outcome: Future[T] = Future()

    def run() -> None:
        _thread.has_large_stack = True
        try:
            outcome.set_result(function())
        except BaseException as e:
            outcome.set_exception(e)

    thread = Thread(target=run)
    with _stack_size_lock:  # the size is set for every thread created from then on
        previous = stack_size(_STACK_SIZE)
        try:
            thread.start()
        finally:
            stack_size(previous)
    return outcome.result()


def _is_harmless(math: ElementTree.Element) -> bool:
    """Return whether all elements are allowed, none leaves its place, and they are not nested too deep."""
    level, depth = [math], 0
    while level:
        depth += 1
        if depth > DEPTH_LIMIT or not all(map(_is_allowed_element, level)):
            return False
        level = [child for element in level for child in element]
    return True


def _is_allowed_element(element: ElementTree.Element) -> bool:
    return bool(_TAG.fullmatch(element.tag)) and all(
        _is_allowed_attribute(name, value) for name, value in element.items()
    )


def _is_allowed_attribute(name: str, value: str) -> bool:
    if name == "style":
        pairs = [declaration.partition(":") for declaration in value.split(";") if declaration.strip()]
        return all(_PROPERTY.fullmatch(key.strip()) and _stays_in_place(value) for key, _, value in pairs)
    if name == "class":
        return bool(_CLASS.fullmatch(value))
    if name == "notation":
        return _NOTATIONS.issuperset(value.split())
    return bool(_ATTRIBUTE.fullmatch(name)) and _stays_in_place(value)


def _stays_in_place(value: str) -> bool:
    lengths = [float(length) for length in _LENGTH.findall(value)]
    return bool(_VALUE.fullmatch(value)) and all(MOST_NEGATIVE <= length <= LONGEST for length in lengths)


# --- finding formulas in a text

_DELIMITERS = {r"\(": (r"\)", "formula"), r"\[": (r"\]", "formula_display")}


def _parse_inline(state: StateInline, silent: bool) -> bool:
    close, kind = _DELIMITERS.get(state.src[state.pos : state.pos + 2], ("", ""))
    if not close:
        return False
    start = state.pos + 2
    end = state.src.find(close, start, min(state.posMax, start + FORMULA_LIMIT + 2))
    if end < 0 or not state.src[start:end].strip():
        return False
    if not silent:
        state.push(kind, "math", 0).content = state.src[start:end]
    state.pos = end + 2
    return True


_OPENING = re.compile(r"\\\[|\\begin\{((?:align|equation|gather|multline|aligned|gathered|cases|[bpvBV]?matrix)\*?)\}")


def _parse_block(state: StateBlock, line: int, last: int, silent: bool) -> bool:
    begin = state.bMarks[line] + state.tShift[line]
    opening = None if state.is_code_block(line) else _OPENING.match(state.src, begin)
    if opening is None:
        return False
    close = rf"\end{{{opening[1]}}}" if opening[1] else r"\]"
    # The search ends where a formula would be too long: otherwise each of a thousand openings would read to the end.
    limit = min(state.eMarks[last - 1], opening.end() + FORMULA_LIMIT + len(close))
    end = state.src.find(close, opening.end(), limit)
    if end < 0:
        return False
    end += len(close)
    after = line
    while state.eMarks[after] < end:
        after += 1
    if state.src[end : state.eMarks[after]].strip():
        return False
    if not silent:
        text = state.getLines(
            line, after + 1, state.sCount[line], False
        ).strip()  # without the markers of quotes and lists
        token = state.push("formula_display", "math", 0)
        token.block, token.map = True, [line, after + 1]
        token.content = text if opening[1] else text.removeprefix(r"\[").removesuffix(r"\]")
        state.line = after + 1
    return True
