"""The folder of a tuned policy: where it goes, how it is written whole or not at all, the card in it, and its record in
the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard
from jinja2 import Environment

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_folder
from rlhf_hitl.models import get_display_name
from rlhf_hitl.reward.model_card import README_FILE, make_hub_metadata
from rlhf_hitl.store.policies import PolicyMethod, PolicyRecord, list_policies, record_policy

if TYPE_CHECKING:
    from peft import PeftModel

    from rlhf_hitl.store import Store

#: The file in every tuned policy that says how it was made and how the training went.
TRAINING_CARD = "training.json"

_TEMPLATE = """---
{{ metadata }}
---
# {{ base }}, tuned by {{ card.method|upper }}

{{ base }} after {{ card.method|upper }} on people's preferences, with rlhf_hitl.
{% if merged %}
The adapter that was trained is merged into its weights.
{% else %}
The folder holds an adapter (LoRA); the weights below it are those of {{ base }}.
{% endif %}

## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER"){{ "" if merged else "  # needs peft" }}
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
chat = [{"role": "user", "content": "How deep is the sea?"}]
tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = tokenizer.decode(model.generate(**tokens, max_new_tokens=50)[0, tokens["input_ids"].shape[1] :])
```

## How it was made

| | |
| --- | --- |
{% for name, value in figures.items() %}
| {{ name|replace("_", " ") }} | {{ "{:.4g}".format(value) if value is float else value }} |
{% endfor %}

`training.json` has the settings and what was logged.

## Limits

- A policy follows the reward model and the raters it learnt from, also where they are wrong. Have raters compare it
  with {{ base }} before a release.
"""


def require_free_folder(out: str | Path) -> Path:
    """Return `out` as the path of a new policy. Raises BadInput if it is empty or something is there already."""
    if not str(out):
        raise BadInput("output_dir", expected="a folder for the tuned policy", fix="give --output_dir")
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"output_dir {out}", expected="a folder that is not there yet", fix="choose another")
    return folder


def get_checkpoint_folder(out: Path) -> Path:
    """Return where a training keeps its checkpoints: beside `out`, so that `out` itself is never incomplete."""
    return out.with_name(f".{out.name}.checkpoints")


def save_policy(model: PeftModel, tokenizer: Any, out: Path, *, base: str, merge: bool, card: dict[str, Any]) -> None:
    """Write a tuned policy that `models.load_policy` reads (safetensors, tokenizer, card), whole or not at all.

    Args:
        base: name of the model under the adapter, written into an adapter that is not merged.
    """
    from rlhf_hitl.reward.seen_prompts import SeenPrompts

    with atomic_folder(out) as draft:
        if merge:
            model.merge_and_unload().save_pretrained(draft)  # type: ignore[operator]
        else:
            for adapter_config in model.peft_config.values():
                adapter_config.base_model_name_or_path = base
            model.save_pretrained(str(draft))
        tokenizer.save_pretrained(draft)
        # Marked as incomplete: a reward model on top of this policy cannot know which prompts the policy was tuned on.
        SeenPrompts.of((), is_complete=False).save(draft)
        (draft / TRAINING_CARD).write_text(
            json.dumps(card, indent=2, ensure_ascii=False, default=str), encoding="utf-8"
        )
        (draft / README_FILE).write_text(render_policy_card(card, base=base, merged=merge), encoding="utf-8")
    shutil.rmtree(get_checkpoint_folder(out), ignore_errors=True)


def render_policy_card(card: dict[str, Any], *, base: str, merged: bool) -> str:
    """Render the card of a tuned policy as Markdown with the hub's metadata."""
    name = get_display_name(base)
    metadata = make_hub_metadata(
        name,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["rlhf_hitl", card["method"]],
    )
    figures = {k: v for k, v in card.items() if isinstance(v, str | int | float) and k != "method"}
    text = Environment(trim_blocks=True, lstrip_blocks=True).from_string(_TEMPLATE)
    return str(
        ModelCard(text.render(card=card, base=name, merged=merged, figures=figures, metadata=metadata.to_yaml()))
    )


def record_tuned_policy(
    store: Store, out: str | Path, *, base: str, reward_model_id: str | None = None, round: int | None = None
) -> PolicyRecord:
    """Record in the store how the policy in a folder was made, as its training card has it, and what it was made of.

    Args:
        base: the policy that was tuned: a folder, a hub id, or a short name.
        reward_model_id: what it was tuned on.
        round: of the loop.
    """
    folder, card = Path(out).expanduser().resolve(), read_training_card(out)
    parent = get_display_name(base)
    if parent not in {known.name for known in list_policies(store)}:
        record_policy(store, parent, path=_find_place(base), method=PolicyMethod.BASE)
    return record_policy(
        store,
        get_display_name(folder),
        path=folder,
        method=PolicyMethod(card["method"]),
        parent=parent,
        reward_model_id=reward_model_id,
        round=round,
        settings=card.get("settings"),
    )


def _find_place(policy: str) -> str:
    """Return the folder of a policy on this machine, or else its name."""
    folder = Path(policy).expanduser()
    return str(folder.resolve()) if folder.is_dir() else policy


def read_training_card(out: str | Path) -> dict[str, Any]:
    """Return the card that `save_policy` wrote."""
    return json.loads((Path(out) / TRAINING_CARD).read_text(encoding="utf-8"))
