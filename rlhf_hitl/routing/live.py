"""Learn from each judgment as it comes, and reorder what raters are asked next, while a server runs.

The head learns in memory. The scores and the thresholds of the registered model stay: what a model may accept was
tested on them. Only the order of what goes to raters by its rank follows the head; what was drawn at random for its
place stays there, and so does what raters have begun.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_hitl.errors import RlhfHitlError
from rlhf_hitl.store import Store
from rlhf_hitl.store.live_learning import LiveFacts, claim, find_routing_model, order_places, release

if TYPE_CHECKING:
    from rlhf_hitl.routing.live_follower import Follower

#: Seconds between two looks for judgments, and between two orders at least: raters wait for a writer.
LOOK_INTERVAL, ORDER_INTERVAL = 0.1, 0.25
#: Seconds between two looks at who learns, which model routes, and what it has routed since.
CLAIM_INTERVAL, ROUTING_INTERVAL, POOL_INTERVAL = 5.0, 2.0, 15.0
#: Seconds until it is tried again where something failed.
RETRY_SECONDS = 10.0

log = logging.getLogger("rlhf_hitl.live")


class LiveLearner:
    """Learns, and orders the head of the queue. Any number of processes may run one on a store: one of them learns.

    Args:
        workspace: where features are.
        on_order: called with the revision of the store that an order knows, once it is written.
    """

    def __init__(self, store: Store, workspace: Path, *, on_order: Callable[[int], None] | None = None):
        self.store, self.workspace, self.on_order = store, workspace, on_order
        self.worker = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name="live-learning", daemon=True)
        self._follower: Follower | None = None
        self._holds = False
        self._written = LiveFacts()
        self._due: dict[str, float] = {}

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        """Wait until somebody calls `stop`."""
        self._thread.join()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=15)

    def run(self) -> None:
        """Learn until `stop` is called."""
        pause = 0.0
        while not self._stop.wait(pause):
            try:
                pause = 0.0 if self.step() else LOOK_INTERVAL
            except Exception as e:  # of any kind: the thread has to go on
                log.error("live learning failed; it begins again from the registered model", exc_info=e)
                self._follower, self._due = None, {}
                pause = RETRY_SECONDS
        if self._holds:
            try:
                release(self.store, self.worker)
            except RlhfHitlError as e:  # somebody takes over all the same, a little later
                log.warning("live learning cannot be handed over: %s", e)

    def step(self) -> bool:
        """Do what is due. Returns whether there is more to do at once."""
        if self._is_due("claim", CLAIM_INTERVAL):
            self._holds = claim(self.store, self.worker)
        if not self._holds:
            self._follower = None
            return False
        if self._is_due("routing", ROUTING_INTERVAL):
            self._look_at_routing()
        follower = self._follower
        if follower is None:
            return False
        follower.learn_new()
        if follower.has_news and self._is_due("order", ORDER_INTERVAL):
            self._order(follower)
            return bool(follower.to_load)
        has_loaded = follower.load_more()
        if self._is_due("facts", CLAIM_INTERVAL) and follower.describe() != self._written:
            self._write(follower.routed.reward_model_id, follower.revision, follower.describe())
        return has_loaded

    def _look_at_routing(self) -> None:
        routed = find_routing_model(self.store)
        if routed is None:
            self._wait("", "no reward model has routed comparisons yet")
            return
        follower = self._follower
        if follower is not None and follower.routed == routed:
            return
        if follower is None or follower.routed.reward_model_id != routed.reward_model_id:
            self._follower = None
            try:
                from rlhf_hitl.routing.live_follower import Follower  # loads SciPy, which a server's start need not

                self._follower = Follower(self.store, routed, self.workspace)
            except (RlhfHitlError, OSError) as e:
                self._wait(routed.reward_model_id, str(e))
                self._due["routing"] = time.monotonic() + RETRY_SECONDS
        elif self._is_due("pool", POOL_INTERVAL):
            follower.look_at_pool(routed)

    def _order(self, follower: Follower) -> None:
        revision = follower.revision
        wanted = follower.find_order()
        ordered = order_places(
            *(self.store, self.worker, wanted),
            reward_model_id=follower.routed.reward_model_id,
            revision=revision,
            facts=asdict(follower.describe()),
        )
        if ordered is None:
            self._holds, self._follower = False, None
            return
        follower.has_news = False
        if wanted:
            follower.ordered = ordered._asdict()
        self._written = follower.describe()
        if self.on_order is not None:
            self.on_order(revision)

    def _wait(self, model_id: str, problem: str) -> None:
        """Say why nothing is learnt."""
        facts = LiveFacts(problem=problem)
        if facts != self._written:
            log.warning("live learning waits: %s", problem)
            self._write(model_id, 0, facts)

    def _write(self, model_id: str, revision: int, facts: LiveFacts) -> None:
        """Write the state without an order."""
        known = {"reward_model_id": model_id, "revision": revision, "facts": asdict(facts)}
        if order_places(self.store, self.worker, (), **known) is None:
            self._holds, self._follower, facts = False, None, LiveFacts()
        self._written = facts

    def _is_due(self, what: str, interval: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + interval
        return True
