"""Measure the time from a judgment to the new head of the queue, with 100 thousand comparisons open, and what raters
feel of it.

    python benchmarks/live.py

Twenty *simulated* raters, threads of one process, take comparisons from the real queue of a store on SQLite, think for
about five seconds, and submit; beside them `rlhf-hitl learn` runs as a process of its own. `reorder_p95_s` is the time
from a judgment that is on disk (its submit has returned) to the commit of the first order of the queue's head that
knows it; `moved` is how many of the places that are ordered changed hands in the median order. `submit_ratio` is the
95th percentile of the raters' submits while it learns over that of blocks in between, in which its process is stopped.
With `--serve` it learns in a thread of the raters' process, as `rlhf-hitl serve --learn` has it.

The texts are short and made up. The head is trained on 300 simulated judgments, with features of SmolLM2's first
layer. Features of the open comparisons are mixed of those, two and two, so that they need not be computed; from there
on all is as in use: texts are rendered, features are read from the cache, margins are the head's.

Left out: raters' browsers and the server between them and the queue; PostgreSQL.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from record import COMMAND, write_result
from servers import fill_store

from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.rendering import Conversation, list_conversations
from rlhf_hitl.reward.training.head_training import train_head
from rlhf_hitl.routing.acquisition import compute_mutual_information
from rlhf_hitl.routing.gain_record import RoutingGains, save_gains
from rlhf_hitl.routing.live import LiveLearner
from rlhf_hitl.store import Store, people, queue
from rlhf_hitl.store.comparisons import compute_queue_position, find_comparisons
from rlhf_hitl.store.live_learning import LiveState, read_live_state
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.store.scores import insert_scores
from rlhf_hitl.store.tables import judgments, places, routings
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    Message,
    Prompt,
    Role,
    Route,
    Score,
    Split,
    Verdict,
    utc_now,
)

WORDS = [
    "sea",
    "sun",
    "poem",
    "rain",
    "thanks",
    "friend",
    "lazy",
    "quick",
    "brown",
    "fox",
    "capital",
    "today",
    "nothing",
    "maybe",
    "good",
    "bad",
    "nice",
    "fine",
]


def take_parts(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(rows)
    while part := list(islice(remaining, size)):
        yield part


def make_comparisons(kind: str, n: int, rng: np.random.Generator) -> Iterator[Comparison]:
    for i in range(n):
        prompt = Prompt.create((Message("user", f"{kind} {i}: {rng.choice(WORDS)}?"),), split=Split.TRAIN)
        texts = [" ".join(rng.choice(WORDS, 7)) + f" {i}.{side}" for side in "ab"]
        yield Comparison.create(prompt, [Completion.create(prompt.id, (Message("assistant", t),), "p") for t in texts])


def answer(comparison: Comparison, rng: np.random.Generator) -> Answer:
    """Simulated raters like the word 'thanks', and toss a coin one time in eight."""
    likes = [c.text.count("thanks") + 0.5 * rng.random() for c in comparison.completions]
    order = np.argsort(likes)[::-1] if rng.random() > 1 / 8 else rng.permutation(2)
    return Answer(Verdict.RANKED, tuple((comparison.completions[i].id,) for i in order), 2)


def judge(store: Store, rater: str, rng: np.random.Generator) -> tuple[str, float, float]:
    """Judge the next comparison. Returns the judgment's id, when it was on disk, and the seconds that took."""
    lease = queue.lease(store, rater, seconds=600)
    assert lease is not None
    said, began = answer(lease.comparison, rng), time.perf_counter()
    receipt = queue.submit(store, lease.id, rater, said, simulated=True)
    done = time.perf_counter()
    return str(receipt.judgment_id), done, done - began


def open_pool(store: Store, model: RewardModel, taught: np.ndarray, n: int, rng: np.random.Generator) -> None:
    """Open comparisons with features, scores and places in line, as `score` and `route` leave them."""
    fill_store(store, make_comparisons("open", n, rng))
    [cache] = model.cache.stores
    found: list[tuple[Score, float]] = []
    with store.read() as conn:
        ids = list(conn.execute(sa.select(places.c.comparison_id).where(places.c.judgment_id.is_(None))).scalars())
    for chunk in take_parts(find_comparisons(store, ids=ids), 10_000):
        chats = [chat for comparison in chunk for chat in list_conversations(comparison)]
        first, second = taught[rng.integers(len(taught), size=(2, len(chats)))]
        share = rng.random((len(chats), 1))
        features = (share * first + (1 - share) * second).astype(np.float32)
        keys = [model.cache.make_key(model.cache.backbone.renderer.render(chat)) for chat in chats]
        cache.write(keys, features)
        lengths = np.array([len(chat.completion[0].text) for chat in chats], float)
        inputs = model.standardiser(features, lengths)
        differences = inputs[::2] - inputs[1::2]
        margins, stds = model.head.margins(differences)
        scores = []
        for comparison, margin, std in zip(chunk, margins.tolist(), stds.tolist()):
            sides = [c.id for c in comparison.completions]
            chosen, rejected = sides if margin >= 0 else sides[::-1]
            scores.append(Score(comparison.id, model.id, chosen, rejected, abs(margin), std, 0.6))
        insert_scores(store, scores)
        information = compute_mutual_information(margins, stds)
        found += zip(scores, information.tolist())
    in_line = [score.comparison_id for score, _ in sorted(found, key=lambda one: -one[1])]
    shared = {"route": "human", "proposed": "human", "round": 0, "reward_model_id": model.id, "reason": "simulated"}
    shared |= {"created_at": utc_now()}
    moved = (
        places.update()
        .where(places.c.comparison_id == sa.bindparam("id"))
        .values(position=sa.bindparam("new"))
    )  # fmt: skip
    for part in take_parts(enumerate(in_line), 10_000):
        with store.write() as conn:
            conn.execute(routings.insert(), [shared | {"comparison_id": id, "place_in_line": n} for n, id in part])
            positions = [(id, compute_queue_position(store, id, Route.HUMAN, 0, n)) for n, id in part]
            conn.execute(moved, [{"id": id, "new": position} for id, position in positions])


class Watch(threading.Thread):
    """Notes when the order of the queue came to know which judgment, and how much it moved."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self.store, self.ended = Store.open(url), threading.Event()
        self.seen: list[tuple[int, float]] = []
        self.moved: list[int] = []

    def run(self) -> None:
        known = -1
        while not self.ended.wait(0.01):
            state = read_live_state(self.store)
            if state is not None and state.revision != known:
                known = state.revision
                self.seen.append((known, time.perf_counter()))
                self.moved.append(state.facts.moved)


def let_raters_work(
    store: Store, raters: list[str], seconds: float, think: float, seed: int
) -> list[tuple[str, float, float]]:
    """Let all raters work for some seconds, and return what they submitted."""
    until, done = time.perf_counter() + seconds, []

    def work(n: int) -> None:
        rng = np.random.default_rng(seed + n)
        time.sleep(think * rng.random())  # they did not all begin at the same moment
        while time.perf_counter() < until:
            done.append(judge(store, raters[n], rng))
            time.sleep(think * rng.uniform(0.8, 1.2))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(raters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


@contextmanager
def learning(store: Store, workspace: Path, in_process: bool) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Learn beside the block, and yield what stops it for a while and what lets it go on."""
    if in_process:
        learners = [LiveLearner(store, workspace)]
        learners[0].start()
        step, may_go_on = learners[0].step, threading.Event()
        may_go_on.set()
        learners[0].step = lambda: may_go_on.wait() and step()
        yield may_go_on.clear, may_go_on.set
        may_go_on.set()
        learners[0].stop()
        return
    env = os.environ | {"RLHF_HITL_WORKSPACE": str(workspace)}
    # What it prints when it stops is no figure.
    process = subprocess.Popen([*COMMAND, "learn", "--store", store.url], env=env, stdout=subprocess.DEVNULL)
    try:
        # Nothing is submitted at that moment, so it holds no lock.
        yield lambda: process.send_signal(signal.SIGSTOP), lambda: process.send_signal(signal.SIGCONT)
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(30)


def wait_for(store: Store, is_so: Callable[[LiveState], bool], seconds: float) -> LiveState:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        state = read_live_state(store)
        if state is not None and is_so(state):
            return state
        time.sleep(0.05)
    raise SystemExit(f"live learning: {read_live_state(store)}")


def find_delays(store: Store, submitted: list[tuple[str, float, float]], seen: list[tuple[int, float]]) -> list[float]:
    """Return the seconds from each judgment to the first order that knows it."""
    with store.read() as conn:
        numbers = {row.id: row.seq for row in conn.execute(sa.select(judgments.c.id, judgments.c.seq))}
    revisions, at = (np.array(column) for column in zip(*seen))
    delays = []
    for id, done, _ in submitted:
        n = int(np.searchsorted(revisions, numbers[id]))
        delays.append(float(at[n]) - done if n < len(at) else float("inf"))
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=100_000)
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--think", type=float, default=5.0, help="Seconds between two answers of a rater.")
    parser.add_argument("--blocks", type=int, default=3, help="So many with and as many without.")
    parser.add_argument("--seconds", type=float, default=60.0, help="Of a block.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default="smollm2-135m-instruct")
    parser.add_argument("--serve", action="store_true", help="Learn in a thread of the raters' process.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n, raters, think, blocks, seconds = args.comparisons, args.raters, args.think, args.blocks, args.seconds
    if args.quick:
        n, raters, think, blocks, seconds = 300, 3, 0.2, 1, 1.5
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        workspace, url = Path(folder), f"sqlite:///{folder}/preferences.db"
        store = Store.open(url, create=True)
        ids = [people.add_rater(store, f"rater {i}", Role.RATER, simulated=True).id for i in range(raters)]
        fill_store(store, make_comparisons("taught", 60 if args.quick else 300, rng))
        for i in range(60 if args.quick else 300):
            judge(store, ids[i % raters], rng)
        model = train_head(store, Backbone(args.backbone, layer=1, pooling="last"), workspace)
        gains = RoutingGains("mutual-information", "it was asked for")
        save_gains(Path(get_reward_model(store, model.id).path), gains)
        chats: list[Conversation] = [chat for c in find_comparisons(store) for chat in list_conversations(c)]
        open_pool(store, model, model.cache.features(chats), n, rng)
        watch = Watch(url)
        watch.start()
        began = time.perf_counter()
        took: dict[bool, list[float]] = {True: [], False: []}
        submitted: list[tuple[str, float, float]] = []
        with learning(store, workspace, args.serve) as (pause, go_on):
            wait_for(store, lambda state: state.facts.open >= 0.99 * n and not state.facts.waiting, 1800)
            loaded = time.perf_counter() - began
            for block in range(2 * blocks):
                learns = block % 2 == 1
                if not learns:
                    pause()
                done = let_raters_work(store, ids, seconds, think, args.seed + 1000 * block)
                took[learns] += [s for _, _, s in done]
                go_on()
                newest = max(done, key=lambda one: one[1])
                with store.read() as conn:
                    number = conn.execute(sa.select(judgments.c.seq).where(judgments.c.id == newest[0])).scalar_one()
                state = wait_for(store, lambda state, number=number: state.revision >= number, 120)
                if learns:
                    submitted += done
                time.sleep(0.5)  # it is idle when it is stopped
        watch.ended.set()
        watch.join()
        delays = np.array(find_delays(store, submitted, watch.seen))
        p95 = {learns: float(np.percentile(of, 95)) for learns, of in took.items()}
        figures: dict[str, float | int | None] = {
            "comparisons": n,
            "raters": raters,
            "judgments": len(took[True]),
            "judgments_per_s": len(took[True]) / (blocks * seconds),
            "reorder_p50_s": float(np.median(delays)),
            "reorder_p95_s": float(np.percentile(delays, 95)),
            "reorder_max_s": float(delays.max()),
            "moved": float(np.median([moved for moved in watch.moved if moved] or [0])),
            "of": state.facts.of,
            "submit_ratio": p95[True] / p95[False],
            "submit_p95_ms": 1000 * p95[True],
            "submit_p95_without_ms": 1000 * p95[False],
            "submit_p50_ms": 1000 * float(np.median(took[True])),
            "submit_p50_without_ms": 1000 * float(np.median(took[False])),
            "load_s": loaded,
            "load": os.getloadavg()[1],
        }
        store.close()
    notes = (
        "Simulated raters, threads of one process, on SQLite; it learns in "
        f"{'a thread of that process' if args.serve else 'a process of its own'}. `load_s`: from its start until all "
        "open comparisons are followed; `load` is the machine's load average over 5 minutes, which shows what else ran."
    )
    write_result("live_serve" if args.serve else "live", figures, seeds=[args.seed], notes=notes, quick=args.quick)


if __name__ == "__main__":
    main()
