"""Field types that several bodies share, each with its limits, and the base class of request bodies."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from rlhf_hitl.visible import UNSEEN_RANGE

MAX_ITEMS = 1000  # in one request
MAX_COMPLETIONS = len(ascii_uppercase)  # of one comparison: raters see each under a letter

ID = r"^[A-Za-z0-9_.-]+$"
PROJECT = r"^[a-z0-9][a-z0-9._-]*$"
LINE = f"^[^{UNSEEN_RANGE}]*$"  # names of batches, policies and tags; `types/names.py` says more of the others
# PostgreSQL cannot keep a text with a NUL. It is refused here, so that both databases answer the same. In the JSON of
# messages and tools a NUL is an escape, which both keep: an import, whose files are as they are, lets it through.
TEXT = r"^[^\x00]*$"

Text = Annotated[str, StringConstraints(pattern=TEXT, max_length=1_000_000)]
ShortText = Annotated[str, StringConstraints(pattern=TEXT, max_length=80)]
Id = Annotated[str, StringConstraints(pattern=ID, max_length=80)]
Name = Annotated[str, StringConstraints(pattern=LINE, max_length=200)]


def _refuse_text(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("Input should be a number")
    return value


# In JSON 2.0 is a whole number; "2" and true are not. It must follow the limits, or they would not be in the schema.
WHOLE_NUMBER = BeforeValidator(_refuse_text)
# Finite, because JSON has no NaN and no infinity.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
StrictBool = Annotated[bool, Field(strict=True)]
JsonValue = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)] | Number | Text | StrictBool | None


# Pydantic refuses a key that does not match Name, but does not put that into the schema.
NO_OTHER_KEYS: dict[str, Any] = {"additionalProperties": False}
Tags = Annotated[dict[Name, Name], Field(max_length=50, json_schema_extra=NO_OTHER_KEYS)]
JsonValues = Annotated[dict[Name, JsonValue], Field(max_length=50, json_schema_extra=NO_OTHER_KEYS)]
Seconds = Annotated[
    Number,
    Field(ge=1, le=86_400, description="How long the lease lasts; if left out, as long as the server is set to."),
]
Overlap = Annotated[int, Field(ge=1, le=1000, description="How many judgments are wanted."), WHOLE_NUMBER]


class Body(BaseModel):
    """A request body. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")
