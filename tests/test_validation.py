"""What pydantic refuses is said in our words, and numbers agree with what they count."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plain_words import assert_plain
from rlhf_hitl.validation import describe_expected, describe_refusal
from rlhf_hitl.wording import say_count


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("a", min_length=1, max_length=4, pattern="^[a-z ]+$")
    hidden: str = Field("a", pattern=r"^[^\x00-\x1f]*$")
    parts: list[Annotated[int, Field(ge=0, lt=9)]] = Field([1], min_length=1, max_length=2)
    day: datetime | None = None
    kind: Literal["new", "old"] = "new"


@pytest.mark.parametrize("has_context", [True, False])
@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"name": ""}, "1 character or more"),
        ({"name": "abcde"}, "4 characters or fewer"),
        ({"name": "A"}, "a text of the form ^[a-z ]+$"),
        ({"name": 3}, "a text"),
        ({"hidden": "\n"}, "a text without characters that cannot be seen"),
        ({"parts": []}, "1 entry or more"),
        ({"parts": [1, 2, 3]}, "2 entries or fewer"),
        ({"parts": ["a"]}, "a whole number"),
        ({"parts": 1}, "a list"),
        ({"day": "tomorrow"}, "a date and time"),
        ({"kind": "other"}, "'new' or 'old'"),
        ({"other": 1}, "a known name"),
        ([], "names and values"),
    ],
)
def test_what_is_refused_is_said_in_our_words_with_or_without_its_context(sent: Any, said: str, has_context: bool):
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(sent)
    [error] = caught.value.errors(include_context=has_context)
    assert describe_expected(error) == said
    assert_plain(said)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"parts": [1, 10]}, "parts.1: expected a number below 9"),
        ("x" * 999, "what was sent: expected names and values"),
    ],
)
def test_a_refusal_names_the_place_and_leaves_the_value_out(sent: Any, said: str):
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(sent)
    assert describe_refusal(caught.value) == said


def test_a_number_agrees_with_what_it_counts():
    assert [say_count(n, "tie") for n in (0, 1, 2, 2300)] == ["0 ties", "1 tie", "2 ties", "2,300 ties"]
    assert [say_count(n, "entry", "entries") for n in (0, 1)] == ["0 entries", "1 entry"]
