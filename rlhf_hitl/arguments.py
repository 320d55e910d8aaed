"""Training settings on a command line, parsed the way TRL's users know."""

from __future__ import annotations

import ast
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rlhf_hitl.errors import BadInput, NotFound, RlhfHitlError, describe_system_error, hand_on_error
from rlhf_hitl.terminal import filter_output, hide_warnings_for_developers, print_note
from rlhf_hitl.workspace import restrict_new_files

#: Settings of transformers' trainer that no training here follows, and what to do instead.
UNSUPPORTED_ANYWHERE = {
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
        "train it, look at it, and send it with `rlhf-hitl models push NAME OWNER/NAME`",
    ),
    "hub_token": "leave it out: nothing is pushed. Nothing secret belongs into a file of settings",
    "do_predict": "run `rlhf-hitl evaluate` afterwards",
    "label_smoothing_factor": "leave it out: the loss is computed here, without it",
    "trust_remote_code": "take a model of an architecture that transformers has",
}

#: What argparse calls a type → how we say it.
_TYPES = {"int": "a whole number", "float": "a number"}


def parse_arguments(
    types: Sequence[Any],
    argv: Sequence[str] | None,
    *,
    formerly: Mapping[str, str] | None = None,
    is_quiet: bool = False,
    **defaults: Any,
) -> tuple[Any, ...]:
    """Parse settings into instances of some dataclasses. `--config FILE.yaml` gives defaults, and flags override it.

    Args:
        argv: None for the arguments of the program.
        formerly: former name, or another program's, → present name of settings. It is taken, and a note names ours.
        is_quiet: print no such notes, since what is parsed here is parsed again.
        defaults: for what neither the file nor a flag sets, in place of TRL's.

    Raises:
        BadInput: the file is missing or is not YAML, or a setting is unknown or of the wrong type. The error names the
            flag where a flag gave the setting, and the file where the file did.
    """
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str):  # argparse would print every flag and exit
            raise ValueError(message)

    formerly = formerly or {}
    command_line = _rename_flags(sys.argv[1:] if argv is None else argv, formerly, is_quiet)
    if command_line[-1:] == ["--config"]:
        raise BadInput("--config without a file", expected="--config FILE.yaml", fix="name the file")
    file = next((Path(file) for flag, file in pairwise(command_line) if flag == "--config"), None)
    settings = {} if file is None else read_yaml_settings(file)
    setting_names = {f.name for kind in types for f in fields(kind)}
    given = {word.partition("=")[0][2:] for word in command_line if word.startswith("--")}
    try:
        with ExitStack() as stack:
            if (renamed := rename_settings(settings, formerly, f"{file}: ", is_quiet=is_quiet)) != settings:
                import yaml

                copy = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8"))
                yaml.safe_dump(renamed, copy)
                copy.flush()
                command_line[command_line.index("--config") + 1] = copy.name
            parser = Parser(types)
            parser.set_defaults_with_config(**defaults)
            return parser.parse_args_and_config(command_line)
    except BadInput as e:  # from the settings themselves, which do not know where they were set
        name = e.value.split(" ")[0]
        if name not in setting_names or (name not in given and file is None):
            raise
        where = f"--{e.value}" if name in given else f"{file}: {e.value}"
        raise BadInput(where, expected=e.expected, fix=e.fix) from e
    except (ValueError, TypeError) as e:
        message = " ".join(str(e).split())
        if unknown := [name for name in re.findall(r"'--([\w-]+)'", message) if name not in setting_names]:
            raise make_unknown_setting_error(unknown[0], setting_names, None if unknown[0] in given else file) from e
        if found := re.fullmatch(r"argument --([\w-]+)(?:/\S+)?: (.*)", message):
            name, why = found.groups()
            place = f"--{name}" if name in given or file is None else f"{file}: {name}"
            value = re.search(r"(?:value|choice): '?([^' ]*)|got (\S+)", why)
            shown = " " + (value[1] or value[2] or "''") if value else ""
            raise BadInput(f"{place}{shown}", expected=_describe_type(why), fix="correct it or leave it out") from e
        raise BadInput(
            f"{file}: settings" if file else "settings",
            expected=f"values that go together ({message.rstrip('.')})",
            fix="correct them or leave them out",
        ) from e


def read_yaml_settings(file: Path) -> dict[str, Any]:
    """Return the settings in a YAML file.

    Raises:
        NotFound: there is no such file.
        BadInput: it cannot be read, is not YAML, or holds no names with values.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise NotFound(f"--config {file}", expected="a YAML file", fix="check the path") from e
    except OSError as e:
        why = e.strerror or type(e).__name__
        raise BadInput(
            f"--config {file}", expected=f"a YAML file that can be read ({why})", fix="check the path"
        ) from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        why = getattr(e, "problem", None) or "it is not UTF-8"
        raise BadInput(f"--config {place}", expected=f"YAML ({why})", fix="correct the line") from e
    if not isinstance(content, dict):
        raise BadInput(f"--config {file}", expected="lines of NAME: VALUE", fix="see the files in configs/")
    return content


def rename_settings(
    settings: Mapping[str, Any], formerly: Mapping[str, str], where: str, *, is_quiet: bool = False
) -> dict[str, Any]:
    """Return settings under their present names. A note names the present name of each that has its former one.

    Args:
        formerly: former name → present name.
        where: they stand, to be put before a name: `--`, or a file and a colon.
        is_quiet: print no notes.

    Raises:
        BadInput: a setting is given under both its names.
    """
    renamed = {name: value for name, value in settings.items() if name not in formerly}
    for name in [name for name in settings if name in formerly]:
        present = formerly[name]
        if present in renamed:
            raise BadInput(
                where + name, expected=f"this setting once: it is also given as {present}", fix=f"remove {name}"
            )
        if not is_quiet:
            print_note(f"note: {where}{name} is called {present} here; both are taken")
        renamed[present] = settings[name]
    return renamed


def _rename_flags(words: Sequence[str], formerly: Mapping[str, str], is_quiet: bool) -> list[str]:
    """Return a command line with the present names of its flags: see `rename_settings`."""
    flags = [word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")]
    rename_settings(dict.fromkeys(flags), formerly, "--", is_quiet=is_quiet)
    renamed = []
    for word in words:
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--")
        renamed.append(f"--{formerly[name]}{equals}{value}" if flag.startswith("--") and name in formerly else word)
    return renamed


def refuse_settings(configs: Iterable[Any], unsupported: Mapping[str, str]) -> None:
    """Raise BadInput for a setting of TRL that would be accepted and then not followed.

    Args:
        configs: dataclasses with the settings.
        unsupported: setting → what to do instead. Only its default is accepted.
    """
    for config in configs:
        for f in fields(config):
            if f.name in unsupported and f.default is not MISSING and getattr(config, f.name) != f.default:
                value = f"{f.name} {getattr(config, f.name)!r}"
                default = getattr(f.default, "value", f.default)
                raise BadInput(value, expected=f"its default, {default!r}", fix=unsupported[f.name])


def check_settings(
    kinds: Iterable[Any], values: Mapping[str, Any], flags: Mapping[str, str], file: Path | None
) -> None:
    """Check words and numbers of settings, without the seconds that TRL takes to be imported.

    Args:
        kinds: dataclasses of settings that check themselves; what is a setting of none of them is passed over.
        values: of a file and of flags.
        flags: those of them that flags gave.

    Raises:
        BadInput: a value is of the wrong type, or out of range.
    """
    for kind in kinds:
        hints, read = get_type_hints(kind), dict[str, Any]()
        for name in hints.keys() & values.keys():
            read[name], where = values[name], f"--{name}" if name in flags else f"{file}: {name}"
            one_of = get_args(hints[name]) or (hints[name],)
            numbers = [number for number in (int, float) if number in one_of]
            if numbers and isinstance(values[name], str):
                try:
                    read[name] = numbers[0](values[name])
                except ValueError as e:
                    expected = _TYPES[numbers[0].__name__]
                    fix = "correct it or leave it out"
                    raise BadInput(f"{where} {values[name]}", expected=expected, fix=fix) from e
        try:
            kind(**read)
        except BadInput as e:
            name = e.value.split(" ")[0]
            where = f"--{e.value}" if name in flags else f"{file}: {e.value}"
            raise BadInput(where, expected=e.expected, fix=e.fix) from e


def read_whole_number(value: Any) -> int | None:
    """Return the whole number that a setting is, or is written as; None where it is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def read_trackers(report_to: str | Sequence[str] | None) -> list[str]:
    """Return the trackers that `report_to` names: a list, or one name, or several with commas; `none` is none."""
    text = report_to if isinstance(report_to, str) else ",".join(report_to or ())
    return [name for part in text.split(",") if (name := part.strip()) and name != "none"]


def make_unknown_setting_error(name: str, known: Iterable[str], file: Path | None) -> BadInput:
    """Return the error for a setting that there is not.

    Args:
        file: the file it stands in; None for a flag.
    """
    near = get_close_matches(name, list(known), 1)
    return BadInput(
        f"{file}: {name}" if file else f"--{name}",
        expected="a setting that TRL or this training has",
        fix=f"did you mean {near[0]}?" if near else "leave it out",
    )


def read_field_names(module: str) -> set[str]:
    """Return the names of the fields of a module's dataclasses, without the seconds that importing it may take."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    [folder] = (spec and spec.submodule_search_locations) or []
    source = Path(folder, *parts).with_suffix(".py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {
        line.target.id
        for body in classes
        for line in body.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def _describe_type(why: str) -> str:
    """Return what was expected of a setting, from what argparse says."""
    if found := re.match(r"invalid (\w+) value", why):
        return _TYPES.get(found[1], f"a value of type {found[1]}")
    if found := re.search(r"choose from (.*)\)", why):
        return "one of " + found[1].replace("'", "")
    if "ruthy" in why:
        return "true or false"
    return f"what can be read ({why.rstrip('.')})"


def run_script(main: Callable[[], object]) -> None:
    """Run a script's main function. An error that the user can fix is printed as one line, not as a traceback.

    What it prints is filtered, and what it writes is its owner's alone, as under `rlhf-hitl`.
    """
    filter_output()
    hide_warnings_for_developers()
    restrict_new_files()
    try:
        main()
    except (RlhfHitlError, OSError) as e:
        known = e if isinstance(e, RlhfHitlError) else None
        message, code = (describe_system_error(e), 2) if isinstance(e, OSError) else (str(e), e.exit_code)
        if not hand_on_error(message, code, known):
            print_note(f"error: {message}")
        sys.exit(code)
