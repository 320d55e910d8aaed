"""The model card: what must be known of a saved reward model, for programs (`reward_model.json`) and for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment

from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.models import SHORT_NAMES
from rlhf_hitl.reward.evaluation_record import Evaluation

CARD, FOR_PEOPLE = "reward_model.json", "README.md"

TEMPLATE = """---
{{ metadata }}
---
# Reward model {{ card.id }}

{% if card.simulated %}
**Some of the judgments it learnt from were made by simulated raters.**

{% endif %}
It says how much better raters would find one answer than another to the same prompt: a margin in logits, with an
uncertainty. Rewards of different prompts are not to be compared.

| | |
| --- | --- |
| backend | {{ card.backend }} |
| backbone | {{ base }}, layers {{ card.backbone.layer|join(', ') }}, {{ card.backbone.pooling|join(', ') }} |
| precision of the backbone | {{ card.backbone.dtype }} |
| tokens, at most | {{ card.backbone.max_length }} |
{% if card.learnt_from %}
| learnt from | {{ card.learnt_from }} |
{% endif %}
| training labels (votes) | {{ card.train_labels }} ({{ card.train_votes }}) |
| calibration labels | {{ card.calibration_labels }} |
| data | `{{ card.data_hash }}` |
| made with | rlhf_hitl {{ card.rlhf_hitl }} |

## Figures

{% if card.evaluations %}
| replayed | labels | accuracy | 95 % interval | highest floor | calibration error |
| --- | ---: | ---: | ---: | ---: | ---: |
{% for name, e in card.evaluations.items() %}
| {{ name }}{{ " (its %s split)"|format(e.split) if e.split and e.split != "heldout" }} |
{#- #} {{ e.n }} | {{ "%.3f"|format(e.accuracy) }} | {{ "%.3f"|format(e.low) }} to {{ "%.3f"|format(e.high) }} |
{#- #} {{ "%.3f"|format(e.floor) }} | {{ "%.3f"|format(e.ece) }} |
{% endfor %}
{% if card.evaluations.values()|selectattr("simulated")|list %}

Figures of simulated raters among them.
{% endif %}
{% else %}
None yet: `rlhf-hitl evaluate --reward-model {{ card.id }}` replays held-out labels and writes them here.
{% endif %}

## Limits

- It knows the raters, prompts and policies of its training labels. On others, replay labels of theirs first.
- To fit {{ card.backbone.max_length }} tokens, {{ card.prompts_cut }} prompts were cut from their left
  and {{ card.completions_cut }} completions at their end.
{% if card.length_alone is defined and card.masses.values()|min >= card.length_alone %}
- On training prompts it was not fitted to, it predicted raters no better than the lengths of the answers alone.
{% endif %}
{% if not card.calibration_labels %}
- No label calibrated its probabilities.
{% endif %}
- A policy tuned against it will find what it overrates: have raters compare before a release.
"""


def render(card: Mapping[str, Any]) -> str:
    """The card as Markdown with the hub's metadata, from what `reward_model.json` says."""
    base = card.get("base", Path(card["backbone"]["name"]).name)  # not in cards of before there was a README
    metadata = ModelCardData(
        library_name="rlhf_hitl",
        pipeline_tag="text-classification",
        tags=["reward-model", "rlhf_hitl", *(["simulated"] if card["simulated"] else [])],
        base_model=SHORT_NAMES[base].hub_id if base in SHORT_NAMES else base if "/" in base else None,
    )
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(TEMPLATE).render(card=card, base=base, metadata=metadata.to_yaml())
    return str(ModelCard(text))


def note(folder: Path, evaluation: Evaluation) -> None:
    """Add an evaluation's figures to a saved model's card. An earlier one of that name is replaced."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    figures = {
        "split": evaluation.split,
        "n": evaluation.n,
        "accuracy": evaluation.accuracy.value,
        "low": evaluation.accuracy.low,
        "high": evaluation.accuracy.high,
        "floor": evaluation.floor[1],
        "ece": evaluation.ece,
        "simulated": evaluation.simulated,
    }
    write(folder, card | {"evaluations": card.get("evaluations", {}) | {evaluation.name: figures}})


def write(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card for programs and for people, each whole or not at all."""
    said = {CARD: json.dumps(card, indent=2, ensure_ascii=False) + "\n", FOR_PEOPLE: render(card)}
    for name, text in said.items():
        write_text_atomically(folder / name, text)
