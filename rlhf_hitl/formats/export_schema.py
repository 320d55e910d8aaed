"""The columns of an export: one table each for pairs, rankings, judgments, demonstrations and ratings.

Where every message is a role and a text, a chat is `list<struct<role, content>>`. Where one is more, each message is
JSON text in the files, and the feature `Json` of `datasets`: whoever reads them with it gets the messages as they were.
Images stand in a column of their own, and `{"type": "image"}` marks their places: in the prompt first, then in the
completions, in the order of the columns, as TRL reads them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import orjson

from rlhf_hitl.formats.readers.trl import EXPORT_COLUMNS
from rlhf_hitl.store.export_query import JUDGMENT_FIELD_TYPES, JUDGMENT_FIELDS, JsonFields, MessageKinds

if TYPE_CHECKING:
    import pyarrow
    from datasets import Features

#: The tables of an export, each a configuration of the dataset; the first is the one that `load_dataset` takes.
CONFIGS = ("pairs", "rankings", "judgments", "demonstrations", "ratings")

#: The columns that hold chats, in the order in which their images stand in `images`.
CHAT_COLUMNS = {
    "pairs": ("prompt", "chosen", "rejected"),
    "rankings": ("prompt", "completions"),
    "judgments": ("prompt", "completions"),
    "demonstrations": ("prompt", "completion"),
    "ratings": ("prompt", "completion"),
}

_NUMBERS = {int: "int64", float: "float64", bool: "bool"}


def make_features(config: str, kinds: MessageKinds) -> Features:
    """Return the features of one table, as `datasets` reads them."""
    from datasets import Features, Image, Json, List, Value

    text, texts = Value("string"), List(Value("string"))
    chat = List({"role": text, "content": text}) if kinds.only_text else List(Json())
    columns: dict[str, dict[str, Any]] = {
        "pairs": dict.fromkeys(EXPORT_COLUMNS, text)
        | dict.fromkeys(
            ("p_chosen", "p_tie", "p_rejected", "entropy", "weight", "w_chosen", "w_tie", "w_rejected"),
            Value("float64"),
        )
        | {"votes": Value("int64"), "simulated": Value("bool"), "adjudicated": Value("bool")},
        "rankings": {
            "rankings": List(List(Value("int64"))),
            "weights": List(Value("float64")),
            "weight": Value("float64"),
            "label_model": text,
            "comparison_id": text,
            "prompt_id": text,
            "completion_ids": texts,
            "policies": texts,
            "simulated": Value("bool"),
            "tags": text,
        },
        "judgments": {"comparison_id": text, "prompt_id": text}
        | {name: Value(_NUMBERS.get(JUDGMENT_FIELD_TYPES.get(name, str), "string")) for name in JUDGMENT_FIELDS}
        | {"ranking": List(texts), "order_shown": texts, "probabilities": List(Value("float64"))}
        | {"tags": text, "repeat_of": text},
        "demonstrations": {"judgment_id": text, "rater_id": text, "simulated": Value("bool")},
        "ratings": dict.fromkeys(
            ("rating_id", "prompt_id", "completion_id", "policy", "axis", "rater_id", "rationale"), text
        )
        | dict.fromkeys(("value", "lowest", "highest"), Value("float64"))
        | {"simulated": Value("bool"), "source": text, "created_at": text, "tags": text, "role": text},
    }
    chats: dict[str, Any] = dict.fromkeys(CHAT_COLUMNS[config], chat)
    if config == "rankings":
        chats["completions"] = List(chat)
    elif config == "judgments":
        chats["completions"] = List({"id": text, "policy": text, "messages": chat})
    more: dict[str, Any] = {"tools": text} if kinds.tools else {}
    if kinds.images:
        more["images"] = List(Image())
    return Features(chats | more | columns[config])


def make_file_schema(features: Features) -> pyarrow.Schema:
    """Return the schema of the Parquet file: JSON is plain text, which every reader of Parquet takes."""
    import pyarrow

    schema = features.arrow_schema
    return pyarrow.schema([field.with_type(_to_plain_type(field.type)) for field in schema], metadata=schema.metadata)


def _to_plain_type(kind: Any) -> Any:
    import pyarrow

    if isinstance(kind, pyarrow.BaseExtensionType):
        return kind.storage_type
    if pyarrow.types.is_list(kind):
        return pyarrow.list_(_to_plain_type(kind.value_type))
    if pyarrow.types.is_struct(kind):
        return pyarrow.struct([field.with_type(_to_plain_type(field.type)) for field in kind])
    return kind


def make_file_row(
    row: JsonFields, config: str, kinds: MessageKinds, load_image: Callable[[str], bytes], changed: Counter[str]
) -> JsonFields:
    """Return a row of a snapshot as the file has it. `changed` counts what cannot be written as it is."""
    if kinds.only_text:
        return row
    columns = CHAT_COLUMNS[config]
    chats = {name: replace_messages(row[name], lambda m: _encode_message(_mark_images(m), changed)) for name in columns}
    if kinds.images:
        ids = (id for name in columns for id in list_image_ids(row[name]))
        chats["images"] = [{"bytes": load_image(id), "path": None} for id in ids]
    return row | chats


def replace_messages(chats: Any, replace: Callable[[JsonFields], Any]) -> Any:
    """Return a chat, a list of chats or of completions with each message replaced."""
    if isinstance(chats, dict):
        if "role" in chats:
            return replace(chats)
        return chats | {"messages": replace_messages(chats["messages"], replace)}
    return [replace_messages(each, replace) for each in chats]


def list_image_ids(chats: Any) -> Iterator[str]:
    """Yield the ids of the images of a chat, a list of chats or of completions, in their order."""
    for each in chats:
        if isinstance(each, list):
            yield from list_image_ids(each)
        elif "messages" in each:
            yield from list_image_ids(each["messages"])
        elif isinstance(each["content"], list):
            yield from (part["image"] for part in each["content"] if part["type"] == "image")


def replace_images(message: JsonFields, replace: Callable[[JsonFields], JsonFields]) -> JsonFields:
    """Return a message with each part that is an image replaced."""
    if not isinstance(message["content"], list):
        return message
    return message | {"content": [replace(p) if p["type"] == "image" else p for p in message["content"]]}


def _mark_images(message: JsonFields) -> JsonFields:
    return replace_images(message, lambda part: {k: v for k, v in part.items() if k != "image"})


def _encode_message(message: JsonFields, changed: Counter[str]) -> str:
    try:
        return orjson.dumps(message).decode()
    except TypeError:  # `datasets` reads no integer of more than 64 bits
        calls = [_write_arguments_as_text(call) for call in message["tool_calls"]]
        changed["messages whose tool calls have numbers of more than 64 bits: their arguments are JSON text"] += 1
        return json.dumps(message | {"tool_calls": calls}, ensure_ascii=False)


def _write_arguments_as_text(call: JsonFields) -> JsonFields:
    function = call.get("function", call)
    if isinstance(function.get("arguments", ""), str):
        return call
    function = function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}
    return call | {"function": function} if "function" in call else function


def encode_row(row: JsonFields) -> bytes:
    """Return a row as JSON, with its keys in their order."""
    try:
        return orjson.dumps(row)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(row, ensure_ascii=False).encode()
