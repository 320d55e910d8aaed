"""The model card of a saved reward model, for programs (`reward_model.json`) and for people (`README.md`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment

from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.models import SHORT_NAMES
from rlhf_hitl.reward import CARD_FILE
from rlhf_hitl.reward.evaluation_record import Evaluation
from rlhf_hitl.store.reward_models import SHORT_ID_LENGTH, RewardModelRecord, display_name, put_name_for_id
from rlhf_hitl.wording import say_count

README_FILE = "README.md"

TEMPLATE = """---
{{ metadata }}
---
# Reward model {{ title }}

{% if card.simulated %}
{% if card.simulated_labels is defined %}
**Simulated raters judged {{ card.simulated_labels }} of the {{ card.train_labels + card.calibration_labels }}
labels it learnt from.**
{% else %}
**Some of the judgments it learnt from were made by simulated raters.**
{% endif %}

{% endif %}
The model predicts how much better raters would find one answer than another to the same prompt: a margin in logits,
with an uncertainty. Do not compare rewards of different prompts.

| | |
| --- | --- |
| id | {{ card.id }} |
{% if card.trained_on is defined %}
| trained on | {{ card.trained_on }} |
{% endif %}
| backend | {{ card.backend }} |
| backbone | {{ base }}, layers {{ card.backbone.layer|join(', ') }}, {{ card.backbone.pooling|join(', ') }} |
| precision of the backbone | {{ card.backbone.dtype }} |
| maximum tokens | {{ card.backbone.max_length }} |
{% if card.learnt_from %}
| learnt from | {{ card.learnt_from }} |
{% endif %}
{% if card.half is defined %}
| half of the training prompts | {{ card.half }} |
{% endif %}
| training labels (votes) | {{ card.train_labels }} ({{ card.train_votes }}) |
| calibration labels | {{ card.calibration_labels }} |
| data | `{{ card.data_hash }}` |
| made with | rlhf_hitl {{ card.rlhf_hitl }} |

## How to load it

```python
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import parse_messages

model = load_reward_model("FOLDER")
prompt = parse_messages([{"role": "user", "content": "How deep is the sea?"}])
answers = [parse_messages([{"role": "assistant", "content": text}]) for text in ("Eleven kilometres.", "Deep.")]
rewards = model.rewards([Conversation(prompt, answer) for answer in answers])
```

{% if card.backend == "full" and has_template %}
Without rlhf_hitl it is a sequence classifier with one label, whose logit is the reward:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
chat = [{"role": "user", "content": "How deep is the sea?"}, {"role": "assistant", "content": "Eleven kilometres."}]
text = tokenizer.apply_chat_template(chat, tokenize=False).rstrip()
text = text.removesuffix(tokenizer.eos_token) + tokenizer.eos_token  # the reward is read at the end
tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
reward = model(**tokens).logits[0, 0].item()
```

{% elif card.backend == "head" %}
The backbone is not in this folder: it is loaded by its name, {{ base }}.

{% endif %}
## Figures

{% if card.evaluations %}
| evaluation | labels | accuracy | 95 % interval | highest floor | calibration error |
| --- | ---: | ---: | ---: | ---: | ---: |
{% for name, e in card.evaluations.items() %}
| {{ name|named }}{{ " (its %s split)"|format(e.split) if e.split and e.split != "heldout" }} |
{#- #} {{ e.n }} | {{ e.accuracy|percent }} | {{ e.low|percent }} to {{ e.high|percent }} |
{#- #} {{ e.floor|percent }} | {{ e.ece|percent }} |
{% endfor %}
{% if card.evaluations.values()|selectattr("simulated")|list %}

Some of these figures are measured on labels of simulated raters.
{% endif %}
{% else %}
None yet: `rlhf-hitl evaluate --reward-model {{ card.id }}` replays held-out labels and writes them here.
{% endif %}

## Limits

- It knows the raters, prompts and policies of its training labels. Before you use it on others, evaluate it on their
  labels.
- To fit {{ card.backbone.max_length }} tokens, {{ card.prompts_cut|count("prompt was", "prompts were") }} cut at the
  beginning and {{ card.completions_cut|count("completion") }} at the end.
{% if card.length_alone is defined and card.masses.values()|min >= card.length_alone %}
- On training prompts it was not fitted to, it predicted raters no better than the lengths of the answers alone.
{% endif %}
{% if not card.calibration_labels %}
- Its probabilities are not calibrated: there were no calibration labels.
{% endif %}
- A policy tuned against it exploits what it overrates: have raters compare the policies before a release.
"""


def make_hub_metadata(base: str, **more: Any) -> ModelCardData:
    """Return the hub's metadata of a model that was made of another one, whose licence holds where that is known.

    Args:
        base: the short name, the hub id or the folder's name of the other one.
    """
    source = SHORT_NAMES.get(base)
    return ModelCardData(
        license="unknown" if source is None else source.licence.lower(),
        base_model=source.hub_id if source is not None else base if "/" in base else None,
        **more,
    )


def render_card(card: Mapping[str, Any], *, has_template: bool = False) -> str:
    """Render the card as Markdown with the hub's metadata, from the contents of `reward_model.json`.

    Args:
        has_template: whether the model's tokenizer has a chat template, so that whoever loads it can do without us.
    """
    base = card.get("base", Path(card["backbone"]["name"]).name)  # old cards have no `base`
    evaluations = card.get("evaluations", {})
    metadata = make_hub_metadata(
        base,
        # A head is no model of transformers: only what transformers loads is said to be one.
        library_name="transformers" if card["backend"] == "full" else "rlhf_hitl",
        pipeline_tag="text-classification",
        tags=["reward-model", "rlhf_hitl", *(["simulated"] if card["simulated"] else [])],
        datasets=[card["dataset"]] if "dataset" in card else None,
        model_name=card.get("name", card["id"]) if evaluations else None,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type="preferences",
                dataset_name=name,
                dataset_split=e.get("split"),
                metric_type="accuracy",
                metric_value=round(e["accuracy"], 4),
            )
            for name, e in evaluations.items()
        ]
        or None,
    )
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = "{:.1%}".format
    environment.filters["count"] = say_count
    # A model that no store knows is called by its id.
    name, short_id = card.get("name", card["id"]), card["id"][:SHORT_ID_LENGTH]
    environment.filters["named"] = lambda evaluation: put_name_for_id(evaluation, card["id"], name)
    title = f"{name} ({short_id})" if "name" in card else card["id"]
    text = environment.from_string(TEMPLATE).render(
        card=card, title=title, base=base, metadata=metadata.to_yaml(), has_template=has_template
    )
    return str(ModelCard(text))


def add_name_to_card(record: RewardModelRecord) -> None:
    """Add to a saved model's card what the store calls it and the day on which it was trained."""
    folder = Path(record.path)
    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    write_card(folder, card | _make_name_fields(record))


def add_evaluation_to_card(record: RewardModelRecord, evaluation: Evaluation) -> None:
    """Add an evaluation's figures to a saved model's card, in place of an earlier evaluation of the same name."""
    folder = Path(record.path)
    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
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
    card |= {"evaluations": card.get("evaluations", {}) | {evaluation.name: figures}}
    # The card of an earlier version, or of a model that a script trained, has no name yet.
    write_card(folder, card if "name" in card else card | _make_name_fields(record))


def _make_name_fields(record: RewardModelRecord) -> dict[str, str]:
    # The day, because a name has no year as long as that is the present one.
    return {"name": display_name(record), "trained_on": record.created_at.date().isoformat()}


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card for programs and for people, each file atomically."""
    write_text_atomically(folder / CARD_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    has_template = (folder / "chat_template.jinja").is_file()
    write_text_atomically(folder / README_FILE, render_card(card, has_template=has_template))
