"""Measure how many pairs a second are scored, beside the text-classification pipeline of transformers.

    python benchmarks/reward_scoring.py --data ../shared/data

The same classifier on SmolLM2-135M (its score head random), the same pairs of HH-RLHF helpful-base, the same tokens, in
the same batches of 8 pairs, in float32, in turns. The pipeline starts from text, ours from messages. Seconds are
wall-clock; processor seconds are comparable even if other programs were running. `--quick` takes few short pairs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import Clock, compute_ratios, load_hh_pairs, write_result
from transformers import AutoModelForSequenceClassification, pipeline

from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.pretrained import locate_full_model, silence_loading_report
from rlhf_hitl.reward.rendering import Renderer

PAIRS_IN_BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="The folder that holds hh_rlhf/.")
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--turns", type=int, default=8, help="Batches.")
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--threads", type=int, help="Of torch; all cores if left out.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    turns, length = (1, 64) if args.quick else (args.turns, args.max_length)
    with tempfile.TemporaryDirectory() as folder:
        path = locate_full_model(args.backbone)
        tokenizer: Any = load_tokenizer(path)
        renderer = Renderer(tokenizer, length)
        tokenizer.pad_token, tokenizer.padding_side = tokenizer.convert_ids_to_tokens(renderer.pad_id), "right"
        torch.manual_seed(0)
        with silence_loading_report():
            model = AutoModelForSequenceClassification.from_pretrained(
                path, num_labels=1, dtype="float32", pad_token_id=renderer.pad_id
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        classify: Any = pipeline("text-classification", model=folder, tokenizer=tokenizer, device="cpu")  # type: ignore[call-overload]
        cache = FeatureCache(
            Path(folder) / "features", Backbone(folder, layer=-1, pooling="last", max_length=length, dtype="float32")
        )
        weights = model.score.weight.detach().numpy()[0]

        def decode(chat) -> str:
            return tokenizer.decode(renderer.render(chat).ids)

        def survives_decoding(chat) -> bool:  # encoding the decoded text gives the same tokens
            return tokenizer(decode(chat))["input_ids"] == list(renderer.render(chat).ids)

        pairs = [
            pair
            for pair in load_hh_pairs(Path(args.data), 2 * PAIRS_IN_BATCH * (turns + 1))
            if all(map(survives_decoding, pair))
        ]
        batches = [pairs[i * PAIRS_IN_BATCH : (i + 1) * PAIRS_IN_BATCH] for i in range(turns + 1)]
        turns_taken, deviations = [], []
        for turn, batch in enumerate(batches):
            chats = [chat for pair in batch for chat in pair]
            texts = [decode(chat) for chat in chats]

            def stock() -> np.ndarray:
                return np.array([s["score"] for s in classify(texts, batch_size=len(texts), function_to_apply="none")])  # noqa: B023

            def ours() -> np.ndarray:
                return cache.features(chats, keep=False) @ weights  # noqa: B023

            seconds, scores = {}, {}
            for score in (stock, ours) if turn % 2 == 0 else (ours, stock):
                clock = Clock()
                scores[score.__name__] = score()
                seconds[score.__name__] = clock.read()
            if turn:  # the first warms up
                turns_taken.append(seconds)
                deviations.append(np.abs(scores["stock"] - scores["ours"]).max())
    figures = {
        "turns": turns,
        "threads": torch.get_num_threads(),
        "score_difference": float(max(deviations)),
    } | compute_ratios(turns_taken, PAIRS_IN_BATCH)
    notes = (
        f"SmolLM2-135M in float32, HH-RLHF helpful-base, batches of {PAIRS_IN_BATCH} pairs, at most {length} tokens."
    )
    write_result("reward_scoring", figures, seeds=[0], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
