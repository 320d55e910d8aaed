"""Messages that are more than text, drawn: nothing is lost from sight, nothing runs, nothing grows without bound."""

from __future__ import annotations

import json
import re
import time
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hostile_texts import HOSTILE
from message_examples import call, image_of, look_alike, with_images, with_tools
from rlhf_hitl.types import Comparison, ImagePart, Message, TextPart, Tool
from rlhf_hitl.types.messages import hide_reasoning
from rlhf_hitl.ui.conversation import CardHtml, make_question_excerpt, read_completion, render_card
from rlhf_hitl.ui.hidden_text import count_hidden_words
from rlhf_hitl.ui.json_text import render_json
from rlhf_hitl.ui.markdown import _create_renderer, is_as_written, render_as_written, render_in_stages
from rlhf_hitl.ui.message_blocks import BLOCKS_LIMIT
from rlhf_hitl.ui.rendering import Renderer

TEXT = {"span", "bdi", "code", "pre", "p", "br", "em", "strong"}
ALLOWED = {"article", "h2", "details", "summary", "div", "ul", "li", "button", "img"} | TEXT


@pytest.fixture(autouse=True, scope="module")
def patient_renderer():
    """What draws texts has time for it, however busy the machine is."""
    patience = pytest.MonkeyPatch()
    patience.setattr("rlhf_hitl.ui.conversation.render_texts", Renderer(text_seconds=10, card_seconds=60).render_texts)
    yield
    patience.undo()


def draw(*answers: tuple[Message, ...], prompt: tuple[Message, ...] = (Message("user", "q"),), **more) -> CardHtml:
    return render_card(prompt, answers, lambda id: f"../images/{id}.png?key=k", **more)


def draw_all(comparison: Comparison) -> CardHtml:
    chats = [c.messages for c in comparison.completions]
    return draw(*chats, prompt=comparison.prompt.messages, tools=comparison.prompt.tools)


def seen(html: str) -> str:
    """What is read of HTML where the raw view is off."""
    return unescape(re.sub(r"<[^>]*>", "", re.sub(r'<div class="raw".*?</div>', "", html, flags=re.DOTALL)))


def raw(html: str) -> list[str]:
    written = re.findall(r'<div class="raw"[^>]*>(.*?)</div>', html, re.DOTALL)
    return [unescape(re.sub(r"<[^>]*>", "", part)) for part in written]


def markdown(text: str) -> str:
    return list(render_in_stages(text, 10))[-1]


# --- formatting


def test_line_breaks_stay_and_blocks_stay_blocks():
    assert "Sea<br />\nSun<br />\nWind" in markdown("Sea\nSun\nWind")
    html = markdown("- a\n  b\n- c\n\n|x|y|\n|-|-|\n|1|2|\n\n```\none\ntwo\n```\n\n> q\n> r")
    assert html.count("<li") == 2
    assert html.count("<td") == 2
    assert "one\ntwo" in html
    assert html.count("<br") == 2


@pytest.mark.parametrize("text", ["2*3*4", "a*b*c = abc", "f(x)*(y)*z", "5*5"])
def test_a_product_is_read_as_it_is_written(text):
    assert seen(markdown(text)).strip() == text


def test_emphasis_beside_spaces_and_in_other_scripts_is_one():
    assert "<em>so</em>" in markdown("not *so* much")
    assert "<strong>粗体</strong>" in markdown("中文**粗体**中文")
    assert "<em>斜</em>" in markdown("中文*斜*体")
    assert "<strong>b</strong>" in markdown("a**b**c")


def test_the_numbers_of_a_list_are_those_that_were_written():
    assert re.findall(r'<li value="(\d+)"', markdown("1. a\n1. b\n7. c")) == ["1", "1", "7"]


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("plain *text* with `code` and [a link](http://x.example/long/path)", 0),
        ("# Title\n\n1. one\n2. two\n\n---\n___\n\n> quoted &amp; <b>escaped</b> <!-- seen -->", 0),
        ("|a|b|\n|-|-|\n|1|2|\n\n```python\nreturn 1\n```\n\n    code", 0),
        (r"$x^2$ and $$\frac{a}{b}$$ \(c\) \begin{align}a&=b\end{align}", 0),
        ('x\n\n[note]: http://a.example "words"', len("notehttpaexamplewords")),
        ('[link](http://x.example "words") ![alt](http://y.example "more")', len("wordsmore")),
        ("|a|b|\n|-|-|\n|1|2|cells beyond|", len("cellsbeyond")),
        ("```python title\nx\n```\n\n```nolanguage\ny\n```", len("titlenolanguage")),
        (r"$a\phantom{secret}b$", len("secret")),
    ],
)
def test_what_formatting_hides_is_counted(text, hidden):
    assert count_hidden_words(text, _create_renderer().parse(text)) == hidden
    assert ('data-i18n="text_hidden"' in markdown(text)) == (hidden > 0)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab1 \n\t*_`#>-+|[](){}!\"'\\$~:.&;<\u200b\u202eא中é")), max_size=60))
def test_the_raw_view_has_every_character_of_any_text(text):
    [written] = raw(render_as_written(text))
    for mark, character in (("⟦ZWSP⟧", "\u200b"), ("⟦RLO⟧", "\u202e")):
        written = written.replace(mark, character)
    # Spaces and tabs at the ends of lines are shown by signs that the text does not have.
    lines = [re.sub("[·→]", lambda sign: {"·": " ", "→": "\t"}[sign[0]], line) for line in written.split("\n")]
    assert "\n".join(lines) == text
    if text.strip() and is_as_written(text, markdown(text)):
        assert seen(markdown(text)).strip() == text.strip().replace("\n\n", "\n"), "a paragraph stands for a blank line"


def test_the_raw_view_names_what_cannot_be_seen():
    [written] = raw(render_as_written("a\u200bb\u00a0c \t\r\nd\u202e\ud800"))
    assert written == "a⟦ZWSP⟧b⟦NBSP⟧c \t␍\nd⟦RLO⟧⟦U+D800⟧"
    assert raw(render_as_written("end  "))[0] == "end··"


# --- look-alikes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("It is __init__.", "It is **init**."),
        ("# Title", "**Title**"),
        ("same", "same \u200b"),
        ("Sea\nSun", "Sea Sun"),
        ("x", 'x\n\n[note]: http://a.example "seen by nobody"'),
        ("ﬁne", "fine"),
        ("a" * 40_000 + "\u200b", "a" * 40_000),
        ("`code`", "code"),
        ("p\u0430ypal is fine", "paypal is fine"),
    ],
)
def test_answers_that_show_the_same_words_are_found(first, second):
    answers = [(Message("assistant", text),) for text in (first, second, "another one")]
    assert draw(*answers).alike == [[0, 1]]


def test_what_is_told_apart_or_is_the_same_is_not_warned_of():
    assert draw_all(with_images()).alike == []
    assert draw_all(with_tools()).alike == []
    assert draw((Message("assistant", "a"),), (Message("assistant", "a"),)).alike == []
    assert draw((Message("assistant", "2*3"),), (Message("assistant", "23"),)).alike == []
    one, other = (image_of(Image.new("RGB", (8, 8), colour)) for colour in ("red", "blue"))
    assert draw((Message("assistant", (one,)),), (Message("assistant", (other,)),)).alike == []
    assert draw_all(look_alike()).alike == [[0, 1]]


def test_what_a_guideline_hides_is_compared_without_being_shown():
    written = [
        (Message("assistant", text, reasoning_content=why),) for text, why in (("a", "x"), ("b", "x"), ("a", "y"))
    ]
    hidden = [hide_reasoning(chat) for chat in written]
    card = draw(*hidden, written=written)
    assert (card.alike, card.hidden) == ([], [[0, 2]])
    assert not any("y" in seen(html) for html in card.completions)
    assert draw(*written, written=written).hidden == []
    assert draw(*hidden[:1], *hidden[:1], written=[written[0], written[0]]).hidden == []
    assert draw(*hidden).hidden == []


def test_texts_around_an_image_are_apart_in_an_excerpt():
    picture = image_of(Image.new("RGB", (8, 8), "red"))
    question = Message("user", (TextPart("Here is my sketch:"), picture, TextPart("Paint "), TextPart("it.")))
    assert make_question_excerpt((question, Message("assistant", "No.")), 80) == "Here is my sketch: Paint it."
    assert make_question_excerpt((Message("user", (picture,)),), 80) == ""


# --- tool calls, reasoning


def test_tool_calls_results_reasoning_and_tools_are_all_there():
    card = draw_all(with_tools())
    right, wrong = sorted(card.completions, key=lambda html: "Pack what" in html)
    assert '"<bdi' not in right
    for part in ("They leave on Saturday", "get_weather", '"place": "Lisbon"', "27", "sun cream", "call_1"):
        assert part in seen(right)
    assert '<details class="block reasoning"><summary>' in right
    assert right.count("<code") == 2, "the call and its result name the tool"
    assert 'data-i18n="json_invalid"' in wrong
    assert '{"place": "Lisbon", "people": 2,' in seen(wrong)
    assert 'data-i18n="no_such_call"' in wrong
    assert 'data-i18n="tools_offered" data-count="2"' in card.prompt
    assert "Return the weather of a place on a day." in seen(card.prompt)
    assert all(c.messages[0].tool_calls[0].as_json in "".join(raw(right + wrong)) for c in with_tools().completions)
    assert "secret-policy" not in card.prompt + right + wrong


def test_hidden_reasoning_is_nowhere():
    for completion in with_tools().completions:
        chat = hide_reasoning(completion.messages)
        assert "Saturday" not in draw(chat).completions[0]
        assert "Saturday" not in read_completion(chat)


def test_only_its_length_decides_whether_a_call_is_folded():
    def is_open(arguments: object) -> bool:
        html = draw((Message("assistant", None, tool_calls=(call("f", arguments),)),)).completions[0]
        return '<details class="block call" open' in html

    assert is_open({"a": 1})
    assert not is_open({"text": "x" * 5_000})
    assert not is_open(list(range(100)))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}', '{"n": 1.50e3, "big": 123456789012345678901234567890}', "[]", "{}", '""', "null",
        r'{"a": "x\"y\\n\u0000\ud800"}', '[[], {"k": {}}]', '"\u202e"',
    ],
)  # fmt: skip
def test_json_is_put_on_lines_and_not_changed(text):
    html = render_json(text)
    assert html is not None
    shown = unescape(re.sub(r"<[^>]*>", "", html)).replace("⟦RLO⟧", "\u202e")
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)


def test_json_is_readable():
    html = render_json('{"code": "if x:\\n\\treturn \\"y\\"", "name": "\\u00e9\\u4f60\\ud83d\\ude00"}')
    shown = unescape(re.sub(r"<[^>]*>", "", html or ""))
    assert shown == '{\n  "code": "if x:\n\treturn \\"y\\"",\n  "name": "é你😀"\n}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(json_values, st.booleans())
def test_any_json_is_drawn_with_all_its_tokens(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    html = render_json(text)
    assert html is not None
    assert set(re.findall(r"</?(\w+)", html)) <= {"bdi"}


@pytest.mark.parametrize("text", ["{", "", "{'a': 1}", "nope", '{"a": }', "[" * 100_000, '{"a": 1} x'])
def test_what_is_no_json_is_none(text):
    assert render_json(text) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_hostile_becomes_an_element_in_any_part_of_a_message(name):
    text = HOSTILE[name][:5_000].encode("utf-8", "replace").decode()
    tool = Tool(json.dumps({"name": text, "description": text, "parameters": {text: text}}))
    message = Message(
        "assistant", (TextPart("a"), ImagePart("img_" + "0" * 64, text)), name=text, reasoning_content=text,
        tool_calls=(call(text, text, text), call("f", {text: text})),
    )  # fmt: skip
    result = Message("tool", json.dumps({text: [text]}), tool_call_id=text)
    html = "".join([(card := draw((message, result), tools=(tool,))).prompt, *card.completions])
    without_text = re.sub(r'<div class="text".*?</div>', "", html, flags=re.DOTALL)  # of test_markdown.py
    for tag, attributes in re.findall(r"<(\w+)((?:\s[^<>]*)?)>", without_text):
        assert tag in ALLOWED, tag
        assert not re.search(r"\son\w+\s*=", re.sub(r'"[^"]*"', '""', attributes)), attributes
    assert "\u202e" not in html


@pytest.mark.parametrize(
    "calls",
    [
        [call("f", json.dumps({"x": "y" * 100_000}), f"c{i}") for i in range(200)],
        [call("f", "[" * 900 + "]" * 900, f"c{i}") for i in range(200)],
        [call("f", json.dumps([{"k": [i, str(i)]} for i in range(4_000)]))],
        [call("f", "{" * 100_000), call("f", '"' + "\\u0041" * 20_000 + '"')],
        [call("f", {"a": 1}) for _ in range(2_000)],
        [call("f", "x" * 3_000_000)],
    ],
)
def test_many_and_large_calls_are_bounded_in_time_and_size_and_say_what_is_missing(calls):
    message = Message("assistant", "text", tool_calls=tuple(calls))
    draw((message,))
    begun = time.process_time()
    html = draw((message,)).completions[0]
    assert time.process_time() - begun < 0.6  # 0.1 on a machine that does nothing else
    assert len(html) < 6_000_000
    drawn = html.count('class="block call"')
    missing = len(calls) - drawn
    assert drawn <= BLOCKS_LIMIT
    assert (f'data-i18n="blocks_cut" data-count="{missing}"' in html) == (missing > 0)


def test_images_stand_between_the_texts_and_are_described():
    html = draw(*[c.messages for c in with_images().completions], prompt=with_images().prompt.messages)
    assert re.sub(r"\s+", " ", seen(html.prompt)).strip() == "UserHere is my sketch: Paint it at dusk."
    before, image, after = re.split(r"(<img[^>]*>)", html.prompt)
    assert "sketch" in before
    assert "dusk" in after
    assert 'alt="A pencil sketch of a lighthouse"' in image
    assert re.search(r'src="\.\./images/img_[0-9a-f]{64}\.png\?key=k"', image)
    assert any('data-n="1" data-of="1" alt="Image 1 of 1 in the answer"' in answer for answer in html.completions)


def test_a_name_and_an_unknown_role_are_shown():
    html = draw((Message("critic", "no"), Message("user", "yes", name="Ann <b>"))).completions[0]
    assert "critic" in seen(html)
    assert "Ann <b>" in seen(html)
