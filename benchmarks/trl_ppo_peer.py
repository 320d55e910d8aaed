"""TRL's PPOTrainer on one run of `vs_trl_ppo.py`, in an environment of its own: `python trl_ppo_peer.py RUN.json ...`.

Prints a line of JSON for each run. It is set up as its example script is: LoRA on the policy, the adapter switched off
as the reference, a whole value model. What its documentation warns of is avoided: the padding is not the EOS, answers
are cut at the EOS, and all answers of a step are one accumulated batch, because with gradient accumulation it steps
once for all of its minibatches.
"""

from __future__ import annotations

import contextlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from ppo_race import Meter, Run, score_answer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer  # type: ignore  # in the peer's environment alone


class PythonReward(torch.nn.Module):
    """The reward as the sequence classifier that PPOTrainer asks for: its "states" are rewards, and `score` passes them
    on."""

    base_model_prefix = "reader"

    def __init__(self, tokenizer: Any, opening: list[int], meter: Meter):
        super().__init__()
        self.reader = _Reader(tokenizer, opening, meter)
        self.score = torch.nn.Identity()


class _Reader(torch.nn.Module):
    """Args: opening: the tokens with which the template opens an answer."""

    def __init__(self, tokenizer: Any, opening: list[int], meter: Meter):
        super().__init__()
        self.tokenizer, self.opening, self.meter = tokenizer, opening, meter

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> SimpleNamespace:
        rewards = []
        for row, mask in zip(input_ids.tolist(), attention_mask.tolist()):
            ids = [token for token, real in zip(row, mask) if real]
            width = len(self.opening)
            start = next(i + width for i in range(len(ids)) if ids[i : i + width] == self.opening)
            rewards.append(score_answer(self.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()))
        self.meter.read(len(rewards))
        of_rows = torch.tensor(rewards, device=input_ids.device)[:, None, None]
        return SimpleNamespace(hidden_states=[of_rows.expand(*input_ids.shape, 1)])


def train(run: Run) -> dict[str, Any]:
    meter = Meter()
    tokenizer = AutoTokenizer.from_pretrained(run.model, padding_side="left")
    # Attention is masked wherever the padding stands, also where the template puts it.
    tokenizer.pad_token = next(
        token for token in (tokenizer.unk_token, "<|endoftext|>", "<|pad|>") if token and token != tokenizer.eos_token
    )

    def tokenise(text: str) -> list[int]:
        chat = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]

    chat = [{"role": "user", "content": "x"}]
    with_opening = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    without = tokenizer.apply_chat_template(chat, tokenize=False)
    opening = tokenizer(with_opening[len(without) :], add_special_tokens=False)["input_ids"]
    lora = {"r": run.lora_r, "lora_alpha": run.lora_alpha, "target_modules": "all-linear"}
    critic = AutoModelForSequenceClassification.from_pretrained(run.model, num_labels=1, dtype=torch.float32)
    if run.critic == "lora":
        critic = inject_adapter_in_model(LoraConfig(**lora, task_type="SEQ_CLS", exclude_modules=["score"]), critic)
        critic.score.requires_grad_(True)
    data = Dataset.from_list([{"input_ids": tokenise(text)} for text in run.prompts])
    config = PPOConfig(
        output_dir=run.out,
        learning_rate=run.learning_rate,
        total_episodes=run.steps * run.rollouts,
        per_device_train_batch_size=run.rollouts,
        gradient_accumulation_steps=1,
        num_mini_batches=run.rollouts // run.minibatch,
        num_ppo_epochs=run.epochs,
        local_rollout_forward_batch_size=run.rollout_batch,
        response_length=run.max_new_tokens,
        temperature=1.0,
        stop_token="eos",
        missing_eos_penalty=None,
        kl_coef=run.kl_beta * run.reward_std,
        num_sample_generations=0,
        seed=run.seed,
        bf16=run.precision == "bfloat16",
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        logging_steps=10**9,
    )
    torch.manual_seed(run.seed)
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(run.model, dtype=getattr(torch, run.precision)),
        ref_model=None,
        reward_model=PythonReward(tokenizer, opening, meter),
        value_model=critic,
        train_dataset=data,
        eval_dataset=data.select(range(1)),
        peft_config=LoraConfig(**lora, task_type="CAUSAL_LM"),
    )
    trainer.train()
    report = meter.report(run)
    trainer.accelerator.unwrap_model(trainer.model).policy.merge_and_unload().save_pretrained(run.out)
    AutoTokenizer.from_pretrained(run.model).save_pretrained(run.out)
    return report


if __name__ == "__main__":
    for path in sys.argv[1:]:
        with contextlib.redirect_stdout(sys.stderr):  # the trainer prints there
            told = train(Run.read(path))
        print(json.dumps(told), flush=True)
