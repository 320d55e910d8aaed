"""Read what an endpoint replies: which letter, how likely, how many tokens; and what it says instead of an answer.

Nothing of a reply is taken for granted: it comes from another machine, and its text from a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_hitl.endpoints.responses import read_choices, read_usage
from rlhf_hitl.judges.asking import weigh_letters
from rlhf_hitl.judges.templates import Template
from rlhf_hitl.types.judges import CallOutcome, Probabilities

#: How models begin when they will not answer.
REFUSAL = re.compile(
    r"\W*(i['’]?m sorry|i am sorry|sorry,|i can(not|['’]t) |i (am|['’]m) (not able|unable)|i['’]m (not able|unable)|"
    r"i won['’]t|i will not|as an ai )",
    re.IGNORECASE,
)
MOST_LETTERS_OF_REASONS = 20_000


@dataclass(frozen=True)
class Reply:
    """A readable answer: its letter, which stands at `start` of the text; weights of letters by log-probabilities."""

    letter: str
    text: str
    start: int
    weights: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Replies:
    """All of one response. `probabilities` are those of this response alone."""

    outcome: CallOutcome
    replies: tuple[Reply, ...] = ()
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    probabilities: Probabilities | None = None


def read_reply(content: Mapping[str, Any], template: Template) -> Replies:
    """Return what a chat completion says.

    Raises:
        ValueError: it is none.
    """
    choices, tokens = read_choices(content), read_usage(content)
    replies, unread = [], []
    for choice in choices:
        found = _read_choice(choice, template)
        (replies if isinstance(found, Reply) else unread).append(found)
    if replies:
        weights: dict[str, float] = {}
        for reply in replies:
            for letter, weight in (reply.weights or {reply.letter: 1.0}).items():
                weights[letter] = weights.get(letter, 0.0) + weight
        probabilities = weigh_letters(weights, template)
        if probabilities is not None:
            return Replies(CallOutcome.ANSWERED, tuple(replies), "", *tokens, probabilities)
    outcome, error = unread[0] if unread else (CallOutcome.UNREADABLE, "no letter has a probability")
    return Replies(outcome, (), error, *tokens)


def _read_choice(choice: Mapping[str, Any], template: Template) -> Reply | tuple[CallOutcome, str]:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    raw = message.get("content")
    raw = raw if isinstance(raw, str) else ""
    refusal = message.get("refusal")
    if choice.get("finish_reason") == "content_filter" or (isinstance(refusal, str) and refusal):
        return CallOutcome.REFUSED, f"it refused: {refusal or raw}"
    text = raw.rpartition("</think>")[2]
    found = template.find_letter(text)
    if found is None:
        if REFUSAL.match(text):
            return CallOutcome.REFUSED, f"it refused: {text.strip()}"
        cut = " (cut off: the template's max_tokens are too few)" if choice.get("finish_reason") == "length" else ""
        return CallOutcome.UNREADABLE, f"no answer in {text.strip()[:200]!r}{cut}"
    letter, start = found
    weights = _read_weights(choice.get("logprobs"), len(raw) - len(text) + start, template)
    return Reply(letter, text[:MOST_LETTERS_OF_REASONS], min(start, MOST_LETTERS_OF_REASONS), weights)


def _read_weights(logprobs: Any, at: int, template: Template) -> dict[str, float] | None:
    """Return letter → probability of the token at a place of the text; None where the endpoint does not say."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list):
        return None
    end = 0
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("token"), str):
            return None
        end += len(token["token"])
        if end <= at:
            continue
        likeliest = token.get("top_logprobs")
        likeliest = [t for t in likeliest if isinstance(t, dict)] if isinstance(likeliest, list) else []
        weights: dict[str, float] = {}
        # The token itself is not always among the likeliest.
        said = [] if any(t.get("token") == token["token"] for t in likeliest) else [token]
        for other in [*likeliest, *said]:
            letter, logprob = re.sub(r"\W", "", str(other.get("token"))), other.get("logprob")
            if letter in template.answers and isinstance(logprob, int | float) and not math.isnan(logprob):
                weights[letter] = weights.get(letter, 0.0) + math.exp(min(0.0, logprob))
        return weights if math.fsum(weights.values()) > 0 else None
    return None
