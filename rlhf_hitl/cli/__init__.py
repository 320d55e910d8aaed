"""The command line, with one module for each group of commands.

Here is what they share: registering a command, `--store` and `--json`, printing results, and errors in one line. Each
module in `MODULES` registers its commands when it is imported. A new command starts as a function with `@command`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json as jsonlib
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from rlhf_hitl.cli.usage_errors import describe_usage_error
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput, RlhfHitlError, describe_system_error, hand_on_error
from rlhf_hitl.extras import MissingExtra, find_extra, require_extra
from rlhf_hitl.terminal import filter_output, hide_warnings_for_developers, print_note
from rlhf_hitl.types import LabelModelName
from rlhf_hitl.visible import escape_unseen_json, make_all_visible, make_cell_visible
from rlhf_hitl.workspace import protect_workspace, restrict_new_files

#: The modules with commands, in the order in which `--help` lists them.
MODULES = (
    "quickstart", "serve", "data", "generate", "train_reward", "route", "learn", "automation", "evaluate",
    "train_policy", "promote", "loop", "policies", "report", "alerts", "audit", "slices", "raters", "judges", "labels",
    "projects",
    "guidelines", "tutorial", "golds", "assignments", "tokens", "webhooks", "models",
)  # fmt: skip

app = typer.Typer(
    name="rlhf-hitl",
    help="People rank, models learn, and only what a model is unsure of comes back to people.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(importlib.metadata.version("rlhf_hitl"))
        raise typer.Exit(0)


@app.callback()
def _take_options_without_a_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        help="Use this store, given as an SQLAlchemy URL. Keep passwords out of it, for `ps` shows them: put the URL "
        "into RLHF_HITL_STORE, or the password into ~/.pgpass or PGPASSWORD.",
        default_factory=lambda: load_settings().store,
        show_default="sqlite:///workspace/preferences.db",
    ),
]
SliceName = Annotated[
    str | None, typer.Option("--slice", help="Take only the comparisons of this slice: see `rlhf-hitl slices`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
LabelModelOption = Annotated[
    LabelModelName,
    typer.Option(
        "--label-model",
        help="Make labels of votes by the rater model (raters), as plain shares (shares), by majority, or by Dawid and "
        "Skene's or Bradley and Terry's model.",
    ),
]


@dataclass
class Result:
    """The result of a command: `data` for programs; `text` and `more` (anything rich can print) for people."""

    data: dict[str, Any]
    text: Any = None
    exit_code: int = 0
    more: list[Any] = field(default_factory=list)


class Interrupted(RlhfHitlError):
    """Somebody stopped a command. The message says what is kept and how to go on."""

    exit_code = 130


def command(
    name: str,
    group: typer.Typer = app,
    *,
    formerly: str = "",
    if_interrupted: str = "",
    counts_time: bool = False,
    extra: str = "",
) -> Callable:
    """Return a decorator that registers a function as a command. It must take `json: AsJson` and return a `Result`.

    Args:
        formerly: another name under which the command goes on working, and says that it has a new one.
        if_interrupted: what is kept of the work of a command that was stopped, and how to go on; one that knows more
            raises `Interrupted`.
        counts_time: record in the store how long the command takes, because its machine is a cost.
        extra: the extra of the package that the command needs, which is said before it does anything.
    """

    called = " ".join(["`rlhf-hitl", *([] if group is app else [str(group.info.name)]), f"{name}`"])

    def register(function: Callable[..., Result]) -> Callable:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            as_json = kwargs.get("json", False)
            try:
                if extra:
                    require_extra(extra, called)
                protect_workspace(load_settings().workspace)
                with _record_run(name, kwargs["store"]) if counts_time else nullcontext():
                    result = function(*args, **kwargs)
            except RlhfHitlError as e:
                _fail(str(e), e.exit_code, as_json)
            except OSError as e:
                _fail(describe_system_error(e), 2, as_json)
            except ModuleNotFoundError as e:  # what only some options of a command need
                if (needed := find_extra(e.name)) is None:
                    raise
                _fail(str(MissingExtra(called, needed, str(e.name))), MissingExtra.exit_code, as_json)
            except KeyboardInterrupt:
                _fail("interrupted" + (f": {if_interrupted}" if if_interrupted else ""), 130, as_json)
            if as_json:
                print_json(result.data)
            else:
                print_text(*(part for part in [result.text, *result.more] if part is not None))
            raise typer.Exit(result.exit_code)

        if formerly:

            @functools.wraps(run)
            def run_by_former_name(*args: Any, **kwargs: Any) -> None:
                print_note(f"note: `{formerly}` is now called `{name}`; both work")
                run(*args, **kwargs)

            group.command(formerly, hidden=True)(run_by_former_name)
        return group.command(name)(run)

    return register


@contextmanager
def _record_run(name: str, url: str) -> Iterator[None]:
    """Record a command's run in its store, if that can be opened: if not, the command itself says why."""
    from rlhf_hitl.store import Store
    from rlhf_hitl.store.runs import record_run

    with ExitStack() as stack:
        with suppress(RlhfHitlError, OSError):
            store = stack.enter_context(Store.open(url))
            stack.enter_context(record_run(store, name))
        yield


def require_file_path(flag: str, path: Path | None) -> None:
    """Raise BadInput where a file that a command will write cannot be written, before the command does its work."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise BadInput(f"{flag} {path}", expected="a file in a folder that exists", fix="check the path")


def print_text(*parts: Any) -> None:
    """Print for people: "[/x]" and ":smile:" are not markup, and what cannot be seen is shown by its name."""
    from rich.console import Console
    from rich.segment import Segment, Segments

    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    options = console.options.update(no_wrap=True, overflow="ignore")
    for part in parts:
        # After the layout and before the colours: what is in a text cannot be taken for a colour of ours.
        drawn = console.render(console.render_str(part) if isinstance(part, str) else part, options)
        shown = [Segment(make_all_visible(s.text), s.style) for s in drawn if not s.control]
        console.print(Segments(shown), end="")


def print_json(data: Any) -> None:
    """Print one line of JSON for programs, in which what cannot be seen is escaped."""
    plain = _replace_non_finite(data)
    encoded = jsonlib.dumps(plain, ensure_ascii=False, allow_nan=False, default=str)
    print(escape_unseen_json(encoded), flush=True)


def make_table(title: str, rows: dict[str, Any] | list[tuple[Any, ...]], columns: tuple[str, ...] = ("", "")) -> Any:
    """Make a small table for people: keys and sentences on the left, values on the right (numbers with four digits)."""
    from rich.table import Table

    rich_table = Table(
        title=make_cell_visible(title), title_justify="left", show_header=any(columns), box=None, pad_edge=False
    )
    lines = list(rows.items() if isinstance(rows, dict) else rows)
    for i, column in enumerate(columns):
        is_prose = any(columns) and any(len(str(line[i])) > 40 for line in lines)  # it is folded
        justify = "left" if i == 0 or is_prose else "right"
        # What is no wider than its heading, a word, keeps that width: others give way, or the word is cut in two.
        is_word = any(columns) and " " not in column and all(len(str(line[i])) <= len(column) for line in lines)
        rich_table.add_column(column, justify=justify, overflow="fold", no_wrap=is_word)
    for row in lines:
        rich_table.add_row(*(f"{v:.4g}" if isinstance(v, float) else make_cell_visible(str(v)) for v in row))
    return rich_table


def _replace_non_finite(value: Any) -> Any:
    """Replace NaN and infinities at any depth by None: JSON cannot express them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _replace_non_finite(v) for k, v in value.items()}
    return [_replace_non_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def _fail(message: str, code: int, as_json: bool) -> None:
    raise typer.Exit(_print_error(message, code, as_json))


def _print_error(message: str, code: int, as_json: bool) -> int:
    """Print an error in one line on stderr and, for programs, as JSON on stdout: once where both go to one place."""
    line = make_all_visible(" ".join(message.split()))
    if hand_on_error(line, code):
        return code
    if not (as_json and _goes_to_stdout(sys.stderr)):
        print(f"error: {line}", file=sys.stderr)
    if as_json:
        print_json({"error": line})
    return code


def _goes_to_stdout(stream: Any) -> bool:
    """Whether a stream is shown or kept where stdout is: on the same terminal, in the same file or pipe."""
    try:
        return os.path.sameopenfile(stream.fileno(), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # a stream that is no file
        return False


def register_commands() -> None:
    """Import the modules of this package: each registers its commands."""
    for name in MODULES:
        importlib.import_module(f"rlhf_hitl.cli.{name}")


def main() -> None:
    """Run the command line. Exits with the code of the command."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    filter_output()
    hide_warnings_for_developers()
    restrict_new_files()
    if any(re.search(r"://[^/@]*:[^/@]+@", word) for word in sys.argv[1:]):
        print_note(
            "warning: a password on the command line can be read by every user of this machine. "
            "Fix: put the URL into RLHF_HITL_STORE, or the password into ~/.pgpass or PGPASSWORD"
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, so that drafts are removed
    try:
        register_commands()
        code = app(standalone_mode=False, prog_name="rlhf-hitl")
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except RlhfHitlError as e:  # from a default that is read from the environment before the command runs
        code = _print_error(str(e), e.exit_code, "--json" in sys.argv)
    except TyperException as e:  # an unknown option or a missing argument: one line, as for every other mistake
        code = _print_error(describe_usage_error(e), 2, "--json" in sys.argv)
    sys.exit(code or 0)
