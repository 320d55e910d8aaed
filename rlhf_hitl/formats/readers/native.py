"""The project's own JSONL: a prompt, its tags, completions, and perhaps rankings of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from rlhf_hitl.formats.readers.columns import (
    read_judged_at,
    read_rater,
    read_rationale,
    read_strength,
)
from rlhf_hitl.formats.record import (
    ImportCompletion,
    ImportRecord,
    ImportVote,
    SourceRow,
    make_field_error,
    read_chat_field,
    read_choice_field,
    read_list_field,
    read_scores_field,
    read_tags_field,
    read_tools_field,
)
from rlhf_hitl.formats.source import RowSource
from rlhf_hitl.types import Split, Verdict

NAME = "native"
ABOUT = (
    'JSONL of {"messages", "tags", "completions": [{"messages", "policy", "sampling"}]}; prompts only without them. '
    '"votes": [{"rater", "ranking", "rationale", "strength", "scores": {axis: [1 to 5, …]}, "judged_at", "simulated", '
    '"judge"}] rank the completions by their numbers, best first; "split" is where its prompt goes; "tools" are what '
    "it offers"
)
COLUMNS = ("messages", "tags", "completions", "votes", "split", "tools")
SPLITS = {split.value: split.value for split in Split}


def matches(fields: Mapping[str, Any]) -> bool:
    return "messages" in fields and not {"chosen", "rejected"} & set(fields)


def make_reader(source: RowSource, pairs: str) -> Callable[[SourceRow], list[ImportRecord]]:
    """Return the reader; `pairs` is `all` pairs of a prompt's completions, or `adjacent`: (1st, 2nd), (3rd, 4th), …

    A line with votes gives all pairs, so that no ranking is read in part. A pair has a vote of every ranking that holds
    both of its completions.
    """

    def read_row(row: SourceRow) -> list[ImportRecord]:
        prompt = read_chat_field(row, "messages")
        tags = read_tags_field(row)
        split = Split(read_choice_field(row, "split", SPLITS)) if row.fields.get("split") is not None else row.split
        tools = read_tools_field(row)
        raw_completions = read_list_field(row, "completions")
        completions = [_to_completion(row, i, side) for i, side in enumerate(raw_completions)]
        numbers = range(len(completions))
        rankings = [
            _read_ranking(row, i, vote, len(completions)) for i, vote in enumerate(read_list_field(row, "votes"))
        ]
        if (pairs == "all" or rankings) and len(completions) > 1:
            groups: list[tuple[int, ...]] = list(combinations(numbers, 2))
        else:
            groups = [tuple(numbers[i : i + 2]) for i in range(0, len(completions), 2)] or [()]
        return [
            ImportRecord(
                prompt,
                tuple(completions[i] for i in group),
                row.place,
                vote=vote,
                tags=tags,
                split=split,
                order_known=vote is None,
                tools=tools,
            )
            for group in groups
            for vote in _list_votes(rankings, group)
        ]

    return read_row


def _to_completion(row: SourceRow, index: int, side: Any) -> ImportCompletion:
    side = side if isinstance(side, dict) else {"messages": side}
    completion_row = row.enter(side, "completion key", f"completions[{index}]")
    policy, sampling = completion_row.fields.get("policy"), completion_row.fields.get("sampling") or {}
    if not isinstance(policy, str) or not policy:
        raise make_field_error(completion_row, "policy", "the name of the policy that wrote it")
    if not isinstance(sampling, dict):
        raise make_field_error(completion_row, "sampling", "an object")
    return ImportCompletion(read_chat_field(completion_row, "messages"), policy, sampling)


def _read_ranking(row: SourceRow, index: int, vote: Any, n: int) -> ImportVote:
    """Return the vote on all of a prompt's completions; some may be missing in its ranking."""
    vote_row = row.enter(vote if isinstance(vote, dict) else {"ranking": vote}, "vote key", f"votes[{index}]")
    ranking, simulated, judge = (vote_row.fields.get(name) for name in ("ranking", "simulated", "judge"))
    if vote_row.look("rater") == "":
        raise make_field_error(vote_row, "rater", "a name, or none at all")
    if not isinstance(simulated, bool | None):
        raise make_field_error(vote_row, "simulated", "true or false")
    if not isinstance(judge, bool | None):
        raise make_field_error(vote_row, "judge", "true, of a model, or false")
    groups = ranking if isinstance(ranking, list) and all(isinstance(group, list) for group in ranking) else None
    numbers = [i for group in groups or () for i in group]
    is_number = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < n for i in numbers)
    if groups is None or not is_number or len(set(numbers)) < len(numbers) or len(numbers) < 2:
        expected = f"groups of the numbers 0 to {n - 1}, two or more and each once: [[0], [1, 2]]"
        raise make_field_error(vote_row, "ranking", expected)
    strength = read_strength(vote_row) or None
    if strength is not None and (len(numbers) > 2 or len(groups) < 2):
        raise make_field_error(vote_row, "strength", "none, unless one of two completions is better")
    return ImportVote(
        Verdict.RANKED,
        tuple(map(tuple, groups)),
        read_rater(vote_row, ("rater",)),
        strength,
        read_rationale(vote_row),
        bool(simulated),
        read_scores_field(vote_row, n),
        read_judged_at(vote_row),
        bool(judge),
    )


def _list_votes(rankings: Sequence[ImportVote], group: Sequence[int]) -> list[ImportVote] | list[None]:
    """Return the votes that some rankings say of a group: a record has one vote, or none."""
    return [vote for ranking in rankings if (vote := _rank_pair(ranking, group)) is not None] or [None]


def _rank_pair(vote: ImportVote, group: Sequence[int]) -> ImportVote | None:
    """Return what a ranking says of two completions; None where it does not rank both."""
    place = {i: n for n, ranked in enumerate(vote.ranking) for i in ranked}
    if len(group) < 2 or not set(group) <= set(place):
        return None
    first, second = (place[i] for i in group)
    outcome = "tie" if first == second else "first" if first < second else "second"
    scores = {axis: {at: given[i] for at, i in enumerate(group) if i in given} for axis, given in vote.scores.items()}
    return ImportVote.of_pair(
        outcome,
        rater=vote.rater,
        strength=vote.strength,
        rationale=vote.rationale,
        simulated=vote.simulated,
        scores={axis: given for axis, given in scores.items() if given},
        judged_at=vote.judged_at,
        judge=vote.judge,
    )
