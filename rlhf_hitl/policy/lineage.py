"""How policies came about, into the store: tuned ones from their folders, and others where raters meet them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import get_display_name
from rlhf_hitl.policy.policy_folder import TRAINING_CARD, read_training_card
from rlhf_hitl.policy.sources import PolicySource
from rlhf_hitl.policy.tuning_record import make_config
from rlhf_hitl.store import Store
from rlhf_hitl.store.policies import (
    PolicyMethod,
    PolicyRecord,
    list_policies,
    record_met_policies,
    record_policy,
)


def record_tuned_policy(
    store: Store, out: str | Path, *, base: str, reward_model_id: str | None = None, round: int | None = None
) -> PolicyRecord:
    """Record in the store how the policy in a folder was made, as its training card has it, and what it was made of.

    Args:
        base: the policy that was tuned: a folder, a hub id, or a short name.
        reward_model_id: what it was tuned on.
        round: of the loop.
    """
    folder, card = Path(out).expanduser().resolve(), read_training_card(out)
    parent = get_display_name(base)
    # Of a base that came with completions alone, it is known from now on where it is.
    elsewhere = (PolicyMethod.IMPORT, PolicyMethod.ENDPOINT)
    if parent not in {known.name for known in list_policies(store) if known.method not in elsewhere}:
        record_policy(store, parent, path=_find_place(base), method=PolicyMethod.BASE)
    return record_policy(
        store,
        get_display_name(folder),
        path=folder,
        method=PolicyMethod(card["method"]),
        parent=parent,
        reward_model_id=reward_model_id,
        round=round,
        settings=card.get("settings"),
    )


def record_sources(store: Store, sources: Sequence[PolicySource]) -> None:
    """Record the policies whose answers raters are about to get, where nothing is recorded of them yet. One that was
    tuned elsewhere is recorded as its training card has it."""
    known = {record.name for record in list_policies(store)}
    for source in sources:
        card = source.folder and source.folder / TRAINING_CARD
        if card is not None and card.is_file() and source.name not in known:
            _record_tuned_elsewhere(store, source.name, card.parent)
        with store.write() as conn:
            record_met_policies(store, conn, source.policies, source.place, source.method)


def _record_tuned_elsewhere(store: Store, name: str, folder: Path) -> None:
    card = read_training_card(folder)
    try:
        parent = get_display_name(make_config(card)["model_name_or_path"])
    except (KeyError, BadInput):  # a folder of another machine
        parent = None
    record_policy(
        store,
        name,
        path=folder.resolve(),
        method=PolicyMethod(card["method"]),
        parent=None if parent == name else parent,
        reward_model_id=card.get("reward_model_id"),
        settings=card.get("settings"),
    )


def _find_place(policy: str) -> str:
    """Return the folder of a policy on this machine, or else its name."""
    folder = Path(policy).expanduser()
    return str(folder.resolve()) if folder.is_dir() else policy
