"""The folder of a tuned policy: where it goes, how it is written whole or not at all, and the card in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_folder

if TYPE_CHECKING:
    from peft import PeftModel

#: The file in every tuned policy that says how it was made and how the training went.
TRAINING_CARD = "training.json"


def require_free_folder(out: str | Path) -> Path:
    """Return `out` as the path of a new policy. Raises BadInput if it is empty or something is there already."""
    if not str(out):
        raise BadInput("output_dir", expected="a folder for the tuned policy", fix="give --output_dir")
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"output_dir {out}", expected="a folder that is not there yet", fix="choose another")
    return folder


def get_checkpoint_folder(out: Path) -> Path:
    """Return where a training keeps its checkpoints: beside `out`, so that `out` itself is never incomplete."""
    return out.with_name(f".{out.name}.checkpoints")


def save_policy(model: PeftModel, tokenizer: Any, out: Path, *, base: str, merge: bool, card: dict[str, Any]) -> None:
    """Write a tuned policy that `models.load_policy` reads (safetensors, tokenizer, card), whole or not at all.

    Args:
        base: name of the model under the adapter, written into an adapter that is not merged.
    """
    from rlhf_hitl.reward.seen_prompts import SeenPrompts

    with atomic_folder(out) as draft:
        if merge:
            model.merge_and_unload().save_pretrained(draft)  # type: ignore[operator]
        else:
            for adapter_config in model.peft_config.values():
                adapter_config.base_model_name_or_path = base
            model.save_pretrained(str(draft))
        tokenizer.save_pretrained(draft)
        # Marked as incomplete: a reward model on top of this policy cannot know which prompts the policy was tuned on.
        SeenPrompts.of((), is_complete=False).save(draft)
        (draft / TRAINING_CARD).write_text(
            json.dumps(card, indent=2, ensure_ascii=False, default=str), encoding="utf-8"
        )
    shutil.rmtree(get_checkpoint_folder(out), ignore_errors=True)


def read_training_card(out: str | Path) -> dict[str, Any]:
    """Return the card that `save_policy` wrote."""
    return json.loads((Path(out) / TRAINING_CARD).read_text(encoding="utf-8"))
