"""What is staged: records as domain objects, packed into batches of plain rows."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

import orjson

from rlhf_hitl.store.judgments import make_judgment_id
from rlhf_hitl.types import Answer, Comparison, Completion, Prompt, Split, messages_to_dicts
from rlhf_hitl.types.messages import Messages

#: A batch ends with so many records, or so many bytes of texts: it is written, and deleted, in one transaction.
RECORDS_PER_BATCH, BYTES_PER_BATCH = 5000, 2**21
#: The text of a JSON column, the same as SQLAlchemy writes.
encode_json = json.dumps
_encode_text = json.encoder.encode_basestring_ascii


#: The votes on a comparison are mostly adjacent, and few of them differ.
_encode_ids = lru_cache(1000)(encode_json)


@dataclass(frozen=True)
class StagedVote:
    """A vote with the store's ids. Its idempotency key is the hash of its content, so reading it again adds nothing.

    `judged_at` is None where the file does not say it: then the vote has the time of the import.
    """

    rater: str
    answer: Answer
    order_shown: tuple[str, ...]
    simulated: bool
    key: str
    judged_at: datetime | None = None
    judge: bool = False


@dataclass(frozen=True)
class StagedRating:
    """A rater's number for one completion. Its id is the hash of its content, so reading it again adds nothing."""

    id: str
    completion_id: str
    rater: str
    axis: str
    value: float
    lowest: float | None
    highest: float | None
    rationale: str
    simulated: bool
    judged_at: datetime | None
    judge: bool = False


@dataclass(frozen=True)
class StagedRecord:
    """One record of an import. `comparison` is None if there are fewer than two completions.

    `images` are (id, bytes of its file) of each image that its messages name. `is_identical` is true where its
    completions were all the same, so that its comparison was left out, and it is counted as that.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    comparison: Comparison | None
    vote: StagedVote | None
    requested_split: Split | None
    ratings: tuple[StagedRating, ...] = ()
    images: tuple[tuple[str, int], ...] = ()
    is_identical: bool = False


@dataclass
class Batch:
    """Records in the form in which they are staged. Each object is in it once, and others name it by its position.

    prompts: (id, family, split, messages, tags, tools). completions: (id, prompt_id, messages, policy, sampling).
    comparisons: (id, prompt_id, completion_ids, overlap, language, batch). images: (id, bytes).
    ratings: (id, completion's id, rater's name, axis, value, lowest, highest, rationale, simulated, time or None,
    judge). tasks, what adjacent records share: (prompt, completions, comparison or None, images).
    votes: (task, rater's name, verdict, ranking, strength, rationale, scores, order_shown, simulated, key, judgment id,
    time or None, judge). records: (task, requested split or None, vote or None, ratings or None, is_identical).
    What is JSON in the tables is its text here, and a time is in their form.
    """

    prompts: list[Sequence[Any]] = field(default_factory=list)
    completions: list[Sequence[Any]] = field(default_factory=list)
    comparisons: list[Sequence[Any]] = field(default_factory=list)
    images: list[Sequence[Any]] = field(default_factory=list)
    ratings: list[Sequence[Any]] = field(default_factory=list)
    tasks: list[Sequence[Any]] = field(default_factory=list)
    votes: list[Sequence[Any]] = field(default_factory=list)
    records: list[Sequence[Any]] = field(default_factory=list)

    def pack(self) -> bytes:
        """Return the batch as bytes, column by column: a list for each row would take several times as long to read."""
        return zlib.compress(orjson.dumps({kind: list(zip(*rows)) for kind, rows in vars(self).items()}), 1)

    @classmethod
    def unpack(cls, payload: bytes) -> Batch:
        packed = orjson.loads(zlib.decompress(payload))
        if "tasks" not in packed:
            return _read_earlier_batch(packed)
        if len(packed["records"]) == 4:  # staged before there was `is_identical`
            packed["records"].append([False] * len(packed["records"][0]))
        for kind, columns in _COLUMNS_BEFORE_JUDGES.items():  # staged before there was `judge`
            if len(packed[kind]) == columns:
                packed[kind].append([False] * len(packed[kind][0]))
        return cls(**{kind: list[Sequence[Any]](zip(*columns)) for kind, columns in packed.items()})

    def slice(self, start: int, stop: int) -> Batch:
        """Return the batch of some of the records, with only the objects that they name."""
        if (start, stop) == (0, len(self.records)):
            return self
        part = Batch()
        places: dict[tuple[str, int], int] = {}

        def move(kind: str, index: int, change: Callable[[Sequence[Any]], Sequence[Any]] = tuple) -> int:
            if (place := places.get((kind, index))) is None:
                row = change(getattr(self, kind)[index])
                rows = getattr(part, kind)
                place = places[kind, index] = len(rows)
                rows.append(row)
            return place

        def move_all(kind: str, indices: Sequence[int]) -> list[int]:
            return [move(kind, index) for index in indices]

        def change_task(row: Sequence[Any]) -> Sequence[Any]:
            prompt, completions, comparison, images = row
            at = None if comparison is None else move("comparisons", comparison)
            return move("prompts", prompt), move_all("completions", completions), at, move_all("images", images)

        for task, split, vote, ratings, is_identical in self.records[start:stop]:
            at = move("tasks", task, change_task)
            if vote is not None:
                part.votes.append((at, *self.votes[vote][1:]))
                vote = len(part.votes) - 1
            part.records.append((at, split, vote, ratings and move_all("ratings", ratings), is_identical))
        return part


#: How many columns votes and ratings had before there was `judge`.
_COLUMNS_BEFORE_JUDGES = {"votes": 12, "ratings": 10}


def _read_earlier_batch(packed: Mapping[str, Any]) -> Batch:
    """Return a batch that an earlier version staged: rows, and records that hold all that they name.

    The first had no ratings, images, scores and times.
    """
    batch = Batch(**{kind: list(rows) for kind, rows in packed.items() if kind != "records"})
    batch.ratings = [(*rating, False) for rating in batch.ratings]
    for prompt, completions, comparison, split, vote, *more in packed["records"]:
        ratings, images = more or ([], [])
        batch.tasks.append((prompt, completions, comparison, images))
        if vote is not None:
            vote = vote if len(vote) > 9 else (*vote[:5], "{}", *vote[5:], None)
            batch.votes.append((len(batch.tasks) - 1, *vote, False))
        at = None if vote is None else len(batch.votes) - 1
        batch.records.append((len(batch.tasks) - 1, split, at, ratings or None, False))
    return batch


class BatchBuilder:
    """Collects records until they are packed. `bytes` is about how long their texts are."""

    def __init__(self) -> None:
        self._batch, self._places, self.bytes = Batch(), dict[Hashable, int](), 0
        self._first_id = make_judgment_id()[:-6]
        self._last: StagedRecord | None = None
        self._last_task = 0

    def __len__(self) -> int:
        return len(self._batch.records)

    @property
    def is_full(self) -> bool:
        return len(self) >= RECORDS_PER_BATCH or self.bytes >= BYTES_PER_BATCH

    def add(self, record: StagedRecord) -> None:
        batch, task = self._batch, self._place_task(record)
        split = None if record.requested_split is None else record.requested_split.value
        vote = None
        if record.vote is not None:
            vote = len(batch.votes)
            batch.votes.append(_vote_to_row(task, record.vote, self._make_judgment_id()))
            self.bytes += len(record.vote.answer.rationale)
        ratings = [self._place("ratings", r.id, lambda r=r: _rating_to_row(r)) for r in record.ratings] or None
        batch.records.append((task, split, vote, ratings, record.is_identical))

    def _place_task(self, record: StagedRecord) -> int:
        """Return where the prompt, the completions, the comparison and the images of a record are in the batch."""
        last, prompt, comparison = self._last, record.prompt, record.comparison
        # The votes on a comparison are mostly adjacent, and come with the same objects.
        if (
            last is not None
            and last.prompt is prompt
            and last.completions is record.completions
            and last.comparison is comparison
        ):
            return self._last_task
        at = self._place("prompts", prompt.id, lambda: _prompt_to_row(prompt))
        completions = [self._place("completions", c.id, lambda c=c: _completion_to_row(c)) for c in record.completions]
        comparison_at = None
        if comparison is not None:
            comparison_at = self._place("comparisons", comparison.id, lambda: _comparison_to_row(comparison))
        images = [self._place("images", image[0], lambda image=image: image) for image in record.images]
        self._batch.tasks.append((at, completions, comparison_at, images))
        self._last, self._last_task = record, len(self._batch.tasks) - 1
        return self._last_task

    def _make_judgment_id(self) -> str:
        """Return a new id: the judgments of a batch follow each other in their index, which is quicker to write."""
        return f"{self._first_id}{len(self._batch.votes):06x}"

    def take(self) -> Batch:
        """Return what was collected, and start anew."""
        batch = self._batch
        self.__init__()
        return batch

    def _place(self, kind: str, key: str, make_row: Any) -> int:
        if (place := self._places.get((kind, key))) is None:
            rows = getattr(self._batch, kind)
            rows.append(row := make_row())
            self.bytes += sum(len(text) for text in row if isinstance(text, str))
            place = self._places[kind, key] = len(rows) - 1
        return place


def _prompt_to_row(prompt: Prompt) -> Sequence[Any]:
    messages, tags = encode_messages(prompt.messages), encode_json(dict(prompt.tags))
    tools = encode_json([tool.to_plain() for tool in prompt.tools]) if prompt.tools else None
    return prompt.id, prompt.family, prompt.split.value, messages, tags, tools


def _completion_to_row(completion: Completion) -> Sequence[Any]:
    sampling = encode_json(dict(completion.sampling)) if completion.sampling else "{}"
    return completion.id, completion.prompt_id, encode_messages(completion.messages), completion.policy, sampling


def encode_messages(messages: Messages) -> str:
    """Return the text of messages in their JSON column: that of `encode_json`, made faster where all are plain."""
    if not all(m.is_plain for m in messages):
        return encode_json(messages_to_dicts(messages))
    texts = (f'{{"role": {_encode_text(m.role)}, "content": {_encode_text(cast(str, m.content))}}}' for m in messages)
    return f"[{', '.join(texts)}]"


def _comparison_to_row(comparison: Comparison) -> Sequence[Any]:
    ids = encode_json([c.id for c in comparison.completions])
    language = comparison.prompt.language
    return comparison.id, comparison.prompt.id, ids, comparison.overlap, language, comparison.batch


def _vote_to_row(task: int, vote: StagedVote, judgment_id: str) -> Sequence[Any]:
    answer = vote.answer
    ranking, order = _encode_ids(answer.ranking), _encode_ids(vote.order_shown)
    scores = encode_json(dict(answer.scores)) if answer.scores else "{}"
    judged_at = None if vote.judged_at is None else format_time(vote.judged_at)
    return (
        task, vote.rater, str(answer.verdict), ranking, answer.strength, answer.rationale, scores, order,
        vote.simulated, vote.key, judgment_id, judged_at, vote.judge,
    )  # fmt: skip


def _rating_to_row(rating: StagedRating) -> Sequence[Any]:
    said = (rating.axis, float(rating.value), rating.lowest, rating.highest, rating.rationale, rating.simulated)
    judged_at = rating.judged_at and format_time(rating.judged_at)
    return rating.id, rating.completion_id, rating.rater, *said, judged_at, rating.judge


def format_time(moment: datetime) -> str:
    """Return a moment, which knows its time zone, as the databases hold it: naive UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
