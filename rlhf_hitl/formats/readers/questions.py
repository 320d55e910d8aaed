"""What questions say of answers, in files of labelling tools, where people name both themselves.

Argilla and Label Studio let a project call its answers "response1" and "response2", or "answer_a" and "answer_b", and
write what raters chose by these names. Here such names are read, the same way for each tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard, cast

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.readers.columns import ALL_BAD, SYSTEM, TIES, squeeze
from rlhf_hitl.formats.record import SourceRow, is_nothing, make_value_error
from rlhf_hitl.types import Message, Messages, Verdict, parse_messages
from rlhf_hitl.types.messages import Part, TextPart

#: What fields with answers are called, before the number or letter that tells them apart.
ANSWER_WORDS = (
    "response", "answer", "completion", "output", "reply", "candidate", "generation", "option", "text", "summary",
    "image", "model", "item", "llm", "",
)  # fmt: skip
#: What the field with the prompt is called, the likeliest first.
PROMPT_WORDS = ("prompt", "instruction", "question", "query", "input", "context", "document", "article", "source_text")
#: What `--map` may call a field, where people name fields: the usual names of a prompt and of 9 answers.
USUAL_COLUMNS = (
    *PROMPT_WORDS, *SYSTEM,
    *(f"{word}{gap}{end}" for word in ANSWER_WORDS[:4] for gap in ("", "_") for end in "123456789"),
    *(f"{word}_{end}" for word in ANSWER_WORDS[:4] for end in "abcdefgh"),
)  # fmt: skip
#: "A is much better" → the strength that it says; "A is better" says none.
STRENGTHS = {"slightly": 1, "somewhat": 1, "clearly": 2, "much": 3, "significantly": 3, "far": 3}
#: The question that our own exports ask beside the others, and its answers: no person said this, but a program for
#: trying things out, or a model that judges.
SIMULATED = "simulated"
JUDGE = "judge"
MAX_TAG_LENGTH = 64
MAX_NAME_LENGTH = 100  # of a field, or of a label: a longer text is no choice
MAX_NUMBER = 1e300

_END = re.compile(
    r"(?P<stem>.*?)(?:[\s_.\-]*(?P<number>\d{1,3})|(?:^|[\s_.\-]+|(?<=[a-z])(?=[A-Z]))(?P<word>[A-Ha-h]|(?i:left|right|first|second)))$"
)
_BETTER = re.compile(r"(?P<side>.+?)\s+(?:is\s+)?(?:(?P<by>" + "|".join(STRENGTHS) + r")\s+)?better", re.IGNORECASE)
_BY = re.compile("(" + "|".join(STRENGTHS) + r")\s+better", re.IGNORECASE)
_REASON = re.compile(r"reason|rationale|why|comment|justif|explan|explain|feedback|critique|note", re.IGNORECASE)
_PLACES = {"left": 0, "right": 1, "first": 0, "second": 1} | {letter: i for i, letter in enumerate("abcdefgh")}


@dataclass(frozen=True)
class Choice:
    """What one question says of the answers: groups of their indices, best first, for the verdict `ranked`."""

    verdict: Verdict
    ranking: tuple[tuple[int, ...], ...] = ()
    strength: int | None = None


def find_answers(names: Iterable[str]) -> list[str]:
    """Return the fields that hold the answers, in their order: response1, response2, …; [] if it is unclear."""
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        if (end := _split_end(name)) is not None and squeeze(end[0]) in ANSWER_WORDS:
            groups.setdefault(squeeze(end[0]), {}).setdefault(end[1], name)
    full = {stem: group for stem, group in groups.items() if len(group) >= 2}
    # "model_a" beside "response_a" says who answered.
    stems = [stem for stem in full if stem != "model"] or list(full)
    return [full[stems[0]][place] for place in sorted(full[stems[0]])] if len(stems) == 1 else []


def find_answer(name: str, answers: Sequence[str]) -> int | None:
    """Return which answer a word means: its own name, or what its name ends in ("1" or "Response 1" for response1)."""
    if name in answers:
        return answers.index(name)
    same = [i for i, answer in enumerate(answers) if squeeze(answer) == squeeze(name)]
    if len(same) == 1:
        return same[0]
    end = _split_end(name)
    if end is None or squeeze(end[0]) not in ANSWER_WORDS:
        return None
    ends = [_split_end(answer) for answer in answers]
    same = [i for i, other in enumerate(ends) if other is not None and other[1:] == end[1:]]
    if len(same) == 1:
        return same[0]
    # "A" or "left" of response1 and response2; "1" of answer_a and answer_b.
    is_other_kind = all(other is not None and other[2] != end[2] for other in ends)
    place = end[1] - 1 if end[2] else end[1]
    return place if is_other_kind and 0 <= place < len(answers) else None


def read_choice(label: str, answers: Sequence[str]) -> Choice | None:
    """Return what a label says of the answers ("answer_a", "tie", "B is much better"); None if it is no choice."""
    if len(label) > MAX_NAME_LENGTH:
        return None
    word = squeeze(label)
    if word in TIES:
        return Choice(Verdict.RANKED, (tuple(range(len(answers))),))
    if word in ALL_BAD or word == "none":
        return Choice(Verdict.ALL_BAD)
    better = _BETTER.match(label)
    best = find_answer(better["side"] if better else label, answers)
    if best is None:
        return None
    rest = tuple(i for i in range(len(answers)) if i != best)
    by = better["by"] if better else None
    # The best of three or more says nothing of the others among themselves: they share a place.
    return Choice(Verdict.RANKED, ((best,), rest), STRENGTHS[by.lower()] if by and len(answers) == 2 else None)


def read_strength_label(label: str) -> int | None:
    """Return the strength in a label that says by how much the best answer is better, and not which one it is."""
    match = _BY.fullmatch(label.strip()) if len(label) <= MAX_NAME_LENGTH else None
    return None if match is None else STRENGTHS[match[1].lower()]


def add_strength(choice: Choice | None, strength: int) -> Choice | None:
    """Return a choice between two answers with a strength that is said beside it; None where it has no place."""
    if choice is None or choice.strength is not None or [len(group) for group in choice.ranking] != [1, 1]:
        return None
    return replace(choice, strength=strength)


def split_axis(question: str, answers: Sequence[str]) -> tuple[str, int] | None:
    """Return (axis, answer) of a question about one answer: "quality_response1" or "quality-1"; None if it names none.

    Where there is one answer, all questions are about it.
    """
    for i, answer in sorted(enumerate(answers), key=lambda pair: -len(pair[1])):
        for separator in "_-. ":
            if question.endswith(separator + answer):
                return question[: -len(answer) - 1], i
            if question.startswith(answer + separator):
                return question[len(answer) + 1 :], i
    if len(answers) == 1:
        return question, 0
    end = _split_end(question)
    place = find_answer(question[len(end[0]) :].strip(" _.-"), answers) if end is not None and end[0] else None
    return (end[0].strip(" _.-"), place) if end is not None and place is not None else None


def is_reason(question: str) -> bool:
    """Return whether a question in words asks why, by its name."""
    return _REASON.search(question) is not None


def join_reasons(reasons: Mapping[str, str]) -> str:
    """Return one text of the reasons: question → text. Where there are several, their questions stand before them."""
    if len(reasons) == 1:
        return next(iter(reasons.values()))
    return "\n".join(f"{question}: {text}" for question, text in reasons.items())


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def read_prompt(shown: SourceRow, names: Sequence[str], *, is_all_shown: bool) -> Messages:
    """Return the prompt that is in some fields.

    Args:
        shown: what holds the fields.
        names: the fields that are not answers.
        is_all_shown: whether raters saw all of these, so that the only text is the prompt, whatever its name.

    Raises:
        BadInput: there is no prompt, or it cannot be read.
    """
    values = {name: shown.look(name) for name in names}
    by_word = {re.sub(r"[^\w]", "", name.lower()): name for name in names}
    chats = [name for name, value in values.items() if _is_chat(value)]
    texts = [
        name for name, value in values.items() if isinstance(value, str) and value.strip() and not is_image(name, value)
    ]
    known = [by_word[word] for word in PROMPT_WORDS if by_word.get(word) in texts]
    system = [by_word[word] for word in SYSTEM if by_word.get(word) in texts][:1]
    others = [name for name in texts if name not in system]
    images = [name for name, value in values.items() if is_image(name, value)]
    main = (chats or known or (others if is_all_shown and len(others) == 1 else []))[:1]
    if not chats and main == [by_word.get("instruction")] and by_word.get("input") in texts:
        main.append(by_word["input"])
    if not main and not images:
        raise BadInput(
            f"{shown.place}: {', '.join(names)[:60] or 'no field'}",
            expected=f"a prompt: a chat, or a text called {', '.join(PROMPT_WORDS[:4])} or so",
            fix="rename its field",
        )
    try:
        chat = list(parse_messages(values[main[0]], shown.unread)) if chats else []
        if not chats and main:
            chat = [Message("user", "\n\n".join(values[name] for name in main))]
        if images:
            _show_images(chat, [values[name] for name in images], shown)
    except BadInput as e:
        used = ", ".join([*main, *images])
        raise BadInput(f"{shown.place}: {used}: {e.value}", expected=e.expected, fix=e.fix) from e
    for meaning, used in (("prompt", main), ("images", images), ("system message", system)):
        for name in used:
            shown.take(name, meaning)
    return (*(Message("system", values[name]) for name in system), *chat)


def _show_images(chat: list[Message], images: Sequence[Any], row: SourceRow) -> None:
    """Put images before the text of the first user message; a message of their own where there is none."""
    parts = [{"type": "image", "image": image} for image in images]
    place = next((i for i, message in enumerate(chat) if message.role == "user"), None)
    if place is None:
        chat.extend(parse_messages([{"role": "user", "content": parts}], row.unread))
        return
    (shown,) = parse_messages([{"role": "user", "content": parts}], row.unread)
    old = chat[place].content
    own = (TextPart(old),) if isinstance(old, str) else old or ()
    chat[place] = replace(chat[place], content=(*cast("tuple[Part, ...]", shown.content), *own))


def read_answer(row: SourceRow, name: str, value: Any) -> Messages:
    """Return a completion from a field of text, a chat, or an image; it may be empty."""
    try:
        if is_image(name, value):
            return parse_messages([{"role": "assistant", "content": [{"type": "image", "image": value}]}], row.unread)
        if isinstance(value, str):
            return (Message("assistant", value),)
        if _is_chat(value):
            return parse_messages(value, row.unread)
    except BadInput as e:
        raise BadInput(f"{row.place}: {name}: {e.value}", expected=e.expected, fix=e.fix) from e
    raise make_value_error(row, name, value, "text, a chat, or an image")


def is_image(name: str, value: Any) -> bool:
    """Return whether a value is an image, or stands for one: then reading it says that it is not in the file."""
    if isinstance(value, str):
        is_address = re.match(r"(https?|file|s3|gs)://|/|data:", value) is not None and not re.search(r"\s", value)
        return value.startswith("data:image/") or (
            is_address and re.search("image|picture|photo", name, re.I) is not None
        )
    if isinstance(value, Mapping):
        return "bytes" in value
    return hasattr(value, "tobytes") and hasattr(value, "size")


def read_tags(shown: SourceRow, names: Iterable[str]) -> dict[str, str]:
    """Return the columns that are short and that nobody has read yet, as tags."""
    tags = {}
    for name in names:
        value = shown.look(name)
        if name in shown.fields.read or not isinstance(value, str | int | float | bool):
            continue
        if 0 < len(str(value)) <= MAX_TAG_LENGTH and not is_nothing(value):
            tags[name] = str(shown.take(name, "tag"))
    return tags


def read_policies(shown: SourceRow, names: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Return the policy of each answer, which a column of these names may say; "unknown" where none does."""
    policies = []
    for answer in answers:
        own = [f"{answer}_policy", f"{answer}_model", f"{answer}-model", f"{answer}.model"]
        if (end := _split_end(answer)) is not None:
            numbered = [(name, other) for name in names if (other := _split_end(name)) is not None]
            own += [n for n, other in numbered if other[1] == end[1] and squeeze(other[0]) in ("model", "policy")]
        known = set(names) - set(answers)
        name = next((n for n in own if n in known and isinstance(value := shown.look(n), str) and value.strip()), None)
        policies.append("unknown" if name is None else shown.take(name, "policy"))
    return policies


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)


def _split_end(name: str) -> tuple[str, int, bool] | None:
    """Return (stem, place, whether it is a number) of a name that ends in a number, a letter, or left or right."""
    match = _END.match(name.strip()) if len(name) <= MAX_NAME_LENGTH else None
    if match is None:
        return None
    word = (match["word"] or "").lower()
    return match["stem"], _PLACES[word] if word else int(match["number"]), not word
