"""Say in plain words what pydantic refuses: every error of a setting, a body or a file in our own form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from pydantic import ValidationError

#: pydantic's type of an error → what was expected; `{name}` is a value of the error's context.
_EXPECTED = {
    "missing": "a value",
    "extra_forbidden": "a known name",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "a number below {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "string_unicode": "a text in UTF-8",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "names and values",
    "mapping_type": "names and values",
    "invalid_key": "a name that is a text",
    "model_type": "names and values",
    "model_attributes_type": "names and values",
    "dataclass_type": "names and values",
    "path_type": "a path",
    "none_required": "nothing",
    "json_invalid": "JSON ({error})",
    "value_error": "{error}",
    "assertion_error": "{error}",
}

#: pydantic's own sentences about lengths and forms, in which the bound stands whether or not there is a context.
_LENGTH = re.compile(r"\w+ should have at (least|most) (\d+) (character|item)")
_FORM = re.compile(r"String should match pattern '(.*)'", re.DOTALL)


def describe_expected(error: Mapping[str, Any]) -> str:
    """Return what was expected in place of a refused value, as the object of "expected".

    Args:
        error: one of `ValidationError.errors()`; its context may be left out.
    """
    message = str(error["msg"])
    if length := _LENGTH.match(message):
        noun = ("character", "characters") if length[3] == "character" else ("entry", "entries")
        return f"{say_count(int(length[2]), *noun)} or {'more' if length[1] == 'least' else 'fewer'}"
    if form := _FORM.match(message):
        is_long = form[1].startswith("^[^")  # as long as a page
        return "a text without characters that cannot be seen" if is_long else f"a text of the form {form[1]}"
    if error["type"].startswith("datetime_"):
        return "a date and time"
    context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in (error.get("ctx") or {}).items()}
    template = _EXPECTED.get(error["type"])
    if template is not None:
        try:
            return template.format_map(context).removeprefix("expected ")
        except KeyError:  # the context was left out
            pass
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message.removeprefix("Input should be ").removeprefix("a valid ").removeprefix("expected ")


def describe_place(error: Mapping[str, Any]) -> str:
    """Return where the refused value is, such as `sampling.temperature`; empty for the whole."""
    return ".".join(str(part) for part in error["loc"])


def describe_refusal(error: ValidationError) -> str:
    """Return where the first refused value is and what was expected: `limit: expected 50 or less`. The value itself is
    left out: it may be a text of any length."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{describe_place(first) or 'what was sent'}: expected {describe_expected(first)}"


def make_bad_input(
    error: ValidationError, name_value: Callable[[str, Any], str], *, fix: str, known: Iterable[str] = ()
) -> BadInput:
    """Return our error for the first of the values that pydantic refused.

    Args:
        name_value: makes of a place and a value what the user will find, such as `loop.yaml: seed = 'x'`.
        known: names there are: a name that is close to one of them is answered with that one.
    """
    first = error.errors()[0]
    place = describe_place(first)
    near = get_close_matches(place, list(known), 1) if first["type"] == "extra_forbidden" else []
    return BadInput(
        name_value(place, first.get("input")),
        expected=describe_expected(first),
        fix=f"did you mean {near[0]}?" if near else fix,
    )
