"""Routing rules: what a lead wants to go to people, whatever the model is sure of.

No rule lets the model accept what the tested bound does not: of `accept` and the bound, the higher one is what the
model's confidence has to reach. `rules_file.py` reads rules from YAML.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from rlhf_hitl.store.catalog_words import split_words
from rlhf_hitl.store.routings import Routing
from rlhf_hitl.types import Comparison, Route

#: The names under which the thresholds of the whole file, and the bar to what is from elsewhere, stand in reasons and
#: counts; rules have other names.
ACCEPT, ESCALATE, UNLIKE = "accept", "escalate", "unlike"
RESERVED = (ACCEPT, ESCALATE, UNLIKE)

# Strict, so that YAML's `no` and `2024` are not taken for the texts or numbers that they look like.
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
OpenShare = Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=500)]
Values = Annotated[
    tuple[Text, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: value if isinstance(value, list | tuple) else [value]),
]
_NAMED = re.compile(r"rule '([^']+)': ")
_ROUTES = {"human": Route.HUMAN, "escalate": Route.ESCALATED}


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class When(_Frozen):
    """What a rule is about: all of the given conditions hold, each with one of its values.

    Attributes:
        tags: tag of the prompt → its values. In these, and in `policy` and `project`, `*` stands for any characters.
        language: the prompt's tag `language`.
        policy: of one of the completions.
        words: words or phrases in the prompt or a completion, without case and accents. They match whole words, or the
            beginning of one where they end in `*`; in scripts without spaces, the characters in a row.
    """

    tags: dict[Text, Values] = Field(default={}, min_length=1)
    language: Values = ()
    policy: Values = ()
    project: Values = ()
    words: Values = ()

    @field_validator("words")
    @classmethod
    def _hold_letters(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not split_words(_fold(word)):
                raise ValueError(f"words with a letter or a digit, and {word[:40]!r} has none")
        return words

    @model_validator(mode="after")
    def _say_something(self) -> When:
        if not self.model_fields_set:
            raise ValueError(f"one condition or more: {', '.join(type(self).model_fields)}")
        return self

    @cached_property
    def _needles(self) -> list[str]:
        return [_join_words(word)[: -1 if word.rstrip().endswith("*") else None] for word in self.words]

    def matches(self, comparison: Comparison, text: _Text) -> bool:
        """Return whether the conditions hold; `text` is that of the comparison."""
        tags = {_fold(name): value for name, value in comparison.prompt.tags.items()} if self.tags else {}
        return (
            all(_is_one_of((tags.get(_fold(name)),), values) for name, values in self.tags.items())
            and (not self.language or _is_one_of((comparison.prompt.language or None,), self.language))
            and (not self.policy or _is_one_of((c.policy for c in comparison.completions), self.policy))
            and (not self.project or _is_one_of((comparison.project,), self.project))
            and (not self.words or any(needle in text.words for needle in self._needles))
        )


class _Named(_Frozen):
    """What a rule has: a name, what it is about, and a reason, which is shown on each of its decisions."""

    name: Text
    when: When
    reason: Text

    @field_validator("name")
    @classmethod
    def _can_be_shown(cls, name: str) -> str:
        if name in RESERVED or not name.isprintable() or "'" in name or len(name) > 80:
            reserved = f"{', '.join(map(repr, RESERVED[:-1]))} or {RESERVED[-1]!r}"
            raise ValueError(f"a name of up to 80 characters on one line without ', and not {reserved}")
        return name


class Guardrail(_Named):
    """A rule that sends comparisons to people, whatever all other rules and the model's confidence say."""

    route: Literal["human", "escalate"]


class Rule(_Named):
    """A rule: it sends comparisons to people (`route`), or asks for another confidence than the file (`accept`)."""

    route: Literal["human", "escalate"] | None = None
    accept: Share | None = None

    @model_validator(mode="after")
    def _do_one_thing(self) -> Rule:
        if (self.route is None) == (self.accept is None):
            raise ValueError("either route (human or escalate) or accept (a confidence)")
        return self


class Ruled(NamedTuple):
    """What the rules say of a comparison, and why; an empty reason where they leave it to the tested bound."""

    route: Route
    reason: str = ""


class RoutingRules(_Frozen):
    """The rules of a file. Guardrails are asked first, then rules; of each, the first that matches decides.

    Attributes:
        accept: confidence from which on the model may accept, if the tested bound allows it, too.
        escalate: confidence below which a comparison goes to raters before all others.
        max_error, delta, control_share: as in `RoutingConfig`.
        accept_unlike_training: let the model accept what looks unlike the prompts that it has learnt, too, for which no
            tested error speaks (`elsewhere.py`).
    """

    accept: Share | None = None
    escalate: Share | None = None
    max_error: OpenShare | None = None
    delta: OpenShare | None = None
    control_share: Share | None = None
    accept_unlike_training: Annotated[bool, Field(strict=True)] = False
    guardrails: tuple[Guardrail, ...] = ()
    rules: tuple[Rule, ...] = ()

    @field_validator("escalate")
    @classmethod
    def _below_accept(cls, escalate: float | None, info) -> float | None:
        accept = info.data.get("accept")
        if None not in (accept, escalate) and escalate > accept:
            raise ValueError(f"at most accept ({accept:g}): what is escalated cannot be accepted")
        return escalate

    @field_validator("rules")
    @classmethod
    def _fit_together(cls, rules: tuple[Rule, ...], info) -> tuple[Rule, ...]:
        escalate = info.data.get("escalate")
        for rule in rules:
            if rule.accept is not None and escalate is not None and rule.accept < escalate:
                raise ValueError(f"accept of rule {rule.name!r} to be escalate ({escalate:g}) or more")
        names = Counter(rule.name for rule in (*info.data.get("guardrails", ()), *rules))
        if twice := next((name for name, n in names.items() if n > 1), None):
            raise ValueError(f"each name once, and {twice!r} names two rules")
        return rules

    def decide(self, comparison: Comparison, confidence: float, bound: float, *, is_unlike: bool = False) -> Ruled:
        """Return where a comparison goes by these rules.

        Args:
            confidence: the model's probability of its own choice; nan counts as none.
            bound: the confidence that the tested bound asks for.
            is_unlike: whether it looks unlike the training prompts.
        """
        text = _Text(comparison)
        rule = next((rule for rule in (*self.guardrails, *self.rules) if rule.when.matches(comparison, text)), None)
        if rule is not None and rule.route is not None:
            return Ruled(_ROUTES[rule.route], _explain(rule.name, rule.reason))
        if self.escalate is not None and not confidence >= self.escalate:
            said = f"confidence {confidence:.3f} is below {self.escalate:g}, under which raters come first"
            return Ruled(Route.ESCALATED, _explain(ESCALATE, said))
        wanted = rule.accept if isinstance(rule, Rule) else self.accept
        if not confidence >= bound:
            return Ruled(Route.HUMAN)
        if is_unlike and not self.accept_unlike_training:
            said = "it looks unlike the training prompts, so the tested error does not speak for it"
            return Ruled(Route.HUMAN, _explain(UNLIKE, said))
        if wanted is not None and not confidence >= wanted:
            said = f"confidence {confidence:.3f} is below {wanted:g}"
            why = f"{rule.reason} ({said})" if rule is not None else said
            return Ruled(Route.HUMAN, _explain(ACCEPT if rule is None else rule.name, why))
        return Ruled(Route.AUTO, "" if rule is None else _explain(rule.name, rule.reason))


def count_by_rule(decisions: Iterable[Routing]) -> dict[str, dict[str, int]]:
    """Return rule → route → how many comparisons it sent there, the rule with the most first.

    Controls, and prompts that measure the model, are sent by no rule.
    """
    counts: dict[str, Counter[str]] = {}
    for decision in decisions:
        if found := _NAMED.match(decision.reason):
            counts.setdefault(found[1], Counter())[decision.route.value] += 1
    return {name: dict(counts[name]) for name in sorted(counts, key=lambda name: (-counts[name].total(), name))}


def _explain(name: str, reason: str) -> str:
    return f"rule '{name}': {reason}"


class _Text:
    """The text of a comparison, cut into words when a rule first asks for it."""

    def __init__(self, comparison: Comparison):
        self._comparison = comparison

    @cached_property
    def words(self) -> str:
        messages = [*self._comparison.prompt.messages, *(m for c in self._comparison.completions for m in c.messages)]
        return "".join(_join_words(message.read_all_text()) for message in messages)


def _join_words(text: str) -> str:
    """Return the folded words of a text between spaces, also before the first and after the last."""
    return f" {' '.join(split_words(_fold(text)))} "


# Accents, and the points of Hebrew and Arabic, which are often left out. Vowel signs of other scripts make other words.
_ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670]")


def _fold(text: str) -> str:
    """Return a text without case, accents and characters that cannot be seen, which could hide a word."""
    if text.isascii():
        return text.lower()
    seen = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", seen.casefold())))


def _is_one_of(found: Iterable[str | None], wanted: tuple[str, ...]) -> bool:
    """Return whether a value that was found is one of those wanted, in which `*` is a wildcard."""
    return any(_compile(wanted).fullmatch(_fold(value).strip()) for value in found if value is not None)


@lru_cache(maxsize=1000)
def _compile(wanted: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(_fold(value).strip()).replace(r"\*", ".*") for value in wanted), re.DOTALL)
