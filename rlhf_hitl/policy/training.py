"""What all tuning of policies shares: its sources, the prompts that may be trained on, and LoRA."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_hitl.arguments import UNSUPPORTED_ANYWHERE
from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import list_prompts
from rlhf_hitl.types import Prompt, Split

#: Former → present name of settings of DPO and PPO, which are now called as in TRL and in full training.
FORMER_NAMES = {"policy": "model_name_or_path", "out": "output_dir"}
#: Other → present name of settings of PPO: also TRL's words, where they mean the same in the same unit.
NAMES_FOR_PPO = FORMER_NAMES | {
    "max_completion_length": "max_new_tokens",
    "num_generations": "answers_per_prompt",
}

#: Settings of TRL that no tuning here follows, and what to do instead. Only their defaults are accepted.
UNSUPPORTED_POLICY_SETTINGS = UNSUPPORTED_ANYWHERE | {
    "eval_strategy": "leave it out, and compare the policies with the reward model afterwards",
    "eval_on_start": "leave it out, and compare the policies with the reward model afterwards",
    "load_best_model_at_end": "leave it out: nothing is evaluated while training",
    "model_init_kwargs": "leave it out: the policy is loaded here",
    "sync_ref_model": "leave it out: the reference is the policy without its adapter",
}
UNSUPPORTED_DPO_SETTINGS = UNSUPPORTED_POLICY_SETTINGS | {
    "truncation_mode": "set max_length: longer pairs are left out, and none is cut",
}
UNSUPPORTED_ONLINE_SETTINGS = UNSUPPORTED_POLICY_SETTINGS | {
    "log_completions": "leave it out: it prints to stdout. `rlhf-hitl generate` shows what a policy says",
    "log_completions_hub_repo": "leave it out: nothing is pushed",
    "reward_weights": "leave it out: the reward model is the one reward",
    "chat_template_kwargs": "leave it out: prompts are rendered as everywhere here",
}
#: Method → what its training by TRL does not follow.
UNSUPPORTED_SETTINGS = {
    "dpo": UNSUPPORTED_DPO_SETTINGS,
    "rloo": UNSUPPORTED_ONLINE_SETTINGS,
    "grpo": UNSUPPORTED_ONLINE_SETTINGS,
}
#: Method → setting → the values that it has: ours, and those of TRL, which looks only when it trains, after sampling.
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "dpo": {
        "loss_type": (
            "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
            "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
        ),
        "ties": ("davidson", "half", "leave_out"),
        "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    },
    "grpo": {
        "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
        "importance_sampling_level": ("token", "sequence"),
    },
}  # fmt: skip

if TYPE_CHECKING:
    from peft import LoraConfig

    from rlhf_hitl.policy.tuning_watch import TuningWatch
    from rlhf_hitl.reward.model import RewardModel


class OtherInputs(BadInput):
    """A checkpoint is of a training on other inputs than the one that was to go on from it."""


@dataclass(frozen=True)
class DataArguments:
    """Arguments of a training script: the store with its data, and the reward model."""

    store: str = field(
        default="", metadata={"help": "The store, as an SQLAlchemy URL. The default is that of `rlhf-hitl`."}
    )
    reward_model: str = field(
        default="", metadata={"help": "Id or folder of a reward model. The default is the newest of the store."}
    )
    conservative: float = field(
        default=0.0,
        metadata={
            "help": "Standard deviations of the reward model's doubt to subtract from a reward, or to ask of a margin."
        },
    )

    def __post_init__(self) -> None:
        if not 0 <= self.conservative < float("inf"):
            raise BadInput(f"conservative {self.conservative}", expected="0 or more", fix="change conservative")

    def open_store(self) -> Store:
        return Store.open(self.store or load_settings().store)

    def open_reward_model(self, store: Store) -> RewardModel:
        """Return the reward model. Raises NotFound where there is none."""
        from rlhf_hitl.reward.registry import open_reward_model

        return open_reward_model(store, self.reward_model or None, load_settings().workspace)


def refuse_heldout(prompts: Iterable[Prompt], store: Store | None = None) -> None:
    """Raise BadInput if a prompt is not of the train split.

    A prompt's own split is checked and, given a store, its id and its family among the pinned prompts there.
    """
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


def choose_prompts(prompts: Sequence[Prompt], n: int, seed: int | str) -> list[Prompt]:
    """Return n of the prompts (all where there are fewer), drawn at random: a seed draws the same whatever their order,
    and those it draws first are the first of a longer draw."""

    def draw(prompt: Prompt) -> bytes:
        return hashlib.sha256(f"{seed}:{prompt.id}".encode()).digest()

    return nsmallest(n, prompts, key=draw)


def refuse_unknown_choices(method: str, settings: Mapping[str, Any], where: str = "") -> None:
    """Raise BadInput for a value that TRL does not have.

    Args:
        method: dpo, rloo or grpo.
        settings: name → a value, or several in a list.
        where: they stand, to be put before a name, such as a file and a colon.
    """
    for name, choices in CHOICES.get(method, {}).items():
        given = settings.get(name, ())
        for value in [given] if isinstance(given, str) else given:
            if value not in choices:
                near = get_close_matches(str(value), choices, 1)
                fix = f"did you mean {near[0]}?" if near else "choose one of them, or leave it out"
                raise BadInput(f"{where}{name} {value}", expected=f"one of {', '.join(choices)}", fix=fix)


def describe_training_inputs(
    policy: str, learnt: Mapping[str, Sequence[Any]], card: Mapping[str, Any], watch: TuningWatch | None = None
) -> dict[str, Any]:
    """Return, as plain JSON, what a training learns from besides its settings: see `refuse_other_inputs`.

    Args:
        policy: that is tuned. Its weights are known by their files, which may have changed under one name.
        learnt: what it learns from by its kind, such as `prompts`, in their order: ids, or values in JSON.
        card: of the tuning; it has `reward_model_id` and `conservative`.
    """
    from rlhf_hitl.models import get_display_name
    from rlhf_hitl.policy.sources import find_policy

    files = find_policy(str(policy)).identity
    return {
        "model_name_or_path": f"{get_display_name(policy)} (files {hashlib.sha256(files.encode()).hexdigest()[:8]})",
        **{kind: describe_rows(rows) for kind, rows in learnt.items()},
        "reward_model": card.get("reward_model_id"),
        "conservative": card.get("conservative", 0.0),
        "gold_reward_model": None if watch is None or watch.gold is None else watch.gold_model_id or "a function",
        "watch_window": None if watch is None else watch.window,
    }


def describe_rows(rows: Sequence[Any]) -> str:
    """Return how many rows there are and what tells them from others. They are plain JSON."""
    return f"{len(rows)} (ids {hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()[:8]})"


def refuse_other_inputs(checkpoint: Path, then: Mapping[str, Any], now: Mapping[str, Any], fix: str) -> None:
    """Raise OtherInputs where a checkpoint is of a training on other inputs (`describe_training_inputs`)."""
    other = [name for name in {**now, **then} if then.get(name) != now.get(name)]
    if other:

        def say(values: Mapping[str, Any]) -> str:
            return " and ".join(f"{name} {values.get(name, 'not given')}" for name in other)

        raise OtherInputs(say(now), expected=f"{say(then)}, as in {checkpoint}", fix=fix)


@contextmanager
def explain_out_of_memory(
    *settings: str, needed: str = "the policy, its gradients and the answers of one pass"
) -> Iterator[None]:
    """Raise BadInput where a device or the machine has no memory left, naming the settings to halve, best first.

    Args:
        needed: for what the memory has to suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        text = str(e).lower()  # torch.cuda.OutOfMemoryError is a RuntimeError, and so is what a CPU's allocator says
        said = ("out of memory", "not enough memory", "can't allocate memory")
        if not isinstance(e, MemoryError) and not any(words in text for words in said):
            raise
        raise BadInput(
            f"memory ({' '.join(str(e).split())[:120] or type(e).__name__})",
            expected=f"enough for {needed}",
            fix=f"halve {', or '.join(settings)}",
        ) from e


def make_policy_lora_config(r: int, alpha: int, dropout: float = 0.0) -> LoraConfig:
    """Return LoRA on every linear layer but the output layer."""
    from peft import LoraConfig

    if r < 1:
        raise BadInput(f"lora_r {r}", expected="1 or more", fix="set lora_r, 8 to 64 as a rule")
    return LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
