"""Train the full backend from a store in one call: export, train in this process, register the model."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from trl import ModelConfig

from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.files import make_private_folder, place_folder
from rlhf_hitl.formats.export import export_snapshot
from rlhf_hitl.reward.model import RewardModel, load_reward_model
from rlhf_hitl.reward.registry import register_reward_model
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import build_reward_trainer, run_reward_training, save_trained_model
from rlhf_hitl.reward.training.training_labels import load_training_pairs
from rlhf_hitl.store import Store
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, LabelModelName


def train_full_from_store(
    store: Store,
    backbone: str | None,
    workspace: Path,
    *,
    default_backbone: str | None = None,
    config: Path | None = None,
    max_length: int | None = None,
    skip_bad: bool = False,
    label_model: LabelModelName = DEFAULT_LABEL_MODEL,
) -> RewardModel:
    """Export the store's labels, train on them in this process, and register the model in the store.

    For several processes or machines use `accelerate launch scripts/train_reward.py` on an export.

    Args:
        backbone, max_length: take precedence over the YAML file `config`; None leaves them to the file.
        default_backbone: the model to train where neither `backbone` nor the file names one.
        skip_bad: leave out pairs that the model cannot read or tell apart, instead of refusing them.
        label_model: how votes become labels.
        config: what the run writes goes to this file's `output_dir`, or else into the model's folder.
    """
    load_training_pairs(store, label_model)  # raises where labels are missing, before anything is written
    make_private_folder(workspace)
    with tempfile.TemporaryDirectory(dir=workspace) as draft:
        dataset, folder = Path(draft) / "dataset", Path(draft) / "model"
        options = {"--config": config, "--model_name_or_path": backbone, "--max_length": max_length}
        flags = [text for flag, value in options.items() if value is not None for text in (flag, str(value))]
        flags += ["--dataset", str(dataset), "--dataset_cache", str(Path(draft) / "rows")]
        flags += ["--skip_bad", "true"] if skip_bad else []
        defaults = {"output_dir": str(folder), "model_name_or_path": default_backbone}
        args, model_config = parse_arguments((FullTrainingConfig, ModelConfig), flags, **defaults)
        export_snapshot(store, dataset, include_model_labels=False, include_ties=True, label_model=label_model)
        trainer = build_reward_trainer(args, model_config)
        run_reward_training(trainer, args)
        model = save_trained_model(trainer, args, folder, workspace)
        assert model is not None, "a single process is the main one"
        final_folder = workspace / "reward" / model.id
        make_private_folder(final_folder.parent)
        if (plot := Path(args.output_dir) / "training.svg").exists() and plot.parent != folder:
            shutil.copy(plot, folder)
        place_folder(folder, final_folder, existing="keep")
    model = load_reward_model(final_folder, workspace / "features")
    model.cache.backbone.renderer.read_images_from(store.images.load)
    register_reward_model(store, model, final_folder)
    return model
