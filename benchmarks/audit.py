"""Audits under a drift planted on day 10 of 30, and without one: is automation stopped in time, and never for nothing?

Everything is simulated. A model accepts so many comparisons a day; 5 % are audited, and raters judge them on the next
day, when the acceptances of that day are made already. It errs on half of what the bound allows (0.1) until day 10;
then its error jumps to two, three or five times the bound, or rises to three times within ten days. `stopped` is the
share of runs in which automation was stopped before the true error passed 1.5 times the bound: among all that was
accepted so far, which is what the bound promises, and, harder, among that of the last seven days (`stopped_week`). Of a
jump by itself, the error of the next day passes that at once, whatever is done. `false_stops` are those of a model that
errs on exactly as much as the bound allows, for 30 days: the hardest case that keeps the promise.

`python benchmarks/audit.py` takes a minute.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from record import write_result

from rlhf_hitl.stats.confidence_sequence import compute_log_evidence
from rlhf_hitl.stats.intervals import wilson_interval

BOUND, DELTA, AUDIT_SHARE = 0.1, 0.05, 0.05
DAYS, DRIFT_DAY, WEEK = 30, 10, 7
TOO_MUCH = 1.5
ACCEPTED_A_DAY = (200, 1_000, 5_000)
HEADLINE = 1_000
DRIFTS = {
    "to_2": np.full(DAYS, 2 * BOUND),
    "to_3": np.full(DAYS, 3 * BOUND),
    "to_5": np.full(DAYS, 5 * BOUND),
    "ramp_to_3": BOUND / 2 + np.clip(np.arange(DAYS) - DRIFT_DAY + 2, 0, 10) / 10 * (2.5 * BOUND),
}
NO_DRIFT = {"at_the_bound": BOUND, "at_half_the_bound": BOUND / 2}


def find_stops(error_of_day: np.ndarray, accepted: int, runs: int, rng: np.random.Generator) -> np.ndarray:
    """Return (runs,) the day at whose end automation is stopped, counted from 0; DAYS: never."""
    audits = round(accepted * AUDIT_SHARE)
    wrong = rng.random((runs, DAYS * audits)) < np.repeat(error_of_day, audits)
    has_alarm = compute_log_evidence(wrong, BOUND) >= math.log(1 / DELTA)
    first = np.where(has_alarm.any(axis=1), has_alarm.argmax(axis=1), DAYS * audits)
    judged_on = first // audits + 1  # the day after they were accepted
    return np.minimum(judged_on, DAYS)


def find_last_good_days(error_of_day: np.ndarray) -> tuple[int, int]:
    """Return the last day at whose end the true error is not too much: of all so far, and of the last seven days."""
    days = np.arange(DAYS)
    of_all = np.cumsum(error_of_day) / (days + 1)
    of_week = np.array([error_of_day[max(0, d - WEEK + 1) : d + 1].mean() for d in days])
    return tuple(int((~(of > TOO_MUCH * BOUND + 1e-12)).sum()) - 1 for of in (of_all, of_week))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true", help="a few runs, to show that the benchmark works")
    args = parser.parse_args()
    runs = 20 if args.quick else args.runs
    figures: dict[str, float | int | None] = {"audit.delta": DELTA}
    for accepted in ACCEPTED_A_DAY[:2] if args.quick else ACCEPTED_A_DAY:
        prefix = "audit" if accepted == HEADLINE else f"audit.{accepted}_a_day"
        for name, error in NO_DRIFT.items():
            stops = np.concatenate(
                [find_stops(np.full(DAYS, error), accepted, runs, np.random.default_rng(s)) for s in args.seeds]
            )
            count = int((stops < DAYS).sum())
            key = f"{prefix}.false_stops" + ("" if name == "at_the_bound" else f"_{name}")
            figures |= {key: count / len(stops), f"{key}_high": wilson_interval(count, len(stops))[1]}
        for name, drifted in DRIFTS.items():
            error_of_day = np.where(np.arange(DAYS) < DRIFT_DAY - 1, BOUND / 2, drifted)
            stops = np.concatenate(
                [find_stops(error_of_day, accepted, runs, np.random.default_rng(1_000 + s)) for s in args.seeds]
            )
            key = "" if name == "to_3" else f"_{name}"
            for kind, last in zip(("stopped", "stopped_week"), find_last_good_days(error_of_day)):
                in_time = int((stops <= last).sum())
                figures[f"{prefix}.{kind}{key}"] = in_time / len(stops)
                figures[f"{prefix}.{kind}{key}_low"] = wilson_interval(in_time, len(stops))[0]
            delays = stops[stops < DAYS] - (DRIFT_DAY - 1) + 1
            figures[f"{prefix}.days{key}"] = float(np.median(delays)) if len(delays) else None
    notes = (
        f"Simulated. {runs} runs of {DAYS} days, a drift on day {DRIFT_DAY}, a bound of {BOUND}, delta {DELTA}, "
        f"{AUDIT_SHARE:.0%} audited and judged a day later; {HEADLINE:,} accepted a day where nothing else is said. "
        "The figures without a suffix are of a jump to three times the bound. stopped: before the error of all that "
        "was accepted so far passed 1.5 times the bound; stopped_week: before that of the last seven days did; days: "
        "from the drift to the stop, the median."
    )
    write_result("audit", figures, seeds=args.seeds, notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
