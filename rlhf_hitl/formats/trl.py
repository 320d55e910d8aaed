"""TRL's preference format: `prompt`, `chosen`, `rejected` as text or messages; the prompt may be within both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.hh import parse_transcript
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_assistant_message,
    make_field_error,
    read_chat_field,
    read_text_field,
    split_shared_prompt,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages

NAME = "trl"
ABOUT = "TRL preference data: prompt/chosen/rejected as text or messages (JSONL, JSON, Parquet, saved dataset, hub id)"

#: The columns that our exports have beside TRL's three. None of them is a tag.
EXPORT_COLUMNS = (
    "comparison_id", "prompt_id", "chosen_id", "rejected_id", "chosen_policy", "rejected_policy", "p_chosen", "p_tie",
    "p_rejected", "entropy", "votes", "weight", "label_source", "reward_model_id", "simulated", "judgments", "tags",
)  # fmt: skip
POLICY_COLUMNS = ("{side}_policy", "{side}_model", "{side}-model")
MAX_TAG_LENGTH = 64


def matches(fields: Mapping[str, Any]) -> bool:
    return {"chosen", "rejected"} <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    prompt, *sides = _read_chats(row) if isinstance(row.fields.get("chosen"), list) else _read_texts(row)
    policies = [_read_policy(row, side) for side in ("chosen", "rejected")]
    completions = tuple(ImportCompletion(chat, policy) for chat, policy in zip(sides, policies, strict=True))
    # A label made by a model is not a vote: its pair is imported without a judgment.
    vote = ImportVote.of_pair("tie" if _is_tie(row.fields) else "first", simulated=row.fields.get("simulated") is True)
    by_model = row.fields.get("label_source") == "model"
    return [
        ImportRecord(
            prompt, completions, row.place, None if by_model else vote, _read_tags(row), row.split, order_known=False
        )
    ]


PromptAndSides = tuple[Messages, Messages, Messages]


def _is_tie(fields: Mapping[str, Any]) -> bool:
    """Return whether raters prefer neither side of a row of `export --ties`."""
    chosen, tie, rejected = (fields.get(name) for name in ("p_chosen", "p_tie", "p_rejected"))
    if not (isinstance(chosen, float | int) and isinstance(tie, float | int) and isinstance(rejected, float | int)):
        return False
    return chosen == rejected or tie > max(chosen, rejected)


def _read_chats(row: SourceRow) -> PromptAndSides:
    chosen, rejected = read_chat_field(row, "chosen"), read_chat_field(row, "rejected")
    if chosen[0].role == "assistant" and row.fields.get("prompt") is not None:
        return _read_prompt(row), chosen, rejected
    return _split_prompt(row, chosen, rejected)


def _read_texts(row: SourceRow) -> PromptAndSides:
    for side in ("chosen", "rejected"):
        if not isinstance(row.fields.get(side), str):
            raise make_field_error(row, side, "text, or a list of messages on both sides")
    chosen, rejected = row.fields["chosen"], row.fields["rejected"]
    transcripts = parse_transcript(chosen), parse_transcript(rejected)
    if transcripts[0] and transcripts[1]:
        return _split_prompt(row, transcripts[0], transcripts[1])
    if row.fields.get("prompt") is not None:
        return _read_prompt(row), make_assistant_message(chosen), make_assistant_message(rejected)
    start = _find_shared_text(chosen, rejected)
    if not start.strip():
        raise make_field_error(row, "prompt", "a prompt, or one that both sides start with")
    prompt = (Message("user", start),)
    return (
        prompt,
        make_assistant_message(chosen[len(start) :].lstrip()),
        make_assistant_message(rejected[len(start) :].lstrip()),
    )


def _split_prompt(row: SourceRow, chosen: Messages, rejected: Messages) -> PromptAndSides:
    parts = split_shared_prompt(chosen, rejected)
    if parts is None:
        raise make_field_error(
            row, "rejected", "a conversation that opens like `chosen` and goes on with the assistant"
        )
    return parts


def _read_prompt(row: SourceRow) -> Messages:
    value = row.fields["prompt"]
    if not isinstance(value, str):
        return read_chat_field(row, "prompt")
    chat = parse_transcript(value) or (Message("user", read_text_field(row, "prompt")),)
    # "… \n\nAssistant:" at the end of a prompt only announces the answer.
    return chat[:-1] if len(chat) > 1 and not chat[-1].text.strip() else chat


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
    names = (row.fields.get(column.format(side=side)) for column in POLICY_COLUMNS)
    return next((n for n in names if isinstance(n, str) and n), "unknown")


def _read_tags(row: SourceRow) -> dict[str, str]:
    """Return the other columns that are short texts, or the tags themselves if the row is from our export."""
    if "comparison_id" in row.fields and isinstance(row.fields.get("tags"), str):
        try:
            tags = json.loads(row.fields["tags"])
        except ValueError as e:
            raise make_field_error(row, "tags", "JSON") from e
        if not isinstance(tags, dict):
            raise make_field_error(row, "tags", "a JSON object")
        return {k: str(v) for k, v in tags.items()}
    policies = {c.format(side=s) for c in POLICY_COLUMNS for s in ("chosen", "rejected")}
    not_tags = {"prompt", "chosen", "rejected", *EXPORT_COLUMNS, *policies}
    return {
        k: v
        for k, v in row.fields.items()
        if k not in not_tags and not k.endswith("id") and isinstance(v, str) and 0 < len(v) <= MAX_TAG_LENGTH
    }
