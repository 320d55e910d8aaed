"""Checkpoints of a full training: which one to resume from, and whether it belongs to this training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_config

#: Fields of a model's configuration that may differ between a checkpoint and the model that resumes from it.
IGNORED_CONFIG_FIELDS = {
    "_name_or_path", "_attn_implementation", "_attn_implementation_internal", "transformers_version", "dtype",
    "torch_dtype", "use_cache", "architectures",
}  # fmt: skip


def select_checkpoint(requested: str | None, output_dir: Path, model: Any) -> Path | None:
    """Return the checkpoint that `resume_from_checkpoint` names; None to start from the beginning.

    Args:
        requested: a folder, or "latest" for the newest complete checkpoint of `output_dir`, if there is one.

    Raises:
        BadInput: the checkpoint is incomplete, or holds another model than the one that is trained.
    """
    takes_latest = requested in ("latest", "true", "True")
    checkpoint = find_latest_checkpoint(output_dir) if takes_latest else requested and Path(requested)
    if not checkpoint:
        return None
    if not is_complete_checkpoint(checkpoint):
        raise BadInput(
            f"resume_from_checkpoint {checkpoint}",
            expected="a whole checkpoint of this training",
            fix="give `latest`, which takes the newest that was written to its end",
        )
    refuse_different_model(checkpoint, model)
    return checkpoint


def find_latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run; None where there is none."""
    numbered = [c for c in folder.glob("checkpoint-*") if c.name.removeprefix("checkpoint-").isdecimal()]
    return max(
        filter(is_complete_checkpoint, numbered), key=lambda c: int(c.name.removeprefix("checkpoint-")), default=None
    )


def is_complete_checkpoint(checkpoint: Path, processes: int | None = None) -> bool:
    """Whether nothing of a checkpoint is missing.

    The file that is written last can be read. If several processes wrote it, the random state of each is there, for as
    many processes as there are now (or `processes`).
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    ranks = range(processes or PartialState().num_processes)
    by_several = len(ranks) > 1 and (checkpoint / "rng_state_0.pth").is_file()
    return not by_several or all((checkpoint / f"rng_state_{rank}.pth").is_file() for rank in ranks)


def refuse_different_model(checkpoint: Path, model: Any) -> None:
    """Raise BadInput where a checkpoint has another architecture than `model`, or another adapter."""
    has_adapter = (checkpoint / "adapter_config.json").is_file()
    if has_adapter != isinstance(model, PeftModel):
        theirs, ours = ("LoRA", "the whole model") if has_adapter else ("the whole model", "LoRA")
        raise _make_different_model_error(
            checkpoint, f"of training {theirs}", ours, "set use_peft as the checkpoint was made with"
        )
    if has_adapter:
        _refuse_different_adapter(checkpoint, model)
    elif (checkpoint / "config.json").is_file():  # missing where the parts of a model are kept apart, as by FSDP
        theirs, ours = _describe_architecture(load_config(checkpoint)), _describe_architecture(model.config)
        if name := _find_first_difference(theirs, ours):
            raise _make_different_model_error(
                checkpoint,
                f"with {name} {theirs.get(name)}",
                f"{name} {ours.get(name)}, as of the model that is trained",
                "name the model the checkpoint was made with",
            )


def _refuse_different_adapter(checkpoint: Path, model: PeftModel) -> None:
    ours = {name: list(weights.shape) for name, weights in get_peft_model_state_dict(model).items()}
    try:
        with safe_open(checkpoint / "adapter_model.safetensors", "pt") as file:
            theirs = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as e:
        raise BadInput(
            f"{checkpoint}/adapter_model.safetensors",
            expected=f"a whole adapter ({str(e)[:80]})",
            fix="give another checkpoint, or leave resume_from_checkpoint out",
        ) from e
    if name := _find_first_difference(theirs, ours):
        raise _make_different_model_error(
            checkpoint,
            f"whose adapter has {name} of {theirs.get(name)}",
            f"{ours.get(name)}, as this run's",
            "set model and LoRA (lora_r, lora_target_modules) as the checkpoint was made with",
        )


def _find_first_difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """Return the first name, in alphabetical order, whose values differ; None if none does."""
    return next((name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)), None)


def _make_different_model_error(checkpoint: Path, description: str, expected: str, fix: str) -> BadInput:
    return BadInput(f"checkpoint {checkpoint} {description}", expected=expected, fix=f"{fix}, or another output_dir")


def _describe_architecture(config: Any) -> dict[str, Any]:
    """Return the fields of a model's configuration that make its architecture, with the values they have in JSON."""
    return {
        k: v for k, v in json.loads(config.to_json_string(use_diff=False)).items() if k not in IGNORED_CONFIG_FIELDS
    }
