"""The full backend: TRL's RewardTrainer with our rendering and our loss, and a last-layer Laplace for the uncertainty.

Some of TRL's defaults are known to go wrong: rewards in bf16, pairs dropped over `max_length`, EOS taken for padding, a
LoRA run that leaves the score head frozen. This package decides otherwise, and says so where it does.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_utils import IntervalStrategy
from trl import ModelConfig

from rlhf_hitl.errors import BadInput
from rlhf_hitl.models import get_display_name, load_processor, load_tokenizer
from rlhf_hitl.reward import shared_prefix
from rlhf_hitl.reward.classifier import add_laplace_posterior, wrap_classifier
from rlhf_hitl.reward.head_fitting import calibrate_temperature
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.pretrained import find_max_tokens, find_score_head, locate_full_model, uses_token_type_ids
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.reward.rendering import Renderer
from rlhf_hitl.reward.seen_prompts import SeenPrompts, find_prompts_seen_before
from rlhf_hitl.reward.training.checkpoints import select_checkpoint
from rlhf_hitl.reward.training.collator import LabelCollator
from rlhf_hitl.reward.training.dataset_loading import load_training_rows
from rlhf_hitl.reward.training.dataset_rows import CompletionRanking, RankedPair, hash_rows, read_ranking
from rlhf_hitl.reward.training.full_config import (
    NO_MAX_LENGTH,
    FullTrainingConfig,
    refuse_missing_trackers,
    refuse_unsupported_settings,
)
from rlhf_hitl.reward.training.label_trainer import LabelRewardTrainer
from rlhf_hitl.reward.training.lora import make_score_lora_config, merge_lora, refuse_frozen_head
from rlhf_hitl.reward.training.progress import keep_stdout_free, plot_run
from rlhf_hitl.reward.training.tokenised_rows import tokenise_rows
from rlhf_hitl.reward.training.trainable_classifier import load_trainable_classifier
from rlhf_hitl.reward.training.training_labels import describe_training
from rlhf_hitl.reward.vision import VisionReader
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

PAIRS_IN_MEMORY = 2048  # pairs whose features are held at once


def build_reward_trainer(config: FullTrainingConfig, model_config: ModelConfig) -> LabelRewardTrainer:
    """Build tokenizer, model, data and trainer from a parsed configuration.

    Raises:
        BadInput: no model, no data, data that `load_training_rows` refuses, or a setting that is not supported.
    """
    refuse_unsupported_settings(config, model_config)
    refuse_missing_trackers(config.report_to)
    if not model_config.model_name_or_path:
        raise BadInput("model_name_or_path", expected="a model", fix="give --model_name_or_path a folder or a hub id")
    path = locate_full_model(model_config.model_name_or_path)
    data = load_training_rows(config.dataset, config.learn_from, config.dataset_cache)
    calibration = data["calibration"] if len(data.get("calibration", [])) else None
    processor: Any = load_processor(path)
    tokenizer = load_tokenizer(path, chats=False) if processor is None else processor.tokenizer
    vision = None if processor is None else VisionReader(processor)
    renderer = Renderer(tokenizer, config.max_length or NO_MAX_LENGTH, vision)
    # transformers' classifiers read the reward at the last token that is not padding, so EOS must not be the padding.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(renderer.pad_id)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(renderer.eos_id)  # TRL asks for one, of encoders too
    model = load_trainable_classifier(
        str(path), pad_token_id=renderer.pad_id, attn_implementation=model_config.attn_implementation
    )
    renderer.max_length = min(renderer.max_length, find_max_tokens(model.config))
    head_name, _ = find_score_head(model)
    train, _ = tokenise_rows(data["train"], renderer, config.dataset_num_proc, skip_bad=config.skip_bad)
    if not len(train):
        raise BadInput(
            f"dataset {config.dataset}: {say_count(len(data['train']), 'train row')}",
            expected="at least one that the model can read",
            fix="give the tokenizer a chat template that shows their text",
        )
    if calibration is not None:
        calibration, _ = tokenise_rows(calibration, renderer, config.dataset_num_proc, skip_bad=config.skip_bad)
        calibration = calibration if len(calibration) else None
    if calibration is None and config.eval_strategy != IntervalStrategy.NO:
        log.warning("no calibration rows: nothing is evaluated while training (eval_strategy is now no)")
        config.eval_strategy = IntervalStrategy.NO
    trainer = LabelRewardTrainer(
        model=model,
        args=config,  # its max_length drops nothing: the renderer has cut to it already
        processing_class=tokenizer,
        train_dataset=train,
        eval_dataset=calibration,
        data_collator=LabelCollator(renderer.pad_id, config.padding_multiple, vision=vision),
        peft_config=make_score_lora_config(model_config, head_name.split(".")[0]),
    )
    # The trainer has prepared the model, which can now be tried with trees.
    trainer.data_collator = LabelCollator(
        renderer.pad_id,
        config.padding_multiple,
        with_token_types=uses_token_type_ids(renderer, model.config),
        as_trees=vision is None and _can_share_prompts(trainer),
        vision=vision,
    )
    refuse_frozen_head(trainer.model)
    trainer.processor = processor
    trainer.source, trainer.base = str(path), get_display_name(model_config.model_name_or_path)
    trainer.seen_before = find_prompts_seen_before(str(path))
    trainer.read_labels(train, calibration)
    keep_stdout_free(trainer)
    return trainer


def run_reward_training(trainer: LabelRewardTrainer, config: FullTrainingConfig) -> None:
    """Train, from the checkpoint that `resume_from_checkpoint` names, and plot the run into `output_dir`."""
    output_dir = Path(str(config.output_dir))
    checkpoint = select_checkpoint(config.resume_from_checkpoint, output_dir, trainer.model)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.is_world_process_zero():
        plot_run(trainer.state.log_history, output_dir / "training.svg")


def save_trained_model(
    trainer: LabelRewardTrainer, config: FullTrainingConfig, folder: Path, workspace: Path
) -> RewardModel | None:
    """Save the trained model so that plain transformers loads it, then add the head with its uncertainty.

    LoRA is merged into the weights. Returns None on all processes but the main one.
    """
    trainer.accelerator.wait_for_everyone()
    state: Any = trainer.accelerator.get_state_dict(trainer.model)  # gathers the parts of a model that is in parts
    if not trainer.accelerator.is_main_process:
        return None
    unset_hf_deepspeed_config()  # otherwise models that this process alone loads from here on wait for the others
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    tokenizer: Any = trainer.processing_class
    if isinstance(model, PeftModel):
        model, state = merge_lora(model, state, trainer.source, tokenizer.pad_token_id), None
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, state_dict=state)
    (trainer.processor or tokenizer).save_pretrained(folder)
    return add_uncertainty(folder, config, workspace, trainer)


def add_uncertainty(
    folder: Path, config: FullTrainingConfig, workspace: Path, trainer: LabelRewardTrainer
) -> RewardModel:
    """Give a trained sequence classifier a Laplace posterior over its score head and a temperature, and save both.

    Both are computed from pairs; rankings are taken apart into pairs.
    """
    data = load_training_rows(config.dataset, config.learn_from, config.dataset_cache)
    model = wrap_classifier(str(folder), workspace / "features", max_length=config.max_length or NO_MAX_LENGTH)

    def differences(pairs: list[RankedPair]) -> np.ndarray:
        return model.differences([p.first for p in pairs], [p.second for p in pairs])

    left_out = LeftOut("row")

    def read_split(split: str) -> list[CompletionRanking]:
        readable = []
        for ranking in map(read_ranking, data.get(split, ())):
            if problem := model.find_problem(ranking.chats):
                left_out.add(problem)
            else:
                readable.append(ranking)
        return readable

    train, calibration = read_split("train"), read_split("calibration")
    pairs = [p for ranking in train for p in ranking.pairs()]
    chunks = (pairs[at : at + PAIRS_IN_MEMORY] for at in range(0, len(pairs), PAIRS_IN_MEMORY))
    labels = ((differences(chunk), np.array([p.weight * (1 - p.shares[1]) for p in chunk])) for chunk in chunks)
    model.head = add_laplace_posterior(model.head, labels)
    if decided := [p for ranking in calibration for p in ranking.pairs() if p.shares[1] < 1]:
        first_shares = np.array([p.shares[0] / (1 - p.shares[1]) for p in decided])
        families = np.array([ranking.family for ranking in calibration for p in ranking.pairs() if p.shares[1] < 1])
        margins, stds = model.head.margins(differences(decided))
        model.head = calibrate_temperature(model.head, margins, stds, first_shares, families)
    rows: Any = (row for part in data.values() for row in part)
    model.backend = "full"
    hub_dataset = {} if Path(config.dataset).exists() else {"dataset": config.dataset}
    model.card = {"base": trainer.base, "learnt_from": config.learn_from, **hub_dataset} | describe_training(
        model.cache,
        data_hash=hash_rows(train),
        train_labels=len(train),
        train_votes=sum(ranking.votes for ranking in train),
        calibration_labels=len(calibration),
        simulated_labels=sum(bool(row.get("simulated")) for row in rows),
        left_out=left_out,
    )
    model.seen = trainer.seen_before | SeenPrompts.of((r.family for r in train), (r.family for r in calibration))
    model.save(folder)
    return model


def _can_share_prompts(trainer: LabelRewardTrainer) -> bool:
    """Whether rows go to the model as trees. They do not where batches must have certain shapes, or are cut up (one
    process that drives several GPUs)."""
    if not trainer.args.share_prompts or trainer.args.padding_multiple is not None or trainer.args.n_gpu > 1:
        return False
    model: Any = trainer.model
    return shared_prefix.supports_trees((model.get_base_model() if isinstance(model, PeftModel) else model).base_model)
