"""The folder of a tuned policy: where it goes, how it is written whole or not at all, and the record of its tuning.

Beside the model are `training.json` (settings, counts and what was logged), `config.yaml` (settings and arguments, to
be given again), `metrics.jsonl` (a line for each logged step), `training.svg` (their plot), `samples.jsonl` (the same
prompts answered before and after) and `README.md`, the card. A tracker's files are in `logs`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard
from jinja2 import Environment

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import atomic_folder
from rlhf_hitl.models import get_display_name
from rlhf_hitl.policy.training_plot import plot_training
from rlhf_hitl.policy.tuning_record import describe_preferences, make_config
from rlhf_hitl.reward.model_card import README_FILE, make_hub_metadata
from rlhf_hitl.visible import make_visible

if TYPE_CHECKING:
    from peft import PeftModel

    from rlhf_hitl.policy.before_after import AnswerChange
    from rlhf_hitl.types import Prompt

#: The file in every tuned policy that says how it was made and how the training went.
TRAINING_CARD = "training.json"
CONFIG, METRICS, PLOT, SAMPLES = "config.yaml", "metrics.jsonl", "training.svg", "samples.jsonl"
#: The folder with what TensorBoard shows: among the checkpoints while a training runs, and then in the policy's folder.
LOGS = "logs"
#: How many samples the card shows, and how much of each text.
SAMPLES_IN_CARD, EXCERPT = 3, 600  # characters

_TEMPLATE = """---
{{ metadata }}
---
# {{ base }}, tuned by {{ card.method|upper }}

{{ base }} after {{ card.method|upper }} on {{ preferences }}, with rlhf_hitl.
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
{% for reason, count in (card.not_paired or {}).items() %}
| no pair: {{ reason }} | {{ count }} |
{% endfor %}

`training.json` has the settings and what was logged, `config.yaml` what `--config` takes to run it
again.
{% if card.stopped %}

**It was stopped early:** {{ card.stopped }}.
The folder holds the {{ "last" if card.keeps_last else "last good" }} policy.
{% endif %}
{% for warning in card.warnings or () %}

Warning: {{ warning }}
{% endfor %}
{% if plot %}

![What was logged of the training](training.svg)
{% endif %}
{% if samples %}

## Before and after

The same prompts of the training, from the same random numbers. `samples.jsonl` has all of them.
{% for sample in samples %}

Prompt:

{{ sample.prompt }}

Before:

{{ sample.before }}

After:

{{ sample.after }}
{% endfor %}
{% endif %}

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


def save_policy(
    model: PeftModel,
    tokenizer: Any,
    out: Path,
    *,
    base: str,
    merge: bool,
    card: dict[str, Any],
    prompts: Sequence[Prompt] = (),
    samples: Sequence[AnswerChange] = (),
) -> None:
    """Write a tuned policy that `models.load_policy` reads, with the record of its tuning, whole or not at all.

    Args:
        base: name of the model under the adapter, written into an adapter that is not merged.
        card: `method`, `settings`, `arguments` (the script's others), `history` (the figures of each logged step), and
            counts; `stopped` says why it was stopped early, and `warnings` is a list.
        prompts: of the training.
        samples: answers before and after.
    """
    from rlhf_hitl.reward.seen_prompts import SeenPrompts, find_prompts_seen_before

    card = card | {"simulated": "simulated" in describe_preferences(card)}

    with atomic_folder(out) as draft:
        if merge:
            model.merge_and_unload().save_pretrained(draft)  # type: ignore[operator]
        else:
            for adapter_config in model.peft_config.values():
                adapter_config.base_model_name_or_path = base
            model.save_pretrained(str(draft))
        tokenizer.save_pretrained(draft)
        # Marked as incomplete: what the policy learnt before it came here, nobody has recorded.
        seen = SeenPrompts.of((p.family for p in prompts), is_complete=False)
        (find_prompts_seen_before(base) | seen).save(draft)
        (draft / TRAINING_CARD).write_text(
            json.dumps(card, indent=2, ensure_ascii=False, default=str), encoding="utf-8"
        )
        _write_record(draft, card, samples)
        text = render_policy_card(card, base=base, merged=merge, samples=samples)
        (draft / README_FILE).write_text(text, encoding="utf-8")
        if (logs := get_checkpoint_folder(out) / LOGS).is_dir():
            logs.rename(draft / LOGS)  # what still writes to its files goes on
    shutil.rmtree(get_checkpoint_folder(out), ignore_errors=True)


def _write_record(draft: Path, card: dict[str, Any], samples: Sequence[AnswerChange]) -> None:
    """Write what people and programs read of a tuning beside its card."""
    settings = json.loads(json.dumps(make_config(card), default=str))
    (draft / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    history = card.get("history", [])
    (draft / METRICS).write_text("".join(f"{json.dumps(row, default=str)}\n" for row in history), encoding="utf-8")
    if plot := plot_training(history, f"{card['method']}, what was logged"):
        # A file of its own has no text around it to take the colour of its letters from.
        on_paper = plot.replace("<svg ", '<svg style="background: #fff; color: #1b1f27" ', 1)
        (draft / PLOT).write_text(on_paper, encoding="utf-8")
    (draft / SAMPLES).write_text("".join(f"{sample.to_json()}\n" for sample in samples), encoding="utf-8")


def render_policy_card(card: dict[str, Any], *, base: str, merged: bool, samples: Sequence[AnswerChange] = ()) -> str:
    """Render the card of a tuned policy as Markdown with the hub's metadata."""
    name = get_display_name(base)
    metadata = make_hub_metadata(
        name,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["rlhf_hitl", card["method"]],
    )
    figures = {k: v for k, v in card.items() if isinstance(v, str | int | float) and k not in ("method", "stopped")}
    shown = [
        {"prompt": _quote(s.prompt[-1].text), "before": _quote(s.before), "after": _quote(s.after)}
        for s in samples[:SAMPLES_IN_CARD]
    ]
    values: dict[str, Any] = {"figures": figures, "samples": shown, "plot": bool(card.get("history"))}
    values["preferences"] = describe_preferences(card)
    text = Environment(trim_blocks=True, lstrip_blocks=True).from_string(_TEMPLATE)
    return str(ModelCard(text.render(card=card, base=name, merged=merged, metadata=metadata.to_yaml(), **values)))


def _quote(text: str) -> str:
    """Return the beginning of a text as a Markdown code block, in which nothing of it is markup."""
    shown = make_visible(text[:EXCERPT] + ("…" if len(text) > EXCERPT else "")) if text else "(an answer without text)"
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=2) + 1)
    fence = fence if len(fence) >= 3 else "```"
    return f"{fence}text\n{shown}\n{fence}"


def read_training_card(out: str | Path) -> dict[str, Any]:
    """Return the card that `save_policy` wrote."""
    return json.loads((Path(out) / TRAINING_CARD).read_text(encoding="utf-8"))
