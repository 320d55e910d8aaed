"""Records become the store's objects: everything is checked that the database would refuse, and ids are made."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.record import UNNAMED, ImportCompletion, ImportRating, ImportRecord, ImportVote
from rlhf_hitl.formats.source import BadRowHandler
from rlhf_hitl.store.images import ImageFolder
from rlhf_hitl.store.imports import StagedRating, StagedRecord, StagedVote
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    Answer,
    Comparison,
    Completion,
    Messages,
    Prompt,
    Split,
    Tools,
    make_content_id,
)
from rlhf_hitl.types.content import refuse_nul
from rlhf_hitl.types.messages import ImagePart, drop_pixels, list_images
from rlhf_hitl.types.names import check_label

RECORDS_REMEMBERED = 1000
IMAGES_REMEMBERED = 10_000  # their sizes
REPEATS = "completions that repeat another of their prompt"  # as readers call them that rank
MAX_NAME_LENGTH = 150  # of raters; with the format's name as a prefix it fits the store's column
MAX_POLICY_LENGTH = 500
MAX_BATCH_LENGTH = 200
MAX_AXIS_LENGTH = 80

Objects = tuple[Prompt, tuple[Completion, ...], Comparison | None]
#: For each completion of a record, its position among those that say something of their own; None where all do.
Places = tuple[int, ...] | None


class NameChecker(Protocol):
    """Checks names of batches and policies, as `KnownNames` does."""

    def check_batch(self, project: str, batch: str) -> None: ...
    def check_policy(self, policy: str) -> None: ...


class Counts(Protocol):
    """Counts how often a key was met, as `OccurrenceCounter` does."""

    def count(self, key: bytes) -> int: ...


@dataclass
class RecordChecker:
    """Makes domain objects of records, which the store can hold, and counts the records.

    Args:
        format: the name of the file's format; raters of two formats are different ones.
        known_names: of batches and policies, which must not look like others.
        split, overlap, queue, project, batch: as for `import_path`.
        occurrences: counts the votes without a rater's name.
        images: where images are kept; None keeps none.
        noted: counts the completions that repeat another.
    """

    format: str
    known_names: NameChecker
    occurrences: Counts
    images: ImageFolder | None = None
    split: Split | None = None
    overlap: int = 1
    queue: bool = False
    project: str = DEFAULT_PROJECT
    batch: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    _sizes: dict[str, int] = field(default_factory=dict)  # id of an image → bytes of its file

    def read(self, records: Iterable[ImportRecord], on_bad: BadRowHandler) -> Iterator[StagedRecord]:
        """Yield the records; `on_bad` is called for those that cannot be stored."""
        make_objects = lru_cache(RECORDS_REMEMBERED)(self._make_objects)
        # The votes on a comparison are mostly adjacent, and to compare with the last one is quicker than any look-up.
        last: tuple[object, ...] = ()
        objects, answers = None, dict[object, tuple[Answer, tuple[object, ...]]]()
        places: Places = None
        images: tuple[tuple[str, int], ...] = ()
        for record in records:
            self.counts["rows"] += 1
            split = self.split or record.split
            overlap = self.overlap if record.vote is None or self.queue else 0
            batch = self.batch or record.batch
            this = (record.prompt, record.completions, record.tools, record.tags, split, overlap, batch)
            try:
                if this != last:
                    last = ()
                    places = _find_places(record.completions)
                    chat, completions = record.prompt, _list_different(record.completions, places)
                    found = {i.id: i for i in list_images(chat, *(c.messages for c in completions))}
                    images = tuple([(id, self._keep_image(image)) for id, image in found.items()])
                    if found:  # what is remembered and staged only names them
                        chat = drop_pixels(chat)
                        completions = tuple(replace(c, messages=drop_pixels(c.messages)) for c in completions)
                    tags = tuple(record.tags.items())
                    objects = make_objects(chat, record.tools, tags, completions, split, overlap, batch)
                    last, answers = this, {}
                if places is not None:
                    record = self._merge_repeats(record, places)
                assert objects is not None
                vote = self._make_vote(record, objects, answers) if record.vote is not None else None
                ratings = tuple(self._make_rating(rating, objects) for rating in record.ratings)
                is_identical = objects[2] is None and places is not None
                yield StagedRecord(*objects, vote, split, ratings, images, is_identical)
            except BadInput as e:
                on_bad(BadInput(f"{record.place}: {e.value}", expected=e.expected, fix=e.fix))
            except UnicodeEncodeError as e:
                # Half of a surrogate pair, which JSON can hold but UTF-8 cannot.
                on_bad(BadInput(f"{record.place}: {e.object[:60]!r}", expected="valid Unicode", fix="correct the line"))

    def _keep_image(self, image: ImagePart) -> int:
        """Keep an image, where images are kept, and return the bytes of its file."""
        if self.images is None:
            return len(image.png or b"")
        if (size := self._sizes.get(image.id)) is None:
            if len(self._sizes) >= IMAGES_REMEMBERED:
                self._sizes.clear()
            size = self._sizes[image.id] = self.images.save(image)
        return size

    def _merge_repeats(self, record: ImportRecord, places: tuple[int, ...]) -> ImportRecord:
        """Return a record whose vote and ratings are on the completions that are left, and count the others.

        A repeat has the rank, the scores and the ratings of the first that says the same, and gives it those that the
        first has none of. Where fewer than two are left there is nothing to compare.
        """
        left = max(places) + 1
        if left < 2:
            self.counts["identical_sides"] += 1
        else:
            self.noted[REPEATS] += len(places) - left
        vote = _move_vote(record.vote, places) if record.vote is not None and left > 1 else None
        return replace(record, vote=vote, ratings=_move_ratings(record.ratings, places))

    def _make_objects(
        self,
        chat: Messages,
        tools: Tools,
        tags: tuple[tuple[str, str], ...],
        import_completions: tuple[ImportCompletion, ...],
        requested_split: Split | None,
        overlap: int,
        batch: str,
    ) -> tuple[Prompt, tuple[Completion, ...], Comparison | None]:
        "".join(text for tag in tags for text in tag).encode()
        check_length("batch", batch, MAX_BATCH_LENGTH)
        batch = check_label("batch", batch)
        prompt = Prompt.create(chat, dict(tags), requested_split, tools)
        for completion in import_completions:
            check_length("policy", completion.policy, MAX_POLICY_LENGTH)
            _check_sampling(completion)
        completions = tuple(Completion.create(prompt.id, c.messages, c.policy, c.sampling) for c in import_completions)
        for completion in completions:
            self.known_names.check_policy(completion.policy)
        if len(completions) < 2:
            return prompt, completions, None
        self.known_names.check_batch(self.project, batch)
        return (
            prompt,
            completions,
            Comparison.create(prompt, completions, overlap, project=self.project, batch=batch),
        )

    def _make_vote(
        self, record: ImportRecord, objects: Objects, answers: dict[object, tuple[Answer, tuple[object, ...]]]
    ) -> StagedVote | None:
        """Return the vote of a record, if it is on a comparison; `answers` are those given to the same comparison."""
        (_, completions, comparison), vote = objects, record.vote
        if vote is None or comparison is None:
            return None
        check_name("rater", vote.rater, MAX_NAME_LENGTH)
        said = None if vote.scores else (vote.verdict, vote.ranking, vote.strength, vote.rationale)
        if (made := answers.get(said)) is None:
            made = _make_answer(vote, completions)
            if said is not None:
                answers[said] = made
        answer, content = made
        key = make_content_id("v", self.format, vote.rater, comparison.id, content)
        if vote.rater == UNNAMED and (n := self.occurrences.count(key.encode())) > 1:
            key = make_content_id("v", self.format, f"{UNNAMED} {n}", comparison.id, content)
        order = tuple([c.id for c in completions]) if record.order_known else ()
        return StagedVote(vote.rater, answer, order, vote.simulated, key, vote.judged_at, vote.judge)

    def _make_rating(self, rating: ImportRating, objects: Objects) -> StagedRating:
        _, completions, comparison = objects
        check_name("rater", rating.rater, MAX_NAME_LENGTH)
        check_name("axis", rating.axis, MAX_AXIS_LENGTH)
        refuse_nul("rationale", rating.rationale)
        if not all(math.isfinite(n) for n in (rating.value, rating.lowest, rating.highest) if n is not None):
            raise BadInput(f"rating {rating.value}", expected="a number", fix="correct it, or leave it out")
        completion_id = completions[rating.completion].id
        scale = rating.lowest, rating.highest
        content = (completion_id, rating.axis, rating.value, *scale, rating.rationale)
        id = make_content_id("r", self.format, rating.rater, *content)
        # In another comparison the rating of a completion is the same one, told again; in the same one it is another's.
        if rating.rater == UNNAMED:
            within = completion_id if comparison is None else comparison.id
            if (n := self.occurrences.count(f"{id} {within}".encode())) > 1:
                id = make_content_id("r", self.format, f"{UNNAMED} {n}", *content)
        return StagedRating(
            id,
            completion_id,
            rating.rater,
            rating.axis,
            rating.value,
            *scale,
            rating.rationale,
            rating.simulated,
            rating.judged_at,
            rating.judge,
        )


def _find_places(completions: tuple[ImportCompletion, ...]) -> Places:
    firsts = dict[Messages, int]()
    places = tuple([firsts.setdefault(c.messages, len(firsts)) for c in completions])
    return places if len(firsts) < len(completions) else None


def _list_different(completions: tuple[ImportCompletion, ...], places: Places) -> tuple[ImportCompletion, ...]:
    """Return the completions without those that say what an earlier one says."""
    return completions if places is None else tuple(completions[places.index(i)] for i in range(max(places) + 1))


def _move_vote(vote: ImportVote, places: tuple[int, ...]) -> ImportVote:
    rank_givers: dict[int, int] = {}
    for i in sorted(i for group in vote.ranking for i in group):
        rank_givers.setdefault(places[i], i)
    groups = (tuple(places[i] for i in group if rank_givers[places[i]] == i) for group in vote.ranking)
    scores: dict[str, dict[int, int]] = {}
    for axis, given in vote.scores.items():
        moved = scores[axis] = dict[int, int]()
        for i in sorted(given):
            moved.setdefault(places[i], given[i])
    return replace(vote, ranking=tuple(group for group in groups if group), scores=scores)


def _move_ratings(ratings: tuple[ImportRating, ...], places: tuple[int, ...]) -> tuple[ImportRating, ...]:
    """Return the ratings on the completions that are left: those of a repeat where the first has none by the same
    rater on the same axis."""
    givers: dict[tuple[int, str, str], int] = {}
    for rating in ratings:
        key = places[rating.completion], rating.rater, rating.axis
        givers[key] = min(givers.get(key, rating.completion), rating.completion)
    return tuple(
        replace(r, completion=places[r.completion])
        for r in ratings
        if givers[places[r.completion], r.rater, r.axis] == r.completion
    )


def _make_answer(vote: ImportVote, completions: tuple[Completion, ...]) -> tuple[Answer, tuple[object, ...]]:
    """Return the answer that a vote gives, and what of it the vote's key is the hash of."""
    refuse_nul("rationale", vote.rationale)
    for axis in vote.scores:
        check_name("axis", axis, MAX_AXIS_LENGTH)
    # The ranking is of ids and not of positions, so that the same comparison in the other order is the same one.
    # Ties are sorted, so that each has one form.
    ranking = tuple(tuple(sorted(completions[i].id for i in group)) for group in vote.ranking)
    scores = {axis: {completions[i].id: n for i, n in of_axis.items()} for axis, of_axis in vote.scores.items()}
    answer = Answer(vote.verdict, ranking, vote.strength, scores, vote.rationale)
    content: tuple[object, ...] = (vote.verdict.value, ranking, vote.strength, vote.rationale)
    return answer, (*content, scores) if scores else content


def _check_sampling(completion: ImportCompletion) -> None:
    if not completion.sampling:
        return
    try:
        json.dumps(dict(completion.sampling), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as e:
        raise BadInput(
            f"sampling of policy {completion.policy!r}",
            expected="settings that JSON can hold: no NaN, no infinity, not nested too deeply",
            fix=f"correct it ({e})",
        ) from e


def check_length(field_name: str, value: str, limit: int) -> None:
    if len(value) > limit:
        raise BadInput(f"{field_name} {value[:60]!r}…", expected=f"{limit} letters or fewer", fix="shorten the name")


@lru_cache(10_000)
def check_name(kind: str, name: str, limit: int) -> None:
    """Refuse a name that is too long, or that cannot be seen in whole (`check_label`)."""
    check_length(kind, name, limit)
    check_label(kind, name)
