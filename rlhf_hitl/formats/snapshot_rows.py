"""The rows of a snapshot, each made of one comparison with its judgments, one label or one score."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rlhf_hitl.labels.agreement import name_population
from rlhf_hitl.labels.label_models import fold_outcomes
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.labels.votes import LabelVote
from rlhf_hitl.stats.entropy import entropy_in_nats
from rlhf_hitl.store.export_query import JsonFields, JudgedComparison, sort_json_keys, write_tools
from rlhf_hitl.types import Comparison, Label, Role, Score, Verdict, messages_to_dicts
from rlhf_hitl.visible import is_blank

#: The columns of an exported judgment that its comparison has.
COMPARISON_COLUMNS = ("comparison_id", "prompt_id", "prompt", "tools", "completions", "tags", "repeat_of")

_VOTE_FIELDS = ("rater_id", "role", "verdict", "ranking", "order_shown", "strength", "simulated", "probabilities")

#: Reasons why raters prefer neither completion; `include_ties` exports such pairs too.
NO_PREFERENCE = ("all bad", "tie", "raters evenly split")

#: Verdicts that say nothing of which completion is better.
NOT_JUDGED = (Verdict.SKIPPED, Verdict.FLAGGED)


def find_no_demonstration_reason(judgment: JsonFields, corrected: set[str | None]) -> str | None:
    """Return why a better answer that a rater wrote is no demonstration, or None where it is one.

    Who skips a comparison or flags it has not judged it, and so has not written a better answer either.
    """
    if judgment["judgment_id"] in corrected:
        return "rewrite of a judgment that was corrected"
    if is_blank(judgment["rewrite"]):
        return "rewrite without a visible letter"
    return "rewrite without a judgment" if judgment["verdict"] in NOT_JUDGED else None


def make_demonstration_rows(judged: JudgedComparison, left_out: Counter[str]) -> list[JsonFields]:
    """Return the better answers that raters wrote; those that are left out are counted by reason in `left_out`."""
    corrected = {j["supersedes"] for j in judged.judgments}
    rewritten = [(j, find_no_demonstration_reason(j, corrected)) for j in judged.judgments if j["rewrite"]]
    left_out.update(reason for _, reason in rewritten if reason)
    return [
        {
            **_take_prompt(judged.comparison),
            "completion": [{"role": "assistant", "content": j["rewrite"]}],
            "judgment_id": j["judgment_id"],
            "rater_id": j["rater_id"],
            "simulated": j["simulated"],
        }
        for j, reason in rewritten
        if reason is None
    ]


def select_counted_judgments(judgments: list[JsonFields]) -> list[JsonFields]:
    """Return the judgments that count: neither superseded nor surplus."""
    corrected = {j["supersedes"] for j in judgments}
    return [j for j in judgments if j["judgment_id"] not in corrected and not j["surplus"]]


def to_label_vote(judgment: JsonFields, vote_weights: Mapping[str, float]) -> LabelVote:
    """Return an exported judgment as a vote. `vote_weights` are those of `read_vote_weights`."""
    weight = vote_weights.get(judgment["rater_id"], 1.0)
    fields = {name: judgment[name] for name in _VOTE_FIELDS}
    return LabelVote(**fields, weight=weight)


def to_population(judgment: JsonFields) -> str:
    """Return whose vote a judgment is: see `POPULATIONS`."""
    return name_population(judgment["role"] == Role.JUDGE, judgment["simulated"])


def find_no_preference_reason(label: Label, counted: list[JsonFields], min_votes: int) -> str | None:
    """Return why a label is no strict preference, or None where it is one."""
    first, tie, second = label.probabilities
    if label.votes < min_votes:
        return "too few votes"
    if _collect_verdicts(counted) - set(NOT_JUDGED) == {Verdict.ALL_BAD}:
        return "all bad"
    if tie > max(first, second):
        return "tie"
    if label.preferred is None:
        return "raters evenly split"
    return None


def find_no_label_reason(counted: list[JsonFields]) -> str:
    verdicts = _collect_verdicts(counted)
    if Verdict.FLAGGED in verdicts:
        return "flagged"
    if Verdict.SKIPPED in verdicts:
        return "skipped"
    return "surplus judgments only"


def _collect_verdicts(judgments: list[JsonFields]) -> set[str]:
    return {j["verdict"] for j in judgments}


def make_human_pair_row(comparison: JsonFields, label: Label, judgments: str, label_model: str) -> JsonFields:
    first, tie, second = label.probabilities
    worth = [weigh_votes(votes, len(comparison["completions"])) for votes in fold_outcomes(label.weighted_votes)]
    chosen, rejected = (label.first, label.second) if first >= second else (label.second, label.first)
    return _make_pair_fields(comparison, chosen, rejected) | {
        "p_chosen": max(first, second),
        "p_tie": tie,
        "p_rejected": min(first, second),
        "entropy": label.entropy,
        "votes": label.votes,
        "weight": sum(worth),
        "w_chosen": worth[0 if first >= second else 2],
        "w_tie": worth[1],
        "w_rejected": worth[2 if first >= second else 0],
        "label_source": "judge" if label.judges == label.votes else "human",
        "label_model": label_model,
        "adjudicated": label.adjudicated,
        "reward_model_id": None,
        "simulated": label.simulated,
        "judgments": judgments,
    }


def make_model_pair_row(comparison: Comparison, score: Score, simulated: bool) -> JsonFields:
    p = score.probability
    return _make_pair_fields(_make_comparison_fields(comparison), score.chosen, score.rejected) | {
        "p_chosen": p,
        "p_tie": 0.0,
        "p_rejected": 1 - p,
        "entropy": entropy_in_nats((p, 1 - p)),
        "votes": 0,
        "weight": 1.0,
        "w_chosen": p,
        "w_tie": 0.0,
        "w_rejected": 1 - p,
        "label_source": "model",
        "label_model": None,
        "adjudicated": False,
        "reward_model_id": score.reward_model_id,
        "simulated": simulated,
        "judgments": "[]",
    }


def _make_pair_fields(comparison: JsonFields, chosen_id: str, rejected_id: str) -> JsonFields:
    by_id = {completion["id"]: completion for completion in comparison["completions"]}
    chosen, rejected = by_id[chosen_id], by_id[rejected_id]
    return {
        **_take_prompt(comparison),
        "chosen": chosen["messages"],
        "rejected": rejected["messages"],
        "comparison_id": comparison["comparison_id"],
        "prompt_id": comparison["prompt_id"],
        "chosen_id": chosen_id,
        "rejected_id": rejected_id,
        "chosen_policy": chosen["policy"],
        "rejected_policy": rejected["policy"],
        "tags": comparison["tags"],
    }


def make_ranking_row(
    comparison: JsonFields, ranked: Sequence[tuple[LabelVote, list[int], float]], label_model: str
) -> JsonFields:
    """Return the row of a comparison's rankings: of each vote that ranks something the ranks of the completions, and
    what it is worth."""
    completions = comparison["completions"]
    return {
        **_take_prompt(comparison),
        "completions": [c["messages"] for c in completions],
        "rankings": [ranking for _, ranking, _ in ranked],
        "weights": [weight for *_, weight in ranked],
        "weight": float(sum(weight for *_, weight in ranked)),
        "label_model": label_model,
        "comparison_id": comparison["comparison_id"],
        "prompt_id": comparison["prompt_id"],
        "completion_ids": [c["id"] for c in completions],
        "policies": [c["policy"] for c in completions],
        "simulated": any(vote.simulated for vote, *_ in ranked),
        "tags": comparison["tags"],
    }


def _take_prompt(comparison: JsonFields) -> JsonFields:
    """Return the prompt of a comparison, with its tools where it has some."""
    prompt = {"prompt": comparison["prompt"]}
    return prompt if comparison["tools"] is None else prompt | {"tools": comparison["tools"]}


def _make_comparison_fields(c: Comparison) -> JsonFields:
    """Return a comparison in the form of `JudgedComparison.comparison`."""
    return {
        "comparison_id": c.id,
        "prompt_id": c.prompt.id,
        "prompt": messages_to_dicts(c.prompt.messages),
        "tools": write_tools(f"[{', '.join(tool.as_json for tool in c.prompt.tools)}]") if c.prompt.tools else None,
        "completions": [
            {"id": a.id, "policy": a.policy, "messages": messages_to_dicts(a.messages)} for a in c.completions
        ],
        "tags": sort_json_keys(json.dumps(dict(c.prompt.tags))),
    }


def to_json(value: Any) -> bytes:
    """Return a value as JSON with its keys sorted, so that it is the same on every database."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer of more than 64 bits, in the arguments of a tool call
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
