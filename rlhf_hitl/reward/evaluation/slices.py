"""Labels cut into slices: where is a model good, and where is it not?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rlhf_hitl.reward.evaluation_record import Example, Share
from rlhf_hitl.stats.intervals import clustered_share_interval
from rlhf_hitl.types import Messages

FEWEST = 10  # labels of a slice that is shown
MOST = 30  # slices of a kind
STRENGTHS = {1: "slightly", 2: "clearly", 3: "much"}


def slices(examples: Sequence[Example]) -> dict[str, dict[str, Share]]:
    """Kind → value → accuracy, of every kind that tells the examples apart; what has the most labels comes first.

    Kinds are the prompts' tags (ids left out) and those of `traits`. Ties are left out.
    """
    groups: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for e in examples:
        if not e.is_tie:
            tags = {k: v for k, v in e.tags.items() if not k.endswith("id")}
            for kind, value in (traits(e) | tags).items():
                groups[kind][value].append(e)
    out: dict[str, dict[str, Share]] = {}
    for kind, values in sorted(groups.items()):
        large = sorted((v for v in values if len(values[v]) >= FEWEST), key=lambda v: (-len(values[v]), v))
        if len(values) > 1 and large:
            out[kind] = {value: accuracy(values[value]) for value in large[:MOST]}
    return out


def traits(example: Example) -> dict[str, str]:
    """What can be said of any example: who wrote the answers, how long they and the conversation are, how sure the
    raters are and how sure the model is."""
    chosen, rejected = characters(example.chosen), characters(example.rejected)
    turns = sum(m.role == "user" for m in (*example.prompt, *example.chosen))
    sure = max(example.probability, 1 - example.probability)
    out = {
        "policies": " / ".join(sorted({example.chosen_policy, example.rejected_policy})),
        "turns": "3 or more" if turns > 2 else str(turns),
        "length": _length((chosen + rejected) / 2),
        "longer": "chosen" if chosen > rejected else "rejected" if chosen < rejected else "neither",
        "agreement": "one vote" if example.votes == 1 else "unanimous" if example.agreement == 1 else "split",
        "confidence": next(name for limit, name in _CONFIDENCES if sure < limit),
    }
    return out | ({"strength": STRENGTHS[example.strength]} if example.strength else {})


def accuracy(examples: Sequence[Example]) -> Share:
    return share(np.array([e.correct for e in examples], float), np.array([e.family for e in examples]))


def share(values: np.ndarray, clusters: np.ndarray) -> Share:
    """The mean of values (n,) in [0, 1] with its interval over clusters (n,)."""
    low, high = clustered_share_interval(values, clusters)
    return Share(float(np.mean(values)), low, high, len(values))


def characters(chat: Messages) -> int:
    return sum(len(m.content) for m in chat)


_CONFIDENCES = ((0.6, "under 0.6"), (0.7, "0.6 to 0.7"), (0.8, "0.7 to 0.8"), (0.9, "0.8 to 0.9"), (2, "0.9 or more"))


def _length(mean: float) -> str:
    limits = ((250, "under 250"), (1000, "250 to 1000"), (4000, "1000 to 4000"))
    return next((name for limit, name in limits if mean < limit), "4000 or more") + " characters"
