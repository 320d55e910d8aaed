"""Draw the pictures of the two examples, and write the files that hold them.

    python docs/draw_examples.py

Everything is drawn: no photograph, no person and no patient is in it. The texts of the answers were written for the
examples by a language model, and no expert has looked at them.
"""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).parent.parent / "configs" / "examples"
SIZE = 384


def main() -> None:
    write(HERE / "moderation", MODERATION, SHOP_POLICY)
    write(HERE / "radiographs", RADIOGRAPHS, "")


# The pictures.


def draw_poster(title: str, line: str, small: str, colour: str) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), "#f4f1ea")
    draw = ImageDraw.Draw(image)
    draw.rectangle((24, 24, SIZE - 24, SIZE - 24), fill=colour)
    draw.rectangle((36, 36, SIZE - 36, SIZE - 36), outline="white", width=3)
    write_centred(draw, 110, title, 40, "white")
    write_centred(draw, 200, line, 26, "white")
    write_centred(draw, 300, small, 18, "white")
    return image


def draw_bicycle() -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), "#dcebf5")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 290, SIZE, SIZE), fill="#b9c9a5")
    for x in (110, 274):
        draw.ellipse((x - 62, 208, x + 62, 332), outline="#222", width=7)
        draw.ellipse((x - 5, 265, x + 5, 275), fill="#222")
    frame = [(110, 270), (160, 190), (240, 190), (274, 270), (190, 270), (160, 190)]
    draw.line([*frame, (190, 270), (240, 190), (254, 160)], fill="#b3261e", width=8, joint="curve")
    draw.line([(110, 270), (190, 270)], fill="#b3261e", width=8)
    draw.line([(236, 158), (272, 158)], fill="#222", width=8)
    draw.line([(140, 172), (180, 172)], fill="#222", width=10)
    draw.line([(160, 190), (158, 172)], fill="#222", width=6)
    return image


def draw_knife() -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), "#e9e4dc")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((40, 70, 344, 314), 18, fill="#c79a63", outline="#8a6a42", width=5)
    draw.polygon([(80, 205), (235, 165), (250, 205)], fill="#d9dde1", outline="#7b8187")
    draw.rounded_rectangle((246, 175, 330, 210), 8, fill="#2b2b2b")
    for x, colour in ((95, "#d64534"), (130, "#d64534"), (165, "#e8a33d")):
        draw.ellipse((x, 235, x + 42, 277), fill=colour)
    write_centred(draw, 345, "Kitchen knife, 20 cm", 20, "#333")
    return image


def draw_card() -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), "#ece7df")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((40, 105, 344, 290), 16, fill="#27496d")
    draw.rounded_rectangle((64, 145, 112, 180), 6, fill="#d8b760")
    font = load_font(24)
    draw.text((64, 205), "0000 1111 2222 3333", fill="white", font=font)
    draw.text((64, 245), "A. EXAMPLE   09/29", fill="white", font=load_font(18))
    return image


def draw_chest(finding: str, seed: int) -> Image.Image:
    """Draw what looks like a radiograph of a chest, with one finding or none."""
    image = Image.new("L", (SIZE, SIZE), 18)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((28, 40, 356, 400), 90, fill=92)  # soft tissue
    for left, right in ((70, 178), (206, 314)):
        draw.ellipse((left, 78, right, 330), fill=38)  # lungs
    image = image.filter(ImageFilter.GaussianBlur(9))
    light = Image.new("L", (SIZE, SIZE), 0)
    draw = ImageDraw.Draw(light)
    draw.rectangle((182, 30, 202, 380), fill=95)  # spine
    wide = 44 if finding == "large heart" else 0
    draw.ellipse((160 - wide // 2, 190, 268 + wide, 330), fill=92)
    for i in range(7):  # ribs
        y = 92 + 34 * i
        draw.arc((56, y - 30, 190, y + 62), 190, 350, fill=70, width=7)
        draw.arc((194, y - 30, 328, y + 62), 190, 350, fill=70, width=7)
    draw.line((70, 72, 186, 92), fill=110, width=9)  # collarbones
    draw.line((314, 72, 198, 92), fill=110, width=9)
    draw.ellipse((58, 300, 186, 400), fill=88)  # diaphragm
    draw.ellipse((198, 308, 326, 408), fill=88)
    if finding == "opacity":
        draw.ellipse((96, 226, 158, 288), fill=105)
    image = ImageChops.add(image, light.filter(ImageFilter.GaussianBlur(5)))
    if finding == "air":  # a lung fallen in: a dark rim without vessels
        rim = Image.new("L", (SIZE, SIZE), 0)
        draw = ImageDraw.Draw(rim)
        draw.ellipse((206, 74, 318, 320), fill=34)
        draw.ellipse((206, 118, 284, 320), fill=0)
        image = ImageChops.subtract(image, rim.filter(ImageFilter.GaussianBlur(3)))
        edge = Image.new("L", (SIZE, SIZE), 0)
        ImageDraw.Draw(edge).arc((206, 118, 284, 320), 200, 340, fill=80, width=2)
        image = ImageChops.add(image, edge.filter(ImageFilter.GaussianBlur(1)))
    rng = random.Random(seed)
    grain = Image.new("L", (SIZE, SIZE))
    grain.putdata([rng.randrange(14) for _ in range(SIZE * SIZE)])
    image = ImageChops.add(image, grain.filter(ImageFilter.GaussianBlur(1)))
    draw = ImageDraw.Draw(image)
    draw.text((330, 16), "L", fill=220, font=load_font(26))
    draw.text((20, 352), "drawn, no patient", fill=130, font=load_font(14))
    return image


def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def write_centred(draw: ImageDraw.ImageDraw, y: int, text: str, size: int, colour: str) -> None:
    draw.text((SIZE / 2, y), text, fill=colour, font=load_font(size), anchor="mm")


# The comparisons: picture, its alternative text, question, and two answers, the better one first. The alternative text
# of a radiograph does not say what is to be found in it.

SHOP_POLICY = (
    "You moderate pictures that sellers upload to a second-hand shop. Rules: 1. no medicine, 2. no personal data of "
    "anybody, 3. no insults, 4. kitchen tools are allowed. Answer with `allow` or `remove`, the rule, and one sentence."
)
MODERATION = [
    ("A red bicycle on grass", draw_bicycle(), "May this picture stay?",
     "**allow**. No rule applies: the picture shows a bicycle and nothing else.",
     "**remove**, rule 2. There could be a number plate on the bicycle."),
    ("A poster that offers pills without prescription", draw_poster("PILLS", "no prescription needed", "call 555 0100",
     "#6a3d7c"), "May this picture stay?",
     "**remove**, rule 1. It offers medicine; the telephone number is a shop's and is not what decides.",
     "**allow**. The poster shows no product, only text."),
    ("A kitchen knife on a board, beside vegetables", draw_knife(), "May this picture stay?",
     "**allow**, rule 4. It is a kitchen knife, shown on a board with vegetables.",
     "**remove**. Knives are weapons, and weapons are dangerous."),
    ("A bank card with its number and a name", draw_card(), "A buyer sent this as proof of payment. May it stay?",
     "**remove**, rule 2. The whole number of a card and a name can be read.",
     "**allow**. It is not the seller's card, so no rule applies."),
    ("A poster of a neighbourhood market", draw_poster("MARKET", "Saturday, 9 to 1", "bring your own bag", "#2f6b4f"),
     "May this picture stay?",
     "**allow**. A market day is announced; no rule applies.",
     "**remove**, rule 3. Telling people to bring a bag is rude."),
]  # fmt: skip
ASK = "Describe the findings of this chest radiograph and give your impression. The picture is drawn, for training."
RADIOGRAPHS = [
    ("Drawn radiograph of a chest, the first", draw_chest("none", 1), ASK,
     "**Findings.** Lungs are clear on both sides. The heart is of normal size. No effusion, no pneumothorax.\n\n"
     "**Impression.** No acute finding.",
     "**Findings.** A mass in the left upper lobe of 3 cm.\n\n**Impression.** Suspected tumour; CT advised."),
    ("Drawn radiograph of a chest, the second", draw_chest("opacity", 2),
     ASK,
     "**Findings.** A round opacity in the right lower zone (left side of the picture). Heart of normal size.\n\n"
     "**Impression.** Consolidation is likely; compare with earlier pictures and with how the patient is.",
     "**Findings.** Both lungs are clear.\n\n**Impression.** Normal."),
    ("Drawn radiograph of a chest, the third", draw_chest("large heart", 3), ASK,
     "**Findings.** The heart is wider than half of the chest. Lungs are clear.\n\n**Impression.** Enlarged heart.",
     "**Findings.** The heart is wider than half of the chest, and there is fluid on both sides.\n\n"
     "**Impression.** Heart failure with effusions."),
    ("Drawn radiograph of a chest, the fourth", draw_chest("air", 4), ASK,
     "**Findings.** On the left (right side of the picture) a thin line parallel to the wall of the chest, and no "
     "vessels beyond it.\n\n**Impression.** Left pneumothorax: tell the doctor in charge at once.",
     "**Findings.** Lungs are clear.\n\n**Impression.** No acute finding; control in a year."),
]  # fmt: skip


def write(folder: Path, rows: list[tuple[str, Image.Image, str, str, str]], system: str) -> None:
    """Write the comparisons to be ranked, and a tutorial of the first of them."""
    lines, examples = [], []
    for alt, image, question, better, worse in rows:
        content = [{"type": "image", "image": encode(image), "alt": alt}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        sides = [[{"role": "assistant", "content": text}] for text in (better, worse)]
        policies = ("first draft", "second draft")[:: 1 if len(lines) % 2 else -1]
        lines.append({
            "messages": messages, "tags": {"language": "en"},
            "completions": [{"messages": side, "policy": policy} for side, policy in zip(sides, policies)],
        })  # fmt: skip
        examples.append({
            "messages": messages, "completions": sides, "ranking": [[0], [1]],
            "explanation": "The first answer says what the picture shows, and nothing that it does not show.",
        })  # fmt: skip
    tutorial, tasks = examples[:1], lines[1:]
    for name, items in (("tutorial", tutorial), ("comparisons", tasks)):
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def encode(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


if __name__ == "__main__":
    main()
