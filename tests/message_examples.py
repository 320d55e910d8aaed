"""Comparisons whose messages are more than text: tool calls, reasoning, images, and texts that look alike."""

from __future__ import annotations

import json
from io import BytesIO

from PIL import Image, ImageDraw

from rlhf_hitl.types import Comparison, Completion, ImagePart, Message, Prompt, TextPart, Tool, ToolCall
from rlhf_hitl.types.images import read_image

WEATHER = Tool(
    json.dumps(
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Return the weather of a place on a day.",
                "parameters": {
                    "type": "object",
                    "properties": {"place": {"type": "string"}, "day": {"type": "string", "format": "date"}},
                    "required": ["place"],
                },
            },
        }
    )
)
BOOK = Tool('{"type": "function", "function": {"name": "book_table", "description": "Book a table in a restaurant."}}')


def call(name: str, arguments: object, id: str = "") -> ToolCall:
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    plain = {"type": "function", "function": {"name": name, "arguments": written}}
    return ToolCall(json.dumps(({"id": id} if id else {}) | plain, ensure_ascii=False))


def compare(
    prompt: tuple[Message, ...], *answers: tuple[Message, ...], tools: tuple[Tool, ...] = (), overlap: int = 1
) -> Comparison:
    asked = Prompt.create(prompt, tools=tools)
    completions = [Completion.create(asked.id, answer, f"secret-policy-{i}") for i, answer in enumerate(answers)]
    return Comparison.create(asked, completions, overlap)


def with_tools(overlap: int = 1) -> Comparison:
    """A question for which one policy looked up the weather, and another one called the wrong tool."""
    found = {
        "place": "Lisbon",
        "day": "2026-06-06",
        "sky": "clear",
        "high": 27,
        "low": 17,
        "wind": {"from": "NW", "kmh": 18},
    }
    thought = "They leave on Saturday. I should look up the weather first, and only then say what to pack."
    return compare(
        (Message("user", "I am off to Lisbon on Saturday, for two days. What should I pack?"),),
        (
            Message(
                "assistant", None, reasoning_content=thought,
                tool_calls=(call("get_weather", {"place": "Lisbon", "day": "2026-06-06"}, "call_1"),),
            ),
            Message("tool", json.dumps(found), tool_call_id="call_1"),
            Message("assistant", "It will be **clear**, 17 to 27 °C.\n\n- light clothes\n- a jacket\n- sun cream"),
        ),
        (
            Message(
                "assistant", "I will see to your dinner first.",
                tool_calls=(call("book_table", '{"place": "Lisbon", "people": 2,', "call_7"),),
            ),
            Message("tool", "error: the arguments could not be read", name="book_table", tool_call_id="call_8"),
            Message("assistant", "Pack what you like."),
        ),
        tools=(WEATHER, BOOK),
        overlap=overlap,
    )  # fmt: skip


def draw_lighthouse(tilt: int, size: tuple[int, int] = (960, 640)) -> Image.Image:
    """A lighthouse at dusk, more or less upright."""
    width, height = size
    picture = Image.new("RGB", size)
    draw = ImageDraw.Draw(picture)
    for y in range(height):
        share = y / height
        draw.line([(0, y), (width, y)], fill=(int(40 + 200 * share), int(50 + 90 * share), int(110 + 20 * share)))
    draw.rectangle([0, int(height * 0.72), width, height], fill=(24, 48, 78))
    for i in range(9):
        y = int(height * 0.75) + i * 18
        draw.line([(i * 37 % 90, y), (width - i * 53 % 120, y)], fill=(46, 84, 124), width=3)
    foot, top = width // 2, width // 2 + tilt
    draw.polygon(
        [
            (foot - 190, height * 0.78),
            (foot + 210, height * 0.78),
            (foot + 90, height * 0.68),
            (foot - 110, height * 0.68),
        ],
        fill=(38, 34, 40),
    )
    draw.polygon(
        [(foot - 52, height * 0.7), (foot + 52, height * 0.7), (top + 30, height * 0.24), (top - 30, height * 0.24)],
        fill=(240, 236, 228),
    )
    for i in range(3):
        at, high = foot + tilt * (0.2 + i * 0.3), height * (0.6 - i * 0.13)
        draw.rectangle([at - 44 + i * 5, high, at + 44 - i * 5, high + 34], fill=(196, 52, 46))
    draw.rectangle([top - 24, height * 0.16, top + 24, height * 0.24], fill=(255, 226, 120))
    draw.polygon([(top - 34, height * 0.16), (top + 34, height * 0.16), (top, height * 0.09)], fill=(120, 30, 28))
    draw.polygon([(top, height * 0.2), (width, height * 0.06), (width, height * 0.2)], fill=(255, 236, 170))
    return picture


def image_of(picture: Image.Image, alt: str = "") -> ImagePart:
    data = BytesIO()
    picture.save(data, "PNG")
    id, png = read_image(data.getvalue())
    return ImagePart(id, alt, png)


def with_images(overlap: int = 1) -> Comparison:
    """A question with an image, and answers with one each."""
    sketch = Image.new("RGB", (420, 300), (250, 248, 242))
    pen = ImageDraw.Draw(sketch)
    pen.polygon([(180, 240), (240, 240), (226, 90), (194, 90)], outline=(40, 40, 60), width=3)
    pen.rectangle([196, 62, 224, 90], outline=(40, 40, 60), width=3)
    pen.line([(20, 244), (400, 240)], fill=(40, 40, 60), width=3)
    drawn = image_of(sketch, "A pencil sketch of a lighthouse")
    return compare(
        (Message("user", (TextPart("Here is my sketch:"), drawn, TextPart("Paint it at dusk."))),),
        (Message("assistant", (TextPart("At dusk, with its light on:"), image_of(draw_lighthouse(0)))),),
        (Message("assistant", (image_of(draw_lighthouse(130), "A leaning lighthouse"), TextPart("Here you are."))),),
        overlap=overlap,
    )  # fmt: skip


def look_alike(overlap: int = 1) -> Comparison:
    """Two answers that read the same on the page, one of them with a line that only a model sees."""
    return compare(
        (Message("user", "Name Python's constructor,\nand say what 2*3*4 is."),),
        (Message("assistant", "It is __init__, and 2*3*4 is 24."),),
        (
            Message(
                "assistant",
                'It is **init**, and 2*3*4 is 24.\n\n[note]: http://a.example "text that only the model sees"',
            ),
        ),
        overlap=overlap,
    )
