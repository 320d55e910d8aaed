"""What a replay found, and where it is kept: a folder with `evaluation.json`, and `examples.jsonl` with a line a label.

Nothing heavy is imported here: pages and reports read evaluations without loading a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import atomic_file
from rlhf_hitl.types import Messages, Split

T = TypeVar("T")

SUMMARY, EXAMPLES = "evaluation.json", "examples.jsonl"


@dataclass(frozen=True)
class Share:
    """A share (or a mean) of `n` examples with its 95 % interval, examples of one prompt taken together."""

    value: float
    low: float
    high: float
    n: int


COIN = Share(0.5, 0.5, 0.5, 0)


@dataclass(frozen=True)
class Example:
    """One label of a pair, replayed. `chosen` is what the raters preferred (of a tie: what came first), `agreement` the
    share of the votes for a side that are for it. `margin` is reward(chosen) - reward(rejected): below zero the model
    disagrees. `probability`, by the model, of what the raters said of the two. `correct`: 1, 0, or a half for equal
    rewards; None of a tie. `strength`: 1 to 3, what most of those who prefer a side and say how strongly say."""

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
class Bin:
    """One point of a reliability plot: examples of about the same stated confidence, and how often that was right."""

    confidence: float
    right: Share


@dataclass(frozen=True)
class ThreeWay:
    """First better, a tie, second better: how often the model says what the raters said, ties among the labels.

    It calls a tie what Davidson's rule holds likeliest, with a `nu` fitted to other labels. `commonest` is what always
    saying the commonest of the three would score.
    """

    accuracy: Share
    nu: float
    called_ties: int
    commonest: float


@dataclass(frozen=True)
class Length:
    """How much the model follows length: share of its choices that are the longer answer (the raters' is the floor
    `longer`), and Spearman's correlation of margin and difference in length."""

    model: Share
    correlation: float


@dataclass(frozen=True)
class Position:
    """Does the order shown matter? `asymmetry` is the most by which a margin of the model changes, in logits, when two
    answers are computed anew in the other order, of so many `pairs` drawn at random. Of votes on pairs whose order is
    known: how often `raters` chose what was shown first, and how often the model is with them where they chose the
    `first` and where the `second`."""

    asymmetry: float
    pairs: int = 0
    raters: Share | None = None
    first: Share | None = None
    second: Share | None = None


@dataclass(frozen=True)
class KWise:
    """Of comparisons of three or more completions: how often the model's `best` is among the raters' best (`chance` is
    what guessing scores), and Kendall's tau-b between the two rankings, averaged."""

    best: Share
    chance: float
    kendall: Share | None


@dataclass(frozen=True)
class Difference:
    """A model less another on the same `n` labels: `ours` that only it has right, `theirs` that only the other has
    right, McNemar's exact p-value, and the difference in accuracy with its interval over prompts."""

    against: str
    n: int
    ours: int
    theirs: int
    p_value: float
    accuracy: Share

    @property
    def is_worse(self) -> bool:
        """Shown to be worse, at 5 %: by McNemar's test, and by the interval, for labels of one prompt fall together."""
        return self.p_value < 0.05 and self.accuracy.high < 0

    @property
    def is_better(self) -> bool:
        """Shown to be better, as `is_worse`."""
        return self.p_value < 0.05 and self.accuracy.low > 0


@dataclass(frozen=True)
class Evaluation:
    """What a model says of `n` labels with a preference, beside what raters said. Not among them: `ties`, labels
    `dropped` for want of a text, and labels of prompts the model was `trained_on`, or `calibrated_on` only. Those are
    among them where a `split` other than held-out was asked for. Without `knows_its_prompts` there may be more of them:
    the model keeps no list, or was trained on others before.

    `longer` is how often raters prefer the longer answer; with `shorter_wins` the labels that teach prefer the shorter
    one, and that rule is the floor. `slices` are accuracies by kind and value; `scores` those of a public benchmark,
    counted by its own rules."""

    name: str
    reward_model_id: str
    created_at: str
    data_hash: str
    n: int
    ties: int
    dropped: int
    trained_on: int
    accuracy: Share
    longer: Share
    bag_of_words: Share | None
    ece: float
    ece_low: float
    ece_high: float
    reliability: tuple[Bin, ...]
    slices: Mapping[str, Mapping[str, Share]]
    noise_ceiling: Share | None
    simulated: bool
    three_way: ThreeWay | None = None
    length: Length | None = None
    position: Position | None = None
    k_wise: KWise | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    split: str = Split.HELDOUT.value
    calibrated_on: int = 0
    knows_its_prompts: bool = False
    shorter_wins: bool = False

    @property
    def floors(self) -> dict[str, Share]:
        """What a model has to beat that is worth its cost, by name: rules that read nothing or count words."""
        out = {"a coin": COIN, f"the {self.length_rule} answer": self.length_floor}
        return out | ({"a bag of words": self.bag_of_words} if self.bag_of_words else {})

    @property
    def length_rule(self) -> str:
        return "shorter" if self.shorter_wins else "longer"

    @property
    def length_floor(self) -> Share:
        """How often the `length_rule` is right."""
        s = self.longer
        return Share(1 - s.value, 1 - s.high, 1 - s.low, s.n) if self.shorter_wins else s

    @property
    def floor(self) -> tuple[str, float]:
        """The highest of the floors."""
        return max(((name, share.value) for name, share in self.floors.items()), key=lambda floor: floor[1])

    @property
    def above_floors(self) -> bool:
        return self.accuracy.value > self.floor[1]

    @property
    def clear_of_floors(self) -> bool:
        """Above the floors by more than chance explains: the whole interval is."""
        return self.accuracy.low > self.floor[1]

    @property
    def left_out(self) -> list[tuple[int, str]]:
        """How many labels are not among those replayed, and why."""
        out = [(self.ties, "ties"), (self.dropped, "labels without text")]
        return out if self.asks_what_it_was_told else out + self._met

    @property
    def asks_what_it_was_told(self) -> bool:
        """Whether the labels replayed are those of a split that models learn from."""
        return self.split != Split.HELDOUT

    @property
    def caveat(self) -> str:
        """What must be said beside the figures of the prompts replayed; empty where nothing must."""
        said = []
        if self.asks_what_it_was_told:
            met = " and ".join(f"{n:,} {what}" for n, what in self._met)
            said.append(f"Replayed is the {self.split} split, with nothing left out: {met} are among its labels.")
        if not self.knows_its_prompts:
            said.append("Unknown whether it has learnt from more of these prompts: it keeps no whole list of its own.")
        return " ".join(said)

    @property
    def _met(self) -> list[tuple[int, str]]:
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


def save(folder: Path, evaluation: Evaluation, examples: Iterable[Example]) -> None:
    """Write both files, each whole or not at all; an earlier evaluation there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / SUMMARY) as summary, atomic_file(folder / EXAMPLES) as lines:
        with lines.open("w", encoding="utf-8") as f:
            f.writelines(json.dumps(e.as_dict(), ensure_ascii=False) + "\n" for e in examples)
        summary.write_text(json.dumps(evaluation.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: Path) -> Evaluation:
    """Raises NotFound where no evaluation is, and BadInput where it is of another version."""
    path = folder / SUMMARY
    if not path.is_file():
        raise NotFound(
            f"evaluation {folder}", expected=f"a folder with {SUMMARY}", fix="make one with `rlhf-hitl evaluate`"
        )
    return _read(TypeAdapter(Evaluation), path.read_bytes(), str(path))


def examples(folder: Path) -> Iterator[Example]:
    """Its examples, in the order they were replayed."""
    form = TypeAdapter(Example)
    with (folder / EXAMPLES).open("rb") as f:
        for number, line in enumerate(f, 1):
            yield _read(form, line, f"{folder / EXAMPLES}:{number}")


def evaluations(workspace: Path) -> list[Path]:
    """The folders of a workspace's evaluations, newest first."""
    found = [path.parent for path in (workspace / "evaluations").glob(f"*/{SUMMARY}")]
    return sorted(found, key=lambda folder: (folder / SUMMARY).stat().st_mtime, reverse=True)


def _read(form: TypeAdapter[T], text: bytes, place: str) -> T:
    try:
        return form.validate_json(text)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        raise BadInput(
            place, expected=f"an evaluation of this version ({where}: {first['msg']})", fix="evaluate again"
        ) from e
