"""The threshold curve: for each confidence, what acceptance from there on would mean for load, error and cost.

A lead looks at it before they choose. The error that it states for a confidence is the smallest bound under which the
router itself would accept from there on, by the same test on the same labels: so what is chosen on the curve is what
the next routing does, as long as its labels are these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.routing.threshold import Threshold
from rlhf_hitl.routing.threshold_labels import ThresholdLabels, load_threshold_labels
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.store import Store, audit
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.store.routing_targets import RoutingTarget, check_shares, read_targets, set_target
from rlhf_hitl.store.scores import read_open_confidences

#: The bounds that are tried, and how many confidences are shown.
BOUNDS = tuple(round(0.01 * n, 2) for n in range(1, 51))
MOST_POINTS = 60
HALF_PLACE = 5e-5


@dataclass(frozen=True)
class CurvePoint:
    """What acceptance from a confidence on would mean.

    Attributes:
        confidence: of the model's own choice.
        accepted: share of the pool that is accepted and that nobody checks, 0 to 1.
        load: share of the pool that raters judge; 1 - `accepted`.
        error, low, high: on the tested labels from that confidence on, with a 95 % interval; None without one.
        labels: how many those are.
        bound: the smallest bound that is shown from there on; None: none up to 50 % is.
        cost: of raters, per comparison of the pool; None where no price is known.
    """

    confidence: float
    accepted: float
    load: float
    error: float | None
    low: float | None
    high: float | None
    labels: int
    bound: float | None
    cost: float | None


@dataclass(frozen=True)
class ThresholdCurve:
    """The curve of one pool.

    Attributes:
        points: by confidence, ascending.
        now: from which confidence on the next routing accepts, as far as these labels say; above 1: never.
        max_error, delta: the bound in force, a lead's demand before the router's.
        tested: how many labels speak, `prompts` of how many prompts.
        pool: how many comparisons of it are scored.
        unlike: those of the pool that look unlike the training prompts: load, whatever the confidence.
        demand: what a lead demands; None: nothing.
        advice: what more labels would bring, in words.
    """

    points: tuple[CurvePoint, ...]
    now: float
    max_error: float
    delta: float
    tested: int
    prompts: int
    pool: int
    unlike: int = 0
    demand: RoutingTarget | None = None
    advice: str = ""


def apply_target(
    tested: ThresholdLabels, threshold: Threshold, target: RoutingTarget | None, *, forecasts: bool = False
) -> Threshold:
    """Return the threshold under what a lead demands: tested at their bound, and never below their confidence.

    The bound that is stated stays the one that is shown, from the tested threshold on: a lead who demands more
    confidence makes people judge more, and needs no new proof.

    Args:
        forecasts: say what more labels would show under the bound that a lead demands (some tenths of a second).
    """
    if target is None:
        return threshold
    if target.max_error is not None and target.max_error != threshold.max_error:
        threshold = tested.choose_threshold(target.max_error, forecasts=forecasts)
    if threshold.accepts_nothing or target.min_confidence <= threshold.value:
        return threshold
    return replace(threshold, value=target.min_confidence, shown_from=threshold.value)


def check_target(tested: ThresholdLabels, *, min_confidence: float, max_error: float) -> None:
    """Check that the labels so far support what a lead demands: a lead may be stricter than the bound, never laxer.

    Where the bound lets nothing be accepted, any demand is stricter than what it lets be: it holds once it is shown.

    Raises:
        BadInput: the bound is not shown from that confidence on; the error says which bound is.
    """
    threshold = tested.choose_threshold(max_error)
    if threshold.accepts_nothing or min_confidence >= threshold.value - HALF_PLACE:
        return
    shown = _find_bound(list_bounds(tested), min_confidence)
    allow = "" if shown is None else f", or allow errors up to {shown:.0%}, which audits will watch"
    raise BadInput(
        f"a confidence of {min_confidence:.3f} under a bound of {max_error:.0%}",
        expected=f"{threshold.value:.3f} or more",
        fix=f"demand more confidence{allow}",
    )


def demand_target(
    store: Store,
    basis: CurveBasis | None,
    project: str,
    *,
    min_confidence: float | None = None,
    max_error: float | None = None,
    seen: str | None = None,
    by: audit.Actor = audit.CLI,
) -> RoutingTarget:
    """Demand a confidence, an error or both in a project, from the next routing on. What is not given stays as it was
    demanded before.

    Args:
        basis: of the newest model that routed, whose labels have to support it; None: none has, and the next routing
            tests it.
        seen: what `say_seen` says of the demand that whoever demands has before them; None: it is not asked.

    Raises:
        Conflict: somebody has demanded something else since.
        BadInput: an error or a confidence that is no share, or labels do not show the bound from that confidence on.
        NotFound: there is no such project.
    """
    before = read_targets(store).get(project)
    if min_confidence is None:
        min_confidence = 0.0 if before is None else before.min_confidence
    if max_error is None and before is not None:
        max_error = before.max_error
    check_shares(max_error, min_confidence)
    if basis is not None and min_confidence > 0:  # who demands none leaves the threshold to the test
        in_force = basis.tested.max_error if max_error is None else max_error
        check_target(basis.tested, min_confidence=min_confidence, max_error=in_force)
    return set_target(store, project, max_error=max_error, min_confidence=min_confidence, seen=seen, by=by)


@dataclass(frozen=True)
class CurveBasis:
    """What the curves of all projects are made of: it takes a moment, and changes only where something is scored.

    Attributes:
        bounds: (bound, the confidence from which on it is shown), for each bound under which something is accepted.
        pools: project → the confidences (n,) of what a router decides there: comparisons of training prompts that the
            newest model that routed has scored and no person has judged; NaN where the model may never accept it.
        advice: what more labels would bring, in words.
    """

    model_id: str
    tested: ThresholdLabels
    bounds: tuple[tuple[float, float], ...]
    pools: Mapping[str, np.ndarray]
    advice: str


def read_curve_basis(store: Store) -> CurveBasis | None:
    """Return what curves are made of; None where no model has routed yet."""
    for record in reversed(list_reward_models(store)):
        tested = load_threshold_labels(Path(record.path))
        if tested is not None:
            found = read_open_confidences(store, record.id, tested.bar)
            pools = {project: np.array(of) for project, of in found.items()}
            return CurveBasis(
                record.id, tested, list_bounds(tested), pools, tested.choose_threshold(forecasts=True).advice
            )
    return None


def list_bounds(tested: ThresholdLabels) -> tuple[tuple[float, float], ...]:
    """Return (bound, the confidence from which on it is shown) for each of BOUNDS that lets something be accepted."""
    chosen = [(bound, tested.choose_threshold(bound)) for bound in BOUNDS]
    return tuple((bound, threshold.value) for bound, threshold in chosen if not threshold.accepts_nothing)


def compute_curve(
    basis: CurveBasis,
    project: str | None = None,
    *,
    manual_cost: float | None = None,
    target: RoutingTarget | None = None,
) -> ThresholdCurve:
    """Return the curve of a project, or of all together.

    Args:
        manual_cost: what raters cost for one comparison, in the currency of the settings.
        target: what a lead demands there.
    """
    tested = basis.tested
    has_own_bound = target is not None and target.max_error is not None
    threshold = apply_target(tested, tested.choose_threshold(), target, forecasts=has_own_bound)
    pools = [pool for name, pool in basis.pools.items() if project in (None, name)]
    pool = np.concatenate(pools) if pools else np.array([])
    scores = np.sort(pool[np.isfinite(pool)])
    finite = np.isfinite(tested.confidence)
    confidence, wrong = tested.confidence[finite], tested.wrong[finite]
    points = [
        _make_point(
            c, scores, len(pool), confidence, wrong, tested.checked_share, _find_bound(basis.bounds, c), manual_cost
        )
        for c in _choose_confidences(scores, [*(value for _, value in basis.bounds), threshold.value])
    ]
    return ThresholdCurve(
        points=tuple(points),
        now=threshold.value,
        max_error=threshold.max_error,
        delta=tested.delta,
        tested=len(wrong),
        prompts=len(np.unique(tested.prompts[finite])),
        pool=len(pool),
        unlike=len(pool) - len(scores),
        demand=target,
        advice=threshold.advice if has_own_bound else basis.advice,
    )


def _find_bound(bounds: Iterable[tuple[float, float]], confidence: float) -> float | None:
    # Confidences are shown with four places, so what equals a threshold when rounded reaches it.
    return next((bound for bound, value in bounds if value <= confidence + HALF_PLACE), None)


def _choose_confidences(scores: np.ndarray, thresholds: list[float]) -> list[float]:
    """Return the confidences to show: quantiles of the pool, and where a threshold stands."""
    quantiles = np.quantile(scores, np.linspace(0, 1, MOST_POINTS)) if len(scores) else np.linspace(0.5, 1, 26)
    shown = {round(float(c), 4) for c in (*quantiles, *thresholds) if c <= 1}
    return sorted(shown | {1.0})


def _make_point(
    at: float,
    scores: np.ndarray,
    pool: int,
    confidence: np.ndarray,
    wrong: np.ndarray,
    checked_share: float,
    bound: float | None,
    manual_cost: float | None,
) -> CurvePoint:
    sure = (len(scores) - int(np.searchsorted(scores, at - HALF_PLACE))) / pool if pool else 0.0
    accepted = sure * (1 - checked_share)
    of = wrong[confidence >= at - HALF_PLACE]
    error = float(of.mean()) if len(of) else None
    low, high = wilson_interval(int(of.sum()), len(of)) if len(of) else (None, None)
    cost = None if manual_cost is None else (1 - accepted) * manual_cost
    return CurvePoint(at, accepted, 1 - accepted, error, low, high, len(of), bound, cost)
