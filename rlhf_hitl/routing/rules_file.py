"""Read routing rules from YAML: a file, or one of those that come with the package."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from typing import TYPE_CHECKING, Any

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.routing.rules import Guardrail, RoutingRules, Rule, When
from rlhf_hitl.validation import describe_expected

if TYPE_CHECKING:
    from pydantic import ValidationError
    from yaml import Node

#: PyYAML reads so much in about a second. A longer file is hardly one of rules.
MOST_BYTES = 100_000
SEE = "see the examples in configs/routing/"


def list_rule_names() -> list[str]:
    """Return the names of the rules that come with the package."""
    folder = resources.files("rlhf_hitl.configs") / "routing"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_rules(name: str, flag: str = "--config") -> RoutingRules:
    """Load rules of the package by name, or a file by its path.

    Args:
        flag: what names the file, for errors.

    Raises:
        NotFound: there is no such file.
        BadInput: the file holds no rules, or rules that contradict each other.
    """
    known = list_rule_names()
    if name in known:
        content = (resources.files("rlhf_hitl.configs") / "routing" / f"{name}.yaml").read_bytes()
    else:
        try:
            with open(name, "rb") as file:
                content = file.read(MOST_BYTES + 1)
        except (FileNotFoundError, ValueError) as e:  # ValueError: a NUL in the path
            near = get_close_matches(name, known, 1)
            raise NotFound(
                f"{flag} {name!r}",
                expected=f"a YAML file of rules, or one of {', '.join(known)}",
                fix=f"did you mean {near[0]}?" if near else "check the path",
            ) from e
        except OSError as e:
            why = (e.strerror or type(e).__name__).lower()
            raise BadInput(f"{flag} {name}", expected=f"a file that can be read ({why})", fix="check the path") from e
    if len(content) > MOST_BYTES:
        raise BadInput(f"{flag} {name}", expected=f"at most {MOST_BYTES:,} bytes", fix=f"name a file of rules; {SEE}")
    try:
        return parse_rules(content.decode("utf-8"), name)
    except UnicodeDecodeError as e:
        raise BadInput(f"{flag} {name}", expected="text in UTF-8", fix="save it as UTF-8") from e


def parse_rules(text: str, name: str) -> RoutingRules:
    """Return the rules in a YAML text; `name` is that of its file, for errors.

    Raises:
        BadInput: the text holds no rules, or rules that contradict each other. The error names the line.
    """
    import yaml
    from pydantic import ValidationError

    try:
        loader = yaml.SafeLoader(text.removeprefix("\ufeff"))
        node = loader.get_single_node()
        if node is not None:
            _refuse_names_given_twice(node, name)
        values = {} if node is None else loader.construct_document(node)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        why = getattr(e, "problem", None) or "it holds a character that YAML does not take"
        raise BadInput(place, expected=f"YAML ({why})", fix="correct the line") from e
    except RecursionError as e:
        raise BadInput(name, expected="YAML that is not nested as deep", fix=SEE) from e
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        # What PyYAML raises over values such as `2024-13-45` or `!!int x`.
        raise BadInput(name, expected=f"values that YAML can read ({e})", fix="put the value in quotes") from e
    if not isinstance(values, dict):
        raise BadInput(f"{name}:1", expected="lines of NAME: VALUE", fix=SEE)
    try:
        return RoutingRules.model_validate(values)
    except ValidationError as e:
        raise _make_error(e, node, name) from e


def _refuse_names_given_twice(root: Node, file: str) -> None:
    """Raise BadInput where a mapping has a name twice: PyYAML takes the last, and a list of rules would be gone."""
    from yaml import MappingNode, ScalarNode, SequenceNode

    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, SequenceNode):
            waiting += node.value
        elif isinstance(node, MappingNode):
            names: set[str] = set()
            for key, value in node.value:
                waiting += [key, value]
                if isinstance(key, ScalarNode) and key.value in names:
                    place = f"{file}:{key.start_mark.line + 1}: {key.value[:60]}"
                    raise BadInput(place, expected="each name once", fix="remove one of the two")
                names |= {key.value} if isinstance(key, ScalarNode) else set()


#: Part of a place → the names that there are in it.
_KNOWN = {"": RoutingRules, "guardrails": Guardrail, "rules": Rule, "when": When}


def _make_error(error: ValidationError, root: Node | None, file: str) -> BadInput:
    first = error.errors(include_url=False)[0]
    loc, kind = first["loc"], first["type"]
    place = ".".join(str(part)[:60] for part in loc if part != "[key]")
    value = "" if kind == "missing" or isinstance(first.get("input"), dict | list | tuple) else first.get("input")
    shown = f" = {reprlib.repr(value)}" if value != "" and kind != "extra_forbidden" else ""
    fix = f"correct it; {SEE}"
    if kind == "extra_forbidden":
        model = next(_KNOWN[part] for part in (*reversed(loc[:-1]), "") if part in _KNOWN)
        near = get_close_matches(str(loc[-1]), list(model.model_fields), 1)
        fix = f"did you mean {near[0]}?" if near else f"remove it; there are {', '.join(model.model_fields)}"
    elif kind == "string_type":
        fix = "write it in quotes" if isinstance(value, bool | int | float) else fix
    where = f"{file}:{_find_line(root, loc)}" if root is not None else file
    return BadInput(f"{where}: {place}{shown}" if place else where, expected=describe_expected(first), fix=fix)


def _find_line(node: Node, loc: Sequence[Any]) -> int:
    """Return the line of the value at a place, or of the last thing on the way to it that is written down."""
    from yaml import MappingNode, ScalarNode, SequenceNode

    line = node.start_mark.line
    for part in loc:
        found = None
        if isinstance(node, MappingNode):
            pairs = ((k, v) for k, v in node.value if isinstance(k, ScalarNode) and k.value == str(part))
            found, node = next(pairs, (None, node))
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node = node.value[part]
        if found is not None:
            line = found.start_mark.line
    return line + 1
