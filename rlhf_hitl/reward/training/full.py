"""The full backend: TRL's RewardTrainer with our rendering and our loss, and a last-layer Laplace for the uncertainty.

Where TRL's defaults are known to go wrong (rewards on the bf16 grid, pairs dropped over `max_length`, EOS taken for
padding, a LoRA run that leaves the score head frozen) this file decides otherwise, and says so where it does.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.util import find_spec
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, TaskType
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import IntervalStrategy
from trl import ModelConfig, RewardConfig, RewardTrainer, get_peft_config
from trl.trainer.utils import pad

from rlhf_hitl import __version__
from rlhf_hitl.arguments import parse
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import place_folder
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.models import display_name, fill_in_precision, load_tokenizer
from rlhf_hitl.reward import shared_prefix
from rlhf_hitl.reward.batches import TokenBudgetSampler
from rlhf_hitl.reward.classifier import (
    Fp32Score,
    as_reward_model,
    classifier_to_train,
    with_posterior,
)
from rlhf_hitl.reward.features import has_segments, most_tokens, score_head, whole_model
from rlhf_hitl.reward.head import calibrate
from rlhf_hitl.reward.losses import (
    agreement,
    centring,
    davidson_luce,
    length_decorrelation,
    margins_and_leans,
    prevalences,
)
from rlhf_hitl.reward.model import RewardModel, load
from rlhf_hitl.reward.rendering import Renderer
from rlhf_hitl.reward.seen_prompts import Seen, seen_before
from rlhf_hitl.reward.training import checkpoints
from rlhf_hitl.reward.training.dataset import Pair, data_hash, load_rows, read, tokenised
from rlhf_hitl.reward.training.progress import keep_stdout_free, plot_run
from rlhf_hitl.reward.training.train import enter, training_pairs
from rlhf_hitl.store import Store
from rlhf_hitl.types import UNRANKED

log = logging.getLogger(__name__)

FEWEST_TOKENS = 8  # that can hold an answer
UNCUT = 1_000_000  # tokens: a max_length of nothing
CHUNK = 2048  # pairs whose features are in memory at once
MOST_GROUPS = 10_000  # that may tie, of the completions of one row: the loss counts them all

TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow", "comet_ml", "clearml", "swanlab")

#: Settings of TRL that this training does not follow, and what to do instead. Only their defaults are taken.
REFUSED = {
    "load_in_4bit": "train in full or with use_peft",
    "load_in_8bit": "train in full or with use_peft",
    "use_dora": "use plain LoRA: use_peft",
    "trust_remote_code": "take a model of an architecture that transformers has",
    "model_revision": "download that revision and give its folder",
    "dtype": "set bf16 or fp16: weights are kept in float32",
    "model_init_kwargs": "set attn_implementation, the one that is taken",
    "chat_template_path": "put the template into the model's tokenizer",
    "eos_token": "set it in the model's tokenizer",
    "pad_token": "leave it out: padding is masked",
}


@dataclass
class FullConfig(RewardConfig):
    """TRL's RewardConfig; bf16 is left off where the hardware emulates it, and rows are cut, never dropped."""

    dataset: str = field(default="", metadata={"help": "A folder of `rlhf-hitl export`, or a hub id of TRL pairs."})
    learn_from: str = field(
        default="pairs",
        metadata={"help": "pairs, or rankings: of all completions of a prompt at once (Plackett-Luce with ties)."},
    )
    max_length: int | None = field(default=1024, metadata={"help": "Tokens; the prompt's left is cut, and counted."})
    length_coefficient: float = field(
        default=0.0,
        metadata={"help": "Weight of a penalty on margins that follow the lengths; 0.1 to 1 where they do."},
    )
    share_prompts: bool = field(
        default=True,
        metadata={"help": "Compute the prompt of a row once, where the model can: the same losses, sooner."},
    )
    token_budget: int | None = field(
        default=None,
        metadata={"help": "Tokens a batch, of rows alike in length, instead of per_device_train_batch_size rows."},
    )
    save_strategy: str = field(default="no", metadata={"help": "no, steps or epoch: when to write checkpoints."})

    def __post_init__(self) -> None:
        fill_in_precision(self)
        super().__post_init__()


LABEL = ("weight", "ranks", "shares", "log_lengths")


class LabelRewardTrainer(RewardTrainer):
    """RewardTrainer that learns from whole labels: every row's rankings with their shares of the votes, and its weight.

    The loss is Davidson-Luce's with the prevalences of ties that the training labels have: of pairs Davidson's, without
    ties Plackett-Luce's, of pairs without ties Bradley-Terry's. Weights are relative to their mean over the training
    labels: a learning rate means the same with any.
    """

    args: FullConfig
    source: str  # the model it started from: where it is,
    base: str  # what people call it,
    before: Seen  # and which prompts it had seen
    prevalences: list[float]  # of ties of 2, 3, ... completions
    mean_weight: float

    def read_labels(self, train: Dataset, calibration: Dataset | None) -> None:
        """Take the prevalences of ties and the mean weight from the training labels. Ties of a size that only the
        calibration labels have must be possible too.

        Raises:
            BadInput: labels that teach nothing: all ties, or all of weight 0. Ties among too many completions.
        """
        self.mean_weight = float(np.mean(train["weight"]))
        said = [
            (ranking, share * weight / (self.mean_weight or 1))
            for ranks, shares, weight in zip(train["ranks"], train["shares"], train["weight"])
            for ranking, share in zip(ranks, shares)
        ]
        if not any(count > 0 and max(ranking) > 0 for ranking, count in said):
            raise BadInput(
                f"{len(train)} training labels",
                expected="at least one with a preference and a weight above 0",
                fix="rate or import more comparisons",
            )
        if calibration is not None:
            said += [(ranking, 0.0) for ranks in calibration["ranks"] for ranking in ranks]
        self.prevalences = prevalences([ranking for ranking, _ in said], [count for _, count in said])
        most = max(len(ranking) for ranking, _ in said)
        groups = sum(comb(most, size) for size, nu in enumerate(self.prevalences, 2) if nu > 0)
        if groups > MOST_GROUPS:
            raise BadInput(
                f"rankings of {most} completions with ties of up to {len(self.prevalences) + 1}",
                expected=f"{MOST_GROUPS:,} groups that may tie, or fewer: here are {groups:,}",
                fix="set learn_from: pairs",
            )

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # `tokenised` has prepared it

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["ids", "starts", *LABEL]

    def _get_train_sampler(self, train_dataset=None):
        if self.args.token_budget is None:
            return super()._get_train_sampler(train_dataset)
        rows: Any = self.train_dataset["ids"]  # type: ignore[index]
        most = max(map(len, rows))  # of conversations a row: padded, a batch is so many times its rows at most
        trees = self.data_collator.trees  # type: ignore[union-attr]
        return TokenBudgetSampler(
            [sum(shared_prefix.sizes(row)) if trees else most * max(map(len, row)) for row in rows],
            self.args.token_budget,
            processes=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        sampler = getattr(loader.batch_sampler, "batch_sampler", None)
        if isinstance(sampler, TokenBudgetSampler):  # the Trainer looks two wrappers deep; skipping when resumed is one
            loader.batch_sampler.set_epoch = sampler.set_epoch  # type: ignore[attr-defined]
        return loader

    def _get_num_items_in_batch(self, batch_samples, device):
        """Rows of a step, over all processes and accumulated batches: batches need not be of one size."""
        rows = torch.tensor(sum(len(batch["weight"]) for batch in batch_samples), device=device)
        return torch.as_tensor(self.accelerator.gather(rows)).sum()

    def rewards(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """(conversations,) rewards of a collated batch, row by row, and what the model put out."""
        if "trees" not in inputs:
            outputs = model(**inputs, use_cache=False)
            return outputs.logits.flatten(), outputs
        ids, trees = inputs["input_ids"], inputs["trees"]
        scores = [module for module in model.modules() if isinstance(module, Fp32Score)]
        for score in scores:
            score.ends = shared_prefix.ends(trees).to(ids.device)
        try:
            outputs = model(**shared_prefix.arguments(self.model, ids, inputs["position_ids"], trees))
        finally:
            for score in scores:
                score.ends = None
        return outputs.logits.flatten(), outputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weight, ranks, shares, log_lengths = (inputs.pop(name) for name in LABEL)
        every, outputs = self.rewards(model, inputs)
        there = (ranks != UNRANKED).any(1)  # (n, K): somebody ranked each completion that is there, the rest is padding
        rewards = every.new_zeros(there.shape).masked_scatter(there, every)
        n, votes, _ = ranks.shape
        each = davidson_luce(rewards.repeat_interleave(votes, 0), ranks.flatten(0, 1), self.prevalences)
        loss = ((each.view(n, votes) * shares).sum(1) * weight / self.mean_weight).mean()
        margins, leans = margins_and_leans(rewards, ranks, shares)
        towards = torch.where(leans == 0, torch.nan, margins * leans.sign())
        figures = {"accuracy": agreement(margins, leans), "margin": towards}
        if self.args.center_rewards_coefficient is not None:
            loss = loss + self.args.center_rewards_coefficient * centring(rewards).mean()
        if self.args.length_coefficient:
            first, second = torch.triu_indices(there.shape[1], there.shape[1], 1)
            both = there[:, first] & there[:, second]
            differences = log_lengths[:, first] - log_lengths[:, second]
            along = length_decorrelation(margins[both], differences[both])
            loss = loss + self.args.length_coefficient * along
            figures["length_share"] = along[None]
        if not torch.isfinite(loss):
            raise BadInput(
                f"loss {loss.item()} at step {self.state.global_step}",
                expected="a finite loss",
                fix="lower learning_rate, or train in bf16 or fp32 where it was fp16; earlier checkpoints stay",
            )
        if model.training and num_items_in_batch is not None:  # the Trainer takes means over batches and processes
            batches = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            loss = loss * len(weight) * batches / num_items_in_batch
        mode = "train" if model.training else "eval"
        for name, values in figures.items():
            # One value a pair, of every process: TRL averages them, and a mean of batches' means would be another.
            # Padded, as the processes' batches need not be of one size.
            padded: Any = values.detach()
            for dim in range(padded.dim()):
                padded = self.accelerator.pad_across_processes(padded, dim=dim, pad_index=math.nan)  # type: ignore[arg-type]
            gathered: Any = self.accelerator.gather_for_metrics(padded)
            if said := gathered[~gathered.isnan()].tolist():
                self._metrics[mode][name].extend(said)
        return (loss, outputs) if return_outputs else loss


@dataclass(frozen=True)
class Collator:
    """Padded batches of all conversations, row by row, with `segments` also which tokens are the completion's; or with
    `trees` a row of them. Labels come first: the Trainer takes the length of what is first for that of the batch."""

    pad_id: int
    multiple: int | None = None
    segments: bool = False
    trees: bool = False

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        def every(name: str) -> list[torch.Tensor]:
            return [torch.tensor(e[name]) for e in examples]

        batch: dict[str, Any] = {
            "weight": torch.stack(every("weight")),
            "ranks": pad(every("ranks"), UNRANKED),
            "shares": pad(every("shares")),
            "log_lengths": pad(every("log_lengths")),
        }
        if self.trees:
            row = shared_prefix.lay([e["ids"] for e in examples])
            return batch | {"input_ids": row.ids, "position_ids": row.positions, "trees": row.trees}
        chats = [torch.tensor(ids) for e in examples for ids in e["ids"]]
        batch["input_ids"] = pad(chats, self.pad_id, pad_to_multiple_of=self.multiple)
        batch["attention_mask"] = pad([torch.ones_like(ids) for ids in chats], pad_to_multiple_of=self.multiple)
        if self.segments:
            starts = torch.cat(every("starts"))[:, None]
            after = torch.arange(batch["input_ids"].shape[1])[None] >= starts
            batch["token_type_ids"] = (after & batch["attention_mask"].bool()).long()
        return batch


def build_trainer(config: FullConfig, model_config: ModelConfig) -> LabelRewardTrainer:
    """Tokenizer, model, data and trainer from a parsed configuration.

    Raises:
        BadInput: no model, no data, data that `load_rows` refuses, or a setting that is not followed.
    """
    refuse_unfollowed(config, model_config)
    refuse_missing_trackers(config)
    if not model_config.model_name_or_path:
        raise BadInput("model_name_or_path", expected="a model", fix="give --model_name_or_path a folder or a hub id")
    path = whole_model(model_config.model_name_or_path)
    data = load_rows(config.dataset, config.learn_from)
    calibration = data["calibration"] if len(data.get("calibration", [])) else None
    if calibration is None and config.eval_strategy != IntervalStrategy.NO:
        log.warning("no calibration rows: nothing is evaluated while training (eval_strategy is now no)")
        config.eval_strategy = IntervalStrategy.NO
    tokenizer = load_tokenizer(path, chats=False)
    renderer = Renderer(tokenizer, config.max_length or UNCUT)
    # transformers' classifiers read the reward at the last token that is not padding, so EOS must not be the padding.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(renderer.pad_id)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(renderer.eos_id)  # TRL asks for one, of encoders too
    model = classifier_to_train(
        str(path), pad_token_id=renderer.pad_id, attn_implementation=model_config.attn_implementation
    )
    renderer.max_length = min(renderer.max_length, most_tokens(model))
    where, _ = score_head(model)
    train = tokenised(data["train"], renderer, config.dataset_num_proc)
    if calibration is not None:
        calibration = tokenised(calibration, renderer, config.dataset_num_proc)
    trainer = LabelRewardTrainer(
        model=model,
        args=config,  # its max_length drops nothing: the renderer has cut to it already
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=calibration,
        data_collator=Collator(renderer.pad_id, _padding(config)),
        peft_config=_lora(model_config, where.split(".")[0]),
    )
    trainer.data_collator = Collator(
        renderer.pad_id,
        _padding(config),
        segments=has_segments(renderer, model.config),
        trees=_shares_prompts(trainer),
    )
    refuse_frozen_head(trainer.model)
    trainer.source, trainer.base = str(path), display_name(model_config.model_name_or_path)
    trainer.before = seen_before(str(path))
    trainer.read_labels(train, calibration)
    keep_stdout_free(trainer)
    return trainer


def _shares_prompts(trainer: LabelRewardTrainer) -> bool:
    """Whether rows go to the model as trees. Not where batches have to be of certain shapes, or cut up (one process
    that drives several GPUs)."""
    if not trainer.args.share_prompts or _padding(trainer.args) is not None or trainer.args.n_gpu > 1:
        return False
    model: Any = trainer.model
    return shared_prefix.takes_trees((model.get_base_model() if isinstance(model, PeftModel) else model).base_model)


def refuse_unfollowed(config: FullConfig, model_config: ModelConfig) -> None:
    """Raise BadInput for a setting of TRL that would be read and then not followed."""
    for settings in (config, model_config):
        for f in fields(settings):
            if f.name in REFUSED and f.default is not MISSING and getattr(settings, f.name) != f.default:
                value = f"{f.name} {getattr(settings, f.name)!r}"
                raise BadInput(value, expected=f"its default, {f.default!r}", fix=REFUSED[f.name])
    if config.token_budget is not None and config.token_budget < 1:
        raise BadInput(f"token_budget {config.token_budget}", expected="1 or more", fix="set 4096, or leave it out")
    if config.max_length is not None and config.max_length < FEWEST_TOKENS:
        fix = "set 1024, or leave it out"
        raise BadInput(f"max_length {config.max_length}", expected=f"{FEWEST_TOKENS} tokens or more, or none", fix=fix)
    if model_config.use_peft and model_config.lora_r < 1:
        raise BadInput(f"lora_r {model_config.lora_r}", expected="1 or more", fix="set lora_r, 8 to 64 as a rule")


def refuse_frozen_head(model: Any) -> None:
    """Raise BadInput where training would leave the score head as it is: the rewards would stay what they are."""
    # By its class: PEFT keeps two of it, one to train and the original, under longer names.
    heads = [m for m in model.modules() if isinstance(m, Fp32Score)]
    if not any(head.weight.requires_grad for head in heads):
        raise BadInput(
            "a score head that is frozen", expected="one that is trained", fix="name it in lora_modules_to_save"
        )


def refuse_missing_trackers(config: FullConfig) -> None:
    """Raise BadInput for a tracker in `report_to` that nobody knows, or that is not installed."""
    for name in config.report_to or []:
        if name not in ("all", "none", *INTEGRATION_TO_CALLBACK):
            known = ", ".join(["none", *TRACKERS])
            raise BadInput(f"report_to {name}", expected=f"a tracker: {known}", fix="name one of them")
        if name in TRACKERS and find_spec(name) is None:
            raise BadInput(f"report_to {name}", expected="a tracker that is installed", fix=f"pip install {name}")


def train(trainer: LabelRewardTrainer, config: FullConfig) -> None:
    """Train, from the checkpoint that `resume_from_checkpoint` asks for, and draw the run into `output_dir`."""
    checkpoint = checkpoints.chosen(config.resume_from_checkpoint, Path(str(config.output_dir)), trainer.model)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.is_world_process_zero():
        plot_run(trainer.state.log_history, Path(str(config.output_dir)) / "training.svg")


def finish(trainer: LabelRewardTrainer, config: FullConfig, folder: Path, workspace: Path) -> RewardModel | None:
    """Save the trained model so that plain transformers loads it, then add the head with its uncertainty.

    On the main process; the others get None. LoRA is merged into the weights.
    """
    trainer.accelerator.wait_for_everyone()
    state: Any = trainer.accelerator.get_state_dict(trainer.model)  # of all parts, where the model is in parts
    if not trainer.accelerator.is_main_process:
        return None
    unset_hf_deepspeed_config()  # else what is loaded from here on, by this process alone, waits for the others
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    tokenizer: Any = trainer.processing_class
    if isinstance(model, PeftModel):
        model, state = merged(model, state, trainer.source, tokenizer.pad_token_id), None
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    return with_uncertainty(folder, config, workspace, trainer)


def merged(model: PeftModel, state: dict[str, torch.Tensor], source: str, pad_id: int) -> Any:
    """A copy of a trained model, with its LoRA merged into the weights: under FSDP and ZeRO-3 its own are in parts."""
    base = classifier_to_train(source, pad_token_id=pad_id)
    whole = PeftModel(base, model.peft_config["default"])
    whole.load_state_dict(state)
    return whole.merge_and_unload()


def with_uncertainty(folder: Path, config: FullConfig, workspace: Path, trainer: LabelRewardTrainer) -> RewardModel:
    """Give a trained sequence classifier a Laplace posterior over its score head and a temperature, and save both.
    Both are of pairs, which rankings are taken apart into."""
    data = load_rows(config.dataset, config.learn_from)
    trained = as_reward_model(str(folder), workspace / "features", max_length=config.max_length or UNCUT)

    def differences(pairs: list[Pair]) -> np.ndarray:
        return trained.differences([p.first for p in pairs], [p.second for p in pairs])

    learnt, told = ([read(row) for row in data.get(split, ())] for split in ("train", "calibration"))
    pairs = [p for row in learnt for p in row.pairs()]
    chunks = (pairs[at : at + CHUNK] for at in range(0, len(pairs), CHUNK))
    labels = ((differences(chunk), np.array([p.weight * (1 - p.shares[1]) for p in chunk])) for chunk in chunks)
    trained.head = with_posterior(trained.head, labels)
    if decided := [p for row in told for p in row.pairs() if p.shares[1] < 1]:
        of_decided = np.array([p.shares[0] / (1 - p.shares[1]) for p in decided])
        trained.head = calibrate(trained.head, differences(decided), of_decided)
    every: Any = (row for part in data.values() for row in part)
    card = {
        "base": trainer.base,
        "rlhf_hitl": __version__,
        "data_hash": data_hash(learnt),
        "learnt_from": config.learn_from,
        "train_labels": len(learnt),
        "train_votes": sum(row.votes for row in learnt),
        "calibration_labels": len(told),
        "simulated": any(r.get("simulated", False) for r in every),
        "prompts_cut": trained.cache.dropped,
        "completions_cut": trained.cache.cut,
    }
    trained.backend, trained.card = "full", card
    trained.seen = trainer.before | Seen.of((row.family for row in learnt), (row.family for row in told))
    trained.save(folder)
    return trained


def _lora(model_config: ModelConfig, head: str) -> Any:
    """TRL's LoraConfig of these settings, for a sequence classifier with this score head; None without use_peft."""
    return get_peft_config(
        replace(
            model_config,
            lora_target_modules=model_config.lora_target_modules or "all-linear",
            lora_task_type=TaskType.SEQ_CLS,  # with any other the score head stays frozen
            lora_modules_to_save=sorted({head, *(model_config.lora_modules_to_save or [])}),
        )
    )


def _padding(config: FullConfig) -> int | None:
    return None if config.pad_to_multiple_of is None else int(config.pad_to_multiple_of)


def train_full(
    store: Store,
    backbone: str | None,
    workspace: Path,
    *,
    otherwise: str | None = None,
    config: Path | None = None,
    max_length: int | None = None,
) -> RewardModel:
    """Export the store's labels, train on them in this process, and enter the model in the store.

    `backbone` and `max_length` go before what the YAML file `config` says; None leaves it to the file, and where that
    names no model, it is `otherwise`. What the run writes goes to the file's `output_dir`, or into the model's folder.
    For several processes or machines: `accelerate launch scripts/train_reward.py`, on an export.
    """
    training_pairs(store)  # says what is missing before anything is written
    workspace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace) as draft:
        dataset, folder = Path(draft) / "dataset", Path(draft) / "model"
        given = {"--config": config, "--model_name_or_path": backbone, "--max_length": max_length}
        flags = [text for flag, value in given.items() if value is not None for text in (flag, str(value))]
        flags += ["--dataset", str(dataset)]
        default = {"output_dir": str(folder), "model_name_or_path": otherwise}
        args, model_config = parse((FullConfig, ModelConfig), flags, **default)
        export_snapshot(store, dataset, include_model_labels=False, include_ties=True)
        trainer = build_trainer(args, model_config)
        train(trainer, args)
        model = finish(trainer, args, folder, workspace)
        assert model is not None, "a single process is the main one"
        kept = workspace / "reward" / model.id
        kept.parent.mkdir(parents=True, exist_ok=True)
        if (plot := Path(args.output_dir) / "training.svg").exists() and plot.parent != folder:
            shutil.copy(plot, folder)
        place_folder(folder, kept, existing="keep")
    model = load(kept, workspace / "features")
    enter(store, model, kept)
    return model
