"""What labels of each kind were measured to gain, as it is kept beside the reward model and shown in reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rlhf_hitl.files import write_text_atomically
from rlhf_hitl.routing.acquisition_names import Rule
from rlhf_hitl.wording import say_count

GAINS_FILE = "gains.json"


@dataclass(frozen=True)
class Gain:
    """A mean gain per label, in nats per measured vote, with its 95 % interval; nan where there is too little.

    Attributes:
        labels, measured: how many labels it is the gain of, and on how many it was measured.
    """

    value: float
    low: float
    high: float
    labels: int
    measured: int

    @property
    def standard_error(self) -> float:
        return (self.high - self.low) / 2 / 1.96

    def __str__(self) -> str:
        """In thousandths of a nat, for a hundred labels: 12.3 (4.1 to 20.5)."""
        if not math.isfinite(self.low + self.high):
            return "not known yet"
        return f"{self.value * 1e5:.3g} ({self.low * 1e5:.3g} to {self.high * 1e5:.3g})"


@dataclass(frozen=True)
class RoutingGains:
    """What a routed label teaches a reward model, what one of the control share teaches, and the difference.

    Attributes:
        rule, reason: what orders comparisons for raters, and why.
        gap: of routed less random; None where one of them has no label.
        simulated: whether simulated raters made some of the labels.
    """

    rule: Rule
    reason: str
    routed: Gain | None = None
    random: Gain | None = None
    gap: Gain | None = None
    simulated: bool = False

    @property
    def verdict(self) -> str:
        """Whether routing pays, in a few words."""
        if self.gap is None or not math.isfinite(self.gap.low + self.gap.high):
            return "whether routing pays is not known yet"
        if self.gap.low > 0:
            return "routing pays"
        if self.gap.high < 0:
            return "routing does not pay: a label at random teaches more"
        return "routing does not pay so far: no difference shown"

    def __str__(self) -> str:
        if self.routed is None or self.random is None:
            return f"Gain per label: {self.verdict}. It takes judged comparisons of the control share, and routed ones."
        simulated = " (simulated)" if self.simulated else ""
        return (
            f"Gain per hundred labels{simulated}, in thousandths of a nat of log likelihood per vote (95 %): routed "
            f"{self.routed}, over {say_count(self.routed.labels, 'label')}; random {self.random}, over "
            f"{self.random.labels:,}; measured on {say_count(self.random.measured, 'label')} drawn at random. "
            f"{self.verdict.capitalize()}."
        )

    def as_dict(self) -> dict:
        """Return it as JSON has it: null for what is not known."""
        gains = {
            kind: None if gain is None else {k: v if math.isfinite(v) else None for k, v in asdict(gain).items()}
            for kind, gain in (("routed", self.routed), ("random", self.random), ("gap", self.gap))
        }
        return asdict(self) | gains | {"verdict": self.verdict}


def save_gains(folder: Path, gains: RoutingGains) -> None:
    """Write the gains beside the model's card."""
    write_text_atomically(folder / GAINS_FILE, json.dumps(gains.as_dict()))


def load_gains(folder: Path) -> RoutingGains | None:
    """Return the gains that were kept beside a model; None where none were."""
    try:
        plain = json.loads((folder / GAINS_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return RoutingGains(
        plain["rule"],
        plain["reason"],
        *(_to_gain(plain[kind]) for kind in ("routed", "random", "gap")),
        simulated=plain["simulated"],
    )


def _to_gain(plain: Mapping[str, float | None] | None) -> Gain | None:
    if plain is None:
        return None
    value, low, high = (math.nan if plain[k] is None else float(plain[k] or 0) for k in ("value", "low", "high"))
    return Gain(value, low, high, int(plain["labels"] or 0), int(plain["measured"] or 0))
