"""Hostile text rendered: nothing runs, nothing is fetched, nothing is lost from sight."""

from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest

from rlhf_hitl.ui.markdown import MARKDOWN_LIMIT, SHOWN_LIMIT, render

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><a xlink:href='javascript:alert(1)'>x</a></svg>",
    "<iframe src=//evil.example></iframe><object data=x></object><embed src=x>",
    "<style>*{display:none}</style><link rel=stylesheet href=//evil.example>",
    "<base href=//evil.example><meta http-equiv=refresh content=0>",
    "[click](javascript:alert(1)) [click](JaVaScRiPt:alert(1)) [click](java\nscript:alert(1))",
    "[click](&#106;avascript:alert(1)) [click](data:text/html,x) [click](vbscript:x) [click](file:///etc/passwd)",
    "[click](//evil.example/x) [click](/logout) [click](#x) [mail](mailto:a@b.example)",
    "![beacon](https://evil.example/pixel.png) ![b](data:image/svg+xml,<svg/onload=alert(1)>)",
    '[x](https://evil.example/"onmouseover="alert(1))',
    "[x](https://evil.example 'title\" onclick=alert(1)')",
    "![x][ref]\n\n[ref]: https://evil.example/p.png",
    "<https://evil.example/'onclick='alert(1)>",
    '```"><script>alert(1)</script>\ncode\n```',
    "```html\n<script>alert(1)</script>\n```",
    "`<script>alert(1)</script>`",
    "| <script> | [x](javascript:x) |\n|---|---|\n| <img src=x onerror=x> | ![b](http://evil.example) |",
    "<!-- comment --> <![CDATA[ x ]]> <?php x ?>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "</div></div></section></main><form action=//evil.example>",
    "${alert(1)} {{constructor.constructor('alert(1)')()}} @children",
]
INLINE = {"em", "strong", "s", "code", "span", "a", "bdi", "br"}
BLOCKS = {"div", "p", "hr", "pre", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td"}
INLINE = {"em", "strong", "s", "code", "span", "a", "bdi", "br"}
BLOCKS = {"div", "p", "hr", "pre", "ul", "ol", "li", "blockquote", "table", "thead", "tbody", "tr", "th", "td"}
ALLOWED = INLINE | BLOCKS | {f"h{n}" for n in range(1, 7)}


class Seen(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.depth, self.text = [], [], 0, ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        self.depth += tag not in ("br", "hr")

    def handle_endtag(self, tag):
        self.depth -= 1
        assert self.depth >= 0, "nothing closes what was opened outside"

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_only_harmless_elements_and_attributes_come_out(text):
    seen = Seen(render(text))
    assert set(seen.tags) <= ALLOWED
    assert seen.depth == 0
    for tag, name, value in seen.attributes:
        assert name in ("class", "dir", "href", "rel", "target", "start", "style"), (tag, name)
        if name == "href":
            assert value.lower().startswith(("http://", "https://"))
        if name == "style":
            assert value.startswith("text-align:")


def test_a_link_opens_elsewhere_tells_nothing_and_says_where_it_leads():
    html = render("[my bank](https://evil.example/login)")
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'target="_blank"' in html
    assert "(evil.example)" in html


def test_an_image_is_shown_as_text_with_its_address():
    assert "[image: a cat — https://pics.example/cat.png]" in render("![a cat](https://pics.example/cat.png)")


def test_direction_overrides_are_shown_and_every_block_settles_its_own():
    html = render("abc \u202e txt.exe\n\nשלום")
    assert "\u202e" not in html
    assert "⟦RLO⟧" in html
    assert html.count('dir="auto"') >= 3


@pytest.mark.parametrize("text", ["", "   \n", "\x00", "\ud800 broken"])
def test_empty_and_broken_text_is_shown_as_something(text):
    html = render(text)
    html.encode()
    assert Seen(html).text.strip()


def test_ten_megabytes_on_one_line_are_cut_and_said_so():
    html = render("x" * 10_000_000)
    assert len(html) < SHOWN_LIMIT + 1000
    assert "9,800,000 more characters are not shown" in html


@pytest.mark.parametrize("piece", ["[", "![", "*a ", "`a``", "_*", "> ", "- ", "<a ", "[a](", "|a", "\\", "&", "\n#"])
def test_no_text_takes_long(piece):
    start = time.process_time()
    render(piece * (MARKDOWN_LIMIT // len(piece)))
    assert time.process_time() - start < 5


def test_markdown_is_rendered():
    html = render("# Title\n\n1. one\n2. **two**\n\n|a|b|\n|-|-|\n|1|2|\n\n```python\nreturn 1\n```")
    for part in ("<h1", "<ol>", "<strong>two</strong>", "<table>", '<span class="k">return</span>'):
        assert part in html


@pytest.mark.parametrize("mark", [">", "> ", "- "])
def test_what_is_nested_too_deeply_is_shown_plainly_and_not_dropped(mark):
    assert "the point" in render(mark * 60 + "the point")
