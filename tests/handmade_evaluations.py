"""Evaluations made by hand, for tests of what shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from random import Random

from rlhf_hitl.reward.evaluation.slices import compute_slice_accuracies, estimate_accuracy
from rlhf_hitl.reward.evaluation.storage import save_evaluation
from rlhf_hitl.reward.evaluation_record import (
    Estimate,
    EvaluatedPair,
    Evaluation,
    LabelOrigin,
    LengthEffect,
    OrderEffect,
    ReliabilityBin,
)
from rlhf_hitl.types import Message, parse_messages

CODE = """Take each letter once:

```python
def unique(text: str) -> str:
    \"\"\"The letters of a text, each once.\"\"\"
    return "".join(dict.fromkeys(text))  # keeps the order
```"""
WORDS = "Go through the text and **remember** what you have seen. A set forgets the order; a dictionary keeps it."


def example(
    i: int | str, margin: float = -1.0, *, prompt: str = "", chosen: str = "", rejected: str = "", **more
) -> EvaluatedPair:
    """A label on which the model says `margin`; what else is to be of it in `more`."""
    made = EvaluatedPair(
        comparison_id=f"c_{i}",
        prompt_id=f"p_{i}",
        family=f"f_{i}",
        prompt=(Message("user", prompt or f"Question {i}?"),),
        chosen=(Message("assistant", chosen or f"Chosen answer to {i}."),),
        rejected=(Message("assistant", rejected or f"Rejected answer to {i}."),),
        chosen_id=f"a_{i}",
        rejected_id=f"b_{i}",
        chosen_policy="policy-one",
        rejected_policy="policy-two",
        votes=3,
        agreement=2 / 3,
        margin=margin,
        uncertainty=0.4,
        probability=1 / (1 + math.exp(-margin)),
        correct=(math.copysign(1, margin) + 1) / 2 if margin else 0.5,
    )
    return replace(made, **more)


def put(workspace: Path, name: str, examples: Sequence[EvaluatedPair], **more) -> Path:
    """An evaluation of these examples in the workspace, its accuracy and slices counted from them."""
    labels = [e for e in examples if e.correct is not None]
    fields = {
        "name": name,
        "reward_model_id": "rm_0123456789abcdef01234567",
        "created_at": "2026-11-25T09:30:00+00:00",
        "data_hash": "data",
        "n": len(labels),
        "ties": len(examples) - len(labels),
        "dropped": 0,
        "trained_on": 0,
        "accuracy": estimate_accuracy(labels),
        "longer": Estimate(0.512, 0.441, 0.583, len(labels)),
        "bag_of_words": Estimate(0.545, 0.474, 0.615, len(labels)),
        "ece": 0.041,
        "ece_low": 0.018,
        "ece_high": 0.083,
        "reliability": tuple(
            ReliabilityBin(c, Estimate(c - 0.02, c - 0.1, c + 0.06, 40)) for c in (0.55, 0.65, 0.75, 0.85, 0.95)
        ),
        "slices": compute_slice_accuracies(examples),
        "noise_ceiling": Estimate(0.79, 0.74, 0.84, len(labels)),
        "simulated": False,
        "length": LengthEffect(Estimate(0.573, 0.489, 0.653, len(labels)), 0.12),
        "position": OrderEffect(0.0, 32),
        "knows_its_prompts": True,
        "measured_on": LabelOrigin(len(labels), len(labels) if more.get("simulated") else 0),
    }
    folder = workspace / "evaluations" / name
    save_evaluation(folder, Evaluation(**fields | more), examples)
    return folder


def bundled(seed: int, quality: float) -> list[EvaluatedPair]:
    """120 bundled prompts with two of their completions each, and one on code. Margins are drawn around `quality`."""
    draw = Random(seed)
    rows = (resources.files("rlhf_hitl.bundled") / "set.jsonl").read_text(encoding="utf-8").splitlines()
    code = example(
        "code", -1.9, prompt="How do I remove repeated letters from a word in Python?", chosen=CODE, rejected=WORDS
    )
    made = [
        replace(
            code,
            tags={"topic": "coding", "language": "en"},
            chosen_policy="base",
            rejected_policy="tuned-dpo",
            agreement=1.0,
        )
    ]
    for i, row in enumerate(map(json.loads, rows[:120])):
        first, second = row["completions"][:2]
        margin = draw.gauss(quality, 1.0)
        tie = i % 11 == 10
        texts = {
            "prompt": parse_messages(row["messages"]),
            "chosen": parse_messages(first["messages"]),
            "rejected": parse_messages(second["messages"]),
        }
        policies = {"chosen_policy": "smollm2-135m-instruct", "rejected_policy": "tuned-dpo-3"}
        made.append(
            replace(
                example(i, margin, votes=draw.choice((1, 3, 5)), tags=row["tags"]),
                uncertainty=abs(draw.gauss(0.35, 0.15)) + 0.05,
                **texts, **policies, **({"correct": None, "probability": 0.21} if tie else {}),
            )
        )  # fmt: skip
    return made
