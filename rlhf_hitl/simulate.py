"""Simulated raters for demonstrations, tests and benchmarks. Every judgment they make is marked as simulated."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.store import Store, people, queue
from rlhf_hitl.store.judgments import count_judgments_by_rater
from rlhf_hitl.types import Answer, Comparison, Completion, Role, Verdict

SIMULATED_INTERFACE_VERSION = "simulated-1"


@dataclass(frozen=True)
class SimulatedRater:
    """A rater who follows `rate_quality` with some noise.

    Attributes:
        steadiness: scales the quality into logits; 0 decides by coin flips.
        ties: Davidson's nu, how readily the rater calls a tie.
    """

    name: str
    steadiness: float
    ties: float = 0.3


SIMULATED_RATERS = (
    SimulatedRater("simulated-careful", 4.0),
    SimulatedRater("simulated-usual", 2.5),
    SimulatedRater("simulated-hasty", 1.2),
)


#: How good a bundled answer is by the grade that its author gave it.
GRADES = {"good": 1.0, "also good": 0.9, "flawed": 0.0, "bad": -1.0}


def rate_quality(completion: Completion) -> float:
    """Return how good a completion is to a simulated rater: by its author's grade where it has one, else by its form.

    Written answers of the bundled set have a grade. Of others a simulated rater wants about sixty words, few repeats
    and a finished last sentence: a rule that can be checked by eye, and represents nobody's real taste.
    """
    grade = completion.sampling.get("grade")
    if isinstance(grade, str) and grade in GRADES:
        return GRADES[grade]
    words = completion.text.casefold().split()
    if not words:
        return -3.0
    repeats = 1 - len(set(words)) / len(words)
    length = abs(math.log(len(words) / 60))
    finished = completion.text.rstrip()[-1:] in ".!?。؟।)`"
    return 0.8 * finished - 2.0 * repeats - 0.7 * length


def simulate_answer(rater: SimulatedRater, comparison: Comparison) -> Answer:
    """Return a rater's answer to a comparison, the same each time.

    For pairs it follows Davidson's model (1970), with the strength from the difference in quality. More than two
    completions are ranked by quality plus logistic noise, without ties.
    """
    seed = hashlib.sha256(f"{rater.name}:{comparison.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    seconds = float(np.round(rng.lognormal(math.log(20), 0.5), 1))
    values = np.array([rate_quality(c) for c in comparison.completions]) * rater.steadiness
    ids = [c.id for c in comparison.completions]
    if len(ids) > 2:
        noisy = values + rng.logistic(size=len(ids))
        return Answer(Verdict.RANKED, tuple((ids[i],) for i in np.argsort(-noisy)), active_seconds=seconds)
    gap = float(np.clip(values[0] - values[1], -30, 30))
    odds = np.array([math.exp(gap / 2), rater.ties, math.exp(-gap / 2)])
    outcome = int(rng.choice(3, p=odds / odds.sum()))
    if outcome == 1:
        return Answer(Verdict.RANKED, (tuple(ids),), active_seconds=seconds)
    first, second = ids if outcome == 0 else ids[::-1]
    strength = 1 + int(abs(gap) > 1) + int(abs(gap) > 3)
    return Answer(Verdict.RANKED, ((first,), (second,)), strength, active_seconds=seconds)


def judge_queue(store: Store, limit: int) -> int:
    """Let the simulated raters judge in turns until `limit` judgments are made or none of them has work left.

    Returns how many judgments were made.
    """
    names = {r.name for r in people.list_raters(store)}
    for rater in SIMULATED_RATERS:
        if rater.name not in names:
            people.add_rater(store, rater.name, Role.RATER, simulated=True)
    ids = {r.name: r.id for r in people.list_raters(store)}
    judged = 0
    # Whoever has judged least comes first, so that who was stopped and started again asks the same rater.
    done = count_judgments_by_rater(store)
    working = sorted(SIMULATED_RATERS, key=lambda rater: done.get(ids[rater.name], 0))
    while judged < limit and working:
        rater = working.pop(0)
        lease = queue.lease(store, ids[rater.name], seconds=60)  # it answers at once
        if lease is None:
            continue
        queue.submit(
            store,
            lease.id,
            lease.rater_id,
            simulate_answer(rater, lease.comparison),
            interface_version=SIMULATED_INTERFACE_VERSION,
            simulated=True,
        )
        judged += 1
        working.append(rater)
    return judged
