"""The settings of the loop."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.routing.acquisition_names import Rule
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, LabelModelName


class LoopConfig(BaseModel):
    """What a round does, and how much of it. `configs/loop.yaml` shows every field."""

    model_config = ConfigDict(extra="forbid")

    policy: str = DEFAULT_MODEL
    backbone: str = DEFAULT_MODEL
    prompts_per_round: int = Field(default=12, ge=1)
    completions_per_prompt: int = Field(default=4, ge=2)
    max_new_tokens: int = Field(default=32, ge=1)
    temperatures: tuple[float, ...] = Field(default=(0.7, 1.0), min_length=1)
    judgments_per_round: int = Field(default=160, ge=1)
    max_error: float = Field(default=0.2, gt=0, lt=1)
    delta: float = Field(default=0.1, gt=0, lt=1)
    control_share: float = Field(default=0.15, ge=0, le=1)
    routing: str | None = None  # rules: a YAML file, or the name of one that comes with the package
    audit_share: float = Field(default=0.05, ge=0, le=1)  # of what is accepted; raters judge it all the same
    acquisition: Literal["auto", Rule] = "auto"
    judges: tuple[str, ...] = ()  # AI judges that are heard where the model is not sure enough, the cheapest first
    pairing: Rule = "random"  # the rule that says which completions of a prompt are compared
    pairs_per_prompt: int | None = Field(default=None, ge=1)  # None: each completion is compared
    dpo_pairs: int = Field(default=12, ge=0)  # 0 switches DPO off
    dpo_prompts: int = Field(default=6, ge=0)  # sampled afresh for pairs of the reward model; 0: only people's pairs
    ppo_steps: int = Field(default=2, ge=0)  # 0 switches PPO off
    ppo_rollouts: int = Field(default=8, ge=2)
    # Standard deviations of the reward model's doubt that are taken off a reward, or asked of a margin.
    conservative: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    # Nothing is tuned on a reward model whose accuracy on held-out labels is shown to be below this.
    gate_accuracy: float = Field(default=0.5, ge=0, le=1)
    # The tuned policy is promoted where raters are shown to prefer it to the old one, on held-out prompts.
    # With few prompts only large gains are shown. Simulated, with a fifth of ties: what wins 60 % is promoted by 40
    # judgments in 16 of 100 cases, and by 160 in 72. Prompts that are answered and not judged make predictions help.
    gate_prompts: int = Field(default=200, ge=1)  # both policies answer so many at most
    gate_judgments: int = Field(default=160, ge=1)  # raters compare the answers to so many of them at most
    gate_gain: float = Field(default=0.1, gt=0, lt=0.5)  # rejected once a win rate of 1/2 and this is ruled out
    gate_alpha: float = Field(default=0.05, gt=0, lt=1)  # chance to promote what is no better, at most
    gate_beta: float = Field(default=0.1, gt=0, lt=1)  # chance to reject what is better by gate_gain, at most
    label_model: LabelModelName = DEFAULT_LABEL_MODEL  # how votes become labels
    skip_bad: bool = False  # leave out and count what a chat template refuses or makes the same
    seed: int = 0
