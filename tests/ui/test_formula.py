"""Formulas in completions: drawn where they are meant, shown as written where they cannot be drawn."""

from __future__ import annotations

from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_hitl.ui.drawing_budget import FORMULAS_LIMIT
from rlhf_hitl.ui.formula import FORMULA_LIMIT, render_formula
from rlhf_hitl.ui.rendering import Renderer

render = Renderer(text_seconds=10, card_seconds=60).render  # however busy the machine is


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("the area $\\pi r^2$ of it", "<msup><mi>r</mi><mn>2</mn></msup>"),
        (r"so \(a_1\) is", "<msub><mi>a</mi><mn>1</mn></msub>"),
        ("$$\\frac{1}{2}$$", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        ("\\[\n\\sqrt{x}\n\\]", "<msqrt><mi>x</mi></msqrt>"),
        ("> \\[\n> \\sqrt{x}\n> \\]", "<msqrt><mi>x</mi></msqrt>"),
        ("- item\n\n  $$\n  \\sqrt{x}\n  $$", "<msqrt><mi>x</mi></msqrt>"),
        ("Hence\n\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}\nholds.", "<mtable"),
        (r"$\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}$", "<mtable"),
        (r"\begin{equation}\label{eq:1} x = y \end{equation}", "<mi>x</mi>"),
    ],
)
def test_a_formula_is_drawn(text, part):
    html = render(text)
    assert part in html
    assert "$" not in html
    assert "\\" not in html


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 today and $6 tomorrow.",
        "From $5–$10, or US$20.",
        "`$x^2$` and \\$x^2\\$",
        "```\n\\[ x \\]\n$$y$$\n```",
        "    \\[ x \\]",
        r"a \[ that never ends",
        r"an empty \(\) one",
    ],
)
def test_what_is_no_formula_stays_words(text):
    html = render(text)
    assert "<math" not in html
    assert 'class="tex"' not in html


@pytest.mark.parametrize(
    "tex",
    [
        "x" * (FORMULA_LIMIT + 1),
        r"\frac{" * 100 + "1" + "}{2}" * 100,
        r"\def\a{\a\a}\a",
        r"\newcommand{\a}{\a\a}\a",
        r"\nosuchcommand{x}",
        r"\rule{900em}{900em}",
        r"\hspace{-20em}x",
        r"\frac{1}{",
        r"\href{javascript:owned()}{x}",
    ],
)  # fmt: skip
def test_one_that_cannot_be_drawn_is_shown_as_it_was_written(tex):
    html = render_formula(tex, False)
    assert "<math" not in html
    assert unescape(html).removesuffix("</code>").endswith(tex)


def test_formulas_beyond_the_limit_are_shown_as_written():
    html = render("$x$ " * (FORMULAS_LIMIT + 5))
    assert html.count("<math") == FORMULAS_LIMIT
    assert html.count('class="tex"') == 5


def test_text_within_a_formula_is_text():
    assert "<b>" not in render_formula(r"\text{<b>bold</b>}", False)


_PIECES = r"""{ } ( ) [ ] ^ _ & \\ x 1 + < > \ \frac \sqrt \left( \right) \left. \right| \begin{cases} \end{cases}
\begin{matrix} \end{matrix} \text{ \not \sum \limits \color{red} \hat \underbrace \overset \binom \mathbb \hspace{1em} '
\prime \operatorname{"""
PIECES = st.lists(st.sampled_from(_PIECES.split()), max_size=300)


@settings(max_examples=300, deadline=None)
@given(PIECES)
def test_nothing_that_looks_like_latex_brings_the_server_down(pieces):
    html = render_formula(" ".join(pieces), True)
    assert html.startswith(("<span class=", "<code class="))
