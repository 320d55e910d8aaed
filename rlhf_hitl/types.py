"""The project's nouns. Every table, file, page and log line uses these words for these things."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, get_args

from rlhf_hitl.errors import BadInput


class Split(StrEnum):
    TRAIN = "train"
    CALIBRATION = "calibration"
    HELDOUT = "heldout"


class Verdict(StrEnum):
    RANKED = "ranked"
    ALL_BAD = "all_bad"
    SKIPPED = "skipped"
    FLAGGED = "flagged"


class Reason(StrEnum):
    """Why a comparison was flagged (the first four) or skipped (the last four)."""

    UNSAFE = "unsafe"
    BROKEN = "broken"
    WRONG_LANGUAGE = "wrong_language"
    PRIVATE = "private"
    SUBJECT = "subject"  # the rater does not know the subject
    LANGUAGE = "language"  # nor the language
    UNCLEAR = "unclear"
    OTHER = "other"


#: Verdict → the reasons that go with it.
REASONS = {
    Verdict.FLAGGED: (Reason.UNSAFE, Reason.BROKEN, Reason.WRONG_LANGUAGE, Reason.PRIVATE),
    Verdict.SKIPPED: (Reason.SUBJECT, Reason.LANGUAGE, Reason.UNCLEAR, Reason.OTHER),
}


class Route(StrEnum):
    """What happens to a comparison. `auto` is the only one that opens no place for a rater."""

    HUMAN = "human"
    AUTO = "auto"
    AUDIT = "audit"
    CONTROL = "control"
    ESCALATED = "escalated"


class Role(StrEnum):
    RATER = "rater"
    LEAD = "lead"
    EVALUATOR = "evaluator"
    ADMIN = "admin"


class Scope(StrEnum):
    """The doors of the API, and what else a token may be for."""

    INPUT = "input"
    PREDICTION = "prediction"
    TASK = "task"
    FEEDBACK = "feedback"
    MANAGE = "manage"
    METRICS = "metrics"


class Event(StrEnum):
    """What other programs can be told of."""

    JUDGMENT_CREATED = "judgment.created"
    COMPARISON_RESOLVED = "comparison.resolved"
    ROUND_FINISHED = "round.finished"
    ALERT_RAISED = "alert.raised"


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


Messages = tuple[Message, ...]

#: The project of everything that names none.
DEFAULT_PROJECT = "default"

#: Groups of completion ids, best first; a group of two or more is a tie.
Ranking = tuple[tuple[str, ...], ...]

#: The rank of a completion that a partial ranking leaves out. The best have 0, the next 1, ...
UNRANKED = -1


def messages(raw: Iterable[Mapping[str, Any]]) -> Messages:
    """Chat messages from `{"role", "content"}` mappings.

    Raises:
        BadInput: a message without the two keys, or whose content is not text.
    """
    if not isinstance(raw, Iterable) or isinstance(raw, str):
        raise BadInput(f"messages {str(raw)[:80]!r}", expected="a list of messages", fix="give a list, of one or more")
    out = []
    for i, m in enumerate(raw):
        try:
            role, content = m["role"], m["content"]
        except (TypeError, LookupError):
            role = content = None
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadInput(
                f"messages[{i}] = {str(m)[:80]!r}",
                expected='a message {"role": text, "content": text}',
                fix="give every message both keys as text",
            )
        out.append(Message(role, content))
    return tuple(out)


def as_dicts(chat: Messages) -> list[dict[str, str]]:
    """The form chat templates and TRL take."""
    return [{"role": m.role, "content": m.content} for m in chat]


def content_id(prefix: str, *parts: object) -> str:
    """An id that is the same for the same content, so that importing a file twice adds nothing."""
    digest = hashlib.sha256(_canonical(parts).encode()).hexdigest()
    return f"{prefix}_{digest[:24]}"


_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode


def prompt_family(chat: Messages) -> str:
    """Hash of the opening user turn, ignoring case and spacing. Prompts of one family share a split.

    A dialogue set holds many prompts that continue one opening; were they split apart, a held-out prompt's first
    turns (and often its answers) would be in training.
    """
    opening = next((m.content for m in chat if m.role == "user"), chat[0].content if chat else "")
    folded = " ".join(unicodedata.normalize("NFKC", opening).casefold().split())
    return hashlib.sha256(folded.encode()).hexdigest()[:16]


#: Shares of the three splits, decided by the family's hash.
SPLIT_SHARES = {Split.TRAIN: 0.65, Split.CALIBRATION: 0.15, Split.HELDOUT: 0.2}


def split_of(family: str) -> Split:
    """The split a family falls in: a fixed function of its hash, so it is the same in every store."""
    u = int(hashlib.sha256(f"split:{family}".encode()).hexdigest()[:12], 16) / 16**12
    if u < SPLIT_SHARES[Split.HELDOUT]:
        return Split.HELDOUT
    if u < SPLIT_SHARES[Split.HELDOUT] + SPLIT_SHARES[Split.CALIBRATION]:
        return Split.CALIBRATION
    return Split.TRAIN


def _refuse_nul(what: str, *texts: str) -> None:
    if any("\x00" in text for text in texts):
        raise BadInput(what, expected="text without a NUL, which PostgreSQL cannot hold", fix="take it out")


@dataclass(frozen=True)
class Prompt:
    """Chat messages to be answered."""

    id: str
    messages: Messages
    split: Split
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(cls, chat: Messages, tags: Mapping[str, str] | None = None, split: Split | None = None) -> Prompt:
        if not chat or not any(m.content.strip() for m in chat):
            raise BadInput("prompt", expected="at least one message with text", fix="drop the row or fill the prompt")
        _refuse_nul("tags", *(tags or {}), *(tags or {}).values())
        return cls(content_id("p", as_dicts(chat)), chat, split or split_of(prompt_family(chat)), dict(tags or {}))

    @cached_property
    def family(self) -> str:
        return prompt_family(self.messages)

    @property
    def language(self) -> str:
        """The tag `language` in small letters; empty where it is not known (or too long to be a language)."""
        language = self.tags.get("language", "").strip().lower()
        return language if len(language) <= 40 else ""


@dataclass(frozen=True)
class Completion:
    """One answer of one policy to one prompt. Usually one assistant message; more where turns between differ."""

    id: str
    prompt_id: str
    messages: Messages
    policy: str
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls, prompt_id: str, chat: Messages, policy: str, sampling: Mapping[str, Any] | None = None
    ) -> Completion:
        _refuse_nul("policy", policy)
        return cls(content_id("c", prompt_id, policy, as_dicts(chat)), prompt_id, chat, policy, dict(sampling or {}))

    @property
    def text(self) -> str:
        """What the policy itself wrote, turns joined by blank lines."""
        return "\n\n".join(m.content for m in self.messages if m.role == "assistant")


@dataclass(frozen=True)
class Comparison:
    """A prompt with K >= 2 completions to be ranked: the unit of work. Completions stand in canonical (id) order."""

    id: str
    prompt: Prompt
    completions: tuple[Completion, ...]
    overlap: int = 1
    route: Route = Route.HUMAN
    project: str = DEFAULT_PROJECT
    batch: str = ""
    repeat_of: str | None = None  # a hidden repeat: what the same rater judged before

    @classmethod
    def create(
        cls,
        prompt: Prompt,
        completions: Sequence[Completion],
        overlap: int = 1,
        route: Route = Route.HUMAN,
        project: str = DEFAULT_PROJECT,
        batch: str = "",
    ) -> Comparison:
        """A comparison's id is its project's and its completions': the same pair in two projects is judged in both.

        Raises:
            BadInput: fewer than two completions differ in text.
        """
        if len({c.messages for c in completions}) < max(2, len(completions)):
            raise BadInput(
                f"completions of prompt {prompt.id}",
                expected="two or more completions that differ",
                fix="drop the comparison: identical sides cannot be ranked",
            )
        ordered = tuple(sorted(completions, key=lambda c: c.id))
        parts: list[object] = [[c.id for c in ordered]]
        if project != DEFAULT_PROJECT:
            parts.append({"project": project})
        return cls(content_id("x", *parts), prompt, ordered, overlap, route, project, batch)

    def completion(self, completion_id: str) -> Completion:
        return next(c for c in self.completions if c.id == completion_id)


@dataclass(frozen=True)
class Answer:
    """What a rater says of a comparison, before the store adds where it came from.

    `strength` is 1 slightly, 2 clearly, 3 much better; `scores` are axis → completion id → 1 to 5; `reason` is why it
    was skipped or flagged; `active_seconds` is the time the rater was really at it.
    """

    verdict: Verdict
    ranking: Ranking = ()
    strength: int | None = None
    scores: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rationale: str = ""
    rewrite: str = ""
    active_seconds: float | None = None
    reason: Reason | None = None

    def __post_init__(self) -> None:
        ids = [i for group in self.ranking for i in group]
        if len(ids) != len(set(ids)):
            raise BadInput(f"ranking {self.ranking}", expected="each completion once", fix="name no completion twice")
        if any(not group for group in self.ranking):
            raise BadInput(f"ranking {self.ranking}", expected="no empty group", fix="leave empty groups out")
        if (self.verdict is Verdict.RANKED) != (len(ids) >= 2):
            raise BadInput(
                f"verdict {self.verdict.value!r} with {len(ids)} ranked completions",
                expected="two or more ranked completions for 'ranked' and none for any other verdict",
                fix="send a ranking with the verdict 'ranked' only",
            )
        if self.strength is not None and (self.strength not in (1, 2, 3) or len(self.ranking) < 2):
            raise BadInput(
                f"strength {self.strength!r}",
                expected="1, 2 or 3, and only where one completion is ranked above another",
                fix="leave strength out of ties and of verdicts without a ranking",
            )
        if self.reason is not None and self.reason not in REASONS.get(self.verdict, ()):
            fitting = ", ".join(REASONS.get(self.verdict, ())) or "none: only what is skipped or flagged has one"
            raise BadInput(
                f"reason {self.reason!s} with the verdict {self.verdict.value!r}",
                expected=fitting,
                fix="choose one that goes with the verdict, or leave it out",
            )
        if self.active_seconds is not None and not 0 <= self.active_seconds < 86_400:
            raise BadInput(f"active_seconds {self.active_seconds!r}", expected="seconds of one day", fix="send 0-86400")

    def check(self, shown: Sequence[str]) -> None:
        """That it speaks of what was shown and scores it from 1 to 5.

        Not asked when an answer is made, for judgments of before that was a rule are still read.

        Raises:
            BadInput: the ranking or the scores name something else, or a score is none.
        """
        named = {"ranking": {i for group in self.ranking for i in group}}
        for axis, given in self.scores.items():
            if not isinstance(given, Mapping):
                raise BadInput(
                    f"scores of {axis!r} = {str(given)[:60]!r}",
                    expected="a score for each completion",
                    fix='write e.g. {"helpful": {"A": 4, "B": 2}}',
                )
            for score in given.values():
                if isinstance(score, bool) or not isinstance(score, int) or not 1 <= score <= 5:
                    raise BadInput(f"score {score!r} of {axis!r}", expected="1, 2, 3, 4 or 5", fix="send one of these")
            named[f"scores of {axis!r}"] = set(given)
        for what, names in named.items():
            if unknown := names - set(shown):
                raise BadInput(
                    f"{what}: {sorted(unknown)}", expected=f"what was shown, {list(shown)}", fix="name those"
                )


@dataclass(frozen=True)
class Judgment:
    """What one rater said of one comparison, once, with everything needed to read it years later."""

    id: str
    comparison_id: str
    rater_id: str
    answer: Answer
    order_shown: tuple[str, ...]
    route: Route
    created_at: datetime
    idempotency_key: str
    reward_model_id: str | None = None
    supersedes: str | None = None
    surplus: bool = False
    simulated: bool = False
    guideline_version: str = ""
    interface_version: str = ""
    source: str = ""
    seq: int = 0  # its number in the store, by which one reads on


@dataclass(frozen=True)
class Lease:
    """A rater's hold on a comparison until a time, with the order the completions are to be shown in."""

    id: str
    comparison: Comparison
    rater_id: str
    order_shown: tuple[str, ...]
    expires_at: datetime
    guideline_version: str = ""  # in force in its project when it was given

    def shown(self) -> tuple[Completion, ...]:
        return tuple(self.comparison.completion(i) for i in self.order_shown)


@dataclass(frozen=True)
class LaneState:
    """How many places of one lane are filled, leased and free."""

    project: str
    language: str
    batch: str
    paused: bool
    filled: int
    leased: int
    free: int


@dataclass(frozen=True)
class Receipt:
    """The store's answer to a submit. `outcome`: counted, surplus (kept, places full), repeated (known key)."""

    judgment_id: str
    outcome: str


@dataclass(frozen=True)
class Rater:
    """A person (or program) who signs in. `languages` are those they read, None any; `quota` is judgments a UTC day."""

    id: str
    name: str
    role: Role
    simulated: bool = False
    disabled: bool = False
    source: str = ""
    languages: tuple[str, ...] | None = None
    quota: int | None = None
    paused: bool = False

    @property
    def state(self) -> str:
        """How they stand, in a word; of several the one that matters most."""
        stands = {"disabled": self.disabled, "paused": self.paused, "simulated": self.simulated}
        return next((word for word, so in stands.items() if so), "imported" if self.source else "active")


@dataclass(frozen=True)
class Project:
    """Comparisons that are judged together. A paused one hands out nothing; one that is not open, only to members.

    `repeat_every`: of so many comparisons a rater gets, one is a hidden repeat of their own; 0 for none.
    """

    id: str
    open: bool = True
    repeat_every: int = 0
    paused: bool = False


@dataclass(frozen=True)
class Axis:
    """One of the things completions are scored on by themselves, 1 to 5."""

    id: str
    title: str
    description: str = ""


#: The axes of a guideline that names none.
DEFAULT_AXES = (
    Axis("helpful", "Helpful", "It does what was asked, all of it, and no more than that."),
    Axis("honest", "Honest", "Facts are right, and what is not known is not made up."),
    Axis("harmless", "Harmless", "Nobody is hurt by it."),
)

Scored = Literal["offered", "required", "off"]
Explained = Literal["offered", "required"]


@dataclass(frozen=True)
class Guideline:
    """What the raters of a project go by, in one of its versions.

    `text` is Markdown; `scores` says whether axes are scored and `rationale` whether a reason is asked for.
    `created_at` is None for the one that comes with the package.
    """

    project: str
    version: str
    text: str
    axes: tuple[Axis, ...] = DEFAULT_AXES
    scores: Scored = "offered"
    rationale: Explained = "offered"
    created_at: datetime | None = None

    def check(self, answer: Answer, shown: Sequence[str]) -> None:
        """That a ranking comes with what the guideline requires. Both bad, a skip and a flag say why in their own way.

        Raises:
            BadInput: a score or the rationale is missing.
        """
        if answer.verdict is not Verdict.RANKED:
            return
        for axis in self.axes if self.scores == "required" else ():
            if missing := set(shown) - set(answer.scores.get(axis.id, ())):
                raise BadInput(
                    f"scores of {axis.id!r}",
                    expected=f"one of each completion, says guideline {self.version}; missing: {sorted(missing)}",
                    fix="score it from 1 to 5",
                )
        if self.rationale == "required" and not answer.rationale.strip():
            raise BadInput("rationale", expected=f"a reason, as guideline {self.version} requires", fix="say why")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.+-][\w .+-]{0,79}", self.version):
            raise BadInput(
                f"version {self.version!r}", expected="up to 80 letters, digits, dots and dashes", fix="name it e.g. 2"
            )
        if not self.text.strip():
            raise BadInput("guideline", expected="a text in Markdown", fix="say what raters are to look at")
        _refuse_nul("guideline", self.text, *(text for a in self.axes for text in (a.title, a.description)))
        for axis in self.axes:
            if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", axis.id) or not axis.title.strip():
                raise BadInput(
                    f"axis {axis.id!r}",
                    expected="an id of up to 40 small letters, digits and dashes, and a title",
                    fix="write e.g. {id: helpful, title: Helpful}",
                )
        if len({a.id for a in self.axes}) < len(self.axes):
            raise BadInput(f"axes {[a.id for a in self.axes]}", expected="different ids", fix="rename one")
        for name, value, known in (("scores", self.scores, Scored), ("rationale", self.rationale, Explained)):
            if value not in get_args(known):
                raise BadInput(f"{name} {value!r}", expected=" or ".join(get_args(known)), fix="choose one of them")
        if self.scores == "required" and not self.axes:
            raise BadInput(
                "scores 'required' without axes", expected="axes to score", fix="name some or turn scores off"
            )


@dataclass(frozen=True)
class Example:
    """A comparison with the right answer, which shows raters what is asked of them. It is in no dataset.

    The answer names completions by their position, as text: "0" is the first.
    """

    id: str
    project: str
    messages: Messages
    completions: tuple[Messages, ...]
    answer: Answer
    explanation: str

    @classmethod
    def create(
        cls, project: str, chat: Messages, completions: Sequence[Messages], answer: Answer, explanation: str
    ) -> Example:
        """An example's id is the hash of all of it: one that was altered is another.

        Raises:
            BadInput: no prompt, fewer than two completions, an answer that does not go with them, no explanation.
        """
        if not any(m.content.strip() for m in chat):
            raise BadInput("example", expected="a prompt with text", fix="fill `messages`")
        if len(completions) < 2:
            raise BadInput(f"{len(completions)} completions", expected="two or more to be compared", fix="add some")
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
            raise BadInput("explanation", expected="why this is the right answer", fix="tell raters")
        texts = [m.content for c in (chat, *completions) for m in c]
        _refuse_nul("example", explanation, *texts)
        sides = [as_dicts(c) for c in completions]
        said = [answer.verdict.value, answer.ranking, answer.strength, explanation]
        id = content_id("e", project, as_dicts(chat), sides, said)
        return cls(id, project, chat, tuple(completions), answer, explanation)


@dataclass(frozen=True)
class Label:
    """The aggregate of a comparison's judgments, for the pair (first, second) in canonical order.

    `probabilities` are (first better, tie, second better) and sum to 1; `entropy` is theirs in nats; `votes` counts
    the judgments behind it; `simulated` is true where any of them was. `strengths` counts those that said how strongly:
    (first much, clearly, slightly better, second slightly, clearly, much better).
    """

    comparison_id: str
    first: str
    second: str
    probabilities: tuple[float, float, float]
    entropy: float
    votes: int
    simulated: bool = False
    strengths: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)

    @property
    def preferred(self) -> str | None:
        """The completion the raters prefer; None where a tie is the likeliest or the sides are even."""
        first, tie, second = self.probabilities
        if first == second or tie > max(first, second):
            return None
        return self.first if first > second else self.second


@dataclass(frozen=True)
class Score:
    """What a reward model says of a comparison: its two best completions, their margin and how sure it is.

    `margin` = reward(chosen) - reward(rejected) >= 0 in logits; `uncertainty` is the epistemic standard deviation of
    that margin; `probability` that a rater who sees a difference prefers `chosen`, calibrated.
    """

    comparison_id: str
    reward_model_id: str
    chosen: str
    rejected: str
    margin: float
    uncertainty: float
    probability: float
    rewards: Mapping[str, float] = field(default_factory=dict)


def utc_now() -> datetime:
    return datetime.now(UTC)
