"""Training settings on a command line, read the way TRL's users know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_hitl.errors import BadInput, NotFound


def parse(types: Sequence[Any], argv: Sequence[str] | None) -> tuple[Any, ...]:
    """TRL's way of settings: `--config FILE.yaml` gives defaults, flags override.

    Raises:
        BadInput: the file is missing or is no YAML, or a setting is unknown or of the wrong type.
    """
    import yaml
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str):  # argparse would print every flag there is and leave
            raise ValueError(message)

    given = list(argv) if argv is not None else None
    try:
        return Parser(types).parse_args_and_config(given)
    except FileNotFoundError as e:
        raise NotFound(f"--config {e.filename}", expected="a YAML file", fix="check the path") from e
    except (yaml.YAMLError, ValueError, TypeError) as e:
        raise BadInput("settings", expected="known settings of the right type", fix=" ".join(str(e).split())) from e
