r"""Formulas a policy wrote in LaTeX → MathML, which browsers draw themselves. As hostile as the rest of a text.

`$…$`, `$$…$$`, `\(…\)`, `\[…\]` and environments such as `align` are formulas. One that is too long, too deep or not
understood, or whose MathML has anything that is not expected there, is shown as it was written.
"""

from __future__ import annotations

import re
from contextlib import suppress
from html import escape, unescape
from threading import Lock, Thread, stack_size
from typing import Any
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from math_core import LatexError, LatexToMathML
from mdit_py_plugins.dollarmath import dollarmath_plugin

#: Characters of one formula.
FORMULA_LIMIT = 2_000
#: Elements in each other in a formula's MathML; a fraction in a fraction is two or four deeper.
DEPTH_LIMIT = 80
#: Formulas of one text. Further ones are shown as they were written.
FORMULAS_LIMIT = 300
#: Lengths a formula may ask for, in its own or the page's font size: it stays where it stands.
LONGEST, MOST_NEGATIVE = 10.0, -1.0

# The converter recurses, and running out of stack would end the whole process. A level takes a character at least and
# 3 KB at most (measured), so this is more than twice what a formula can ask for. macOS gives a thread 0.5 MB.
_STACK = 16 * 2**20
_stack_size = Lock()

# A definition would let a short formula grow without end.
_DEFINES = re.compile(r"\\(?:[egx]?def|let|global|(?:new|renew|provide)command)(?![A-Za-z])")
# Equations would be numbered from 1 in each formula, so they are not.
_NUMBERED = re.compile(r"(\\(?:begin|end)\s*\{(?:align|equation|gather|multline))\}")
_LABEL = re.compile(r"\\(?:label\s*\{[^{}]*\}|(?:nonumber|notag)(?![A-Za-z]))")
# After a bare % LaTeX sees no more of the line. A reader should.
_COMMENT = re.compile(r"(\\.)|%", re.DOTALL)
_NAMED = re.compile(r"&(?!(?:lt|gt|amp|quot|apos);)[A-Za-z]+;")

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
    """Teach a Markdown renderer to see formulas."""
    dollarmath_plugin(
        md, allow_labels=False, allow_space=False, allow_digits=False, allow_blank_lines=False, double_inline=True
    )
    md.inline.ruler.before("escape", "formula", _inline)
    md.block.ruler.before("fence", "formula", _block, {"alt": ["paragraph", "reference", "blockquote"]})
    for kind in ("formula", "formula_display", "math_inline", "math_inline_double", "math_block"):
        md.add_render_rule(kind, _rule(display=kind not in ("formula", "math_inline")))


def formula(tex: str, display: bool) -> str:
    """A formula as HTML, on a line of its own if `display`."""
    math = _mathml(tex, display)
    if math is None:
        return _source(tex)
    return f'<span class="math{" display" if display else ""}" dir="ltr">{math}</span>'


def _source(tex: str) -> str:
    return f'<code class="tex" dir="ltr">{escape(tex.strip())}</code>'


def _rule(display: bool) -> Any:
    def show(self: Any, tokens: Any, i: int, options: Any, env: Any) -> str:
        env["formulas"] = env.get("formulas", 0) + 1
        tex = tokens[i].content
        return formula(tex, display) if env["formulas"] <= FORMULAS_LIMIT else _source(tex)

    return show


# --- LaTeX → MathML


def _mathml(tex: str, display: bool) -> str | None:
    if len(tex) > FORMULA_LIMIT or _DEFINES.search(tex):
        return None
    tex = _COMMENT.sub(lambda m: m[1] or r"\%", tex)
    made = _convert(_LABEL.sub(" ", _NUMBERED.sub(r"\1*}", tex)), display)
    if made is None:
        return None
    made = _NAMED.sub(lambda entity: unescape(entity[0]), made)  # XML knows five names only
    try:
        tree = ElementTree.fromstring(made)  # noqa: S314 - made by the converter, in which no text opens a tag
    except ElementTree.ParseError:
        return None
    return made if _is_harmless(tree) else None


def _convert(tex: str, display: bool) -> str | None:
    made: list[str] = []

    def convert() -> None:
        converter = LatexToMathML(fancy_error=False, allow_unreliable_rendering=True)
        with suppress(LatexError):
            made.append(converter.convert_with_local_state(tex, displaystyle=display))

    thread = Thread(target=convert)
    with _stack_size:  # it is set for all threads to come
        before = stack_size(_STACK)
        try:
            thread.start()
        finally:
            stack_size(before)
    thread.join()
    return made[0] if made else None


def _is_harmless(math: ElementTree.Element) -> bool:
    """Whether all of it is known, stays in its place and is not too deep."""
    level, depth = [math], 0
    while level:
        depth += 1
        if depth > DEPTH_LIMIT or not all(map(_is_known, level)):
            return False
        level = [child for element in level for child in element]
    return True


def _is_known(element: ElementTree.Element) -> bool:
    return bool(_TAG.fullmatch(element.tag)) and all(_is_fine(name, value) for name, value in element.items())


def _is_fine(name: str, value: str) -> bool:
    if name == "style":
        pairs = [declaration.partition(":") for declaration in value.split(";") if declaration.strip()]
        return all(_PROPERTY.fullmatch(key.strip()) and _stays(value) for key, _, value in pairs)
    if name == "class":
        return bool(_CLASS.fullmatch(value))
    if name == "notation":
        return _NOTATIONS.issuperset(value.split())
    return bool(_ATTRIBUTE.fullmatch(name)) and _stays(value)


def _stays(value: str) -> bool:
    lengths = [float(length) for length in _LENGTH.findall(value)]
    return bool(_VALUE.fullmatch(value)) and all(MOST_NEGATIVE <= length <= LONGEST for length in lengths)


# --- where formulas are

_PAIRS = {r"\(": (r"\)", "formula"), r"\[": (r"\]", "formula_display")}


def _inline(state: StateInline, silent: bool) -> bool:
    close, kind = _PAIRS.get(state.src[state.pos : state.pos + 2], ("", ""))
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


def _block(state: StateBlock, line: int, last: int, silent: bool) -> bool:
    begin = state.bMarks[line] + state.tShift[line]
    opening = None if state.is_code_block(line) else _OPENING.match(state.src, begin)
    if opening is None:
        return False
    close = rf"\end{{{opening[1]}}}" if opening[1] else r"\]"
    # Looked for no further than a formula may be long: otherwise a thousand openings would each read to the end.
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
        ).strip()  # without the marks of quotes and lists
        token = state.push("formula_display", "math", 0)
        token.block, token.map = True, [line, after + 1]
        token.content = text if opening[1] else text.removeprefix(r"\[").removesuffix(r"\]")
        state.line = after + 1
    return True
