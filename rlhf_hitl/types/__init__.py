"""The domain types: every table, file, page and log line uses these words for these things.

`from rlhf_hitl.types import X` works for every name below. Start with `comparisons` (the unit of work) and `answers`
(what a rater says of one); the other modules hold what stands around them:

- `messages`: one chat message, with its parts, tool calls and reasoning, and lists of them
- `images`: images, made anew and named by the hash of their pixels
- `content`: ids that are hashes of content
- `splits`: train, calibration and held-out, decided by a hash of the prompt's opening turn
- `comparisons`: prompt, completion, comparison and its route
- `answers`: verdict, reason, ranking and the answer made of them
- `judgments`: an answer in the store, with its lease and its receipt
- `labels`: what the judgments of a comparison say together, and what a reward model says
- `people`: raters, their roles, and the scopes of API tokens
- `projects`: projects, guidelines and tutorial examples
- `overlap_rules`: when another judgment is worth its price
- `catalog`: a filter over comparisons, as pages, links, slices and commands have it
- `golds`: comparisons with a known right answer, and what raters must pass on them
- `automation`: whether models may accept, and what audits of it find
- `events`: what webhooks can be sent
- `clock`: the time of day
"""

from __future__ import annotations

from rlhf_hitl.types.answers import REASONS, UNRANKED, Answer, Ranking, Reason, ShownAnswer, Verdict
from rlhf_hitl.types.automation import AuditOutcome, AutomationChange, AutomationState, ErrorBound
from rlhf_hitl.types.catalog import ComparisonFilter
from rlhf_hitl.types.clock import utc_now
from rlhf_hitl.types.comparisons import DEFAULT_PROJECT, Comparison, Completion, Prompt, Route
from rlhf_hitl.types.content import make_content_id
from rlhf_hitl.types.events import Event
from rlhf_hitl.types.golds import (
    Gold,
    GoldFeedback,
    GoldPurpose,
    GoldResult,
    Qualification,
    QualificationRule,
    QualificationState,
)
from rlhf_hitl.types.judgments import Judgment, LaneState, Lease, Receipt, VisibleJudgment
from rlhf_hitl.types.labels import DEFAULT_LABEL_MODEL, LABEL_MODELS, Label, LabelModelName, Score
from rlhf_hitl.types.messages import (
    ImagePart,
    Message,
    Messages,
    Part,
    TextPart,
    Tool,
    ToolCall,
    Tools,
    messages_to_dicts,
    parse_messages,
    parse_tools,
)
from rlhf_hitl.types.overlap_rules import Escalation, OverlapRule
from rlhf_hitl.types.people import Rater, Role, Scope
from rlhf_hitl.types.projects import (
    DEFAULT_AXES,
    Axis,
    Guideline,
    Project,
    RationaleRequirement,
    ReasoningDisplay,
    ScoreRequirement,
    TutorialExample,
)
from rlhf_hitl.types.splits import SPLIT_SHARES, Split, hash_prompt_family, split_for_family

__all__ = [
    "DEFAULT_AXES",
    "DEFAULT_LABEL_MODEL",
    "DEFAULT_PROJECT",
    "LABEL_MODELS",
    "REASONS",
    "SPLIT_SHARES",
    "UNRANKED",
    "Answer",
    "AuditOutcome",
    "AutomationChange",
    "AutomationState",
    "Axis",
    "Comparison",
    "ComparisonFilter",
    "Completion",
    "ErrorBound",
    "Escalation",
    "Event",
    "Gold",
    "GoldFeedback",
    "GoldPurpose",
    "GoldResult",
    "Guideline",
    "ImagePart",
    "Judgment",
    "Label",
    "LabelModelName",
    "LaneState",
    "Lease",
    "Message",
    "Messages",
    "OverlapRule",
    "Part",
    "Project",
    "Prompt",
    "Qualification",
    "QualificationRule",
    "QualificationState",
    "Ranking",
    "Rater",
    "RationaleRequirement",
    "Reason",
    "ReasoningDisplay",
    "Receipt",
    "Role",
    "Route",
    "Scope",
    "Score",
    "ScoreRequirement",
    "ShownAnswer",
    "Split",
    "TextPart",
    "Tool",
    "ToolCall",
    "Tools",
    "TutorialExample",
    "Verdict",
    "VisibleJudgment",
    "hash_prompt_family",
    "make_content_id",
    "messages_to_dicts",
    "parse_messages",
    "parse_tools",
    "split_for_family",
    "utc_now",
]
