"""KTO: one completion a row, and whether it is desirable. Kept as ratings from 0 to 1: nothing is compared."""

# TRL's docs, "Dataset formats": unpaired preference is prompt, completion, label. LLaMA-Factory's data/README.md has
# instruction, input, output, kto_tag, and messages or conversations with a label.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_hitl.formats.readers.alpaca import INSTRUCTION
from rlhf_hitl.formats.readers.columns import (
    PROMPT,
    RATER,
    SYSTEM,
    add_system,
    parse_flag,
    read_prompt,
    read_rater,
    read_split,
)
from rlhf_hitl.formats.readers.sharegpt import read_turns, split_before_answer
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRating,
    ImportRecord,
    SourceRow,
    is_nothing,
    make_assistant_message,
    make_field_error,
    read_chat_field,
    read_string_field,
    read_tools_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Messages

NAME = "kto"
ABOUT = (
    "{prompt, completion, label: true or false} as text or messages, or {messages, label}, or {instruction, input, "
    "output, kto_tag} (KTO, unpaired preference: kept as ratings)"
)

AXIS = "desirable"
LABELS = ("label", "kto_tag")
COLUMNS = {
    *PROMPT, "completion", "messages", "conversations", "output", "history", *SYSTEM, "tools", "model", *LABELS, *RATER,
    "split",
}  # fmt: skip


def matches(fields: Mapping[str, Any]) -> bool:
    label = next((fields[name] for name in LABELS if name in fields), None)
    if "completion" in fields:
        return _read_value(label) is not None
    # 0 and 1 in a column `label` beside a chat may be classes of any kind: only words are taken for a judgment.
    is_flag = parse_flag(label) is not None and (
        not is_nothing(fields.get("kto_tag")) or str(label).strip().lower() in ("true", "false")
    )
    has_chat = any(isinstance(fields.get(name), list) for name in ("messages", "conversations"))
    return is_flag and "completions" not in fields and (has_chat or {"instruction", "output"} <= set(fields))


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    return _read_row


def _read_row(row: SourceRow) -> list[ImportRecord]:
    label = next((name for name in LABELS if name in row.fields), LABELS[0])
    value = _read_value(row.take(label, AXIS))
    if value is None:
        raise make_field_error(row, label, "true or false")
    prompt, completion, column = _read_chat(row)
    if not prompt or not completion:
        raise make_field_error(row, column, "a prompt and an answer to it")
    has_model = isinstance(row.look("model"), str) and bool(row.look("model"))
    return [
        ImportRecord(
            add_system(row, prompt),
            (ImportCompletion(completion, row.take("model", "policy") if has_model else "unknown"),),
            row.place, split=read_split(row), order_known=False, tools=read_tools_field(row),
            ratings=(ImportRating(0, AXIS, value, 0.0, 1.0, rater=read_rater(row)),),
        )
    ]  # fmt: skip


def _read_value(label: Any) -> float | None:
    flag = parse_flag(label)
    return None if flag is None else float(flag)


def _read_chat(row: SourceRow) -> tuple[Messages, Messages, str]:
    """Return (prompt, completion, a column that they are in)."""
    for name in ("messages", "conversations"):
        if "completion" not in row.fields and not is_nothing(row.look(name)):
            return *split_before_answer(read_turns(row, name)), name
    if "output" in row.fields and "completion" not in row.fields:
        return read_prompt(row, INSTRUCTION), make_assistant_message(read_string_field(row, "output")), "output"
    if not isinstance(row.look("completion"), list):
        return read_prompt(row), make_assistant_message(read_string_field(row, "completion")), "completion"
    completion = read_chat_field(row, "completion")
    if completion[0].role == "assistant":
        return read_prompt(row), completion, "completion"
    prompt, answer = split_before_answer(completion)  # the prompt is in it, and a column for it may repeat that
    if (name := row.find(PROMPT)) is not None:
        given, held = (tuple(m for m in chat if m.role != "system") for chat in (read_prompt(row), prompt))
        if given not in (held, held[-len(given) :]):
            raise make_field_error(row, name, "what `completion` begins with, or a completion without the prompt")
    return prompt, answer, "completion"
