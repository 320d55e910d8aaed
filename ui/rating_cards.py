"""Cards of the rater page, as plain dictionaries.

Nothing in a card tells who wrote a completion, what a model thinks of it or why it is shown: completions are letters in
the order shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from rlhf_hitl.types import Answer, Comparison, Judgment, Message, Verdict
from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.conversation import get_completion_text, make_question_excerpt, render_card

CARD_EXCERPT_LENGTH = 80  # characters of a question in a heading or in the history


def summarize_answer(answer: Answer, shown: Sequence[str]) -> str:
    """Return the key of the interface's text that sums up an answer."""
    if answer.verdict is not Verdict.RANKED:
        return f"{answer.verdict.value}_said"
    if len(shown) > 2:
        return "ranked_said"
    if len(answer.ranking) == 1:
        return "tie_said"
    return f"{ascii_uppercase[shown.index(answer.ranking[0][0])]}_said"


def draw_history_row(judgment: Judgment, comparison: Comparison) -> dict[str, Any]:
    """Return a judgment as a row of the rater's history."""
    return {
        "id": judgment.id,
        "asked": make_question_excerpt(comparison.prompt.messages, CARD_EXCERPT_LENGTH),
        "said": summarize_answer(judgment.answer, judgment.order_shown),
        "at": judgment.created_at.isoformat(),
    }


def draw_card(id: str, mode: str, prompt: Sequence[Message], answers: Sequence[Sequence[Message]]) -> dict[str, Any]:
    """Return a prompt and the completions shown for it, with a letter each, as the page draws them."""
    prompt_html, answers_html = render_card(prompt, answers)
    return {
        "id": id,
        "mode": mode,
        "prompt": prompt_html,
        "asked": make_question_excerpt(prompt, CARD_EXCERPT_LENGTH),
        "answers": [
            {
                "letter": letter,
                "html": html,
                "text": markdown.make_visible(get_completion_text(chat)[: markdown.SHOWN_LIMIT]),
            }
            for letter, chat, html in zip(ascii_uppercase, answers, answers_html)
        ],
    }
