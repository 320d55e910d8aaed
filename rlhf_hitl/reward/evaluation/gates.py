"""What an evaluation has to hold before a model is released."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.reward.evaluation_record import Difference, Evaluation, Share


@dataclass(frozen=True)
class Gate:
    """One condition and whether it holds; `said` is the line that says so with its figures."""

    name: str
    passed: bool
    said: str


@dataclass(frozen=True)
class Slice:
    """A kind and value of an evaluation's slices, and the least accuracy it may have."""

    kind: str
    value: str
    least: float

    @classmethod
    def parse(cls, text: str) -> Slice:
        """From `category=math:0.6`. Raises BadInput where it is none."""
        kind, _, rest = text.partition("=")
        value, _, least = rest.rpartition(":")
        try:
            number = float(least)
        except ValueError:
            number = -1.0
        if not kind or not value or not 0 <= number <= 1:
            raise BadInput(
                f"slice {text!r}",
                expected="a kind, a value and an accuracy from 0 to 1",
                fix="write e.g. category=math:0.6",
            )
        return cls(kind, value, number)


def gates(
    found: Evaluation,
    difference: Difference | None = None,
    *,
    min_accuracy: float | None = None,
    max_ece: float | None = None,
    above_floors: bool = False,
    min_slices: tuple[Slice, ...] = (),
) -> list[Gate]:
    """Every gate that was asked for, in the order of the arguments. `difference`: the model may not be worse.

    Raises:
        NotFound: a slice that the evaluation does not have, for nothing says that it would pass.
    """
    out = []
    if min_accuracy is not None:
        out.append(_at_least("min-accuracy", "accuracy", found.accuracy, min_accuracy))
    if max_ece is not None:
        sign = "<=" if found.ece <= max_ece else ">"
        out.append(Gate("max-ece", found.ece <= max_ece, f"calibration error {found.ece:.4f} {sign} {max_ece}"))
    if above_floors:
        name, floor = found.floor
        sign = ">" if found.above_floors else "<="
        said = f"accuracy {found.accuracy.value:.4f} {sign} {floor:.4f} of the floor ({name})"
        out.append(Gate("above-floors", found.above_floors, said))
    for s in min_slices:
        share = found.slices.get(s.kind, {}).get(s.value)
        if share is None:
            known = [f"{kind}={value}" for kind, values in found.slices.items() for value in values]
            raise NotFound(
                f"slice {s.kind}={s.value}",
                expected=f"one of {', '.join(known) or 'none'}",
                fix="name one of them; a slice needs ten labels",
            )
        out.append(_at_least(f"min-slice {s.kind}={s.value}", f"accuracy of {s.kind}={s.value}", share, s.least))
    if difference is not None:
        d = difference
        verdict = "worse than" if d.is_worse else "not shown to be worse than"
        said = (
            f"{verdict} {d.against}: {d.accuracy.value:+.4f} ({d.accuracy.low:+.4f} to {d.accuracy.high:+.4f}) on "
            f"{d.n} labels, McNemar p = {d.p_value:.3g}"
        )
        out.append(Gate("no-worse-than", not d.is_worse, said))
    return out


def _at_least(name: str, what: str, share: Share, least: float) -> Gate:
    passed = share.value >= least
    return Gate(name, passed, f"{what} {share.value:.4f} {'>=' if passed else '<'} {least} ({share.n} labels)")
