"""OpenAssistant: trees of messages whose replies are ranked, a tree or a message a row (OpenAssistant/oasst1, oasst2).

Every prompter's message is a prompt, with the messages that lead to it; its assistant replies are the completions.
Their ranks, which sum up what several people said, are one vote. A message a row needs the whole file in memory: a
reply may stand anywhere in it.
"""

# The fields are those of oasst-data/oasst_data/schemas.py in LAION-AI/Open-Assistant; on the hub, `labels` are lists.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.readers.columns import read_number
from rlhf_hitl.formats.readers.ranks import drop_repeats, group_by_rank
from rlhf_hitl.formats.record import (
    FIX,
    Fields,
    ImportCompletion,
    ImportRating,
    ImportRecord,
    ImportVote,
    SourceRow,
    is_nothing,
    make_field_error,
    make_value_error,
    read_string_field,
    read_text_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Message, Messages, Verdict

NAME = "oasst"
ABOUT = (
    "trees {message_tree_id, prompt: {message_id, text, role, replies, rank}}, or their messages {message_id, "
    "parent_id, text, role, rank}, one a row (OpenAssistant)"
)

ROLES = {"prompter": "user", "assistant": "assistant"}
RATER = "OpenAssistant"
#: A prompt repeats all that leads to it, so a chain of messages takes the square of its length.
MAX_DEPTH = 200
COLUMNS = {
    "prompt", "message_id", "parent_id", "message_tree_id", "text", "role", "lang", "rank", "deleted", "review_result",
    "model_name", "labels", "replies", "tree_state",
}  # fmt: skip


@dataclass
class _Message:
    """A message of a tree. `dropped` says why it is left out; `ratings` are (label, 0 to 1)."""

    id: str
    parent_id: str | None
    place: str
    role: str
    text: str
    lang: str
    rank: float | None
    policy: str
    dropped: str
    ratings: tuple[tuple[str, float], ...]
    replies: list[_Message] = field(default_factory=list)


def matches(fields: Mapping[str, Any]) -> bool:
    return {"message_tree_id", "prompt"} <= set(fields) or {"message_id", "parent_id", "text", "role"} <= set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    """Return the reader. Of a file with a message a row, all messages are read first."""
    if "parent_id" not in source.first.fields:
        return _read_tree_row
    if isinstance(source.first.fields.get("replies"), list):
        return _read_nested_row
    messages: dict[str, _Message] = {}
    for row in source.rows(lambda error: None):  # bad rows are reported when they are read again
        try:
            message = _read_message(row)
        except BadInput:
            continue
        messages.setdefault(message.id, message)
    for message in messages.values():
        if message.parent_id in messages:
            messages[message.parent_id].replies.append(message)
    return lambda row: _read_message_row(row, messages)


def _read_tree_row(row: SourceRow) -> list[ImportRecord]:
    raw = row.fields.get("prompt")
    if not isinstance(raw, dict):
        raise make_value_error(row, "prompt", type(raw).__name__, "the first message of a tree, with its replies")
    return _read_tree(row, replace(row, fields=Fields(raw), inner=[]))


def _read_nested_row(row: SourceRow) -> list[ImportRecord]:
    """Read a tree that is its first message, without an object around it."""
    if row.look("parent_id") is not None:
        raise make_field_error(row, "parent_id", "null, since messages of this file hold their replies")
    return _read_tree(row, row)


def _read_tree(row: SourceRow, root: SourceRow) -> list[ImportRecord]:
    row.take("message_tree_id", "nothing: the message's own id says the same")
    state = row.take("tree_state", "tag")
    records = []
    # Not recursive: a tree may be deep. What is left to do is (message, its parent, what leads to it).
    left: list[tuple[SourceRow, _Message | None, Messages]] = [(root, None, ())]
    while left:
        node, parent, path = left.pop()
        message = _read_message(node)
        _check_place(message, parent, len(path))
        if message.dropped:
            row.unread[message.dropped] += 1
            if below := _count_below(node):
                row.unread["messages below one that is left out"] += below
            continue
        replies = _read_replies(node, message)
        if node is not row:
            row.inner.append(("message key", node))
        path = (*path, Message(ROLES[message.role], message.text))
        if message.role == "prompter":
            message.replies = [_read_message(reply) for reply in replies]
            records.append(_make_record(row, message, path, state))
        left += [(reply, message, path) for reply in reversed(replies)]
    return records


def _read_replies(node: SourceRow, message: _Message) -> list[SourceRow]:
    replies = node.take("replies", "replies") or []
    if not isinstance(replies, list):
        raise make_value_error(node, "replies", type(replies).__name__, "a list of messages")
    place = f"{node.place.partition(': a reply to ')[0]}: a reply to {message.id}"
    for reply in replies:
        if not isinstance(reply, dict):
            raise make_value_error(node, "replies", type(reply).__name__, "a list of messages")
    return [replace(node, fields=Fields(reply), place=place, inner=[]) for reply in replies]


def _count_below(node: SourceRow) -> int:
    """Return how many messages are below one, at any depth."""
    left, n = [node.look("replies")], 0
    while left:
        replies = left.pop()
        below = [one for one in replies if isinstance(one, dict)] if isinstance(replies, list) else []
        n += len(below)
        left += [one.get("replies") for one in below]
    return n


def _read_message_row(row: SourceRow, messages: dict[str, _Message]) -> list[ImportRecord]:
    message = messages.get(_read_message(row).id)
    if not is_nothing(row.look("replies")):
        raise make_value_error(row, "replies", "a list", "none, since messages of this file name their parents")
    if message is None or message.place != row.place:
        raise make_field_error(row, "message_id", "an id that no other message has")
    row.take("message_tree_id", "nothing: the parents say the same")
    state = row.take("tree_state", "tag")
    way = _climb(row, message, messages)
    if message.dropped:
        row.unread[message.dropped] += 1
        return []
    if any(m.dropped for m in way):
        row.unread["messages below one that is left out"] += 1
        return []
    _check_place(message, way[1] if len(way) > 1 else None, len(way) - 1)
    if message.role != "prompter":
        return []
    path = tuple(Message(ROLES[m.role], m.text) for m in reversed(way))
    return [_make_record(row, message, path, state)]


def _climb(row: SourceRow, message: _Message, messages: dict[str, _Message]) -> list[_Message]:
    """Return the messages from this one up to the root of its tree.

    Raises:
        BadInput: a parent is not in the file, the parents go round in a circle, or there are too many.
    """
    way, seen = [message], {message.id}
    while (parent_id := way[-1].parent_id) is not None:
        parent = messages.get(parent_id)
        if parent is None:
            expected = "the id of a message of this file, of it or of what leads to it"
            raise make_value_error(row, "parent_id", parent_id, expected)
        if parent.id in seen:
            raise make_field_error(row, "parent_id", "a tree: its parents go round in a circle")
        if len(way) == MAX_DEPTH:
            raise _make_depth_error(row.place)
        way.append(parent)
        seen.add(parent.id)
    return way


def _check_place(message: _Message, parent: _Message | None, above: int) -> None:
    """Raise where a message cannot stand: roles alternate, a prompter begins, and there is an end to it."""
    if message.role != ("prompter" if parent is None or parent.role == "assistant" else "assistant"):
        raise BadInput(
            f"{message.place}: role = {message.role!r}",
            expected="prompter and assistant in turn, the prompter first",
            fix=FIX,
        )
    if above >= MAX_DEPTH:
        raise _make_depth_error(message.place)


def _make_depth_error(place: str) -> BadInput:
    return BadInput(
        f"{place}: a conversation of more than {MAX_DEPTH} messages",
        expected=f"at most {MAX_DEPTH}",
        fix="cut the tree, or skip such lines with --skip-bad",
    )


def _read_message(row: SourceRow) -> _Message:
    """Return the message of a row, or of a part of a tree, without its replies."""
    role = row.fields.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise make_field_error(row, "role", " or ".join(ROLES))
    parent_id = row.fields.get("parent_id")
    if not isinstance(parent_id, str | None):
        raise make_field_error(row, "parent_id", "the id of a message, or null")
    rank = None
    if not is_nothing(row.fields.get("rank")):
        rank = read_number(row, "rank", "a number, of which 0 is best, or null")
    lang, model = row.fields.get("lang"), row.fields.get("model_name")
    return _Message(
        id=read_text_field(row, "message_id"),
        parent_id=parent_id or None,
        place=row.place,
        role=role,
        text=read_string_field(row, "text"),
        lang=lang if isinstance(lang, str) else "",
        rank=rank,
        # People wrote most replies; the name must not tell the better one.
        policy=model if isinstance(model, str) and model else "oasst",
        dropped=_find_reason(row.fields),
        ratings=tuple(_read_labels(row)),
    )


def _find_reason(fields: Mapping[str, Any]) -> str:
    """Return why a message is left out; an empty text where it is not. A review may be missing."""
    deleted, review = fields.get("deleted"), fields.get("review_result")
    if deleted is True:
        return "messages that were deleted"
    return "messages that reviewers refused (spam)" if review is False else ""


def _read_labels(row: SourceRow) -> Iterator[tuple[str, float]]:
    """Yield (label, the mean of what people gave it, 0 to 1): of an object, of three lists, or of a list of objects."""
    labels = row.fields.get("labels")
    if is_nothing(labels):
        return
    expected = 'labels as {"quality": {"value": 0 to 1, "count": number}}'
    if isinstance(labels, dict) and isinstance(labels.get("name"), list) and isinstance(labels.get("value"), list):
        pairs = list(zip(labels["name"], labels["value"]))
    elif isinstance(labels, dict) and all(isinstance(label, dict) for label in labels.values()):
        pairs = [(name, label.get("value")) for name, label in labels.items()]
    elif isinstance(labels, list) and all(isinstance(label, dict) for label in labels):
        pairs = [(label.get("name"), label.get("value")) for label in labels]
    else:
        raise make_field_error(row, "labels", expected)
    for name, value in pairs:
        if is_nothing(value):
            continue
        is_share = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        if not isinstance(name, str) or not is_share:
            raise make_field_error(row, "labels", expected)
        yield name, float(value)


def _make_record(row: SourceRow, message: _Message, path: Messages, state: Any) -> ImportRecord:
    """Return the comparison of a message's replies, or its prompt with the one reply it has, or none."""
    replies = [reply for reply in message.replies if reply.role == "assistant" and not reply.dropped]
    by_completion = [
        (ImportCompletion((Message("assistant", reply.text),), reply.policy), reply.rank) for reply in replies
    ]
    ranked = drop_repeats(row, by_completion) if replies else []
    ranks = [rank for _, rank in ranked]
    groups = group_by_rank(ranks)
    if len(ranks) > 1:
        if unranked := ranks.count(None):
            row.noted["replies without a rank"] += unranked
        if not groups and len(ranks) > unranked:
            row.noted["ranks without another to compare with"] += len(ranks) - unranked
    kept = {id(completion) for completion, _ in ranked}
    ratings_of = [reply.ratings for reply, (completion, _) in zip(replies, by_completion) if id(completion) in kept]
    tags = {"language": message.lang} if message.lang else {}
    if isinstance(state, str) and state:
        tags["tree_state"] = state
    return ImportRecord(
        path,
        tuple(completion for completion, _ in ranked),
        message.place,
        ImportVote(Verdict.RANKED, groups, rater=RATER) if groups else None,
        tags,
        row.split,
        order_known=False,
        ratings=tuple(
            ImportRating(i, axis, value, 0.0, 1.0, rater=RATER)
            for i, ratings in enumerate(ratings_of)
            for axis, value in ratings
        ),
    )
