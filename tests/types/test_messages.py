"""Messages are read whole, written whole, and are what their ids are the hash of."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import (
    Comparison,
    Completion,
    ImagePart,
    Message,
    Prompt,
    TextPart,
    messages_to_dicts,
    parse_messages,
    parse_tools,
)
from rlhf_hitl.types.images import read_image

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Graz"}'}}


def as_png(*colour: int, size: tuple[int, int] = (4, 3), format: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour or (1, 2, 3)).save(data, format, **options)
    return data.getvalue()


def test_what_an_address_of_an_image_says_beside_it_is_counted():
    url = "data:image/png;base64," + base64.b64encode(as_png()).decode()
    unread: Counter[str] = Counter()
    parts = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": url, "detail": "high"}}]
    parse_messages([{"role": "user", "content": parts}], unread)
    assert unread == {"part key image_url.detail": 1}


def test_the_id_of_plain_text_is_what_it_has_always_been():
    chat = (Message("user", "Why is the sky blue?"),)
    assert Prompt.create(chat).id == "p_8f6118756eff7df0da449822"
    assert messages_to_dicts(chat) == [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.mark.parametrize(
    "raw",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
        {"role": "assistant", "content": "4", "reasoning_content": "two and two"},
        {"role": "tool", "content": "12 C", "tool_call_id": "c1", "name": "weather"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"z": 1, "a": [2, None]}}]},
        {"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": "f", "arguments": "{not json"}}]},
    ],
)
def test_a_message_is_written_as_it_was_read(raw):
    (message,) = parse_messages([raw])
    assert message.to_plain() == raw
    for call, raw_call in zip(message.tool_calls, raw.get("tool_calls", [])):
        assert json.dumps(call.to_plain()) == json.dumps(raw_call)  # the order of keys too, which a template shows
    assert parse_messages([message.to_plain()]) == (message,)


def test_null_keys_are_not_there_and_other_names_are_read():
    raw = {"role": "assistant", "content": "4", "tool_calls": None, "name": None, "reasoning": "I guess"}
    assert parse_messages([raw])[0].to_plain() == {"role": "assistant", "content": "4", "reasoning_content": "I guess"}
    assert parse_messages([{"role": "assistant", "tool_calls": [CALL]}])[0].content is None


def test_one_part_of_text_is_the_text():
    assert parse_messages([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]) == (Message("user", "Hi"),)


def test_what_is_not_read_is_counted_or_refused():
    raw = [{"role": "user", "content": "Hi", "weight": 1, "refusal": None}]
    unread: Counter[str] = Counter()
    assert parse_messages(raw, unread) == (Message("user", "Hi"),)
    assert unread == {"message key weight": 1}
    with pytest.raises(BadInput, match="weight"):
        parse_messages(raw)


@pytest.mark.parametrize(
    "raw",
    [
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "user", "content": [{"type": "audio", "audio": "…"}]}],
        [{"role": "user", "content": "x", "name": 3}],
        [{"role": "assistant", "content": "x", "tool_calls": "[["}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"function": {}}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"name": "f", "arguments": {"n": float("nan")}}]}],
        "text",
        3,
        {"role": "user", "content": "x"},
    ],
)
def test_other_messages_are_refused_in_a_line(raw):
    with pytest.raises(BadInput) as e:
        parse_messages(raw)
    assert "\n" not in str(e.value)
    assert "Fix: " in str(e.value)


def test_completions_that_differ_only_in_a_call_or_a_thought_are_two():
    prompt = Prompt.create((Message("user", "Weather?"),))
    sides = [
        [{"role": "assistant", "content": "", "tool_calls": [{"name": "w", "arguments": {"a": 1, "b": 2}}]}],
        [{"role": "assistant", "content": "", "tool_calls": [{"name": "w", "arguments": {"b": 2, "a": 1}}]}],
        [{"role": "assistant", "content": "", "reasoning_content": "hm"}],
    ]
    completions = [Completion.create(prompt.id, parse_messages(side), "p") for side in sides]
    assert len({c.id for c in completions}) == 3
    assert len(Comparison.create(prompt, completions).completions) == 3


def test_tools_are_part_of_a_prompt():
    chat = (Message("user", "Weather?"),)
    tools = parse_tools([{"type": "function", "function": {"name": "w", "parameters": {"z": 1, "a": 2}}}])
    assert Prompt.create(chat, tools=tools).id != Prompt.create(chat).id
    assert parse_tools(json.dumps([t.to_plain() for t in tools])) == tools
    assert parse_tools(None) == parse_tools("") == ()
    for bad in ("[", "{}", [3], 3):
        with pytest.raises(BadInput):
            parse_tools(bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
arguments = st.text() | st.dictionaries(st.text(), json_values)
calls = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.text(), "arguments": arguments})},
    optional={"id": st.text(), "type": st.just("function")},
)
parts = st.fixed_dictionaries({"type": st.just("text"), "text": st.text()})
messages = st.fixed_dictionaries(
    {"role": st.text(), "content": st.text() | st.lists(parts, min_size=2, max_size=4)},
    optional={
        "tool_calls": st.lists(calls, min_size=1, max_size=3),
        "name": st.text(min_size=1),
        "tool_call_id": st.text(min_size=1),
        "reasoning_content": st.text(min_size=1),
    },
)


@given(st.lists(messages, min_size=1, max_size=3))
def test_every_message_comes_back_and_is_one_with_itself(raw):
    chat = parse_messages(raw)
    assert messages_to_dicts(chat) == raw
    assert parse_messages(json.loads(json.dumps(messages_to_dicts(chat)))) == chat


def test_an_image_is_its_pixels():
    id, png = read_image(as_png())
    assert read_image(png) == (id, png)
    assert read_image("data:image/png;base64," + base64.b64encode(as_png()).decode())[0] == id
    assert read_image({"bytes": as_png(), "path": "/etc/passwd"})[0] == id
    assert read_image(as_png(format="WEBP", lossless=True))[0] == id
    assert read_image(as_png(format="BMP"))[0] == id
    assert read_image(as_png(1, 2, 4))[0] != id
    assert read_image(as_png(size=(3, 4)))[0] != id


def test_metadata_goes_and_the_orientation_stays():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"  # turned by 90°, and a description
    _, png = read_image(as_png(format="JPEG", exif=exif))
    assert b"secret" in as_png(format="JPEG", exif=exif)
    assert b"secret" not in png
    assert Image.open(io.BytesIO(png)).size == (3, 4)


@pytest.mark.parametrize(
    "value",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "http://10.0.0.1/x.png",
        "https://example.com/x.png",
        "cat.png",
        {"bytes": None, "path": "/etc/passwd"},
        {"path": "http://169.254.169.254/latest"},
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(),
        b"",
        3,
        as_png()[:50],
    ],
)
def test_what_is_no_image_in_the_file_itself_is_refused_and_never_fetched(value):
    with pytest.raises(BadInput) as e:
        read_image(value)
    assert "\n" not in str(e.value)


def test_a_bomb_is_refused_before_it_is_unpacked():
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 2**20
    with pytest.raises(BadInput, match="pixels: expected at most"):
        read_image(bomb.getvalue())


def test_what_of_an_image_is_not_kept_is_counted():
    unread: Counter[str] = Counter()
    frames, deep = io.BytesIO(), io.BytesIO()
    first, *rest = (Image.new("RGB", (2, 2), (i * 40, 0, 0)) for i in range(3))
    first.save(frames, "GIF", save_all=True, append_images=rest)
    read_image(frames.getvalue(), unread)
    Image.new("I;16", (2, 2), 40_000).save(deep, "PNG")
    _, png = read_image(deep.getvalue(), unread)
    assert unread == {
        "frames of an animated image after the first": 2,
        "bits of an image beyond 8 a channel": 1,
    }
    assert Image.open(io.BytesIO(png)).getpixel((0, 0)) == 40_000 * 255 // 65_535


def test_one_question_about_two_images_is_two_families():
    def ask(*colour: int) -> Prompt:
        data = base64.b64encode(as_png(*colour)).decode()
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "image": data, "alt": "a colour"}]
        return Prompt.create(parse_messages([{"role": "user", "content": parts}]))

    assert ask(9, 9, 9).family != ask(8, 8, 8).family
    assert ask(9, 9, 9) == ask(9, 9, 9)
    image = ask(9, 9, 9).messages[0].images[0]
    assert isinstance(image, ImagePart)
    assert (image.alt, image.png is None) == ("a colour", False)
    assert isinstance((ask(9, 9, 9).messages[0].content or ())[0], TextPart)
