"""One comparison on the catalog's page, as HTML: its texts, every judgment, its label, what was decided about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from rlhf_hitl.store import Store
from rlhf_hitl.store.catalog_history import ComparisonHistory, KeptJudgment, load_history
from rlhf_hitl.types import Role, Route, Verdict
from rlhf_hitl.ui.conversation import make_question_excerpt, render_card
from rlhf_hitl.ui.message_blocks import ImageAddress
from rlhf_hitl.ui.pages import load_templates
from rlhf_hitl.visible import make_all_visible, make_visible
from rlhf_hitl.wording import say_count

TITLE_LENGTH = 80  # characters
STRENGTHS = {1: "slightly", 2: "clearly", 3: "much"}
ROLES = {Role.JUDGE: "a model", Role.LEAD: "decision of a lead"}


def describe_history(store: Store, comparison_id: str, image_address: ImageAddress) -> dict[str, Any]:
    """Return a comparison with everything that happened to it as HTML, and its title."""
    history = load_history(store, comparison_id)
    comparison = history.comparison
    letters = name_completions([c.id for c in comparison.completions])
    card = render_card(
        comparison.prompt.messages,
        [c.messages for c in comparison.completions],
        image_address,
        tools=comparison.prompt.tools,
    )
    html = (
        load_templates()
        .get_template("data/history.html")
        .render(
            id=comparison.id,
            facts=_list_facts(history),
            prompt=card.prompt,
            look_alike=bool(card.alike),
            answers=[
                {"letter": letters[c.id], "policy": make_visible(c.policy), "html": html}
                for c, html in zip(comparison.completions, card.completions)
            ],
            labels=[_describe_label(label, letters) for label in history.entry.labels],
            judgments=[_describe_judgment(kept, letters) for kept in history.judgments],
            left_out=history.judgment_count - len(history.judgments),
            gold=_describe_gold(history, letters),
            routings=[_describe_routing(row) for row in history.routings],
            scores=[
                {
                    "model": make_visible(score.reward_model_id),
                    "chosen": letters[score.chosen],
                    "margin": f"{score.margin:.2f}",
                    "uncertainty": f"{score.uncertainty:.2f}",
                    "probability": f"{score.probability:.0%}",
                }
                for score in history.scores
            ],
            assignments=[
                {
                    "rater": make_visible(row["rater_name"]),
                    "slice": make_visible(row["slice"]),
                    "at": row["created_at"].isoformat(),
                    "ended": row["ended_at"] is not None,
                }
                for row in history.assignments
            ],
            findings=[
                {
                    "rater": make_visible(row["rater_name"]),
                    "check": row["check_name"].replace("_", " "),
                    "action": row["action"].replace("_", " "),
                    "at": row["created_at"].isoformat(),
                }
                for row in history.findings
            ],
        )
    )
    return {"html": html, "title": make_question_excerpt(comparison.prompt.messages, TITLE_LENGTH) or comparison.id}


def name_completions(ids: Sequence[str]) -> dict[str, str]:
    """Return completion id → the letter it has on this page, in canonical order, whatever order raters saw."""
    return {id: ascii_uppercase[n] if n < 26 else str(n + 1) for n, id in enumerate(ids)}


def _list_facts(history: ComparisonHistory) -> list[tuple[str, str]]:
    """Return name and value of what the comparison is, in the order in which they are shown."""
    comparison, (wanted, given) = history.comparison, history.places
    facts = [
        ("project", comparison.project),
        ("batch", comparison.batch),
        ("split", comparison.prompt.split.value),
        ("route", comparison.route.value),
        ("judgments wanted", f"{wanted:,}, {given:,} given" if wanted else "none"),
        ("source", history.source),
        *comparison.prompt.tags.items(),
        ("hidden repeat of", comparison.repeat_of or ""),
    ]
    return [(make_all_visible(name), make_all_visible(value)) for name, value in facts if value]


def _describe_label(label: Any, letters: Mapping[str, str]) -> dict[str, Any]:
    first, second = letters[label.first], letters[label.second]
    # Without a reward model that votes, the two are the same figures.
    consensus = None if label.consensus == label.probabilities else label.consensus
    return {
        "first": first,
        "second": second,
        "bars": _make_bars(label.probabilities, first, second),
        "consensus": None if consensus is None else _make_bars(consensus, first, second),
        "entropy": f"{label.entropy:.2f}",
        "weight": None if label.weight is None else f"{label.weight:.1f}",
        "state": label.state,
    }


def _make_bars(shares: Sequence[float], first: str, second: str) -> list[dict[str, Any]]:
    names = (f"{first} better", "tie", f"{second} better")
    kinds = ("first", "tie", "second")
    return [
        {"kind": kind, "name": n, "share": f"{p:.0%}", "percent": f"{p:.2%}"}
        for kind, n, p in zip(kinds, names, shares)
    ]


def _describe_judgment(kept: KeptJudgment, letters: Mapping[str, str]) -> dict[str, Any]:
    judgment, answer = kept.judgment, kept.judgment.answer
    marks = [ROLES[judgment.role]] if judgment.role in ROLES else []
    marks += ["simulated"] if judgment.simulated else []
    marks += ["corrected later: does not count"] if kept.superseded_by else []
    marks += ["a correction"] if judgment.supersedes else []
    marks += ["surplus: does not count"] if judgment.surplus else []
    notes = [f"shown in the order {' '.join(letters.get(i, '?') for i in judgment.order_shown)}"]
    notes += [f"{answer.active_seconds:.0f} s"] if answer.active_seconds is not None else []
    notes += [f"guideline {make_visible(judgment.guideline_version)}"] if judgment.guideline_version else []
    notes += [make_visible(judgment.source)] if judgment.source else []
    if judgment.probabilities is not None:
        shares = ", ".join(f"{p:.0%}" for p in judgment.probabilities)
        notes.append(f"first shown better, tie, second shown better: {shares}")
    return {
        "rater": make_visible(kept.rater_name),
        "at": judgment.created_at.isoformat(),
        "counts": kept.counts,
        "said": _say_answer(kept, letters),
        "marks": marks,
        "notes": notes,
        "scores": [
            (make_visible(axis), ", ".join(f"{letters.get(i, '?')} {score}" for i, score in given.items()))
            for axis, given in answer.scores.items()
        ],
        "rationale": make_visible(answer.rationale),
        "rewrite": make_visible(answer.rewrite),
    }


def _say_answer(kept: KeptJudgment, letters: Mapping[str, str]) -> str:
    answer = kept.judgment.answer
    reason = f" ({answer.reason.value.replace('_', ' ')})" if answer.reason else ""
    match answer.verdict:
        case Verdict.ALL_BAD:
            return "both bad" if len(letters) == 2 else "all bad"
        case Verdict.SKIPPED:
            return f"skipped{reason}"
        case Verdict.FLAGGED:
            return f"flagged{reason}"
    order = " > ".join(" = ".join(letters.get(i, "?") for i in group) for group in answer.ranking)
    return order + (f", {STRENGTHS[answer.strength]} better" if answer.strength else "")


def _describe_gold(history: ComparisonHistory, letters: Mapping[str, str]) -> dict[str, str] | None:
    if (row := history.gold) is None:
        return None
    order = " > ".join(" = ".join(letters.get(i, "?") for i in group) for group in row["ranking"])
    return {
        "right": order or row["verdict"].replace("_", " "),
        "purpose": row["purpose"],
        "explanation": make_visible(row["explanation"]),
    }


def _describe_routing(row: Any) -> dict[str, Any]:
    proposed = "" if row["proposed"] == row["route"] else f" (proposed: {row['proposed']})"
    by = row["decider_name"] or row["decided_by"] or "the router"
    return {
        "at": row["created_at"].isoformat(),
        "route": f"{Route(row['route']).value}{proposed}",
        "round": say_count(row["round"], "round").split()[0],
        "by": make_visible(by),
        "reason": make_visible(row["reason"]),
    }
