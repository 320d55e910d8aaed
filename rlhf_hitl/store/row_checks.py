"""What a row must be so that everything that reads the store can read it, whoever wrote the archive it comes from.

`table_copy` knows what a column can hold; here are the types of the domain: their words, ranges, shapes and ids. What
one row must be to others is in `reference_checks.py`. A check is called with the value of a column, parsed where it is
JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, get_args

from rlhf_hitl.errors import BadInput
from rlhf_hitl.store.policies import PolicyMethod
from rlhf_hitl.store.runs import RunOutcome
from rlhf_hitl.store.tokens import TokenKind
from rlhf_hitl.types import (
    Answer,
    AuditOutcome,
    AutomationState,
    Axis,
    Event,
    GoldPurpose,
    Guideline,
    OverlapRule,
    QualificationRule,
    Role,
    Route,
    Scope,
    Split,
    TutorialExample,
    Verdict,
)
from rlhf_hitl.types.answers import Reason
from rlhf_hitl.types.catalog import ComparisonFilter
from rlhf_hitl.types.comparisons import DEFAULT_PROJECT, make_completion_id, make_prompt_id
from rlhf_hitl.types.content import make_content_id
from rlhf_hitl.types.images import is_image_id
from rlhf_hitl.types.messages import messages_to_dicts, parse_messages, parse_tools
from rlhf_hitl.types.projects import RationaleRequirement, ReasoningDisplay, ScoreRequirement
from rlhf_hitl.types.promotions import Decision
from rlhf_hitl.types.splits import hash_prompt_family

Check = Callable[[Any], bool]
Fields = Mapping[str, Any]


def _one_of(words: type[StrEnum] | tuple[str, ...]) -> Check:
    return frozenset(map(str, words)).__contains__


def _between(least: float, most: float) -> Check:
    return lambda value: least <= value <= most


def _is_chat(value: Any) -> bool:
    """Whether these are messages as the store writes them, key for key."""
    try:
        return isinstance(value, list) and messages_to_dicts(parse_messages(value)) == value
    except BadInput:
        return False


def _are_tools(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_object, value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_object_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_object_of_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(type(item) in (int, float) for item in value.values())


def _is_overlap_rule(value: Any) -> bool:
    try:
        return isinstance(value, dict) and OverlapRule.from_plain(value).to_plain() == value
    except BadInput:
        return False


def _is_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_object_of_numbers, value.values()))


def _is_ranking(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_texts, value))


def _is_ranking_of_positions(value: Any) -> bool:
    """Whether this is a ranking of completions without ids; positions may be text, as earlier versions wrote them."""
    return isinstance(value, list) and all(
        isinstance(group, list) and all(re.fullmatch(r"\d{1,4}", str(i)) for i in group) for group in value
    )


def _is_completions(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_chat, value))


def _is_filter(value: Any) -> bool:
    try:
        return ComparisonFilter.from_plain(value).to_plain() == value
    except BadInput:
        return False


def _are_words(words: type[StrEnum]) -> Check:
    known = frozenset(map(str, words))
    return lambda value: _is_texts(value) and known.issuperset(value)


def _are_probabilities(value: Any) -> bool:
    """Whether these are probabilities of three outcomes, each from 0 to 1."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(p) in (int, float) and 0 <= p <= 1 for p in value)
        and abs(sum(value) - 1) < 1e-6
    )


def _is_tag_win_rate(value: Any) -> bool:
    """Whether this is the win rate of a tag as a promotion keeps it."""
    numbers = ("outcomes", "win_rate", "low", "high", "is_regression")
    return (
        isinstance(value, dict)
        and value.keys() == {"tag", *numbers}
        and isinstance(value["tag"], str)
        and all(isinstance(value[name], (int, float)) for name in numbers)
    )


def _is_number(value: float) -> bool:
    return not math.isnan(value)


def _is_name(value: str) -> bool:
    """Whether a name of a person could be given: the one place for what a new name must be."""
    return bool(value.strip())


def _is_qualification_rule(value: Any) -> bool:
    try:
        return _is_object_of_numbers({k: v for k, v in value.items() if v is not None}) and bool(
            QualificationRule.from_plain(value)
        )
    except (AttributeError, BadInput, TypeError):
        return False


_is_count = _between(0, 2**31 - 1)
_is_working_role = _one_of(("", Role.JUDGE, Role.LEAD))
_is_route, _is_role = _one_of(Route), _one_of(Role)

#: Table and column → the check of a value that is not null.
CHECKS: dict[str, Check] = {
    "projects.id": lambda value: re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", value) is not None,
    "projects.repeat_every": lambda value: value == 0 or 2 <= value < 2**31,
    "projects.rater_filters": _is_texts,
    "projects.overlap_rule": _is_overlap_rule,
    "projects.gold_every": lambda value: value == 0 or 2 <= value < 2**31,
    "projects.qualification": _is_qualification_rule,
    "projects.judge_overlap": _is_count,
    "secrets.value": lambda value: re.fullmatch(r"[0-9a-f]{64}", value) is not None,
    "raters.name": _is_name,
    "raters.role": _is_role,
    "raters.languages": _is_texts,
    "raters.attributes": _is_object_of_texts,
    "raters.vote_weight": _between(0, 1),
    "raters.quota": _between(1, 2**31 - 1),
    "prompts.split": _one_of(Split),
    "prompts.messages": _is_chat,
    "prompts.tools": _are_tools,
    "prompts.tags": _is_object_of_texts,
    "completions.messages": _is_chat,
    "images.id": is_image_id,
    "images.bytes": _is_count,  # 0 of an image that an early import named: restoring writes the true number
    "ratings.value": math.isfinite,
    "ratings.lowest": math.isfinite,
    "ratings.highest": math.isfinite,
    "completions.sampling": _is_object,
    "comparisons.completion_ids": _is_texts,
    "comparisons.overlap": _is_count,
    "comparisons.route": _is_route,
    "places.n": _is_count,
    "places.position": _between(0, 2**62),
    "places.role": _is_working_role,
    "leases.place": _is_count,
    "leases.order_shown": _is_texts,
    "leases.route": _is_route,
    "judgments.verdict": _one_of(Verdict),
    "judgments.ranking": _is_ranking,
    "judgments.scores": _is_scores,
    "judgments.order_shown": _is_texts,
    "judgments.route": _is_route,
    "judgments.reason": _one_of(Reason),
    "judgments.role": _one_of((Role.JUDGE, Role.LEAD)),
    "judgments.probabilities": _are_probabilities,
    "judgments.seq": _between(1, 2**31 - 1),
    "guidelines.scores": _one_of(get_args(ScoreRequirement)),
    "guidelines.rationale": _one_of(get_args(RationaleRequirement)),
    "guidelines.reasoning": _one_of(get_args(ReasoningDisplay)),
    "guidelines.axes": lambda value: isinstance(value, list) and all(map(_is_object, value)),
    "examples.position": _is_count,
    "examples.messages": _is_chat,
    "examples.completions": _is_completions,
    "examples.verdict": _one_of(Verdict),
    "examples.ranking": _is_ranking_of_positions,
    "example_answers.verdict": _one_of(Verdict),
    "example_answers.ranking": _is_ranking_of_positions,
    "reward_models.figures": _is_object,
    "scores.margin": _is_number,
    "scores.uncertainty": _between(0, math.inf),
    "scores.probability": _between(0, 1),
    "scores.rewards": _is_object_of_numbers,
    "routings.route": _is_route,
    "routings.proposed": _is_route,
    "routings.round": _is_count,
    "routings.place_in_line": _is_count,
    "golds.verdict": _one_of(Verdict),
    "golds.ranking": _is_ranking,
    "golds.purpose": _one_of(GoldPurpose),
    "qualifications.attempt": _between(1, 2**31 - 1),
    "qualifications.answered": _is_count,
    "qualifications.right": _is_count,
    "slices.filter": _is_filter,
    "assignments.place": _is_count,
    "findings.statistic": math.isfinite,
    "findings.p_value": _between(0, 1),
    "findings.false_alarm_rate": _between(0, 1),
    "findings.evidence": _is_object,
    "findings.action": _one_of(("none", "down_weighted", "paused")),
    "out_of_fold.p_first": _between(0, 1),
    "out_of_fold.p_tie": _between(0, 1),
    "out_of_fold.p_second": _between(0, 1),
    "judges.kind": _one_of(("endpoint", "local")),
    "judges.settings": _is_object,
    "judges.budget": _between(0, math.inf),
    "judge_calls.order_shown": _is_texts,
    "judge_calls.outcome": _one_of(("answered", "refused", "unreadable", "failed", "timed_out")),
    "judge_calls.probabilities": _are_probabilities,
    "judge_calls.prompt_tokens": _is_count,
    "judge_calls.completion_tokens": _is_count,
    "judge_calls.cost": _between(0, math.inf),
    "judge_calls.seconds": _between(0, math.inf),
    "steps.round": _is_count,
    "steps.result": _is_object,
    "steps.seconds": _between(0, math.inf),
    "runs.round": _is_count,
    "runs.seconds": _between(0, math.inf),
    "runs.outcome": _one_of(RunOutcome),
    "tokens.kind": _one_of(TokenKind),
    "tokens.scopes": _are_words(Scope),
    "tokens.role": _is_role,
    "audit.details": _is_object,
    "audits.max_error": _between(0, 1),
    "audits.delta": _between(0, 1),
    "audits.number": _between(1, 2**31 - 1),
    "audits.outcome": _one_of(AuditOutcome),
    "automation.state": _one_of(AutomationState),
    "automation.after_decision": _is_count,
    "alerts.figures": _is_object,
    "policies.method": _one_of(PolicyMethod),
    "policies.round": _is_count,
    "policies.settings_digest": lambda value: re.fullmatch(r"([0-9a-f]{64})?", value) is not None,
    "promotions.round": _is_count,
    "promotions.settings": _is_object,
    "promotions.decision": _one_of(Decision),
    "promotions.outcomes": _is_count,
    "promotions.judgments": _is_count,
    "promotions.win_rate": _between(0, 1),
    "promotions.low": _between(0, 1),
    "promotions.high": _between(0, 1),
    "promotions.evidence_for": _between(0, math.inf),
    "promotions.evidence_against": _between(0, math.inf),
    "promotions.counts": _is_object_of_numbers,
    "promotions.length_controlled": _is_object_of_numbers,
    "promotions.tags": lambda value: isinstance(value, list) and all(map(_is_tag_win_rate, value)),
    "promotion_draws.n": _is_count,
    "promotion_draws.prediction": _between(0, 1),
    "webhooks.events": _are_words(Event),
    "deliveries.event": _one_of(Event),
    "deliveries.attempts": _is_count,
}


class RowChecks:
    """Checks of whole rows. One object checks all tables, in the order in which they refer to each other."""

    def __init__(self) -> None:
        self._project_of_lane: dict[int, str] = {}
        self.of_table: dict[str, Callable[[Fields], bool]] = {
            "lanes": self._check_lane,
            "prompts": _is_prompt,
            "completions": _is_completion,
            "comparisons": self._is_comparison,
            "leases": lambda row: row["leased_at"] <= row["expires_at"],
            "judgments": _is_answer,
            "guidelines": _is_guideline,
            "golds": _is_answer,
            "examples": _is_example,
            "example_answers": _is_answer_to_example,
            "tokens": lambda row: row["kind"] == TokenKind.INVITE or row["rater_id"] is not None,
        }

    def _check_lane(self, row: Fields) -> bool:
        self._project_of_lane[row["id"]] = row["project_id"]
        return True

    def _is_comparison(self, row: Fields) -> bool:
        ids = row["completion_ids"]
        if len(set(ids)) != len(ids) or len(ids) < 2 or row["lane_id"] is None:
            return False
        # The id of a repeat is a hash of its rater too, whom its place knows; that of a gold, of what it is for.
        if row["repeat_of"] is not None or row["is_gold"]:
            return re.fullmatch(r"x_[0-9a-f]{24}", row["id"]) is not None
        project = self._project_of_lane.get(row["lane_id"])
        parts: list[Any] = [ids] if project == DEFAULT_PROJECT else [ids, {"project": project}]
        return row["id"] == make_content_id("x", *parts)


def _is_prompt(row: Fields) -> bool:
    chat = parse_messages(row["messages"])
    is_same = row["id"] == make_prompt_id(chat, parse_tools(row["tools"]))
    return bool(chat) and is_same and row["family"] == hash_prompt_family(chat)


def _is_completion(row: Fields) -> bool:
    return row["id"] == make_completion_id(row["prompt_id"], row["policy"], parse_messages(row["messages"]))


def _is_answer(row: Fields) -> bool:
    Answer.from_plain(row)  # raises where its parts do not fit each other
    return True


def _is_guideline(row: Fields) -> bool:
    axes = tuple(Axis(**axis) for axis in row["axes"])
    if not all(isinstance(value, str) for axis in axes for value in vars(axis).values()):
        return False
    Guideline(row["project_id"], row["version"], row["text"], axes, row["scores"], row["rationale"], row["reasoning"])
    return True


def _is_example(row: Fields) -> bool:
    completions = [parse_messages(c) for c in row["completions"]]
    messages, answer = parse_messages(row["messages"]), _read_example_answer(row)
    made = TutorialExample.create(row["project_id"], messages, completions, answer, row["explanation"])
    return made.id == row["id"]


def _is_answer_to_example(row: Fields) -> bool:
    _read_example_answer(row)
    return True


def _read_example_answer(row: Fields) -> Answer:
    ranking = tuple(tuple(str(i) for i in group) for group in row["ranking"])
    return Answer(Verdict(row["verdict"]), ranking, row["strength"])
