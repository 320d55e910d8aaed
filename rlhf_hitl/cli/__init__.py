"""The command line. One file a group of commands; here is what they share: errors, `--json`, `--store`."""

from __future__ import annotations

import functools
import importlib
import json as jsonlib
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import RlhfHitlError

#: The modules with commands, in the order in which `--help` lists them.
MODULES = (
    "quickstart", "serve", "data", "generate", "train_reward", "route", "evaluate", "train_policy", "loop", "report",
    "audit", "raters", "projects", "guidelines", "tutorial", "tokens", "webhooks", "models",
)  # fmt: skip

app = typer.Typer(
    name="rlhf-hitl",
    help="People rank, models learn, and only what a model is unsure of comes back to people.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        help="The store, as an SQLAlchemy URL.",
        default_factory=lambda: load_settings().store,
        show_default="sqlite:///workspace/preferences.db",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


@dataclass
class Result:
    """What a command has to say: `data` for programs, `text` (anything rich can print) for people."""

    data: dict[str, Any]
    text: Any = None
    exit_code: int = 0
    more: list[Any] = field(default_factory=list)


def command(name: str, group: typer.Typer = app) -> Callable:
    """Register a function that returns a `Result` as a command. It must take `json: AsJson`."""

    def register(function: Callable[..., Result]) -> Callable:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            as_json = kwargs.get("json", False)
            try:
                result = function(*args, **kwargs)
            except RlhfHitlError as e:
                _fail(str(e), e.exit_code, as_json)
            except OSError as e:
                # A full disk, a folder without rights: the user's to mend, and no trace-back helps them.
                where = str(e.filename or "the system")
                _fail(f"{where}: {e.strerror or e}. Fix: check the path, the space and the rights", 2, as_json)
            except KeyboardInterrupt:
                _fail("interrupted", 130, as_json)
            if as_json:
                print(jsonlib.dumps(_finite(result.data), ensure_ascii=False, allow_nan=False, default=str))
            else:
                say(*(part for part in [result.text, *result.more] if part is not None))
            raise typer.Exit(result.exit_code)

        return group.command(name)(run)

    return register


def say(*parts: Any) -> None:
    """Print for people. A name or a text is printed as it is: "[/x]" and ":smile:" are no markup."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part)


def table(title: str, rows: dict[str, Any] | list[tuple[Any, ...]], columns: tuple[str, ...] = ("", "")) -> Any:
    """A small table for people: keys left, values right (numbers to four digits)."""
    from rich.table import Table

    out = Table(title=title, title_justify="left", show_header=any(columns), box=None, pad_edge=False)
    for i, column in enumerate(columns):
        out.add_column(column, justify="left" if i == 0 else "right")
    for row in rows.items() if isinstance(rows, dict) else rows:
        out.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row))
    return out


def _finite(value: Any) -> Any:
    """NaN and infinities as null, however deep: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def _fail(message: str, code: int, as_json: bool) -> None:
    raise typer.Exit(_say(message, code, as_json))


def _say(message: str, code: int, as_json: bool) -> int:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    if as_json:
        print(jsonlib.dumps({"error": line}, ensure_ascii=False))
    return code


def register_commands() -> None:
    """Import the modules of this package: each registers its commands."""
    for name in MODULES:
        importlib.import_module(f"rlhf_hitl.cli.{name}")


def main() -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is half made is cleared away
    try:
        register_commands()

        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except RlhfHitlError as e:  # of a default that is read from the environment before the command runs
        code = _say(str(e), e.exit_code, "--json" in sys.argv)
    except TyperException as e:  # an unknown option, a missing argument: one line, as with every other mistake
        context = getattr(e, "ctx", None)
        help_call = f"{context.command_path} --help" if context else "rlhf-hitl --help"
        said = e.format_message() if hasattr(e, "format_message") else str(e)
        for name in getattr(getattr(e, "param", None), "opts", ()):
            if (given := _given(name)) is not None and given not in said:
                said = f"{name} {given!r}: {getattr(e, 'message', said)}"
        code = _say(f"{said.rstrip('.?')}. Fix: see `{help_call}`", 2, "--json" in sys.argv)
    sys.exit(code or 0)


def _given(option: str) -> str | None:
    """What the command line gives an option, as it was typed."""
    for at, word in enumerate(sys.argv[1:], 2):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
        if word == option and at < len(sys.argv):
            return sys.argv[at]
    return None
