"""How far raters agree and what they reward, as the lead's page draws it: a few rows, each a point in its interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rlhf_hitl.labels.agreement import AgreementReport, measure_store_agreement
from rlhf_hitl.labels.bias import BiasEffect, BiasReport, measure_bias
from rlhf_hitl.labels.quality_report import list_coefficients, say_what_agreement_is_over, say_what_bias_is_over
from rlhf_hitl.store import Store
from rlhf_hitl.visible import make_all_visible

POLICIES_SHOWN = 8


@dataclass(frozen=True)
class Quality:
    """What the panel is drawn from."""

    agreement: AgreementReport
    bias: BiasReport


def measure_quality(store: Store) -> Quality:
    return Quality(measure_store_agreement(store), measure_bias(store))


def describe_quality(quality: Quality) -> dict[str, Any]:
    """Return the rows of the panel and what they are over, in English, as the titles of the figures are."""
    coefficients = list_coefficients(quality.agreement)
    effects = quality.bias.effects
    policies = [e for e in effects if e.kind == "policy" and e.value is not None][:POLICIES_SHOWN]
    return {
        "agreement": [
            {"title": title, "value": c.value, "low": c.low, "high": c.high, "is_share": title.startswith("Pairwise")}
            for title, c in coefficients
        ],
        "agreement_note": say_what_agreement_is_over(quality.agreement),
        "effects": list(_describe_effects(e for e in effects if e.kind != "policy")),
        "policies": list(_describe_effects(sorted(policies, key=lambda e: -(e.value or 0)))),
        "bias_note": say_what_bias_is_over(quality.bias),
    }


def _describe_effects(effects: Iterable[BiasEffect]) -> Iterable[dict[str, Any]]:
    for effect in effects:
        title = make_all_visible(effect.title)
        yield {"title": title, "value": effect.value, "low": effect.low, "high": effect.high, "is_share": True}
