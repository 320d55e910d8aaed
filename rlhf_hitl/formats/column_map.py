"""The columns that a user names: `--map question=prompt,annotator=rater`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.record import is_nothing

ROWS_LOOKED_AT = 1000  # for a column that the first rows may lack
COLUMNS_SHOWN = 12  # by an error
NEAR = 0.6  # how alike two names are, of at most 1, for one to be taken for a misspelling of the other
_MISSING = object()


@dataclass(frozen=True)
class ColumnMap:
    """Columns that are renamed before a format is looked for: (source, target).

    A source is a column, or a path to something within one: `data.text`, `responses.0`. An empty target leaves the
    column out.
    """

    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> ColumnMap:
        """Return the mapping of some `source=target,source=target`.

        Raises:
            BadInput: a text is something else, or names a source or a target twice.
        """
        pairs: list[tuple[str, str]] = []
        for text in (part for whole in texts for part in whole.split(",")):
            source, mark, target = (part.strip() for part in text.partition("="))
            if not mark or not source:
                raise BadInput(
                    f"--map {text[:60]!r}",
                    expected="COLUMN=NAME, as in question=prompt",
                    fix="write it so, or COLUMN= to leave the column out",
                )
            pairs.append((source, target))
        for names in ([s for s, _ in pairs], [t for _, t in pairs if t]):
            if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
                raise BadInput(f"--map with {twice!r} twice", expected="each column once", fix="take one out")
        return cls(tuple(pairs))

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def apply(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with the names that the user gave. What else is in a column of which a part is taken is called
        by its path."""
        values = {target: _find(fields, source) for source, target in self.pairs if target}
        kept = dict(fields)
        for source, _ in self.pairs:
            _take_out(kept, source)
        return kept | {target: value for target, value in values.items() if value is not _MISSING}

    def check_sources(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Check that each source is in one of the first rows, which are as the file has them.

        Raises:
            BadInput: one is not; the error names the column that is likely meant. Or a target is there already.
        """
        sources = {source for source, _ in self.pairs}
        missing, columns = [source for source, _ in self.pairs], dict[str, None]()
        for row in islice(rows, ROWS_LOOKED_AT):
            missing = [source for source in missing if _find(row, source) is _MISSING]
            for source, target in self.pairs:
                if target and target not in sources and not is_nothing(row.get(target)):
                    raise BadInput(
                        f"--map {source[:60]}={target[:60]}: there is a column {target[:60]!r}",
                        expected="a name that no other column has",
                        fix=f"leave that column out with --map {target[:60]}=, or give it another name",
                    )
            if not missing:
                return
            columns |= dict.fromkeys(_list_paths(row))
        if missing:
            near = get_close_matches(missing[0], columns, 1, NEAR)
            shown = ", ".join(str(name)[:60] for name in islice(columns, COLUMNS_SHOWN))
            raise BadInput(
                f"--map {missing[0][:60]}=…: no such column",
                expected=f"one of {shown}" + (", …" if len(columns) > COLUMNS_SHOWN else ""),
                fix=f"did you mean {near[0][:60]}?" if near else "name a column of the file",
            )

    def check_targets(self, known: Iterable[str]) -> None:
        """Check that each target is a column that some format reads.

        Raises:
            BadInput: one is not; the error names the nearest.
        """
        names = set(known)
        for source, target in self.pairs:
            if target and target not in names:
                near = get_close_matches(target, sorted(names), 1, NEAR)
                shown = get_close_matches(target, sorted(names), COLUMNS_SHOWN + 1, 0)  # the nearest first
                left = len(names) - len(shown)
                raise BadInput(
                    f"--map {source[:60]}={target[:60]}: no format reads {target[:60]!r}",
                    expected=f"a column that one reads: {', '.join(shown)}" + (f" or {left} others" if left else ""),
                    fix=f"did you mean {near[0]}?" if near else "docs/importing.md lists the usual names",
                )


NO_MAP = ColumnMap()


def _find(fields: Any, path: str) -> Any:
    """Return what is at a path; `_MISSING` where nothing is. A text of JSON on the way is opened."""
    if isinstance(fields, str) and fields[:1] in "{[":
        try:
            fields = json.loads(fields)
        except (ValueError, RecursionError):
            return _MISSING
    if isinstance(fields, Mapping) and path in fields:
        return dict.get(fields, path) if isinstance(fields, dict) else fields[path]
    head, dot, rest = path.partition(".")
    if not dot and not _is_list(fields):
        return _MISSING
    if _is_list(fields):
        inner = fields[int(head)] if head.isdecimal() and int(head) < len(fields) else _MISSING
    else:
        inner = _find(fields, head) if isinstance(fields, Mapping) else _MISSING
    return inner if inner is _MISSING or not dot else _find(inner, rest)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _take_out(fields: dict[str, Any], path: str) -> None:
    """Take what is at a path out of a row. Its neighbours there get names of their own: `data.other`."""
    if path in fields:
        del fields[path]
        return
    head, dot, rest = path.partition(".")
    if not dot or head not in fields:
        return
    whole = fields[head]
    if isinstance(whole, str):
        whole = json.loads(whole) if _find(whole, rest) is not _MISSING else whole
    if isinstance(whole, Mapping):
        items = {str(key): value for key, value in whole.items()}
    elif _is_list(whole):
        items = {str(i): value for i, value in enumerate(whole)}
    else:
        return
    del fields[head]
    _take_out(items, rest)
    for key, value in items.items():
        name = f"{head}.{key}"
        fields[name if name not in fields else f"{name} (within {head})"] = value  # a row may have a column `a.b` too


def _list_paths(row: Mapping[str, Any]) -> list[str]:
    """Return the columns of a row and what is directly within them."""
    paths = []
    for name, value in row.items():
        paths.append(name)
        if isinstance(value, Mapping):
            paths += [f"{name}.{key}" for key in value]
        elif _is_list(value):
            paths += [f"{name}.{i}" for i in range(min(len(value), 3))]
    return paths
