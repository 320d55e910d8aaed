"""Rows of published sets, as their cards describe them: UltraFeedback, HelpSteer 2 and 3."""

from __future__ import annotations

from typing import Any

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# UltraFeedback. Structure: the card of openbmb/UltraFeedback and of argilla/ultrafeedback-curated on the hub.


def rate(rating: str, why: str = "Because.") -> dict[str, Any]:
    return {"Rating": rating, "Rationale": why}


def complete(model: str, response: str, overall: Any, ratings: str = "5555") -> dict[str, Any]:
    return {
        "model": model, "response": response, "principle": "honesty", "custom_system_prompt": "Be honest.",
        "critique": f"On {response}.", "overall_score": overall, "fine-grained_score": 4.25,
        "annotations": {
            "helpfulness": rate(ratings[0], "Of this type.") | {"Type": ["1"], "Rationale For Rating": "It helps."},
            "honesty": rate(ratings[1]), "instruction_following": rate(ratings[2]), "truthfulness": rate(ratings[3]),
        },
    }  # fmt: skip


ULTRAFEEDBACK = {
    "source": "evol_instruct", "instruction": "Name a colour.", "models": ["alpaca-7b", "gpt-4", "llama", "bard"],
    "completions": [
        complete("alpaca-7b", "Red", 7.5), complete("gpt-4", "Blue", "9"), complete("llama", "Seven", 1.0, "1234"),
        complete("bard", "Green", 7.5),
    ],
    "correct_answers": ["None"], "incorrect_answers": ["Seven"],
}  # fmt: skip


# The binarized ones. Structure: the cards of HuggingFaceH4/ultrafeedback_binarized and
# argilla/ultrafeedback-binarized-preferences-cleaned.


def binarize(chosen: float, rejected: float) -> dict[str, Any]:
    sides = {"chosen": [user("Q"), assistant("Good")], "rejected": [user("Q"), assistant("Bad")]}
    return {
        "prompt": "Q", "prompt_id": "a1", **sides, "messages": sides["chosen"], "score_chosen": chosen,
        "score_rejected": rejected,
    }  # fmt: skip


def binarize_cleaned(chosen: float, rejected: float) -> dict[str, Any]:
    row = binarize(0, 0)
    return {
        "source": "flan", "prompt": "Q", "chosen": row["chosen"], "rejected": row["rejected"], "chosen-rating": chosen,
        "rejected-rating": rejected, "chosen-model": "gpt-4", "rejected-model": "bard",
    }  # fmt: skip


# HelpSteer 2. Structure: README.md of nvidia/HelpSteer2, sections Dataset Description, Preferences and Disagreements;
# -100 for "neither is valid" occurs in `all_preferences_unprocessed`.


def rate_response(prompt: str, response: str, *values: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, **dict(zip(ATTRIBUTES, values))}


PREFERENCE = {
    "split": "val", "prompt": "c#", "response_1": "A", "response_2": "B", "preference_strength": 1,
    "preference_statement": "@Response 2 is better.", "preference_elaboration": "It is.",
    "three_most_similar_preferences": [{"statement": "S.", "elaboration": "E.", "strength": 1}],
    "all_preferences_unprocessed": [
        {"strength": 1, "justification": "B is whole."}, {"strength": -3, "justification": "A is right."},
        {"strength": 0, "justification": "Alike."}, {"strength": -100, "justification": "Neither."},
    ],
}  # fmt: skip


# HelpSteer 3. Structure: README.md of nvidia/HelpSteer3, sections Preference, Feedback, Edit and Edit-Quality.

HELPSTEER3 = {
    "domain": "code", "language": "python", "context": [user("One"), assistant("Two"), user("Three")], "response1": "A",
    "response2": "B", "overall_preference": -2,
    "individual_preference": [
        {"score": -1, "reasoning": "@Response 1 is slightly better."}, {"score": 3, "reasoning": "B."},
        {"score": 0, "reasoning": "Alike."},
    ],
}  # fmt: skip
