"""The figures of an evaluation and the pairs it judged, as dataclasses.

Their field names are the keys of the JSON files that `evaluation.storage` writes. Nothing heavy is imported here: pages
and reports read evaluations without loading a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rlhf_hitl.types import Messages, Split


@dataclass(frozen=True)
class Estimate:
    """A share (or a mean) over `n` pairs with its 95 % interval, clustered by prompt."""

    value: float
    low: float
    high: float
    n: int


COIN_FLIP = Estimate(0.5, 0.5, 0.5, 0)


@dataclass(frozen=True)
class EvaluatedPair:
    """One labelled pair and the model's prediction for it.

    Attributes:
        chosen: the completion that the raters preferred; the first one of a tie.
        agreement: the share of `chosen` among the votes that prefer a side.
        margin: reward(chosen) - reward(rejected); below zero the model disagrees.
        probability: that `chosen` is preferred, according to the model.
        correct: 1, 0, or a half for equal rewards; None for a tie.
        strength: 1 to 3, the strength given by most of the votes that prefer a side and give one.
    """

    comparison_id: str
    prompt_id: str
    family: str
    prompt: Messages
    chosen: Messages
    rejected: Messages
    chosen_id: str
    rejected_id: str
    chosen_policy: str
    rejected_policy: str
    votes: int
    agreement: float
    margin: float
    uncertainty: float
    probability: float
    correct: float | None
    tags: Mapping[str, str] = field(default_factory=dict)
    strength: int | None = None

    @property
    def is_tie(self) -> bool:
        return self.correct is None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability plot: pairs of similar confidence, and how often the model was right on them."""

    confidence: float
    right: Estimate


@dataclass(frozen=True)
class ThreeWayAccuracy:
    """How often the model predicts the raters' outcome among three: first better, a tie, second better.

    Attributes:
        nu: of Davidson's rule, which decides where the model predicts a tie; fitted to other labels.
        called_ties: how many ties the model predicts.
        commonest: the accuracy of always predicting the commonest outcome.
    """

    accuracy: Estimate
    nu: float
    called_ties: int
    commonest: float


@dataclass(frozen=True)
class LengthEffect:
    """How much the model follows length.

    Attributes:
        model: the share of its choices that are the longer answer (the raters' share is the floor `longer`).
        correlation: Spearman's, between margin and difference in length.
    """

    model: Estimate
    correlation: float


@dataclass(frozen=True)
class OrderEffect:
    """Whether the order in which two answers are shown or computed matters.

    Attributes:
        asymmetry: the largest change of a margin, in logits, when two answers are computed anew in the other order.
        pairs: how many pairs, drawn at random, that was measured on; 0 where it was not.
        raters: how often raters chose the answer shown first, among votes on pairs whose order is known.
        first: how often the model agrees with those who chose the answer shown first.
        second: how often it agrees with those who chose the second.
    """

    asymmetry: float
    pairs: int = 0
    raters: Estimate | None = None
    first: Estimate | None = None
    second: Estimate | None = None


@dataclass(frozen=True)
class KWiseAccuracy:
    """How well the model ranks comparisons of three or more completions.

    Attributes:
        best: how often the model's best completion is among the raters' best.
        chance: what guessing would score.
        kendall: Kendall's tau-b between the two rankings, averaged.
    """

    best: Estimate
    chance: float
    kendall: Estimate | None


@dataclass(frozen=True)
class AccuracyDifference:
    """The difference in accuracy between a model and another one on the same `n` labels.

    Attributes:
        against: the name of the other model.
        ours: how many labels only this model has right.
        theirs: how many labels only the other has right.
        p_value: McNemar's, exact.
        accuracy: this model's less the other's, with its interval clustered by prompt.
    """

    against: str
    n: int
    ours: int
    theirs: int
    p_value: float
    accuracy: Estimate

    @property
    def is_worse(self) -> bool:
        """Whether the model is significantly worse at 5 %, both by McNemar's test and by the interval: labels of one
        prompt are not independent, which only the interval takes into account."""
        return self.p_value < 0.05 and self.accuracy.high < 0

    @property
    def is_better(self) -> bool:
        """Whether the model is significantly better, by the same rule as `is_worse`."""
        return self.p_value < 0.05 and self.accuracy.low > 0


@dataclass(frozen=True)
class Evaluation:
    """The figures of a reward model on `n` labels with a preference.

    Attributes:
        ties: labels without a preference; they are not among the `n`.
        dropped: labels left out because a completion has no text.
        trained_on: labels of prompts that the model was trained on. They are left out of the held-out split, and
            counted among the `n` of any other split.
        calibrated_on: labels of prompts that only set the model's temperature, likewise.
        knows_its_prompts: False if there may be more of those: the model keeps no list, or was trained elsewhere
            before.
        longer: how often raters prefer the longer answer.
        shorter_wins: whether the training labels prefer the shorter answer, which is then the length floor.
        slices: accuracies by kind and value.
        scores: those of a public benchmark, counted by its own rules.
    """

    name: str
    reward_model_id: str
    created_at: str
    data_hash: str
    n: int
    ties: int
    dropped: int
    trained_on: int
    accuracy: Estimate
    longer: Estimate
    bag_of_words: Estimate | None
    ece: float
    ece_low: float
    ece_high: float
    reliability: tuple[ReliabilityBin, ...]
    slices: Mapping[str, Mapping[str, Estimate]]
    noise_ceiling: Estimate | None
    simulated: bool
    three_way: ThreeWayAccuracy | None = None
    length: LengthEffect | None = None
    position: OrderEffect | None = None
    k_wise: KWiseAccuracy | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    split: str = Split.HELDOUT.value
    calibrated_on: int = 0
    knows_its_prompts: bool = False
    shorter_wins: bool = False

    @property
    def floors(self) -> dict[str, Estimate]:
        """The accuracies that a useful model has to beat, by name: rules that read nothing or only count words."""
        floors = {"a coin": COIN_FLIP, f"the {self.length_rule} answer": self.length_floor}
        return floors | ({"a bag of words": self.bag_of_words} if self.bag_of_words else {})

    @property
    def length_rule(self) -> str:
        return "shorter" if self.shorter_wins else "longer"

    @property
    def length_floor(self) -> Estimate:
        """How often the rule that the longer (or shorter) answer wins is right."""
        s = self.longer
        return Estimate(1 - s.value, 1 - s.high, 1 - s.low, s.n) if self.shorter_wins else s

    @property
    def floor(self) -> tuple[str, float]:
        """The name and value of the highest floor."""
        return max(((name, estimate.value) for name, estimate in self.floors.items()), key=lambda floor: floor[1])

    @property
    def above_floors(self) -> bool:
        return self.accuracy.value > self.floor[1]

    @property
    def clear_of_floors(self) -> bool:
        """Whether the whole interval of the accuracy is above the floors."""
        return self.accuracy.low > self.floor[1]

    @property
    def left_out(self) -> list[tuple[int, str]]:
        """How many labels were left out, and why."""
        left_out = [(self.ties, "ties"), (self.dropped, "labels without text")]
        return left_out if self.includes_training_prompts else left_out + self._seen_labels

    @property
    def includes_training_prompts(self) -> bool:
        """Whether the evaluated labels are those of a split that models learn from."""
        return self.split != Split.HELDOUT

    @property
    def caveat(self) -> str:
        """What a reader of the figures has to know about their prompts; empty if nothing."""
        sentences = []
        if self.includes_training_prompts:
            seen = " and ".join(f"{n:,} {kind}" for n, kind in self._seen_labels)
            sentences.append(
                f"This evaluation replays the {self.split} split and leaves nothing out. Its labels include {seen}."
            )
        if not self.knows_its_prompts:
            sentences.append(
                "The model may have learnt from more of these prompts: it has no complete list of its training prompts."
            )
        return " ".join(sentences)

    @property
    def _seen_labels(self) -> list[tuple[int, str]]:
        return [
            (self.trained_on, "labels of prompts the model was trained on"),
            (self.calibrated_on, "of prompts that set its temperature"),
        ]

    def as_dict(self) -> dict[str, Any]:
        name, value = self.floor
        return asdict(self) | {
            "above_floors": self.above_floors,
            "clear_of_floors": self.clear_of_floors,
            "floor": {"name": name, "value": value},
        }
