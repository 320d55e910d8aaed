"""How a tuned policy came about, from its folder into the store."""

from __future__ import annotations

from pathlib import Path

from rlhf_hitl.models import get_display_name
from rlhf_hitl.policy.policy_folder import read_training_card
from rlhf_hitl.store import Store
from rlhf_hitl.store.policies import PolicyMethod, PolicyRecord, list_policies, record_policy


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
    if parent not in {known.name for known in list_policies(store)}:
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


def _find_place(policy: str) -> str:
    """Return the folder of a policy on this machine, or else its name."""
    folder = Path(policy).expanduser()
    return str(folder.resolve()) if folder.is_dir() else policy
