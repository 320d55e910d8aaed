"""Gates: conditions that an evaluation has to meet before its model is released."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.reward.evaluation_record import AccuracyDifference, Estimate, Evaluation
from rlhf_hitl.wording import say_count

SLICES_SHOWN = 6  # by an error about a slice that there is not


@dataclass(frozen=True)
class GateResult:
    """One condition and whether it is met; `sentence` states that with the figures."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class SliceThreshold:
    """The lowest accuracy that one slice of an evaluation may have."""

    kind: str
    value: str
    least: float

    @classmethod
    def parse(cls, text: str) -> SliceThreshold:
        """Parse `category=math:0.6`. Raises BadInput where the text has another form."""
        kind, _, rest = text.partition("=")
        value, _, least = rest.rpartition(":")
        try:
            number = float(least)
        except ValueError:
            number = -1.0
        if not kind or not value or not 0 <= number <= 1:
            raise BadInput(
                f"--min-slice {text}",
                expected="a kind, a value and an accuracy from 0 to 1",
                fix="write e.g. category=math:0.6",
            )
        return cls(kind, value, number)


def check_gates(
    evaluation: Evaluation,
    difference: AccuracyDifference | None = None,
    *,
    min_accuracy: float | None = None,
    max_ece: float | None = None,
    above_floors: bool = False,
    min_slices: tuple[SliceThreshold, ...] = (),
) -> list[GateResult]:
    """Check every gate that was asked for, in the order of the arguments.

    Args:
        difference: to another model, than which this one may not be significantly worse.

    Raises:
        NotFound: the evaluation does not have a slice, so nothing shows that it would pass.
    """
    require_slices(evaluation.slices, min_slices)
    results = []
    if min_accuracy is not None:
        results.append(_check_at_least("min-accuracy", "accuracy", evaluation.accuracy, min_accuracy))
    if max_ece is not None:
        sign = "<=" if evaluation.ece <= max_ece else ">"
        sentence = f"calibration error {_compare(evaluation.ece, sign, max_ece)}"
        results.append(GateResult("max-ece", evaluation.ece <= max_ece, sentence))
    if above_floors:
        name, floor = evaluation.floor
        sign = ">" if evaluation.above_floors else "<="
        sentence = f"accuracy {_compare(evaluation.accuracy.value, sign, floor)} of the floor ({name})"
        results.append(GateResult("above-floors", evaluation.above_floors, sentence))
    for s in min_slices:
        estimate = evaluation.slices[s.kind][s.value]
        results.append(
            _check_at_least(f"min-slice {s.kind}={s.value}", f"accuracy of {s.kind}={s.value}", estimate, s.least)
        )
    if difference is not None:
        d = difference
        verdict = "worse than" if d.is_worse else "not shown to be worse than"
        sentence = f"{verdict} {d.against}: {d}, McNemar p = {d.p_value:.3g}"
        results.append(GateResult("no-worse-than", not d.is_worse, sentence))
    return results


def require_slices(slices: Mapping[str, Iterable[str]], wanted: Iterable[SliceThreshold]) -> None:
    """Raise NotFound where a slice that a gate is about is not among those that there are: kind → values."""
    for s in wanted:
        if s.value not in slices.get(s.kind, ()):
            raise NotFound(
                f"--min-slice {s.kind}={s.value}",
                expected=f"a slice of this evaluation ({_name_slices(slices, s)})",
                fix="name one of them; a slice needs ten labels",
            )


def _name_slices(slices: Mapping[str, Iterable[str]], wanted: SliceThreshold) -> str:
    """Return some slices that there are: first those like the wanted one, then those of its kind, then others."""
    names = [f"{kind}={value}" for kind, values in slices.items() for value in values]
    near = get_close_matches(f"{wanted.kind}={wanted.value}", names, 3)
    ordered = [*near, *(n for n in names if n.startswith(f"{wanted.kind}=")), *names]
    shown = list(dict.fromkeys(ordered))[:SLICES_SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(name[:40] for name in shown) + more if names else "it has none"


def _check_at_least(name: str, figure: str, estimate: Estimate, least: float) -> GateResult:
    passed = estimate.value >= least
    sign = ">=" if passed else "<"
    return GateResult(
        name, passed, f"{figure} {_compare(estimate.value, sign, least)} ({say_count(estimate.n, 'label')})"
    )


def _compare(value: float, sign: str, bound: float) -> str:
    """Return two shares in per cent, with one digit or, where they would look equal and are not, with more."""
    digits = next((d for d in range(1, 7) if f"{value:.{d}%}" != f"{bound:.{d}%}"), 1)
    return f"{value:.{digits}%} {sign} {bound:.{digits}%}"
