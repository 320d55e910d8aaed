"""Checkpoints of a full training: which to go on from, and whether it is of this training at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import load_config

#: Of a configuration, what a run may change without making it another model.
PASSING = {
    "_name_or_path", "_attn_implementation", "_attn_implementation_internal", "transformers_version", "dtype",
    "torch_dtype", "use_cache", "architectures",
}  # fmt: skip


def chosen(asked: str | None, output_dir: Path, model: Any) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` asks for: a folder, or "latest" for the newest whole one of
    `output_dir` (the start where there is none).

    Raises:
        BadInput: it is not whole, or holds another model than the one that is trained.
    """
    found = latest(output_dir) if asked in ("latest", "true", "True") else asked and Path(asked)
    if not found:
        return None
    if not is_whole(found):
        raise BadInput(
            f"resume_from_checkpoint {found}",
            expected="a whole checkpoint of this training",
            fix="give `latest`, which takes the newest that was written to its end",
        )
    refuse_another(found, model)
    return found


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end; None where there is none."""
    found = [c for c in folder.glob("checkpoint-*") if c.name.removeprefix("checkpoint-").isdecimal() and is_whole(c)]
    return max(found, key=lambda c: int(c.name.removeprefix("checkpoint-")), default=None)


def is_whole(checkpoint: Path, processes: int | None = None) -> bool:
    """Whether nothing of it is missing: its last file is there and can be read, and where several processes wrote it,
    the random state of each (of as many as there are now)."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    ranks = range(processes or PartialState().num_processes)
    several = len(ranks) > 1 and (checkpoint / "rng_state_0.pth").is_file()
    return not several or all((checkpoint / f"rng_state_{rank}.pth").is_file() for rank in ranks)


def refuse_another(checkpoint: Path, model: Any) -> None:
    """Raise BadInput where a checkpoint is of another architecture than `model`, or of other adapters."""
    with_adapter = (checkpoint / "adapter_config.json").is_file()
    if with_adapter != isinstance(model, PeftModel):
        theirs, ours = ("LoRA", "the whole model") if with_adapter else ("the whole model", "LoRA")
        raise _another(checkpoint, f"of training {theirs}", ours, "set use_peft as the checkpoint was made with")
    if with_adapter:
        _same_adapter(checkpoint, model)
    elif (checkpoint / "config.json").is_file():  # not where parts of the model are kept apart, as by FSDP
        theirs, ours = _settings(load_config(checkpoint)), _settings(model.config)
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise _another(
                    checkpoint,
                    f"with {name} {theirs.get(name)}",
                    f"{name} {ours.get(name)}, as of the model that is trained",
                    "name the model the checkpoint was made with",
                )


def _same_adapter(checkpoint: Path, model: PeftModel) -> None:
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
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise _another(
                checkpoint,
                f"whose adapter has {name} of {theirs.get(name)}",
                f"{ours.get(name)}, as this run's",
                "set model and LoRA (lora_r, lora_target_modules) as the checkpoint was made with",
            )


def _another(checkpoint: Path, found: str, expected: str, fix: str) -> BadInput:
    return BadInput(f"checkpoint {checkpoint} {found}", expected=expected, fix=f"{fix}, or another output_dir")


def _settings(config: Any) -> dict[str, Any]:
    """Of a model's configuration, all that makes its architecture, as JSON would have it."""
    return {k: v for k, v in json.loads(config.to_json_string(use_diff=False)).items() if k not in PASSING}
