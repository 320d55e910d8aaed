"""The figures of an evaluation and the pairs it judged, as dataclasses.

Their field names are the keys of the JSON files that `evaluation.storage` writes. Nothing heavy is imported here: pages
and reports read evaluations without loading a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any

from pydantic import BeforeValidator

from rlhf_hitl.errors import BadInput
from rlhf_hitl.types import LabelModelName, Messages, Split, Tools, messages_to_dicts, parse_messages, parse_tools
from rlhf_hitl.wording import say_count


def _read_chat(value: Any) -> Messages:
    try:
        return parse_messages(value)
    except BadInput as e:
        raise ValueError(str(e)) from e


#: Messages and tools as the file of pairs holds them: in the form of `Message.to_plain`.
_Chat = Annotated[Messages, BeforeValidator(_read_chat)]
_OfferedTools = Annotated[Tools, BeforeValidator(parse_tools)]


@dataclass(frozen=True)
class Estimate:
    """A share (or a mean) over `n` pairs with its 95 % interval, clustered by prompt."""

    value: float
    low: float
    high: float
    n: int

    @property
    def text(self) -> str:
        """The share as people read it."""
        return f"{self.value:.1%}"

    @property
    def bounds(self) -> str:
        """The interval of the share as people read it."""
        return f"{self.low:.1%} to {self.high:.1%}"


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
    prompt: _Chat
    chosen: _Chat
    rejected: _Chat
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
    tools: _OfferedTools = ()

    @property
    def is_tie(self) -> bool:
        return self.correct is None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as the file of pairs holds them; `tools` only where the prompt offers some."""
        chats = {name: messages_to_dicts(getattr(self, name)) for name in ("prompt", "chosen", "rejected")}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tools"} | chats
        return plain | ({"tools": [tool.to_plain() for tool in self.tools]} if self.tools else {})


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

    def __str__(self) -> str:
        a = self.accuracy
        return f"{a.value:+.1%} ({a.low:+.1%} to {a.high:+.1%}) on {say_count(self.n, 'label')}"

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
class LabelOrigin:
    """How many labels there are, and on how many of them a simulated rater has voted.

    `simulated` is None where it was not counted, and only known that there are some.
    """

    labels: int
    simulated: int | None

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> LabelOrigin | None:
        """Return what labels a model learnt from, by its card or the figures of its record; None if these do not say.

        A card of an earlier version says only whether there are some simulated ones.
        """
        if "train_labels" not in card:
            return None
        simulated = card.get("simulated_labels", None if card.get("simulated") else 0)
        return cls(card["train_labels"] + card.get("calibration_labels", 0), simulated)

    def __str__(self) -> str:
        return f"simulated: {self.simulated_text} of {self.labels:,}"

    @property
    def text(self) -> str:
        """The labels in words: `703 labels, 600 of them simulated`, `703 simulated labels` or `703 labels`."""
        if self.all_simulated:
            return say_count(self.labels, "simulated label")
        of_them = f", {self.simulated_text} of them simulated" if self.has_simulated else ""
        return f"{say_count(self.labels, 'label')}{of_them}"

    @property
    def all_simulated(self) -> bool:
        return self.has_simulated and self.simulated == self.labels

    @property
    def has_simulated(self) -> bool:
        return self.simulated != 0

    @property
    def simulated_text(self) -> str:
        return "some" if self.simulated is None else f"{self.simulated:,}"


@dataclass(frozen=True)
class Evaluation:
    """The figures of a reward model on `n` labels with a preference.

    Attributes:
        ties: labels without a preference; they are not among the `n`.
        dropped: labels left out because a completion has no text.
        unreadable: labels left out because the model cannot read them or tell their sides apart, by obstacle
            (`readability.LeftOut.as_dict`).
        trained_on: labels of prompts that the model was trained on. They are left out of the held-out split, and
            counted among the `n` of any other split.
        calibrated_on: labels of prompts that only set the model's temperature, likewise.
        knows_its_prompts: False if there may be more of those: the model keeps no list, or was trained elsewhere
            before.
        longer: how often raters prefer the longer answer.
        shorter_wins: whether the training labels prefer the shorter answer, which is then the length floor.
        ece, ece_low, ece_high: the calibration error and its interval (`stats.calibration`).
        slices: accuracies by kind and value.
        simulated: whether a simulated rater has voted on labels that it is measured on. An evaluation of an earlier
            version says it also of labels that only the model has learnt from; there the next two are None.
        measured_on: the `n` labels.
        learnt_from: the labels that taught the model and set its temperature; None where that is not known.
        scores: those of a public benchmark, counted by its own rules.
        score_notes: of which part of the benchmark a score is, or why it is not given, by the score's name.
        replayed: the file or hub id that was replayed in place of the store's own split; empty if none.
        label_model: how votes became the labels; shares in earlier versions.
        by_judges: of the `n` labels, those that rest on votes of AI judges: only where somebody asked for that.
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
    measured_on: LabelOrigin | None = None
    learnt_from: LabelOrigin | None = None
    score_notes: Mapping[str, str] = field(default_factory=dict)
    replayed: str = ""
    unreadable: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label_model: LabelModelName = "shares"
    by_judges: int = 0

    @property
    def is_heldout(self) -> bool:
        """Whether it is of the store's own held-out split."""
        return not self.replayed and self.split == Split.HELDOUT

    @property
    def labels_text(self) -> str:
        """How many labels of what it is measured on: `307 held-out labels`, `3 labels of rankings.jsonl`."""
        if self.replayed:
            return f"{say_count(self.n, 'label')} of {self.replayed}"
        return say_count(self.n, "held-out label" if self.is_heldout else f"{self.split} label")

    @property
    def calibration(self) -> Estimate:
        """The calibration error with its interval."""
        return Estimate(self.ece, self.ece_low, self.ece_high, self.n)

    @property
    def measured_note(self) -> str:
        """What simulated raters have to do with the labels it is measured on; empty if nothing."""
        if self.measured_on is None:
            earlier = (
                "Simulated raters judged some of these labels, or of those the model learnt from: the version that "
                "wrote this evaluation did not tell which."
            )
            return earlier if self.simulated else ""
        m = self.measured_on
        if m.has_simulated:
            labels = say_count(m.labels, "label")
            return f"Simulated raters judged {m.simulated_text} of the {labels} it is measured on."
        return "Simulated raters judged some of the ties." if self.simulated else ""

    @property
    def learnt_note(self) -> str:
        """What they have to do with the labels that the model learnt from; empty if nothing, or not known."""
        m = self.learnt_from
        if m is None or not m.has_simulated:
            return ""
        labels = say_count(m.labels, "label")
        return f"The model learnt from {labels}, and simulated raters judged {m.simulated_text} of these."

    @property
    def score_rows(self) -> list[tuple[str, str, str]]:
        """Each score of a public benchmark: its name, itself or a dash where it cannot be given, and its note."""
        names = [*self.scores, *(name for name in self.score_notes if name not in self.scores)]
        return [
            (name, f"{self.scores[name]:.1%}" if name in self.scores else "–", self.score_notes.get(name, ""))
            for name in names
        ]

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
        """How many labels were left out, and the same in words with the reason."""
        left_out = [
            (self.ties, say_count(self.ties, "tie")),
            (self.dropped, say_count(self.dropped, "label without text", "labels without text")),
            *(
                (one["count"], f"{say_count(one['count'], 'label')} that the model cannot read: {one['reason']}")
                for one in self.unreadable.values()
            ),
        ]
        return left_out if self.includes_training_prompts else left_out + self._seen_labels

    @property
    def includes_training_prompts(self) -> bool:
        """Whether the evaluated labels are those of a split that models learn from."""
        return self.split != Split.HELDOUT

    @property
    def caveat(self) -> str:
        """What a reader of the figures has to know about their prompts and judges; empty if nothing."""
        sentences = []
        if self.by_judges:
            sentences.append(
                f"AI judges voted on {self.by_judges:,} of the {say_count(self.n, 'label')}: there it is measured how "
                "far the model agrees with other models, not with people."
            )
        if self.includes_training_prompts:
            seen = " and ".join(text for _, text in self._seen_labels)
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
        seen = "of prompts the model was trained on"
        return [
            (self.trained_on, say_count(self.trained_on, f"label {seen}", f"labels {seen}")),
            (self.calibrated_on, f"{self.calibrated_on:,} of prompts that set its temperature"),
        ]

    def as_dict(self) -> dict[str, Any]:
        name, value = self.floor
        return asdict(self) | {
            "above_floors": self.above_floors,
            "clear_of_floors": self.clear_of_floors,
            "floor": {"name": name, "value": value},
        }
