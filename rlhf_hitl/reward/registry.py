"""Reward models in the store: register a saved one, find and open one by folder or name.

Importing this module costs no torch: what is missing is reported before anything heavy is imported.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.models import resolve_model
from rlhf_hitl.reward import CARD_FILE, HEAD_FILE
from rlhf_hitl.reward.bundled_reader import is_bundled_only
from rlhf_hitl.store import Store
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model, get_reward_model, list_reward_models

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel


def register_reward_model(store: Store, model: RewardModel, folder: Path) -> RewardModelRecord:
    """Make a model that is saved in a folder the store's newest, and write into its card what the store calls it."""
    from rlhf_hitl.reward.model_card import add_name_to_card

    record = add_reward_model(store, _make_record(model, folder))
    add_name_to_card(record)
    return record


def locate_reward_model(store: Store, name: str | None) -> Path:
    """Return the folder of a reward model that is named by its folder, name or id, or of the store's newest for None.

    Raises:
        NotFound: there is no such model, its folder is gone, or its backbone was not fetched.
        BadInput: the name is empty, as of a variable that is not set, or may mean several models.
    """
    if name is not None and not name.strip():
        raise BadInput(
            f"reward model {name!r}",
            expected="a name, an id or a folder",
            fix="name one, or leave it out for the newest",
        )
    if name and (Path(name) / CARD_FILE).is_file():
        folder = Path(name)
    elif name and os.sep in name:
        raise _make_missing_error(name)
    else:
        folder = Path(get_reward_model(store, name).path)
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        backbone = None if card["backend"] == "full" else str(card["backbone"]["name"])  # a full model brings its own
    except FileNotFoundError as e:
        raise _make_missing_error(str(folder)) from e
    except (ValueError, LookupError, TypeError):  # `load_reward_model` says what is wrong with a damaged card
        backbone = None
    if backbone is not None and not is_bundled_only(backbone):
        resolve_model(backbone)
    return folder


def open_reward_model(store: Store, name: str | None, workspace: Path, *, register: bool = True) -> RewardModel:
    """Load a reward model by folder, name or id, or the store's newest for None.

    A model the store does not know is registered with the time it was trained: opening a model does not make it the
    newest.

    Args:
        register: False leaves the store as it is.

    Raises:
        NotFound, BadInput: as `locate_reward_model` does.
    """
    folder = locate_reward_model(store, name)
    from rlhf_hitl.reward.model import load_reward_model

    model = load_reward_model(folder, workspace / "features")
    model.cache.backbone.renderer.read_images_from(store.images.load)
    if register and model.id not in {record.id for record in list_reward_models(store)}:
        trained_at = datetime.fromtimestamp((folder / HEAD_FILE).stat().st_mtime, UTC)
        add_reward_model(store, replace(_make_record(model, folder), created_at=trained_at))
    return model


def _make_missing_error(folder: str) -> NotFound:
    return NotFound(
        f"reward model {folder}",
        expected=f"a folder with {CARD_FILE}",
        fix="name another, put it back, or train one with `rlhf-hitl train-reward`",
    )


def _make_record(model: RewardModel, folder: Path) -> RewardModelRecord:
    return RewardModelRecord(
        id=model.id,
        backend=model.backend,
        path=str(folder.resolve()),
        backbone=model.cache.backbone.name,
        data_hash=model.card["data_hash"],
        simulated=model.card["simulated"],
        figures={k: v for k, v in model.card.items() if isinstance(v, int | float) or k == "half"},
    )
