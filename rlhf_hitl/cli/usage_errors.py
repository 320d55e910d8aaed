"""Say in our own words what typer refuses before a command runs: an unknown option, a missing argument, a value."""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches
from typing import Any

from typer.exceptions import TyperException


def describe_usage_error(e: TyperException) -> str:
    """Return the value, what was expected and the fix, in one line."""
    from pydantic import ValidationError

    context, param = getattr(e, "ctx", None), getattr(e, "param", None)
    command = context.command_path if context else "rlhf-hitl"
    fix = f"see `{command} --help`"
    if param is not None and isinstance(e.__cause__, ValidationError):
        return _describe_value(param, e.__cause__, fix)
    if param is not None and type(e).__name__ == "MissingParameter":
        return f"{_name_param(param)}: expected a value, and none is given. Fix: {fix}"
    if option := getattr(e, "option_name", None):
        near = _sort_by_likeness(option, getattr(e, "possibilities", None) or [], context)
        if near:
            fix = f"did you mean {near[0]}?"
        if type(e).__name__ == "NoSuchOption":
            return f"{option}: expected an option of `{command}`. Fix: {fix}"
        wanted = "no value" if "does not take" in str(e) else "a value after it"
        return f"{option}: expected {wanted}. Fix: {fix}"
    message = e.format_message() if hasattr(e, "format_message") else str(e)
    if found := re.match(r"No such command '(.*?)'\.(?: Did you mean '(.*?)'.*)?", message):
        near = f"did you mean {found[2]}?" if found[2] else fix
        return f"{found[1]}: expected a command of `{command}`. Fix: {near}"
    return f"{message.rstrip('.?')}. Fix: {fix}"


def _sort_by_likeness(option: str, possibilities: list[str], context: Any) -> list[str]:
    """Return the options that may be meant, those first that hold every word of the one that was typed: for `--model`
    it is `--reward-model`, and not one that only looks like it."""
    words = set(option.strip("-").split("-"))
    params = context.command.params if context is not None else []
    names = [name for param in params for name in param.opts if name.startswith("--")]
    holding = [name for name in names if words <= set(name.strip("-").split("-"))]
    alike = get_close_matches(option, possibilities, len(possibilities) or 1, 0)
    return [*holding, *alike]


def _describe_value(param: Any, error: Any, fix: str) -> str:
    from rlhf_hitl.validation import describe_expected

    first = error.errors()[0]
    value = first.get("input")
    expected = describe_expected(first)
    if choices := getattr(getattr(param, "type_descriptor", None), "choices", None):
        names = [str(getattr(choice, "value", choice)) for choice in choices]
        expected = f"one of {', '.join(names)}"
        if near := get_close_matches(str(value), names, 1):
            fix = f"did you mean {near[0]}?"
    name = _name_param(param)
    typed = next((given for option in param.opts if (given := _find_given_value(option)) is not None), value)
    return f"{name} {typed!r}: expected {expected.rstrip('.')}. Fix: {fix}"


def _name_param(param: Any) -> str:
    """Return `--port`, or for an argument what the help calls it."""
    if param.param_type_name == "option":
        return param.opts[0]
    return str(param.metavar or param.name.upper())


def _find_given_value(option: str) -> str | None:
    """Return the value that the command line gives an option, as it was typed."""
    for position, word in enumerate(sys.argv[1:], 2):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
        if word == option and position < len(sys.argv):
            return sys.argv[position]
    return None
