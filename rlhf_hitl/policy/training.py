"""What DPO and PPO share: which prompts may be trained on, LoRA, and how a tuned policy is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_folder
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.types import Prompt, Split

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from rlhf_hitl.reward.model import RewardModel

#: Written into every tuned policy: how it was made and how the training went.
CARD = "training.json"


def refuse_heldout(prompts: Iterable[Prompt], store: Store | None = None) -> None:
    """Raise where a prompt is not of the train split, by its own split and, given a store, by id and family there."""
    pinned_ids: set[str] = set()
    pinned_families: set[str] = set()
    if store is not None:
        for split in (Split.HELDOUT, Split.CALIBRATION):
            pinned = list_prompts(store, split=split)
            pinned_ids |= {p.id for p in pinned}
            pinned_families |= {p.family for p in pinned}
    for p in prompts:
        if p.split is not Split.TRAIN or p.id in pinned_ids or p.family in pinned_families:
            raise BadInput(
                f"prompt {p.id} (split {p.split.value})",
                expected="prompts of the train split only",
                fix="take the prompt out: held-out and calibration prompts never reach training",
            )


def lora(r: int, alpha: int, dropout: float = 0.0) -> LoraConfig:
    """LoRA on every linear layer but the output."""
    from peft import LoraConfig

    if r < 1:
        raise BadInput(f"lora_r {r}", expected="1 or more", fix="set lora_r, 8 to 64 as a rule")
    return LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")


@dataclass(frozen=True)
class DataArguments:
    """Where a training gets its data and its judge."""

    store: str = field(default="", metadata={"help": "The store, as an SQLAlchemy URL; default as of `rlhf-hitl`."})
    reward_model: str = field(default="", metadata={"help": "Folder or id of a reward model; default the newest."})

    def open_store(self) -> Store:
        return Store.open(self.store or load_settings().store)

    def open_reward_model(self, store: Store) -> RewardModel:
        """The judge. Raises NotFound where there is none."""
        from rlhf_hitl.reward.training.train import open_reward_model

        return open_reward_model(store, self.reward_model or None, load_settings().workspace)


def free_folder(out: str | Path) -> Path:
    """`out`, where a new policy is to be written. Raises BadInput where something is there already."""
    if not str(out):
        raise BadInput("--out", expected="a folder for the tuned policy", fix="give --out")
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"--out {out}", expected="a folder that is not there yet", fix="choose another --out")
    return folder


def checkpoints_of(out: Path) -> Path:
    """Where a training keeps what it needs to go on after a stop: beside `out`, so that `out` is only ever whole."""
    return out.with_name(f".{out.name}.checkpoints")


def save_policy(model: PeftModel, tokenizer: Any, out: Path, *, base: str, merge: bool, card: dict[str, Any]) -> None:
    """Write a tuned policy that `models.load_policy` reads: safetensors, tokenizer, card. Whole or not at all.

    Args:
        base: name of the model the adapter stands on, written into an adapter that is not merged.
    """
    from rlhf_hitl.reward.seen_prompts import Seen

    with atomic_folder(out) as draft:
        if merge:
            model.merge_and_unload().save_pretrained(draft)  # type: ignore[operator]
        else:
            for settings in model.peft_config.values():
                settings.base_model_name_or_path = base
            model.save_pretrained(str(draft))
        tokenizer.save_pretrained(draft)
        Seen.of((), whole=False).save(draft)  # a reward model on top of it would not know which prompts tuned it
        (draft / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False, default=str), encoding="utf-8")
    shutil.rmtree(checkpoints_of(out), ignore_errors=True)


def read_card(out: str | Path) -> dict[str, Any]:
    return json.loads((Path(out) / CARD).read_text(encoding="utf-8"))
