"""Reward models: what was trained, from which data, where its folder is, and what people call it.

People call a model by its backend, the day (UTC) on which it was trained, and which of that day's models of the store
it is: `head · 28 Nov · 3`. The name is given once, when the model is registered, and no other model ever gets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import reward_models
from rlhf_hitl.types import utc_now

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY_AND_NUMBER = re.compile(rf"\b\d+ (?:{'|'.join(MONTHS)})(?: \d{{4}})? · \d+")
SHORT_ID_LENGTH = 10  # of an id beside a name; among a million models two alike are unlikely
MIN_ID_LENGTH = 3  # of the beginning of an id that stands for the whole
MAX_CANDIDATES = 3  # models that an error names


@dataclass(frozen=True)
class RewardModelRecord:
    """A trained reward model that is registered in the store.

    Attributes:
        figures: describe its training data.
        number: which of its day's models in the store it is, from 1; 0 before it is registered.
    """

    id: str
    backend: str
    path: str
    backbone: str
    data_hash: str
    simulated: bool
    figures: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utc_now)
    number: int = 0

    @property
    def short_id(self) -> str:
        return self.id[:SHORT_ID_LENGTH]


def display_name(model: RewardModelRecord, *, with_id: bool = False) -> str:
    """Return what people call a reward model: `head · 28 Nov · 3`. The year is in it where it is not the present one.

    Args:
        with_id: add the beginning of the id: `head · 28 Nov · 3 (m_1a2b3c4d)`.
    """
    at = model.created_at
    day = f"{at.day} {MONTHS[at.month - 1]}" + ("" if at.year == utc_now().year else f" {at.year}")
    return f"{model.backend} · {day} · {model.number}" + (f" ({model.short_id})" if with_id else "")


def keep_day_whole(name: str) -> str:
    """Return a name for a page, with no place for a line to break within its day and number: `29 Nov · 3`."""
    return _DAY_AND_NUMBER.sub(lambda found: found[0].replace(" ", "\u00a0"), name)


def display_name_of_id(model_id: str, models: Iterable[RewardModelRecord]) -> str:
    """Return what people call the model of this id, with the beginning of the id; the id itself for another model."""
    return next((display_name(model, with_id=True) for model in models if model.id == model_id), model_id)


def display_evaluation_name(name: str, models: Iterable[RewardModelRecord], *, with_id: bool = False) -> str:
    """Return what people call an evaluation: for `heldout-m_1a2b…` it is `heldout · head · 28 Nov · 3`.

    A name without the id of one of the models is returned as it is.

    Args:
        with_id: add the beginning of the model's id: `heldout · head · 28 Nov · 3 (m_1a2b3c4d)`.
    """
    for model in models:
        if model.id in name:
            shown = put_name_for_id(name, model.id, display_name(model))
            return f"{shown} ({model.short_id})" if with_id else shown
    return name


def put_name_for_id(evaluation: str, model_id: str, model_name: str) -> str:
    """Return an evaluation's name with the model's name where it has the model's id, its parts joined by dots."""
    if model_id not in evaluation:
        return evaluation
    before, _, after = evaluation.partition(model_id)
    return " · ".join(part for part in (before.strip("-"), model_name, after.strip("-")) if part)


def add_reward_model(store: Store, model: RewardModelRecord) -> RewardModelRecord:
    """Register a model as the newest, and return it with its number.

    A model that is registered already (its id is its content) becomes the newest. It keeps its number if that was on
    the same day.
    """
    with store.write() as conn:
        store.lock(conn, "numbers of reward models")
        known = _read_records(conn)
        day = model.created_at.date()
        same = next((m for m in known if m.id == model.id), None)
        if same is not None and same.created_at.date() == day:
            number = same.number
        else:
            number = 1 + max((m.number for m in known if m.created_at.date() == day), default=0)
        named = replace(model, number=number, figures=model.figures if same is None else same.figures)
        row = asdict(named) | {"figures": named.figures | {"number": number}}
        del row["number"]
        if same is None:
            conn.execute(reward_models.insert().values(row))
        else:
            changed = {name: row[name] for name in ("created_at", "path", "figures")}
            conn.execute(reward_models.update().where(reward_models.c.id == model.id).values(changed))
    return named


def list_reward_models(store: Store) -> list[RewardModelRecord]:
    """Return every reward model, oldest first."""
    with store.read() as conn:
        return _read_records(conn)


def get_reward_model(store: Store, name: str | None = None) -> RewardModelRecord:
    """Return a reward model by its name or id, or the newest for None.

    Args:
        name: an id or the beginning of one; or a name, whole or in part, with or without its dots: `head · 28 Nov · 3`,
            `head-28-Nov-3`, `28 nov 3`, or `3`.

    Raises:
        NotFound: there is none.
        BadInput: several models may be meant.
    """
    models = list_reward_models(store)
    if not models:
        what = "reward model (newest)" if name is None else f"reward model {name!r}"
        raise NotFound(what, expected="a trained one", fix="run `rlhf-hitl train-reward` first")
    if name is None:
        return models[-1]
    found = [m for m in models if m.id == name] or _find_by_id(name, models) or _find_by_name(name, models)
    if not found:
        newest = _name_candidates(models[::-1])
        raise NotFound(
            f"reward model {name!r}",
            expected=f"one of this store's ({newest}) or a folder",
            fix="see `rlhf-hitl models list`",
        )
    if len(found) > 1:
        raise BadInput(
            f"reward model {name!r}",
            expected=f"one model, and this may be {_name_candidates(found[::-1])}",
            fix="write the whole name or the id",
        )
    return found[0]


def find_evaluation_name(text: str, names: Sequence[str], models: Sequence[RewardModelRecord]) -> str | None:
    """Return which of these evaluations a user means, or None where it is none of them.

    Args:
        text: a name as it is, the beginning of one, or what `display_evaluation_name` makes of one, with or without
            the id; the model's part may be short, as in `heldout 3`.

    Raises:
        BadInput: several may be meant.
    """
    if text in names or not _split_words(text):
        return text if text in names else None
    found = [n for n in names if len(text) >= MIN_ID_LENGTH and n.startswith(text)]
    shown_id = re.fullmatch(r"(.*)\((\w+)\)\s*", text)
    words, id_part = (_split_words(shown_id[1]), shown_id[2]) if shown_id else (_split_words(text), "")
    found = found or [name for name in names if id_part in name and words in _list_evaluation_forms(name, models)]
    if len(found) > 1:
        shown = ", ".join(display_evaluation_name(name, models, with_id=True) for name in found[:MAX_CANDIDATES])
        more = f" and {len(found) - MAX_CANDIDATES} more" if len(found) > MAX_CANDIDATES else ""
        raise BadInput(
            f"evaluation {text!r}", expected=f"one, and this may be {shown}{more}", fix="write the whole name"
        )
    return found[0] if found else None


def _read_records(conn: Connection) -> list[RewardModelRecord]:
    """Return every reward model, oldest first. Those that an earlier version registered are numbered in that order."""
    query = sa.select(reward_models).order_by(reward_models.c.created_at, reward_models.c.id)
    records, without_number = [], {}
    for row in conn.execute(query).mappings():
        figures = dict(row["figures"])
        number = figures.pop("number", None)
        if not isinstance(number, int):
            day = row["created_at"].date()
            number = without_number[day] = without_number.get(day, 0) + 1
        records.append(RewardModelRecord(**{**row, "figures": figures, "number": number}))
    return records


def _find_by_id(text: str, models: Sequence[RewardModelRecord]) -> list[RewardModelRecord]:
    if shown := re.fullmatch(r".*\((\w+)\)", text.strip()):  # a name with its id, as it is listed
        text = shown[1]
    return [m for m in models if m.id.startswith(text)] if len(text) >= MIN_ID_LENGTH else []


def _find_by_name(text: str, models: Sequence[RewardModelRecord]) -> list[RewardModelRecord]:
    words = _split_words(text)
    return [m for m in models if words in _list_forms(m)]


def _list_forms(model: RewardModelRecord) -> set[tuple[str, ...]]:
    """Return every way to write a model's name, in words: all parts of it or some, in their order."""
    at = model.created_at
    day = (str(at.day), MONTHS[at.month - 1].lower())
    backends, days, numbers = [(), (model.backend,)], [(), day, (*day, str(at.year))], [(), (str(model.number),)]
    return {(*b, *d, *n) for b in backends for d in days for n in numbers} - {()}


def _list_evaluation_forms(name: str, models: Iterable[RewardModelRecord]) -> set[tuple[str, ...]]:
    for model in models:
        if model.id in name:
            before, _, after = name.partition(model.id)
            return {(*_split_words(before), *form, *_split_words(after)) for form in _list_forms(model)}
    return {_split_words(name)}


def _split_words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _name_candidates(models: Sequence[RewardModelRecord]) -> str:
    shown = ", ".join(display_name(m, with_id=True) for m in models[:MAX_CANDIDATES])
    return shown + (f" and {len(models) - MAX_CANDIDATES} more" if len(models) > MAX_CANDIDATES else "")
