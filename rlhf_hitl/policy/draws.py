"""Draws: single answers as they were sampled, and a journal that keeps them, so that no answer is asked for twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.files import PRIVATE_FILE, make_private_folder
from rlhf_hitl.types import Message, parse_messages

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

#: How an answer ended: with its EOS, before a stop string, at the token limit; or a filter refused it.
Finish = Literal["eos", "stop", "length", "refused"]
#: Ends the name of a journal's file.
SUFFIX = ".draws"


@dataclass(frozen=True)
class Draw:
    """One answer of a policy.

    Attributes:
        message: as `Message.to_plain` writes it.
        tokens: how many the answer took, its EOS included.
        more: what else is recorded of how it was sampled.
    """

    message: Mapping[str, Any]
    finish: Finish
    tokens: int
    more: Mapping[str, Any] = field(default_factory=dict)

    def read_message(self) -> Message:
        return parse_messages([self.message])[0]


class DrawJournal:
    """Keeps draws by their key, in files of which each process writes one. It holds in memory where they stand.

    A line that a kill has cut off is dropped. Used by several threads.

    Args:
        name: of the policy and of how it samples: another name knows none of these draws.
        writer: names the file that this process writes.

    Raises:
        RlhfHitlError: at the first draw that is added, where another process is writing this file.
    """

    def __init__(self, folder: Path, name: str, writer: str = "0"):
        make_private_folder(folder)
        self.calls: list[dict[str, Any]] = []
        self._folder, self._name, self._lock = folder, name, Lock()
        self._places: dict[str, tuple[int, int]] = {}
        self._readers: list[Any] = []
        self._own_path, self._own_end = folder / f"{name}-{writer}{SUFFIX}", 0
        self._own: Any = None
        for path in find_journals(folder, name):
            end = self._read(path)
            if path == self._own_path:
                self._own_end = end

    def _read(self, path: Path, place: int = 0) -> int:
        """Read where the draws of a file stand, from a place on, and return where the last whole line ends."""
        reader = path.open("rb")
        reader.seek(place)
        self._readers.append(reader)
        number = len(self._readers) - 1
        for line in reader:
            if not line.endswith(b"\n"):
                break
            row = json.loads(line)
            if "call" in row:
                self.calls.append(row["call"])
            else:
                self._places[row["key"]] = number, place
            place += len(line)
        return place

    def _open_own(self) -> Any:
        """Open the file of this process, when it has something to write. Raises RlhfHitlError: see the class."""
        own = open(self._own_path, "ab", opener=_open_private)  # noqa: SIM115
        try:
            if fcntl is not None:
                fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            own.close()
            raise RlhfHitlError(
                f"{self._own_path}: expected that nobody else samples the same. Fix: wait for the other command to end"
            ) from e
        # What another command has written since this one looked, which ended before this one had the lock.
        self._own_end = self._read(self._own_path, self._own_end)
        self._own_number = len(self._readers) - 1
        own.truncate(self._own_end)
        self._own = own
        return own

    @property
    def is_empty(self) -> bool:
        return not self._places

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> Draw:
        number, place = self._places[key]
        with self._lock:
            self._readers[number].seek(place)
            line = self._readers[number].readline()
        row = json.loads(line)
        return Draw(row["message"], row["finish"], row["tokens"], row["more"])

    def add(self, key: str, draw: Draw) -> None:
        """Keep a draw: it survives a kill of this process."""
        place = self._write({"key": key, **asdict(draw)})
        self._places[key] = self._own_number, place

    def add_call(self, call: Mapping[str, Any]) -> None:
        """Keep what a request to an endpoint took."""
        self._write({"call": dict(call)})
        self.calls.append(dict(call))

    def _write(self, row: dict[str, Any]) -> int:
        line = json.dumps(row, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            own = self._own or self._open_own()
            place = own.seek(0, os.SEEK_END)
            own.write(line)
            own.flush()
        return place

    def close(self) -> None:
        for file in filter(None, (self._own, *self._readers)):
            file.close()

    def remove(self) -> None:
        """Delete the files, and their folder if nothing else is in it: all of it was used."""
        self.close()
        for path in find_journals(self._folder, self._name):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self._folder.rmdir()

    def __enter__(self) -> DrawJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def name_journal_folder(workspace: Path, *of: str) -> Path:
    """Return the folder of the workspace for journals of what goes into a store, given by its URL and by what else
    tells one work from others."""
    return workspace / "sampling" / hashlib.sha256("\n".join(of).encode()).hexdigest()[:12]


def find_journals(folder: Path, name: str) -> list[Path]:
    """Return the files of the journal of this name, each written by one process."""
    return sorted(folder.glob(f"{name}-*{SUFFIX}"))


def sum_calls(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what requests came to: how many, their tokens and their cost, and outcomes that are no answer."""
    totals: dict[str, Any] = {"requests": len(calls)}
    totals |= {name: sum(c[name] for c in calls) for name in ("prompt_tokens", "completion_tokens", "cost")}
    outcomes = [c["outcome"] for c in calls if c["outcome"] != "answered"]
    if lost := sum(c.get("reached_nobody", False) for c in calls):
        totals["reached_nobody"] = lost
    return totals | {"unanswered": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}}


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE_FILE)


def iterate_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (place, line) of a file of lines. Only "\\n" ends a line: U+2028 and others may stand within JSON."""
    place = 0
    with path.open("rb") as f:
        for line in f:
            yield place, line
            place += len(line)
