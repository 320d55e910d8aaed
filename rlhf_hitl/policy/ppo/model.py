"""The model that PPO trains: a LoRA policy with a value head, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.ppo.batches import RolloutBatch
from rlhf_hitl.policy.ppo.config import ValueHead
from rlhf_hitl.policy.ppo.token_logprobs import compute_token_logprobs

if TYPE_CHECKING:
    from peft import PeftModel

#: The adapter that a separate critic has on the policy's frozen weights. The policy's own is peft's "default".
CRITIC = "critic"
#: Units of the hidden layer of an MLP value head.
MLP_WIDTH = 256


@dataclass(frozen=True)
class TokenFigures:
    """What a model says of each answer token, (batch, answer) each, zero on padding; `values` are before the token."""

    logprobs: Tensor
    values: Tensor
    entropy: Tensor

    @classmethod
    def zeros(cls, batch: RolloutBatch) -> TokenFigures:
        logprobs, values, entropy = (torch.zeros_like(batch.mask) for _ in range(3))
        return cls(logprobs, values, entropy)

    def set_rows(self, index: Tensor, rows: TokenFigures) -> None:
        """Put the figures of some rows into their places; theirs may have fewer columns."""
        width = rows.logprobs.shape[1]
        self.logprobs[index, :width] = rows.logprobs
        self.values[index, :width] = rows.values
        self.entropy[index, :width] = rows.entropy


class ActorCritic(nn.Module):
    """A LoRA policy with a value head, in float32, that starts at zero.

    Args:
        value_head: what estimates the value, from the policy's last hidden states. "linear" and "mlp" read them
            detached, so that the value loss trains the head alone. "shared" is linear and trains the policy's adapter,
            too. "critic" is linear on an adapter of its own: a second forward pass, but no second model in memory.

    Raises:
        BadInput: the log-probabilities of the model are not those of its output layer.
    """

    def __init__(self, policy: PeftModel, temperature: float, value_head: ValueHead = "mlp"):
        super().__init__()
        self.policy, self.temperature, self.kind = policy, temperature, value_head
        width = _read_text_config(policy).hidden_size
        last = nn.Linear(MLP_WIDTH if value_head == "mlp" else width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.value_head = nn.Sequential(nn.Linear(width, MLP_WIDTH), nn.SiLU(), last) if value_head == "mlp" else last
        if value_head == "critic":
            policy.add_adapter(CRITIC, policy.peft_config["default"])
            self._require_gradients()
        self._check_projection()

    @property
    def value_bias(self) -> Tensor:
        """The bias of the value head's last layer: the value of everything while its weights are zero."""
        last = self.value_head[-1] if isinstance(self.value_head, nn.Sequential) else self.value_head
        return last.bias  # type: ignore[return-value]

    def forward(self, batch: RolloutBatch) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each answer token and the value before it, (batch, answer) each."""
        states = self.compute_states(batch)
        logprobs, _ = self._read_logprobs(states, batch.answers, batch.mask, with_entropy=False)
        if self.kind == "critic":
            with self._on_critic():
                states = self.compute_states(batch)
        return logprobs, self.compute_values(states)

    @torch.no_grad()
    def evaluate(self, batch: RolloutBatch) -> TokenFigures:
        """Return what `forward` does and the entropy, without gradients."""
        states = self.compute_states(batch)
        if self.kind != "critic":
            return self.read_states(states, batch.answers, batch.mask)
        with self._on_critic():
            values = self.compute_values(self.compute_states(batch))
        logprobs, entropy = self._read_logprobs(states, batch.answers, batch.mask, with_entropy=True)
        return TokenFigures(logprobs, values * batch.mask, entropy)

    @torch.no_grad()
    def read_states(self, states: Tensor, tokens: Tensor, mask: Tensor) -> TokenFigures:
        """Return what states (batch, answer, width) say of the tokens after them."""
        logprobs, entropy = self._read_logprobs(states, tokens, mask, with_entropy=True)
        return TokenFigures(logprobs, self.compute_values(states) * mask, entropy)

    @torch.no_grad()
    def compute_reference_logprobs(self, batch: RolloutBatch) -> Tensor:
        """Return the log-probabilities under the reference, which is this policy with its adapter switched off."""
        with self.policy.disable_adapter():
            states = self.compute_states(batch)
        return self._read_logprobs(states, batch.answers, batch.mask, with_entropy=False)[0]

    @torch.no_grad()
    def read_logprobs(self, states: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the log-probabilities (batch, answer) of the tokens after states (batch, answer, width)."""
        return self._read_logprobs(states, tokens, mask, with_entropy=False)[0]

    def compute_states(self, batch: RolloutBatch) -> Tensor:
        """Return the last hidden states before each answer token, (batch, answer, width): what its logits come from."""
        out = self.policy.get_base_model().get_decoder()(  # type: ignore[operator]
            input_ids=batch.ids,
            attention_mask=batch.attention,
            position_ids=(batch.attention.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        )
        return out.last_hidden_state[:, -batch.answer_width - 1 : -1]

    def compute_values(self, states: Tensor) -> Tensor:
        is_detached = self.kind in ("linear", "mlp")
        return self.value_head((states.detach() if is_detached else states).float())[..., 0]

    def _read_logprobs(
        self, states: Tensor, tokens: Tensor, mask: Tensor, *, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        real = mask > 0
        vocabulary = _read_text_config(self.policy).vocab_size
        found = compute_token_logprobs(
            states[real], tokens[real], self._project, vocabulary=vocabulary, with_entropy=with_entropy
        )
        logprobs, entropy = (torch.zeros_like(mask) for _ in range(2))
        logprobs = logprobs.masked_scatter(real, found[0])
        return logprobs, entropy if found[1] is None else entropy.masked_scatter(real, found[1])

    def _project(self, states: Tensor) -> Tensor:
        """Return float32 logits at the sampling temperature. Some models scale or cap what their output layer gives."""
        config = _read_text_config(self.policy)
        layer: Any = self.policy.get_base_model().get_output_embeddings()  # type: ignore[operator]
        logits = layer(states).float()
        logits = logits * (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        return logits / self.temperature

    @torch.no_grad()
    def _check_projection(self) -> None:
        ids = torch.arange(3, 8, device=self.policy.device)[None]
        batch = RolloutBatch(ids, torch.ones_like(ids), torch.tensor([2], device=ids.device), 2)
        ours = self._project(self.compute_states(batch)[0]).log_softmax(-1)
        logits = self.policy(input_ids=ids, use_cache=False).logits[0, -3:-1].float()
        theirs = (logits / self.temperature).log_softmax(-1)
        if not torch.allclose(ours, theirs, atol=1e-3 if self.policy.dtype == torch.float32 else 0.2, rtol=1e-2):
            raise BadInput(
                f"model of type {self.policy.config.model_type}",
                expected="logits that are those of its output layer, scaled or capped as its configuration says",
                fix="tune it with DPO, RLOO or GRPO, or take another model",
            )

    @contextmanager
    def _on_critic(self) -> Iterator[None]:
        """Switch the policy's trunk to the critic's adapter."""
        self.policy.base_model.set_adapter(CRITIC)  # type: ignore[operator]
        self._require_gradients()
        try:
            yield
        finally:
            self.policy.base_model.set_adapter("default")  # type: ignore[operator]
            self._require_gradients()

    def _require_gradients(self) -> None:
        for name, parameter in self.policy.named_parameters():  # peft freezes the adapter that it switches off
            if "lora_" in name:
                parameter.requires_grad_(True)

    def drop_critic(self) -> None:
        """Remove the critic's adapter, which is no part of the tuned policy."""
        if self.kind == "critic":
            self.policy.delete_adapter(CRITIC)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def _read_text_config(policy: PeftModel) -> Any:
    config: Any = policy.config
    return config.get_text_config()
