"""Chat templates that refuse, delete or rearrange what they are given, and models that have them."""

from __future__ import annotations

import shutil
from pathlib import Path

from rlhf_hitl.models import load_tokenizer
from rlhf_hitl.store import Store
from rlhf_hitl.types import Message

END = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
BASE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
OPENS_THOUGHT = "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"

TEMPLATES = {
    "plain": BASE + END,
    "no_system": "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    + BASE
    + END,
    "no_shouting": "{% for m in messages %}{% if '!' in m.content %}{{ raise_exception('do not shout') }}{% endif %}"
    "{% endfor %}" + BASE + END,
    "alternate": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + BASE + END,
    # Refuses a completion, and takes its prompt.
    "answers_once": "{% if messages | selectattr('role', 'equalto', 'assistant') | list | length > 1 %}"
    "{{ raise_exception('one answer only') }}{% endif %}" + BASE + END,
    "fails": "{% for m in messages %}{{ m.content + m.mood }}{% endfor %}" + BASE + END,
    "opens_thought": BASE + OPENS_THOUGHT,
    "drops_thought": "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    + OPENS_THOUGHT,
    "parts": "{% for m in messages %}<|{{ m.role }}|>{% for c in m.content %}{{ c['text'] }}{% endfor %}<|end|>"
    "{% endfor %}" + END,
    "no_tool": "{% for m in messages %}{% if m.role in ['user', 'assistant', 'system'] %}<|{{ m.role }}|>"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}" + END,
    # Quotes JSON of its own, as many do that explain how tools are called.
    "quotes": """Write {"type": "function", "text": "yes"} to call.""" + BASE + END,
    "blind": "{% for m in messages %}<|{{ m.role }}|><|end|>{% endfor %}" + END,
    # Shows all there is.
    "whole": "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.name }}"
    "{{ m.reasoning_content }}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|end|>"
    "{% endfor %}" + END,
}  # fmt: skip


def make_model(tiny_model: Path, folder: Path, template: str) -> Path:
    """Return a copy of the tiny model with one of TEMPLATES."""
    shutil.copytree(tiny_model, folder)
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = TEMPLATES[template]
    tokenizer.save_pretrained(folder)
    return folder


def think(thought: str, answer: str) -> tuple[Message, ...]:
    return (Message("assistant", f"<think>\n{thought}\n</think>\n{answer}"),)


def add_judged(store: Store, prompt, first, second, *, votes: int = 1) -> None:
    """Add a comparison of two completions (messages each), of which people prefer the first."""
    from rlhf_hitl.store import people, queue
    from rlhf_hitl.store.comparisons import insert_comparisons
    from rlhf_hitl.types import Answer, Comparison, Completion, Role, Verdict

    made = [Completion.create(prompt.id, messages, "p") for messages in (first, second)]
    with store.write() as conn:
        insert_comparisons(store, conn, [Comparison.create(prompt, made, overlap=votes)])
    known = [r for r in people.list_raters(store) if r.name == "reader"]
    rater = known[0] if known else people.add_rater(store, "reader", Role.RATER)
    while (lease := queue.lease(store, rater.id, seconds=1800)) is not None:
        better = next(c for c in lease.comparison.completions if c.messages == first)
        worse = next(c for c in lease.comparison.completions if c.messages != first)
        queue.submit(store, lease.id, rater.id, Answer(Verdict.RANKED, ((better.id,), (worse.id,))))
