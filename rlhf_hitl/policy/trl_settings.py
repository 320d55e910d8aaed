"""The settings that DPO, RLOO and GRPO share, and the defaults in which they differ from TRL's."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_hitl.arguments import read_trackers
from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.models import fill_in_precision


@dataclass
class PolicySettings:
    """Settings of every tuning by TRL; stands before a configuration of TRL's among the bases of a class of settings.

    Defaults that differ from TRL's fit a LoRA run of a small policy on a CPU. bf16 is left off where the hardware only
    emulates it.
    """

    output_dir: str = field(default="", metadata={"help": "Folder for the tuned policy. It must not exist yet."})
    model_name_or_path: str = field(
        default=DEFAULT_MODEL, metadata={"help": "Model folder, hub id, or a name from `models get`."}
    )
    lora_r: int = field(default=8, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA alpha."})
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA dropout."})
    merge: bool = field(default=True, metadata={"help": "Save a whole model instead of the adapter only."})
    skip_bad: bool = field(
        default=False,
        metadata={"help": "Leave out and count what the chat template refuses or makes the same, instead of stopping."},
    )
    learning_rate: float = field(
        default=5e-5, metadata={"help": "Learning rate of AdamW; LoRA needs a higher one than full tuning."}
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations: uses less memory and more time."}
    )
    logging_steps: float = field(default=1, metadata={"help": "Steps between two rows of the history."})
    save_strategy: str = field(default="no", metadata={"help": "When to write checkpoints: no, steps or epoch."})
    report_to: list[str] = field(
        default_factory=lambda: ["none"], metadata={"help": "Trackers such as tensorboard or wandb; or none."}
    )

    def __post_init__(self) -> None:
        fill_in_precision(self)  # type: ignore[arg-type]
        self.report_to = read_trackers(self.report_to)
        super().__post_init__()  # type: ignore[misc]
