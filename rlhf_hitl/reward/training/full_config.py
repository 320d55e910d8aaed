"""The settings of full training, and the settings of TRL that it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from trl import ModelConfig, RewardConfig

from rlhf_hitl.arguments import UNSUPPORTED_ANYWHERE, read_trackers, refuse_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import fill_in_precision
from rlhf_hitl.reward import DEFAULT_MAX_TOKENS

MIN_TOKENS = 8  # the fewest that can hold an answer
NO_MAX_LENGTH = 1_000_000  # tokens: the limit where `max_length` sets none

TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow", "comet_ml", "clearml", "swanlab")

#: Settings of TRL that this training does not follow, and what to do instead. Only their defaults are accepted.
UNSUPPORTED_SETTINGS = UNSUPPORTED_ANYWHERE | {
    "load_in_4bit": "train in full or with use_peft",
    "load_in_8bit": "train in full or with use_peft",
    "use_dora": "use plain LoRA: use_peft",
    "bnb_4bit_quant_type": "leave it out: nothing is quantised",
    "bnb_4bit_quant_storage": "leave it out: nothing is quantised",
    "use_bnb_nested_quant": "leave it out: nothing is quantised",
    "model_revision": "download that revision and give its folder",
    "dtype": "set bf16 or fp16: weights are kept in float32",
    "model_init_kwargs": "set attn_implementation, the one that is taken",
    "chat_template_path": "put the template into the model's tokenizer",
    "eos_token": "set it in the model's tokenizer",
    "pad_token": "leave it out: padding is masked",
}


@dataclass
class FullTrainingConfig(RewardConfig):
    """TRL's RewardConfig, with other defaults: bf16 only where the hardware computes in it, and rows are cut rather
    than dropped."""

    dataset: str = field(default="", metadata={"help": "A folder of `rlhf-hitl export`, or a hub id of TRL pairs."})
    dataset_cache: str | None = field(
        default=None, metadata={"help": "Where `datasets` keeps the rows it reads; its own cache by default."}
    )
    learn_from: str = field(
        default="pairs",
        metadata={
            "help": "What a row teaches: pairs, or rankings of all completions of a prompt (Plackett-Luce with ties)."
        },
    )
    max_length: int | None = field(
        default=DEFAULT_MAX_TOKENS,
        metadata={"help": "The most tokens of a conversation. A longer prompt is cut from the left, and counted."},
    )
    length_coefficient: float = field(
        default=0.0,
        metadata={"help": "The weight of a penalty on margins that follow the lengths; 0.1 to 1 where they do."},
    )
    share_prompts: bool = field(
        default=True,
        metadata={
            "help": "Whether the prompt of a row is computed once, where the model can: the same losses, sooner."
        },
    )
    token_budget: int | None = field(
        default=None,
        metadata={
            "help": "The most tokens in a batch. It then holds rows of similar length, instead of "
            "per_device_train_batch_size rows."
        },
    )
    report_to: list[str] = field(  # type: ignore[assignment]
        default_factory=lambda: ["none"], metadata={"help": "Trackers such as tensorboard or wandb; or none."}
    )
    skip_bad: bool = field(
        default=False,
        metadata={
            "help": "Leave out rows that the chat template refuses or whose completions it makes the same, and count "
            "them, instead of refusing the dataset."
        },
    )
    save_strategy: str = field(default="no", metadata={"help": "When checkpoints are written: no, steps or epoch."})

    def __post_init__(self) -> None:
        fill_in_precision(self)
        self.report_to = read_trackers(self.report_to)
        super().__post_init__()

    @property
    def padding_multiple(self) -> int | None:
        """`pad_to_multiple_of` as a number; None if it is not set."""
        return None if self.pad_to_multiple_of is None else int(self.pad_to_multiple_of)


def refuse_unsupported_settings(config: FullTrainingConfig, model_config: ModelConfig) -> None:
    """Raise BadInput for a setting of TRL that would be accepted and then not followed."""
    refuse_settings((config, model_config), UNSUPPORTED_SETTINGS)
    if model_config.use_peft and model_config.lora_task_type not in (ModelConfig.lora_task_type, "SEQ_CLS"):
        value = f"lora_task_type {model_config.lora_task_type!r}"
        raise BadInput(value, expected="SEQ_CLS, that of a reward model", fix="leave it out")
    if config.token_budget is not None and config.token_budget < 1:
        raise BadInput(f"token_budget {config.token_budget}", expected="1 or more", fix="set 4096, or leave it out")
    if config.max_length is not None and config.max_length < MIN_TOKENS:
        fix = f"set {DEFAULT_MAX_TOKENS}, or leave it out"
        raise BadInput(f"max_length {config.max_length}", expected=f"{MIN_TOKENS} tokens or more, or none", fix=fix)
    if model_config.use_peft and model_config.lora_r < 1:
        raise BadInput(f"lora_r {model_config.lora_r}", expected="1 or more", fix="set lora_r, 8 to 64 as a rule")


def refuse_missing_trackers(report_to: Sequence[str] | None) -> None:
    """Raise BadInput for a tracker in `report_to` that is unknown or not installed."""
    for name in report_to or []:
        if name not in ("all", "none", *INTEGRATION_TO_CALLBACK):
            trackers = ", ".join(["none", *TRACKERS])
            raise BadInput(f"report_to {name}", expected=f"a tracker: {trackers}", fix="name one of them")
        if name in TRACKERS and find_spec(name) is None:
            raise BadInput(f"report_to {name}", expected="a tracker that is installed", fix=f"pip install {name}")
