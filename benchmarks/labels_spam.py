"""Spammers among simulated raters: how many the checks find within 40 judgments, and how many honest ones they accuse.

A part of `labels.py`. A fifth of the raters draw their answers, a tenth always choose the left; the others judge by
the model of `stats/spammers.py`, with the spread of reliability and tie width that it finds in the crowd of LLMFAO; 39
% of their votes are ties. Everything is simulated, and is marked so in the store. A comparison has three votes, so a
rater can be compared with two others, of whom one in three may be a spammer. Three ways of working are measured: a
project that lets raters qualify on ten golds and has one gold in five afterwards (the figures without a suffix), one
with the latter only, and one without golds.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import timedelta

import numpy as np

from rlhf_hitl.labels.checks import check_raters
from rlhf_hitl.stats.intervals import wilson_interval
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.findings import FindingAction, list_findings
from rlhf_hitl.store.judgments import judgment_to_row
from rlhf_hitl.store.people import add_rater
from rlhf_hitl.store.quality_tables import golds
from rlhf_hitl.store.tables import comparisons, judgments
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Route, Verdict, utc_now

HONEST, RANDOM, LEFT = 0, 1, 2
SHARES = {RANDOM: 0.2, LEFT: 0.1}
JUDGMENTS, OVERLAP, GOLDS = 40, 3, 40
#: Suffix of the figures → golds to begin with, and one in so many afterwards (0: none). They are among the 40
#: judgments.
WAYS = {"": (10, 5), "_golds_only_hidden": (0, 5), "_without_golds": (0, 0)}
STORES = 3
LOOK_EVERY = 5  # judgments of each rater: the checks are run again and again, as a server runs them
#: The median reliability of honest raters, and standard deviations of log reliability, log tie width and position bias.
RELIABILITY, SPREAD, TIE_SPREAD, BIAS_SPREAD = 2.3, 0.47, 0.49, 0.1
TIE_WIDTH = 1.4  # with which 39 % of honest votes are ties


def measure(args: argparse.Namespace) -> tuple[dict[str, float], str]:
    """Return `spam.found`, `spam.false_alarms` and other figures over simulated stores, and a note."""
    seeds, raters = (1, 100) if args.quick else (STORES, 400)
    figures: dict[str, float] = {}
    for name, golds_wanted in WAYS.items():
        counts = np.zeros((2, 3), int)  # found, in all; by kind
        judgments_needed: list[int] = []
        for store in range(seeds):
            kind, found_after = simulate_checks([args.seed, store], raters, *golds_wanted)
            for which in (HONEST, RANDOM, LEFT):
                counts[0, which] += int((found_after[kind == which] <= JUDGMENTS).sum())
                counts[1, which] += int((kind == which).sum())
            judgments_needed += found_after[(kind != HONEST) & (found_after <= JUDGMENTS)].tolist()
        found, spammers = counts[0, [RANDOM, LEFT]].sum(), counts[1, [RANDOM, LEFT]].sum()
        low, high = wilson_interval(int(found), int(spammers))
        highest = wilson_interval(int(counts[0, HONEST]), int(counts[1, HONEST]))[1]
        figures |= {
            f"spam.found{name}": found / spammers,
            f"spam.found{name}_low": low,
            f"spam.found{name}_high": high,
            f"spam.found{name}_random": counts[0, RANDOM] / counts[1, RANDOM],
            f"spam.found{name}_left": counts[0, LEFT] / counts[1, LEFT],
            f"spam.false_alarms{name}": counts[0, HONEST] / counts[1, HONEST],
            f"spam.false_alarms{name}_high": highest,
            f"spam.judgments{name}": float(np.median(judgments_needed)) if judgments_needed else float("nan"),
        }
    note = (
        f"spam: simulated raters, {raters} in each of {seeds} stores, {OVERLAP} votes a comparison; found: paused or "
        f"down-weighted within {JUDGMENTS} judgments, checked after every {LOOK_EVERY}; golds to begin with "
        f"and one in so many afterwards: {WAYS}"
    )
    return figures, note


def simulate_checks(seed: list[int], raters: int, golds_first: int, gold_every: int) -> tuple[np.ndarray, np.ndarray]:
    """Let raters judge in a store of their own while the checks look on.

    Returns (raters,) the kind of each, and after how many judgments a check acted upon them (a large number: never).
    """
    rng = np.random.default_rng(seed)
    kind = np.zeros(raters, int)
    kind[: round(SHARES[RANDOM] * raters)] = RANDOM
    kind[round(SHARES[RANDOM] * raters) : round(sum(SHARES.values()) * raters)] = LEFT
    rng.shuffle(kind)
    found_after = np.full(raters, 10**6)
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/spam.db", create=True) as store:
        crowd = SimulatedCrowd(store, rng, kind, golds_first, gold_every)
        number = {id: n for n, id in enumerate(crowd.ids)}
        for judged in range(LOOK_EVERY, JUDGMENTS + 1, LOOK_EVERY):
            crowd.judge(LOOK_EVERY)
            check_raters(store)
            for finding in list_findings(store):
                if finding.action is not FindingAction.NONE:
                    rater = number[finding.rater_id]
                    found_after[rater] = min(found_after[rater], judged)
    return kind, found_after


class SimulatedCrowd:
    """Simulated raters of a store, its comparisons, and the truth about both."""

    def __init__(self, store: Store, rng: np.random.Generator, kind: np.ndarray, golds_first: int, gold_every: int):
        self.store, self.rng, self.kind = store, rng, kind
        self.is_gold = [
            n < golds_first or bool(gold_every and (n - golds_first) % gold_every == 0) for n in range(JUDGMENTS)
        ]
        raters = len(kind)
        self.ids = [add_rater(store, f"simulated-{n}", Role.RATER, simulated=True).id for n in range(raters)]
        self.reliability = RELIABILITY * np.exp(SPREAD * rng.normal(size=raters))
        self.tie_width = TIE_WIDTH * np.exp(TIE_SPREAD * rng.normal(size=raters))
        self.bias = BIAS_SPREAD * rng.normal(size=raters)
        plain = JUDGMENTS * -(-raters // OVERLAP)
        self.pool = make_comparisons(store, plain + GOLDS)
        # How much better the canonical first completion is. Golds are clear, as leads choose them.
        self.theta = rng.normal(size=plain + GOLDS)
        self.theta[plain:] = rng.choice([-1, 1], GOLDS) * rng.uniform(1.2, 2.2, GOLDS)
        self.golds = np.arange(plain, plain + GOLDS)
        if any(self.is_gold):
            self._write_golds()
        self.gold_order = np.stack([rng.permutation(self.golds) for _ in range(raters)])
        self.judged = 0
        self.places = np.zeros(0, int)  # of the comparisons that wait for their votes

    def _write_golds(self) -> None:
        rows = []
        for n in self.golds.tolist():
            first, second = sorted(c.id for c in self.pool[n].completions)
            ranking = [[first], [second]] if self.theta[n] > 0 else [[second], [first]]
            rows.append(
                {"comparison_id": self.pool[n].id, "project_id": self.pool[n].project, "verdict": Verdict.RANKED.value}
                | {"ranking": ranking, "explanation": "", "purpose": "hidden", "created_at": utc_now()}
            )
        with self.store.write() as conn:
            conn.execute(golds.insert(), rows)
            chosen = comparisons.c.id.in_([row["comparison_id"] for row in rows])
            conn.execute(comparisons.update().where(chosen).values(is_gold=True))

    def judge(self, rounds: int) -> None:
        """Let every rater judge so many comparisons more."""
        rows = []
        for _ in range(rounds):
            if self.is_gold[self.judged]:
                chosen = self.gold_order[:, sum(self.is_gold[: self.judged])]
            else:
                chosen = self._take_places()
            self.judged += 1
            rows += [self._answer(rater, int(n)) for rater, n in enumerate(chosen)]
        with self.store.write() as conn:
            conn.execute(judgments.insert(), rows)

    def _take_places(self) -> np.ndarray:
        """Return a comparison for every rater, each given to up to OVERLAP different ones."""
        raters = len(self.kind)
        first = int(self.places.max()) + 1 if len(self.places) else 0
        # The comparisons of a round are handed out in order to raters in random order, so nobody gets one twice.
        numbers = first + np.arange(raters) // OVERLAP
        self.places = numbers
        return numbers[self.rng.permutation(raters)]

    def _answer(self, rater: int, n: int) -> dict:
        comparison = self.pool[n]
        first, second = sorted(c.id for c in comparison.completions)
        side = int(self.rng.choice([-1, 1]))
        shown = (first, second) if side > 0 else (second, first)
        draw = self.rng.random()
        if self.kind[rater] == RANDOM:
            better = 1 if draw < 1 / 3 else 0 if draw < 2 / 3 else -1
        elif self.kind[rater] == LEFT:
            better = side
        else:
            middle = self.reliability[rater] * self.theta[n] + side * self.bias[rater]
            p_first, p_second = (1 / (1 + np.exp(self.tie_width[rater] - m)) for m in (middle, -middle))
            better = 1 if draw < p_first else -1 if draw > 1 - p_second else 0
        ranking = {1: ((first,), (second,)), 0: ((first, second),), -1: ((second,), (first,))}[better]
        seconds = float(self.rng.lognormal(np.log(20), 0.5))
        return judgment_to_row(
            Answer(Verdict.RANKED, ranking, active_seconds=seconds),
            comparison_id=comparison.id,
            rater_id=self.ids[rater],
            order_shown=shown,
            route=Route.HUMAN.value,
            source="",
            simulated=True,
            idempotency_key=f"{rater}-{self.judged}",
            created_at=utc_now() + timedelta(seconds=self.judged),
        )


def make_comparisons(store: Store, count: int) -> list[Comparison]:
    """Return new comparisons of two completions each."""
    made = []
    for n in range(count):
        prompt = Prompt.create((Message("user", f"Question {n}?"),))
        answers = [Completion.create(prompt.id, (Message("assistant", f"{n}.{j}"),), "policy") for j in range(2)]
        made.append(Comparison.create(prompt, answers, OVERLAP, Route.HUMAN))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    return made
