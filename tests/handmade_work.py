"""Some weeks of work in a store: judgments, decisions, models and what they cost, each at its time."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from rlhf_hitl.routing.gain_record import Gain, RoutingGains, save_gains
from rlhf_hitl.routing.threshold_labels import make_threshold_labels, save_threshold_labels
from rlhf_hitl.store import Store, people, projects
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.judgments import judgment_to_row
from rlhf_hitl.store.loop_steps import finish_step
from rlhf_hitl.store.reward_models import RewardModelRecord, add_reward_model
from rlhf_hitl.store.tables import comparisons, judgments, places, routings, runs
from rlhf_hitl.store.tables import scores as score_table
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Route, Split, Verdict, utc_now

TOPICS = ("coding", "safety", "support", "writing")


def make_history(
    store: Store,
    folder: Path,
    *,
    days: int = 21,
    a_day: int = 40,
    models: int = 4,
    seed: int = 0,
    judged_again: float = 0.4,
) -> list[Comparison]:
    """Fill a store with `days` of work, of which the last is over: comparisons come in the morning; the model, which
    gets better, accepts those that it is sure of; simulated raters judge the others, a share of them twice. Some of the
    last day wait."""
    rng = random.Random(seed)
    if "support" not in {p.id for p in projects.list_projects(store)}:
        projects.add_project(store, "support")
    raters = [people.add_rater(store, f"{name} {seed}", Role.RATER).id for name in ("ann", "ben", "cem")]
    names = [f"m_{seed}_{n}" for n in range(models)]
    for n, name in enumerate(names):
        _add_model(store, folder / name, name, labels=150 * 2**n, seed=seed + n, newest=n == models - 1)
    made, sure_rows = [], []
    # The last day is one whose judgments are over, at whatever hour of the night this runs.
    last = utc_now() - timedelta(hours=9)
    begin = (last - timedelta(days=days - 1)).replace(hour=6, minute=0, second=0, microsecond=0)
    rows: dict[str, list[dict]] = {"judgments": [], "routings": [], "scores": [], "runs": []}
    came: dict[str, datetime] = {}
    for day in range(days):
        at = begin + timedelta(days=day)
        name = names[min(models - 1, day * models // days)]
        rows["runs"].append(
            {"command": "route", "device": "cpu", "began_at": at, "seconds": 900.0, "outcome": "finished"}
        )
        for n in range(a_day):
            topic = rng.choice(TOPICS)
            prompt = Prompt.create(
                (Message("user", f"{seed} {day} {n}: {topic}?"),), {"topic": topic}, split=Split.TRAIN
            )
            pair = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("one", "two")]
            one = Comparison.create(prompt, pair, project="support" if topic == "support" else "default")
            made.append(one)
            came[one.id] = at
            confidence = min(0.99, 0.5 + rng.random() * (0.35 + 0.15 * day / days))
            first, second = (c.id for c in one.completions)
            rows["scores"].append(
                {"comparison_id": one.id, "reward_model_id": name, "chosen": first, "rejected": second, "margin": 1.0}
                | {
                    "uncertainty": 0.3,
                    "probability": confidence,
                    "rewards": {first: 1.0, second: 0.0},
                    "created_at": at,
                }
            )
            proposed = Route.AUTO if confidence > 0.85 - 0.15 * day / days else Route.HUMAN
            route = Route.CONTROL if rng.random() < 0.15 else proposed
            rows["routings"].append(
                {
                    "comparison_id": one.id,
                    "route": route.value,
                    "proposed": proposed.value,
                    "round": day * models // days + 1,
                }
                | {"place_in_line": n, "reward_model_id": name, "reason": "", "decided_by": None, "created_at": at}
            )
            waits = day == days - 1 and n % 3 == 0
            if route is Route.AUTO:
                sure_rows.append(one.id)
            if route is Route.AUTO or waits:
                continue
            slips = day > days * 0.7
            for rater in rng.sample(raters, 2 if rng.random() < judged_again else 1):
                right = rng.random() < (confidence if rater != raters[2] or not slips else 0.4)
                seconds = rng.lognormvariate(2.9, 0.5) * (1.0 - 0.2 * day / days)
                answer = Answer(
                    Verdict.RANKED, ((first,), (second,)) if right else ((second,), (first,)), active_seconds=seconds
                )
                key = f"{one.id}:{rater}"
                rows["judgments"].append(
                    judgment_to_row(
                        answer, comparison_id=one.id, rater_id=rater, order_shown=(first, second), source="",
                        idempotency_key=key, route=route.value, simulated=True, role=None, guideline_version="1",
                        created_at=at + timedelta(minutes=n + rng.random() * 60),
                    )
                )  # fmt: skip
    rows["judgments"].sort(key=lambda row: row["created_at"])
    with store.write() as conn:
        insert_comparisons(store, conn, made)
        for table in (score_table, routings, judgments, runs):
            if rows[table.name]:
                conn.execute(table.insert(), rows[table.name])
        for at in sorted(set(came.values())):
            own = [id for id, of in came.items() if of == at]
            conn.execute(comparisons.update().where(store.among(comparisons.c.id, own)).values(created_at=at))
        done = {row["comparison_id"] for row in rows["judgments"]} | set(sure_rows)
        conn.execute(places.delete().where(store.among(places.c.comparison_id, done)))
        seq_of = dict(conn.execute(sa.select(routings.c.comparison_id, routings.c.seq)).tuples().all())
        for id in sure_rows:
            accepted = {"route": Route.AUTO.value, "accepted_seq": seq_of[id]}
            conn.execute(comparisons.update().where(comparisons.c.id == id).values(accepted))
    for n in range(models):
        finish_step(store, n + 1, f"promote-{seed}", {}, 0.0)
    return made


def _add_model(store: Store, folder: Path, name: str, *, labels: int, seed: int, newest: bool) -> None:
    folder.mkdir(parents=True)
    add_reward_model(
        store, RewardModelRecord(name, "head", str(folder), "tiny", "sha256:0", True, figures={"train_labels": labels})
    )
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1.0, 900)
    wrong = rng.random(900) > np.minimum(confidence + 0.04 * np.log2(labels / 75), 0.995)
    tested = [(float(c), bool(w), str(n)) for n, (c, w) in enumerate(zip(confidence, wrong))]
    save_threshold_labels(
        folder, make_threshold_labels(tested, out_of_fold=300, max_error=0.1, delta=0.05, checked_share=0.145)
    )
    if newest:
        routed, random = Gain(9e-5, 3e-5, 15e-5, 420, 300), Gain(4e-5, -2e-5, 10e-5, 90, 300)
        gap = Gain(5e-5, -3e-5, 13e-5, 510, 300)
        save_gains(folder, RoutingGains("d-optimal", "its labels gain most", routed, random, gap, simulated=True))
