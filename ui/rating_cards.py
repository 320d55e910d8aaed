"""Cards of the rater page, as plain dictionaries.

Nothing in a card tells who wrote a completion, what a model thinks of it or why it is shown: completions are letters in
the order shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from rlhf_hitl.types import Answer, Comparison, Judgment, Message, Ranking, Tools, Verdict
from rlhf_hitl.ui import markdown
from rlhf_hitl.ui.conversation import get_completion_text, make_excerpt, make_question_excerpt, render_card
from rlhf_hitl.ui.message_blocks import ImageAddress

CARD_EXCERPT_LENGTH = 80  # characters of a question in a heading, and of a question and a reason in the history


def summarize_answer(answer: Answer, shown: Sequence[str]) -> str:
    """Return the key of the interface's text that sums up an answer."""
    if answer.verdict is not Verdict.RANKED:
        return f"{answer.verdict.value}_said"
    if len(shown) > 2:
        return "ranked_said"
    if len(answer.ranking) == 1:
        return "tie_said"
    return f"{ascii_uppercase[shown.index(answer.ranking[0][0])]}_said"


def name_choice(answer: Answer, shown: Sequence[str]) -> str:
    """Return the key of the interface's text for an answer, which for a pair says by how much one is better."""
    said = summarize_answer(answer, shown)
    return f"key_{said[0]}{answer.strength}" if len(shown) == 2 and answer.strength else said


def spell_ranking(ranking: Ranking, shown: Sequence[str]) -> str:
    """Return a ranking in the letters shown: `B > A = C`."""
    letters = dict(zip(shown, ascii_uppercase))
    return " > ".join(" = ".join(sorted(letters[id] for id in group)) for group in ranking)


def draw_history_row(judgment: Judgment, comparison: Comparison) -> dict[str, Any]:
    """Return a judgment as a row of the rater's history."""
    answer, shown = judgment.answer, judgment.order_shown
    return {
        "id": judgment.id,
        "asked": make_question_excerpt(comparison.prompt.messages, CARD_EXCERPT_LENGTH),
        "said": name_choice(answer, shown),
        "ranking": spell_ranking(answer.ranking, shown) if len(shown) > 2 else "",
        "reason": answer.reason.value if answer.reason else None,
        "why": make_excerpt(answer.rationale, CARD_EXCERPT_LENGTH),
        "at": judgment.created_at.isoformat(),
    }


def draw_card(
    id: str,
    mode: str,
    prompt: Sequence[Message],
    answers: Sequence[Sequence[Message]],
    image_address: ImageAddress,
    *,
    tools: Tools = (),
    written: Sequence[Sequence[Message]] | None = None,
) -> dict[str, Any]:
    """Return a prompt and the completions shown for it, with a letter each, as the page draws them.

    `alike` are the letters of completions that look the same and are not written the same, group by group; `hidden`
    those that differ only in what the guideline hides: in `written`, and not in `answers`.
    """
    card = render_card(prompt, answers, image_address, tools=tools, written=written)
    return {
        "id": id,
        "mode": mode,
        "prompt": card.prompt,
        "alike": _name_groups(card.alike),
        "hidden": _name_groups(card.hidden),
        "asked": make_question_excerpt(prompt, CARD_EXCERPT_LENGTH),
        "answers": [
            {
                "letter": letter,
                "html": html,
                "text": markdown.make_visible(get_completion_text(chat)[: markdown.SHOWN_LIMIT]),
            }
            for letter, chat, html in zip(ascii_uppercase, answers, card.completions)
        ],
    }


def _name_groups(groups: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[ascii_uppercase[at] for at in places] for places in groups]
