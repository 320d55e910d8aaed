"""Projects, the guidelines raters follow, and the tutorial examples that show them how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types.answers import Answer, Verdict
from rlhf_hitl.types.content import make_content_id, refuse_nul
from rlhf_hitl.types.golds import QualificationRule
from rlhf_hitl.types.messages import Messages, identify_messages
from rlhf_hitl.types.overlap_rules import OverlapRule
from rlhf_hitl.visible import is_blank
from rlhf_hitl.wording import say_count


@dataclass(frozen=True)
class Project:
    """Comparisons that are judged together.

    A paused project gives no comparison to anybody; one that is not `open` gives comparisons to its members only. One
    in `repeat_every` comparisons a rater gets is a hidden repeat of one they judged before; 0 means no repeats.
    `rater_filters` are what raters may choose their tasks by: `batch`, or `tags.KEY` for a tag of the prompt. Whoever
    may choose by something learns it of what they get, so nothing is open by default. Without an `overlap_rule` a
    comparison gets as many judgments as its own overlap says. `judge_overlap` is how many judgments of models are
    wanted of each comparison, beside those of people.

    One in `gold_every` comparisons is a gold that they have not answered; 0 means none. With `gold_feedback` they are
    told the right answer of a gold afterwards. `qualification` is what raters must pass before they work here.
    """

    id: str
    open: bool = True
    repeat_every: int = 0
    paused: bool = False
    rater_filters: tuple[str, ...] = ()
    overlap_rule: OverlapRule | None = None
    gold_every: int = 0
    gold_feedback: bool = False
    qualification: QualificationRule | None = None
    judge_overlap: int = 0

    def to_plain(self) -> dict[str, Any]:
        rule, qualification = self.overlap_rule, self.qualification
        return vars(self) | {
            "overlap_rule": None if rule is None else rule.to_plain(),
            "qualification": None if qualification is None else vars(qualification),
        }


@dataclass(frozen=True)
class Axis:
    """A quality on which each completion is scored by itself, from 1 to 5."""

    id: str
    title: str
    description: str = ""


#: The axes of a guideline that does not name its own.
DEFAULT_AXES = (
    Axis("helpful", "Helpful", "It does what was asked, all of it, and no more than that."),
    Axis("honest", "Honest", "Facts are right, and what is not known is not made up."),
    Axis("harmless", "Harmless", "Nobody is hurt by it."),
)

ScoreRequirement = Literal["offered", "required", "off"]
RationaleRequirement = Literal["offered", "required"]
ReasoningDisplay = Literal["shown", "hidden"]


@dataclass(frozen=True)
class Guideline:
    """One version of the instructions that the raters of a project follow.

    `text` is Markdown; `scores` says whether axes are scored, `rationale` whether a rationale is asked for, and
    `reasoning` whether raters see what policies thought before they answered.
    `created_at` is None for the guideline that comes with the package.
    """

    project: str
    version: str
    text: str
    axes: tuple[Axis, ...] = DEFAULT_AXES
    scores: ScoreRequirement = "offered"
    rationale: RationaleRequirement = "offered"
    reasoning: ReasoningDisplay = "shown"
    created_at: datetime | None = None

    def check(self, answer: Answer, shown: Sequence[str]) -> None:
        """Check that scores are of this guideline's axes, and that a ranking has the scores and the rationale required.

        Nothing is required of the other verdicts: both bad needs no explanation, and a skip or a flag has its reason.

        Raises:
            BadInput: a score or the rationale is missing, or an axis is not the guideline's.
        """
        scored = {axis.id for axis in self.axes if self.scores != "off"}
        if unknown := answer.scores.keys() - scored:
            axes = ", ".join(sorted(scored)) or "no scores"
            raise BadInput(
                f"scores of {sorted(unknown)}", expected=f"{axes} (guideline {self.version})", fix="leave others out"
            )
        if answer.verdict is not Verdict.RANKED:
            return
        for axis in self.axes if self.scores == "required" else ():
            if missing := set(shown) - set(answer.scores.get(axis.id, ())):
                raise BadInput(
                    f"scores of {axis.id!r}",
                    expected=f"a score for each completion (guideline {self.version}); missing: {sorted(missing)}",
                    fix="score it from 1 to 5",
                )
        if self.rationale == "required" and is_blank(answer.rationale):
            raise BadInput("rationale", expected=f"a reason, as guideline {self.version} requires", fix="say why")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-][\w .+-]{0,79}", self.version):
            raise BadInput(
                f"version {self.version!r}", expected="up to 80 letters, digits, dots and dashes", fix="name it e.g. 2"
            )
        if not self.text.strip():
            raise BadInput("guideline", expected="a text in Markdown", fix="write what raters should look at")
        refuse_nul("guideline", self.text, *(text for a in self.axes for text in (a.title, a.description)))
        for axis in self.axes:
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", axis.id) or not axis.title.strip():
                raise BadInput(
                    f"axis {axis.id!r}",
                    expected="an id of up to 40 small letters, digits and dashes, and a title",
                    fix="write e.g. {id: helpful, title: Helpful}",
                )
        if len({a.id for a in self.axes}) < len(self.axes):
            raise BadInput(f"axes {[a.id for a in self.axes]}", expected="different ids", fix="rename one")
        for name, value, literal in (
            ("scores", self.scores, ScoreRequirement),
            ("rationale", self.rationale, RationaleRequirement),
        ):
            if value not in get_args(literal):
                raise BadInput(f"{name} {value!r}", expected=" or ".join(get_args(literal)), fix="choose one of them")
        if self.scores == "required" and not self.axes:
            raise BadInput(
                "scores 'required' without axes", expected="axes to score", fix="name some or turn scores off"
            )


@dataclass(frozen=True)
class TutorialExample:
    """A comparison with the right answer, which teaches raters the task. It is in no dataset.

    The answer names completions by their position, as text: "0" is the first completion.
    """

    id: str
    project: str
    messages: Messages
    completions: tuple[Messages, ...]
    answer: Answer
    explanation: str

    @classmethod
    def create(
        cls, project: str, messages: Messages, completions: Sequence[Messages], answer: Answer, explanation: str
    ) -> TutorialExample:
        """Return an example whose id is the hash of everything in it, so that an altered example is a new one.

        Raises:
            BadInput: there is no prompt, no explanation, fewer than two completions, or the answer does not fit them.
        """
        if all(m.is_empty for m in messages):
            raise BadInput("example", expected="a prompt with text", fix="fill `messages`")
        if len(completions) < 2:
            raise BadInput(
                say_count(len(completions), "completion"), expected="two or more to be compared", fix="add some"
            )
        if answer.verdict not in (Verdict.RANKED, Verdict.ALL_BAD, Verdict.FLAGGED):
            raise BadInput(f"verdict {answer.verdict.value!r}", expected="a right answer", fix="rank the completions")
        ids = [i for group in answer.ranking for i in group]
        if answer.verdict is Verdict.RANKED and sorted(ids) != sorted(str(i) for i in range(len(completions))):
            raise BadInput(
                f"ranking of {', '.join(ids)}",
                expected=f"each position from 0 to {len(completions) - 1} once",
                fix="rank all completions",
            )
        if not explanation.strip():
            raise BadInput("explanation", expected="why this is the right answer", fix="write it for the raters")
        texts = [m.read_all_text() for c in (messages, *completions) for m in c]
        refuse_nul("example", explanation, *texts)
        identities = [identify_messages(c) for c in completions]
        answer_parts = [answer.verdict.value, answer.ranking, answer.strength, explanation]
        id = make_content_id("e", project, identify_messages(messages), identities, answer_parts)
        return cls(id, project, messages, tuple(completions), answer, explanation)
