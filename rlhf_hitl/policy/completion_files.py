"""Files of prompts and of completions, one JSON object a line: what `generate` reads and writes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import atomic_file, make_private_folder, remove_left_drafts
from rlhf_hitl.policy.draws import iterate_lines
from rlhf_hitl.policy.sampling_counts import FilterReason, SamplingCounts
from rlhf_hitl.store.policies import PolicyMethod
from rlhf_hitl.types import Completion, Message, Prompt, messages_to_dicts, parse_messages, parse_tools


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts from a JSONL file. A line has a `prompt`, as text or messages, or `messages`, and optional `tags`.

    Raises:
        NotFound: there is no such file.
        BadInput: a line cannot be read; the error names file and line.
    """
    return [read_prompt(row, place) for _, row, place in _iterate_rows(path, "--prompts")]


def read_prompt(row: dict[str, Any], place: str) -> Prompt:
    """Return the prompt of a line. Raises BadInput with its place where it is none."""
    found = [name for name in ("prompt", "messages") if name in row]
    if len(found) != 1:
        shown = f"with {', '.join(map(str, row))}"[:60]
        raise BadInput(f"{place}: {shown}", expected=_A_PROMPT, fix="correct the line")
    value: Any = row[found[0]]
    try:
        is_text = isinstance(value, str)
        if is_text and not value.strip():
            raise BadInput(f"{found[0]} {value!r}", expected="a text that is not empty", fix="correct the line")
        parts: Any = value  # `parse_messages` says what is wrong with it
        messages = (Message("user", str(value)),) if is_text else parse_messages(parts)
        return Prompt.create(messages, row.get("tags"), tools=parse_tools(row.get("tools")))
    except BadInput as e:
        raise BadInput(f"{place}: {e.value}", expected=e.expected, fix="correct the line") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadInput(
            f"{place}: {found[0]}",
            expected="a text, or a list of messages with role and content; and tags with names and values",
            fix="correct the line",
        ) from e


_A_PROMPT = 'a JSON object with "prompt" (a text or messages) or "messages"'


def _iterate_rows(path: Path, flag: str) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield (place in the file, object, file and line) of each line that is not blank."""
    if not path.is_file():
        raise NotFound(f"{flag} {path}", expected="a JSONL file", fix="check the path")
    for number, (at, line) in enumerate(iterate_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as e:
            raise BadInput(f"{flag} {path}", expected="text in UTF-8", fix="save it as UTF-8") from e
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise BadInput(place, expected=_A_PROMPT, fix=f"correct the line ({str(e).split(':')[0]})") from e
        if not isinstance(row, dict):
            raise BadInput(f"{place}: {text.strip()[:40]}", expected=_A_PROMPT, fix="correct the line")
        yield at, row, place


@contextmanager
def open_completion_file(out: Path) -> Iterator[Any]:
    """Give a function `write(prompt, completions)` for a file that appears whole, or not at all.

    Drafts that killed attempts have left are removed.
    """
    make_private_folder(out.parent)
    remove_left_drafts(out)
    with atomic_file(out) as draft, draft.open("w", encoding="utf-8", newline="\n") as f:

        def write(prompt: Prompt, completions: Iterable[Completion]) -> None:
            answers = [
                {"messages": messages_to_dicts(c.messages), "policy": c.policy, "sampling": dict(c.sampling)}
                for c in completions
            ]
            row = {"messages": messages_to_dicts(prompt.messages), "tags": dict(prompt.tags), "completions": answers}
            row |= {"tools": [tool.to_plain() for tool in prompt.tools]} if prompt.tools else {}
            f.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write


def holds_completions(path: Path) -> bool:
    """Return whether a file is one that `open_completion_file` wrote, as its first line says."""
    try:
        for _, row, _ in _iterate_rows(path, "--out"):
            return "completions" in row
    except BadInput:
        return False
    return True


class CompletionFile:
    """The completions in a file, by prompt. It holds in memory where the prompts stand, and not their completions.

    Attributes:
        policies: the names that its completions carry.
        identity: what tells it from another file, or from the same after it has changed.

    Raises:
        NotFound: there is no such file.
        BadInput: a line cannot be read, or the file holds no completion.
    """

    method, folder = PolicyMethod.IMPORT, None

    def __init__(self, path: Path):
        self._path, self._places = path, defaultdict[str, list[tuple[int, str]]](list)
        self.place = path.name
        policies: dict[str, None] = {}
        for at, row, place in _iterate_rows(path, "--policy"):
            prompt = read_prompt(row, place)
            policies |= {c.policy: None for c in _read_completions(prompt, row, place)}
            self._places[prompt.id].append((at, place))
        if not policies:
            raise BadInput(
                f"--policy {path}", expected="completions, as `generate --out` writes them", fix="name another file"
            )
        self.policies = tuple(policies)
        self.name = ", ".join(self.policies)
        status = path.stat()
        self.identity = repr((str(path.resolve()), status.st_size, status.st_mtime_ns))

    def may_answer(self, prompt: Prompt) -> bool:
        """Return whether the file has the prompt."""
        return prompt.id in self._places

    def complete(
        self, prompts: Sequence[Prompt], counts: SamplingCounts, *, keep_all: bool = False
    ) -> Iterator[tuple[Prompt, list[Completion]]]:
        """Yield each prompt with its completions in the file.

        What is empty or a repeat is filtered, unless `keep_all`. Prompts of the file that are not among those asked
        about are counted, as are those of which the file has nothing.
        """
        counts.unmatched += len(self._places.keys() - {p.id for p in prompts})
        with self._path.open("rb") as f:
            for prompt in prompts:
                made: list[Completion] = []
                for at, place in self._places.get(prompt.id, ()):
                    f.seek(at)
                    made += _read_completions(prompt, json.loads(f.readline()), place)
                counts.unfound += not made
                counts.drawn += len(made)
                counts.kept += len(made) if keep_all else 0
                # Counted before: who reads several files side by side does not come back after the last prompt.
                yield prompt, made if keep_all else _filter(made, counts)


def _filter(made: list[Completion], counts: SamplingCounts) -> list[Completion]:
    kept: dict[tuple[str, Any], Completion] = {}
    for c in made:
        reason = FilterReason.EMPTY if c.is_empty else FilterReason.REPEAT if (c.policy, c.messages) in kept else None
        if reason is None:
            kept[c.policy, c.messages] = c
        else:
            counts.reasons[reason.value] += 1
            counts.missing[reason.value] += 1
    counts.kept += len(kept)
    return list(kept.values())


def _read_completions(prompt: Prompt, row: dict[str, Any], place: str) -> list[Completion]:
    answers = row.get("completions", [])
    try:
        return [
            Completion.create(prompt.id, parse_messages(a["messages"]), a["policy"], a.get("sampling")) for a in answers
        ]
    except BadInput as e:
        raise BadInput(f"{place}: {e.value}", expected=e.expected, fix="correct the line") from e
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise BadInput(
            f"{place}: completions",
            expected="a list of objects with messages and policy, as `generate --out` writes them",
            fix="correct the line",
        ) from e
