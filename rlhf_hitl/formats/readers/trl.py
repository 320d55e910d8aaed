"""TRL's preference format: `prompt`, `chosen`, `rejected` as text or messages; the prompt may be within both.

Other names of the prompt, and what may stand beside it, are in `columns` and `pair_ratings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.image_columns import fill_images, read_images
from rlhf_hitl.formats.readers import pair_ratings
from rlhf_hitl.formats.readers.columns import (
    COMMON,
    PROMPT,
    add_system,
    parse_transcript,
    read_judged_at,
    read_rater,
    read_rationale,
    read_raw_prompt,
    read_simulated,
    read_split,
    split_sides,
    squeeze,
)
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_field_error,
    parse_raw_messages,
    read_raw_messages,
    read_tools_field,
    split_shared_prompt,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.formats.written_values import find_messages
from rlhf_hitl.types import Message, Messages, Split

NAME = "trl"
ABOUT = (
    "TRL preference data: {prompt, chosen, rejected} as text or messages, in any kind of file, saved dataset or hub id"
)

#: The columns that our exports have beside TRL's three. None of them is a tag.
EXPORT_COLUMNS = (
    "comparison_id", "prompt_id", "chosen_id", "rejected_id", "chosen_policy", "rejected_policy", "p_chosen", "p_tie",
    "p_rejected", "entropy", "votes", "weight", "w_chosen", "w_tie", "w_rejected", "label_source", "label_model",
    "adjudicated", "reward_model_id", "simulated", "judgments", "tags",
)  # fmt: skip
SIDES = ("chosen", "rejected")
POLICY_COLUMNS = ("{side}_policy", "{side}_model", "{side}-model")
_POLICIES = {side: [column.format(side=side) for column in POLICY_COLUMNS] for side in SIDES}
COLUMNS = (*SIDES, *COMMON, *pair_ratings.COLUMNS, *_POLICIES["chosen"], *_POLICIES["rejected"], "simulated", "split")
#: A `split` that names no split is a tag.
_NO_TAGS = frozenset((*COLUMNS, *EXPORT_COLUMNS)) - {"split"}
MAX_TAG_LENGTH = 64
#: Columns about a person, by a word in their names (`user_email`, `ip-address`) or by all of it (`name`). They are
#: not kept as tags: tags go into exports.
PERSON_WORDS = frozenset(("email", "mail", "user", "username", "phone", "ip", "address"))
PERSON_NAMES = frozenset(("name", "firstname", "lastname", "fullname", "surname"))
#: What files, pandas and R call a column without a name.
_NO_HEADER = re.compile(r"\s*|column \d+|Unnamed: ?\d+.*|\d+", re.IGNORECASE)
#: Columns of texts that tell where a row is from or of what kind it is: none of them could be a prompt.
NO_PROMPTS = (
    "source", "dataset", "subset", "split", "category", "topic", "domain", "task", "type", "language", "lang", "model",
    "license", "tags", "notes", "note", "comment", "url", "date", "response",
)  # fmt: skip


def matches(fields: Mapping[str, Any]) -> bool:
    return set(SIDES) <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    raw = [read_raw_messages(row, side) for side in SIDES]
    if raw[0] is not None and raw[1] is not None:
        prompt, *sides = _read_chats(row, raw[0], raw[1])
    elif raw[0] is None and raw[1] is None:
        prompt, *sides = _read_texts(row)
    else:
        kinds = ("messages", "text") if raw[1] is None else ("text", "messages")
        raise make_field_error(row, "rejected", f"what `chosen` is: {kinds[0]}, and not {kinds[1]}")
    policies = [_read_policy(row, side) for side in SIDES]
    completions = tuple(ImportCompletion(chat, policy) for chat, policy in zip(sides, policies, strict=True))
    tools, split = read_tools_field(row), read_split(row)
    if "comparison_id" in row.fields:
        return [_read_exported(row, prompt, completions, tools, split)]
    if row.fields.get("label_source") == "model":  # a label made by a model is not a vote
        return [
            ImportRecord(prompt, completions, row.place, None, _read_tags(row), split, order_known=False, tools=tools)
        ]
    rater = read_rater(row)
    opinion = pair_ratings.read_opinion(row, rater)
    vote = ImportVote.of_pair(
        opinion.outcome,
        rater=rater,
        strength=opinion.strength,
        rationale=read_rationale(row),
        simulated=read_simulated(row),
        judged_at=read_judged_at(row),
    )
    return [
        ImportRecord(
            prompt, completions, row.place, vote, _read_tags(row), split, order_known=False, tools=tools,
            ratings=opinion.ratings,
        )
    ]  # fmt: skip


PromptAndSides = tuple[Messages, Messages, Messages]


def _read_exported(
    row: SourceRow, prompt: Messages, completions: tuple[ImportCompletion, ...], tools: Any, split: Split | None
) -> ImportRecord:
    """Return the record of a row of our own export, whose labels say what all judgments say together."""
    simulated, by_model = read_simulated(row), row.fields.get("label_source") == "model"
    vote = ImportVote.of_pair("tie" if _is_tie(row.fields) else "first", simulated=simulated)
    tags = row.fields.get("tags") or {}
    try:
        tags = json.loads(tags) if isinstance(tags, str) else tags
    except ValueError as e:
        raise make_field_error(row, "tags", "JSON") from e
    if not isinstance(tags, dict):
        raise make_field_error(row, "tags", "a JSON object")
    tags = {k: str(v) for k, v in tags.items()}
    return ImportRecord(
        prompt, completions, row.place, None if by_model else vote, tags, split, order_known=False, tools=tools
    )


def _is_tie(fields: Mapping[str, Any]) -> bool:
    """Return whether raters prefer neither side of a row of `export --ties`."""
    chosen, tie, rejected = (fields.get(name) for name in ("p_chosen", "p_tie", "p_rejected"))
    if not (isinstance(chosen, float | int) and isinstance(tie, float | int) and isinstance(rejected, float | int)):
        return False
    return chosen == rejected or tie > max(chosen, rejected)


def _read_chats(row: SourceRow, chosen: list[Any], rejected: list[Any]) -> PromptAndSides:
    images = read_images(row)
    if chosen[0].get("role") == "assistant":
        prompt = read_raw_prompt(row)
        if prompt is None:
            raise _make_prompt_error(row)
        return _parse(row, *fill_images(row, images, prompt, chosen, rejected))
    _, chosen, rejected = fill_images(row, images, [], chosen, rejected)
    return _split_prompt(row, *(parse_raw_messages(row, side, raw) for side, raw in zip(SIDES, (chosen, rejected))))


def _read_texts(row: SourceRow) -> PromptAndSides:
    texts = []
    for side in SIDES:
        if not isinstance(text := row.fields.get(side), str):
            raise make_field_error(row, side, "text, or a list of messages on both sides")
        texts.append(text)
    chosen, rejected = texts
    one, other = parse_transcript(chosen), parse_transcript(rejected)
    # Beside a prompt, two texts that begin like transcripts and share no turn are answers.
    if one and other and (row.find(PROMPT) is None or split_shared_prompt(one, other) is not None):
        return _split_prompt(row, one, other)
    prompt = read_raw_prompt(row)
    if prompt is None:
        prompt, chosen, rejected = _split_shared_text(row, chosen, rejected)
    answers = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    return _parse(row, *fill_images(row, read_images(row), prompt, *answers))


def _parse(row: SourceRow, prompt: list[Any], chosen: list[Any], rejected: list[Any]) -> PromptAndSides:
    name = row.find(PROMPT) or "prompt"
    return (
        parse_raw_messages(row, name, prompt),
        parse_raw_messages(row, "chosen", chosen),
        parse_raw_messages(row, "rejected", rejected),
    )


def _split_prompt(row: SourceRow, chosen: Messages, rejected: Messages) -> PromptAndSides:
    """Return the prompt that two conversations share. A prompt beside them is read if they hold it."""
    prompt, *sides = split_sides(row, "rejected", chosen, rejected)
    prompt = add_system(row, prompt)
    if (name := row.find(PROMPT)) is not None:
        value = row.look(name)
        raw = read_raw_messages(row, name, "prompt")
        texts = {m.text.strip() for m in prompt}
        if raw is None and isinstance(value, str) and _hold(texts, value):
            row.take(name, "prompt")
        elif raw is None or any(m.text.strip() not in texts for m in parse_raw_messages(row, name, raw)):
            row.unread[f"column {name}, for the conversation holds another prompt"] += 1
            row.take(name, "nothing: the conversation holds another prompt")
    return prompt, sides[0], sides[1]


def _hold(texts: set[str], prompt: str) -> bool:
    """Return whether the messages of a conversation hold a prompt, which may be a transcript."""
    turns = parse_transcript(prompt)
    return {prompt.strip()} <= texts if turns is None else {m.text.strip() for m in turns} - {""} <= texts


def _split_shared_text(row: SourceRow, chosen: str, rejected: str) -> tuple[list[Any], str, str]:
    """Return the prompt that two texts begin with. It is not guessed while another column could hold it."""
    if (empty := next((name for name in PROMPT if isinstance(row.look(name), str)), None)) is not None:
        raise make_field_error(row, empty, "text that is not empty")
    start = _find_shared_text(chosen, rejected)
    if not start.strip() or _find_possible_prompt(row) is not None:
        raise _make_prompt_error(row)
    row.noted["prompts taken from what both sides begin with"] += 1
    prompt = [m.to_plain() for m in add_system(row, (Message("user", start),))]
    return prompt, chosen[len(start) :].lstrip(), rejected[len(start) :].lstrip()


def _make_prompt_error(row: SourceRow) -> BadInput:
    if (name := row.find(PROMPT) or _find_possible_prompt(row)) is None:
        return make_field_error(row, "prompt", "a prompt, or one that both sides start with")
    return make_field_error(
        row, "prompt", f"the prompt in one of the columns {', '.join(PROMPT)}",
        f"if it is the column {name}, give --map {name}=prompt; if it holds something else, --map {name}=",
    )  # fmt: skip


def _find_possible_prompt(row: SourceRow) -> str | None:
    """Return a column that no reader knows and that could hold the prompt: messages, or a text of several words."""
    for name in row.fields:
        value = row.look(name)
        is_text = isinstance(value, str) and len(value.split()) > 1
        if (
            name not in _NO_TAGS and name.lower() not in NO_PROMPTS
            and not name.lower().endswith(("id", "model", "policy")) and (is_text or find_messages(value) is not None)
        ):  # fmt: skip
            return name
    return None


def _find_shared_text(chosen: str, rejected: str) -> str:
    """Return the text both sides start with, cut at a word, as TRL defines an implicit prompt."""
    if chosen == rejected:
        return chosen
    end = next((i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b), min(len(chosen), len(rejected)))
    while end and not chosen[end - 1].isspace():
        end -= 1
    return chosen[:end].rstrip()


def _read_policy(row: SourceRow, side: str) -> str:
    # Both sides are "unknown" if no policy is given: a name must not tell which completion was chosen.
    for name in _POLICIES[side]:
        if name in row.fields and isinstance(row.look(name), str) and row.look(name):
            return row.take(name, "policy")
    return "unknown"


def _read_tags(row: SourceRow) -> dict[str, str]:
    """Return the other columns that are short texts, and note them. Those about a person stay unread."""
    names = [
        name
        for name in row.fields
        if name not in _NO_TAGS and name not in row.fields.read
        and isinstance(value := row.look(name), str) and 0 < len(value) <= MAX_TAG_LENGTH and _can_be_tag(name)
    ]  # fmt: skip
    for name in names:
        row.count_noted(f"column {name[:60]} kept as a tag", "other columns kept as tags")
    return {name: row.take(name, "tag") for name in names}


@lru_cache(1000)  # the columns of all rows are the same
def _can_be_tag(name: str) -> bool:
    """Return whether a column that no reader knows is a tag by its name: it has one, and is no id and not about a
    person."""
    if _NO_HEADER.fullmatch(name):
        return False
    words = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    is_id = words[-1:] and words[-1].endswith(("id", "ids"))
    return not is_id and squeeze(name) not in PERSON_NAMES and PERSON_WORDS.isdisjoint(words)
