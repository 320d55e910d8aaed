"""Training settings on a command line, parsed the way TRL's users know."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from rlhf_hitl.errors import BadInput, NotFound, RlhfHitlError
from rlhf_hitl.terminal import filter_output, print_note
from rlhf_hitl.workspace import restrict_new_files


def parse_arguments(types: Sequence[Any], argv: Sequence[str] | None, **defaults: Any) -> tuple[Any, ...]:
    """Parse settings into instances of some dataclasses. `--config FILE.yaml` gives defaults, and flags override it.

    Args:
        argv: None for the arguments of the program.
        defaults: for what neither the file nor a flag sets, in place of TRL's.

    Raises:
        BadInput: the file is missing or is not YAML, or a setting is unknown or of the wrong type.
    """
    import yaml
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str):  # argparse would print every flag and exit
            raise ValueError(message)

    command_line = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = Parser(types)
        parser.set_defaults_with_config(**defaults)
        return parser.parse_args_and_config(command_line)
    except FileNotFoundError as e:
        raise NotFound(f"--config {e.filename}", expected="a YAML file", fix="check the path") from e
    except OSError as e:
        raise BadInput(f"--config {e.filename}", expected="a YAML file that can be read", fix="check the path") from e
    except IndexError as e:
        raise BadInput("--config without a file", expected="--config FILE.yaml", fix="name the file") from e
    except (yaml.YAMLError, ValueError, TypeError) as e:
        file = next((f"{file}: " for flag, file in pairwise(command_line) if flag == "--config"), "")
        message = " ".join(str(e).split())
        setting_names = {f.name for kind in types for f in fields(kind)}
        if unknown := [name for name in re.findall(r"'--([\w-]+)'", message) if name not in setting_names]:
            similar = [n for name in unknown for n in get_close_matches(name, setting_names, 1)]
            fix = (
                f"did you mean {', '.join(similar)}?"
                if similar
                else "leave it out: neither TRL nor this training has it"
            )
            raise BadInput(f"{file}setting {', '.join(unknown)}", expected="a known setting", fix=fix) from e
        name, why = m.groups() if (m := re.fullmatch(r"argument --(\w+)/\S+: (.*)", message)) else ("settings", message)
        fix = "correct it or leave it out"
        raise BadInput(f"{file}{name}", expected=f"what can be read ({why.rstrip('.')})", fix=fix) from e


def run_script(main: Callable[[], object]) -> None:
    """Run a script's main function. An error that the user can fix is printed as one line, not as a traceback.

    What it prints is filtered, and what it writes is its owner's alone, as under `rlhf-hitl`.
    """
    filter_output()
    restrict_new_files()
    try:
        main()
    except RlhfHitlError as e:
        print_note(f"error: {e}")
        sys.exit(e.exit_code)
    except OSError as e:
        where = e.filename or "the system"
        print_note(f"error: {where}: {e.strerror or e}. Fix: check the path, the space and the rights")
        sys.exit(2)
