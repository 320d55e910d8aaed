"""Measure how many tokens a second a CPU reads for a reward model's features: fused, and as the library runs the model.

    python benchmarks/features_speed.py --data ../shared/data

The same conversations of HH-RLHF helpful-base and MT-Bench, the same batches of prompt trees, in turns that begin now
with the one and now with the other; in the precision that `auto` takes on this machine, and in float32. "As the library
runs it" is what a model of another kind gets (`reward/fused_decoder.py` says which are fused): each prompt is computed
once there, too, and layers above the last one that is read do not run. Tokens are those of the conversations, however
many of them are shared. Heads are cross-validated on both features as in `reward_accuracy.py`; the interval of the
change takes the labels of one prompt together. `--quick` reads few labels, cut to 64 tokens.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from record import write_result
from reward_accuracy import FOLDS, SETS, cross_validate_set, list_chats, read_labels_of_set
from tqdm import tqdm

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.batching import group_by_prompt
from rlhf_hitl.reward.feature_cache import WRITE_EVERY
from rlhf_hitl.reward.rendering import RenderedConversation
from rlhf_hitl.stats.intervals import clustered_mean_interval


def measure_in_turns(
    backbone: Backbone, rendered: Sequence[RenderedConversation], name: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the features (n, width) that each way computes, and the seconds of each turn, (turns, 3): of the library,
    of the fused decoder, and the tokens."""
    extractor = backbone.extractor
    ways = {"library": None, "fused": extractor.fused}
    features = {way: np.empty((len(rendered), backbone.width), np.float32) for way in ways}
    order = [i for siblings in group_by_prompt(dict(enumerate(rendered))) for i in siblings]
    turns = []
    for way in ways:  # warms up
        extractor.fused = ways[way]
        backbone.compute(rendered[:4])
    for turn, start in enumerate(tqdm(range(0, len(order), WRITE_EVERY), desc=f"reading {name} twice", unit="turn")):
        part = order[start : start + WRITE_EVERY]
        seconds = {}
        for way in sorted(ways, reverse=turn % 2 == 1):
            extractor.fused = ways[way]
            begun = time.perf_counter()
            features[way][part] = backbone.compute([rendered[i] for i in part]).reshape(len(part), -1)
            seconds[way] = time.perf_counter() - begun
        turns.append((seconds["library"], seconds["fused"], sum(len(rendered[i].ids) for i in part)))
    extractor.fused = ways["fused"]
    return features, np.array(turns)


def compute_speeds(turns: np.ndarray) -> dict[str, float]:
    library, fused, tokens = turns.T
    return {
        "library.tokens_per_s": tokens.sum() / library.sum(),
        "fused.tokens_per_s": tokens.sum() / fused.sum(),
        "tokens_ratio": library.sum() / fused.sum(),
        "tokens_ratio.worst_turn": (library / fused).min(),
        "tokens_ratio.best_turn": (library / fused).max(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds the sets.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--labels", type=int, default=300, help="Of each set, by comparison id, which is a hash.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    limit, length, folds = (40, 64, 2) if args.quick else (args.labels, args.max_length, FOLDS)
    figures: dict[str, float | int | None] = {"threads": torch.get_num_threads()}
    sets = {name: read_labels_of_set(Path(args.data) / SETS[name], limit) for name in ("hh", "mt_bench")}
    backbones = {"auto": Backbone(args.backbone, max_length=length)}
    if backbones["auto"].dtype != torch.float32:
        backbones["float32"] = Backbone(args.backbone, max_length=length, dtype="float32")
    for precision, backbone in backbones.items():
        if backbone.extractor.fused is None:
            parser.error(f"{args.backbone} is not fused: use a decoder of Llama's kind, on a CPU")
        all_turns = []
        for name, pairs in sets.items():
            if precision != "auto":
                pairs = pairs[: len(pairs) // 5]  # for the speed alone
            chats = list_chats(pairs)
            rendered = {chat: backbone.renderer.render(chat) for chat in chats}
            place = {chat: i for i, chat in enumerate(rendered)}
            features, turns = measure_in_turns(backbone, list(rendered.values()), f"{name} in {backbone.dtype}")
            all_turns.append(turns)
            if precision != "auto":
                continue
            difference = np.linalg.norm(features["fused"] - features["library"], axis=1)
            figures["features_difference"] = float(np.mean(difference / np.linalg.norm(features["library"], axis=1)))
            correct = {}
            for way, rows in features.items():
                found, correct[way] = cross_validate_set(pairs, rows[[place[c] for c in chats]], args.seed, folds)
                figures[f"{name}.{way}.accuracy"] = found["accuracy"]
            is_decided = [p.label.preferred is not None for p in pairs]
            families = np.array([p.comparison.prompt.family for p in pairs])[is_decided]
            change = correct["fused"] - correct["library"]
            low, high = clustered_mean_interval(change, families)
            figures |= {
                f"{name}.labels": len(change),
                f"{name}.conversations": len(rendered),
                f"{name}.accuracy_change": float(change.mean()),
                f"{name}.accuracy_change.low": low,
                f"{name}.accuracy_change.high": high,
            }
        prefix = "" if precision == "auto" else f"{precision}."
        figures |= {f"{prefix}{key}": float(value) for key, value in compute_speeds(np.concatenate(all_turns)).items()}
        figures[f"{prefix}bits"] = torch.finfo(backbone.dtype).bits
    figures["load"] = os.getloadavg()[2]
    notes = f"SmolLM2-135M read at three of its layers, conversations cut to {length} tokens."
    write_result("features_speed", figures, seeds=[args.seed], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
