"""Read a snapshot from the store: labelled pairs, rankings and demonstrations for training, every judgment and rating.

`snapshot_rows` makes the single rows; `export` writes them to files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

from tqdm import tqdm

from rlhf_hitl.formats.snapshot_rows import (
    NO_PREFERENCE,
    find_no_label_reason,
    find_no_preference_reason,
    make_demonstration_rows,
    make_human_pair_row,
    make_model_pair_row,
    make_ranking_row,
    select_counted_judgments,
    to_json,
    to_label_vote,
    to_population,
)
from rlhf_hitl.labels.agreement import AgreementCounter
from rlhf_hitl.labels.label_models import LabelModel, Shares
from rlhf_hitl.labels.votes import LabelVote, share_out_ranks
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.export_query import (
    COMPARISONS_PER_BATCH,
    JsonFields,
    JudgedComparison,
    MessageKinds,
    find_message_kinds,
    read_judged_comparisons,
    read_ratings,
)
from rlhf_hitl.store.label_votes import read_vote_weights
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.store.scores import read_routed_scores
from rlhf_hitl.types import UNRANKED, Role, Route, Split


@dataclass
class SnapshotBatch:
    """The rows of up to COMPARISONS_PER_BATCH comparisons.

    `pair_lines` are `pairs` as JSON. `judgments[i]` belongs to `comparisons[judgment_comparisons[i]]`, so that what the
    judgments of a comparison share is held once.
    """

    pairs: list[JsonFields] = field(default_factory=list)
    rankings: list[JsonFields] = field(default_factory=list)
    pair_lines: list[bytes] = field(default_factory=list)
    comparisons: list[JsonFields] = field(default_factory=list)
    judgments: list[JsonFields] = field(default_factory=list)
    judgment_comparisons: list[int] = field(default_factory=list)
    demonstrations: list[JsonFields] = field(default_factory=list)
    ratings: list[JsonFields] = field(default_factory=list)


@dataclass
class Snapshot:
    """Reads the rows of a snapshot from the store in batches, and counts them and what was left out.

    `label_model` makes the labels; `include_judges` lets the votes of models into those of the train split. Only
    `comparison_ids` are in it, where they are given.
    """

    store: Store
    project: str | None
    include_model_labels: bool
    include_ties: bool
    min_votes: int
    progress: bool
    label_model: LabelModel = field(default_factory=Shares)
    include_judges: bool = True
    comparison_ids: frozenset[str] | None = None
    pairs: Counter[Split] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    rankings: Counter[Split] = field(default_factory=Counter)
    judgments: Counter[Split] = field(default_factory=Counter)
    demonstrations: Counter[Split] = field(default_factory=Counter)
    ratings: Counter[Split] = field(default_factory=Counter)
    filters: Counter[str] = field(default_factory=Counter)
    simulated: bool = False
    simulated_judgments: int = 0
    judge_judgments: int = 0
    raters: set[str] = field(default_factory=set)
    languages: set[str] = field(default_factory=set)
    agreement: AgreementCounter = field(default_factory=AgreementCounter)
    _digest: Any = field(default_factory=hashlib.sha256)

    @cached_property
    def vote_weights(self) -> dict[str, float]:
        """Rater id → how much the rater's votes count, where that is not 1."""
        return read_vote_weights(self.store)

    @cached_property
    def kinds(self) -> MessageKinds:
        """What the messages hold besides a role and a text."""
        return find_message_kinds(self.store, self.project)

    def load_image(self, id: str) -> bytes:
        """Return an image of the store as PNG."""
        return self.store.images.load(id)

    def count_rows(self, config: str, split: Split) -> int:
        """Return how many rows of one table of the export were read so far."""
        counts: Counter[Split] = getattr(self, config)
        return counts[split]

    def compute_content_hash(self) -> str:
        """Return the hash of all rows read so far, in their order, which is the same on every database."""
        return "sha256:" + self._digest.hexdigest()

    def read_batches(self, split: Split) -> Iterator[SnapshotBatch]:
        """Yield all rows of a split: judged comparisons, in order of id, then the pairs accepted on a model's score."""
        with tqdm(desc=f"export {split.value}", unit=" comparisons", disable=None if self.progress else True) as bar:
            for comparisons in read_judged_comparisons(self.store, split=split, project=self.project):
                batch = SnapshotBatch()
                for judged in comparisons:
                    if not self._is_chosen(judged.comparison["comparison_id"]):
                        continue
                    if kept := self._keep_people(judged):
                        self._add_judged(batch, kept, split)
                yield batch
                bar.update(len(comparisons))
        if self.include_model_labels:
            rows = self._make_model_rows(split)
            while chunk := list(islice(rows, COMPARISONS_PER_BATCH)):
                batch = SnapshotBatch()
                for row in chunk:
                    self._add_pair(batch, row, split)
                yield batch
        if self.comparison_ids is not None:
            return
        for all_ratings in read_ratings(self.store, split=split, project=self.project):
            ratings = [r for r in all_ratings if self.include_judges or r["role"] != Role.JUDGE]
            if n := len(all_ratings) - len(ratings):
                self.filters["rating of a judge"] += n
            self.ratings[split] += len(ratings)
            for row in ratings:
                self.raters.add(row["rater_id"])
                self.simulated = self.simulated or row["simulated"]
                self._digest.update(b"%s:%s\n" % (split.value.encode(), to_json(row)))
            yield SnapshotBatch(ratings=ratings)

    def _keep_people(self, judged: JudgedComparison) -> JudgedComparison | None:
        """Return a comparison without the judgments of models, where they are to be left out; None if none is left."""
        if self.include_judges:
            return judged
        kept = [j for j in judged.judgments if j["role"] != Role.JUDGE]
        if n := len(judged.judgments) - len(kept):
            self.filters["judgment of a judge"] += n
        return replace(judged, judgments=kept) if kept else None

    def _add_judged(self, batch: SnapshotBatch, judged: JudgedComparison, split: Split) -> None:
        as_json = to_json(judged.judgments)
        if not judged.is_repeat:
            said = [(j, to_label_vote(j, self.vote_weights)) for j in select_counted_judgments(judged.judgments)]
            self.agreement.add((to_population(j), vote) for j, vote in said if j["role"] != Role.LEAD)
            said = [(j, vote) for j, vote in said if self._may_decide(j, split)]
            counted, votes = [j for j, _ in said], [vote for _, vote in said]
            for row in self._make_human_rows(judged, counted, votes, as_json):
                self._add_pair(batch, row, split)
            if row := self._make_ranking_row(judged, votes):
                batch.rankings.append(row)
                self.rankings[split] += 1
                line = to_json([row["rankings"], row["weights"]])
                self._digest.update(b"%s:%s\n" % (split.value.encode(), line))
            demonstrations = make_demonstration_rows(judged, self.filters)
            batch.demonstrations += demonstrations
            self.demonstrations[split] += len(demonstrations)
        batch.judgment_comparisons += [len(batch.comparisons)] * len(judged.judgments)
        batch.comparisons.append(judged.comparison | {"repeat_of": judged.repeat_of})
        batch.judgments += judged.judgments
        self.judgments[split] += len(judged.judgments)
        self.raters.update(j["rater_id"] for j in judged.judgments)
        self.judge_judgments += sum(j["role"] == Role.JUDGE for j in judged.judgments)
        self.simulated_judgments += sum(j["simulated"] for j in judged.judgments)
        self.simulated = self.simulated or self.simulated_judgments > 0
        self._note_language(judged.comparison["tags"])
        self._digest.update(b"%s:%s%s\n" % (split.value.encode(), to_json(judged.comparison), as_json))

    def _note_language(self, tags: str) -> None:
        if '"language"' in tags and isinstance(language := json.loads(tags).get("language"), str):
            self.languages.add(language)

    def _add_pair(self, batch: SnapshotBatch, row: JsonFields, split: Split) -> None:
        line = to_json(row)
        batch.pairs.append(row)
        batch.pair_lines.append(line)
        self.pairs[split] += 1
        self.sources[row["label_source"]] += 1
        self.simulated = self.simulated or row["simulated"]
        self._digest.update(b"%s:%s\n" % (split.value.encode(), line))

    def _may_decide(self, judgment: JsonFields, split: Split) -> bool:
        """Whether a judgment may count in labels of a split: a model decides no label that measures models."""
        return judgment["role"] != Role.JUDGE or (self.include_judges and split is Split.TRAIN)

    def _make_human_rows(
        self, judged: JudgedComparison, counted: list[JsonFields], votes: list[LabelVote], as_json: bytes
    ) -> Iterator[JsonFields]:
        labels = self.label_model.make_labels(judged.comparison["comparison_id"], votes)
        if not labels:
            self.filters[find_no_label_reason(counted)] += 1
        for label in labels:
            reason = find_no_preference_reason(label, counted, self.min_votes)
            if reason is None or (self.include_ties and reason in NO_PREFERENCE):
                yield make_human_pair_row(judged.comparison, label, as_json.decode(), self.label_model.name)
            else:
                self.filters[reason] += 1

    def _make_ranking_row(self, judged: JudgedComparison, votes: list[LabelVote]) -> JsonFields | None:
        """Return the rankings of all completions of a comparison, or a lead's alone where one decided; None if there
        are fewer than `min_votes`."""
        ids = [c["id"] for c in judged.comparison["completions"]]
        ranked = [
            (vote, ranks, share * vote.weight * self.label_model.get_rater_weight(vote.rater_id))
            for vote in votes
            if vote.weight > 0
            for ranks, share in share_out_ranks(vote, ids)
            if set(ranks) != {UNRANKED}
        ]
        if len({vote.rater_id for vote, *_ in ranked}) < self.min_votes:
            return None
        if decided := [(vote, ranks) for vote, ranks, _ in ranked if vote.role == Role.LEAD]:
            vote, ranks = decided[-1]
            others = sum(weight for vote, _, weight in ranked if vote.role != Role.LEAD)
            ranked = [(vote, ranks, others + 1)]
        return make_ranking_row(judged.comparison, ranked, self.label_model.name) if ranked else None

    def _is_chosen(self, comparison_id: str) -> bool:
        return self.comparison_ids is None or comparison_id in self.comparison_ids

    def _make_model_rows(self, split: Split) -> Iterator[JsonFields]:
        """Yield pairs accepted on a model's score that no rater has judged since; raters override the model."""
        found = find_comparisons(self.store, split=split, project=self.project, routes=[Route.AUTO], judged=False)
        accepted = (comparison for comparison in found if self._is_chosen(comparison.id))
        if split is not Split.TRAIN:
            if n := sum(1 for _ in accepted):
                self.filters["model label outside train"] += n
            return
        simulated = {m.id: m.simulated for m in list_reward_models(self.store)}
        while chunk := list(islice(accepted, COMPARISONS_PER_BATCH)):
            scores = read_routed_scores(self.store, [c.id for c in chunk])
            for comparison in chunk:
                score = scores.get(comparison.id)
                if score is None:
                    self.filters["accepted without a score"] += 1
                elif score.margin <= 0:
                    self.filters["model sees no difference"] += 1
                else:
                    yield make_model_pair_row(comparison, score, simulated[score.reward_model_id])
