"""A head that learns from each label as it comes, and the open comparisons whose order follows it.

The inputs of all open comparisons are one matrix. A label changes the posterior by rank one, so one product of that
matrix with a vector gives the new margin and the new variance of every comparison: nothing is scored again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_hitl.reward.head import Head
from rlhf_hitl.routing.acquisition_names import Rule
from rlhf_hitl.routing.batches import CompletionInputs, Pool, count_earlier, order_for_raters, score_alone

#: So many comparisons at the head of the queue are ordered, shared out among its lanes, and of each lane so many at
#: least. Raters wait while an order is written, and more places would be ordered again before they are reached.
HEAD, LEAST_OF_LANE = 200, 20
#: Among so many times as many the order is looked for; a batch of so many is chosen as a whole.
CANDIDATES_PER_PLACE, BATCH = 4, 100
#: After so many labels margins and variances are computed anew: float32 rounds.
EXACT_EVERY = 500
#: Of a pool whose margins differ by no more than this, the head says the same of all.
SAME = 1e-9


@dataclass(frozen=True)
class OpenInputs:
    """Open comparisons to be followed, n of them.

    Attributes:
        ids: of the comparisons.
        differences: (n, d) the head's inputs of the completion that the registered model chose less those of the other.
        uncertainties: (n,) that the registered model gave them; what its head does not explain is their novelty's.
        lanes: (n,) where they wait.
        families, policy_pairs: of their prompts, and the pairs of policies that they compare.
    """

    ids: Sequence[str]
    differences: np.ndarray
    uncertainties: np.ndarray
    lanes: np.ndarray
    families: Sequence[str]
    policy_pairs: Sequence[str]


class LiveHead:
    """A head and the open comparisons it orders."""

    def __init__(self, head: Head):
        self.registered = self.head = head
        width = len(head.weights)
        self._x = np.zeros((0, width), np.float32)
        self._margins, self._variances, self._novelty = (np.zeros(0, np.float64) for _ in range(3))
        self._lanes, self._prompts, self._pairs = (np.zeros(0, np.int64) for _ in range(3))
        self._waits = np.zeros(0, bool)
        self._ids: list[str] = []
        self._row: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._since_exact = 0

    def __len__(self) -> int:
        """How many comparisons are followed."""
        return int(self._waits[: len(self._ids)].sum())

    @property
    def followed(self) -> set[str]:
        return {id for id, row in self._row.items() if self._waits[row]}

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.head.weights).all() and np.isfinite(self.head.covariance).all())

    @property
    def says_the_same(self) -> bool:
        """Whether all of several comparisons have the same margin, whichever side was chosen."""
        at = self._find_waiting()
        return len(at) > 1 and float(np.ptp(np.abs(self._margins[at]))) <= SAME

    def add(self, new: OpenInputs) -> None:
        """Follow more comparisons; one that was followed before keeps its inputs."""
        self._waits[[self._row[id] for id in new.ids if id in self._row]] = True
        kept = [i for i, id in enumerate(new.ids) if id not in self._row]
        start, stop = len(self._ids), len(self._ids) + len(kept)
        self._make_room(stop)
        x = np.asarray(new.differences, np.float32)[kept]
        self._x[start:stop] = x
        self._lanes[start:stop] = np.asarray(new.lanes)[kept]
        self._prompts[start:stop] = [self._number("p " + new.families[i]) for i in kept]
        self._pairs[start:stop] = [self._number("c " + new.policy_pairs[i]) for i in kept]
        explained = np.einsum("nd,nd->n", x @ self.registered.covariance.astype(np.float32), x)
        self._novelty[start:stop] = np.maximum(np.asarray(new.uncertainties, float)[kept] ** 2 - explained, 0)
        self._waits[start:stop] = True
        for row, i in enumerate(kept, start):
            self._row[new.ids[i]] = row
            self._ids.append(new.ids[i])
        self._compute(start, stop)

    def forget(self, ids: Collection[str]) -> None:
        """Follow some comparisons no more: raters have begun them, or they went elsewhere."""
        for id in ids:
            if (row := self._row.get(id)) is not None:
                self._waits[row] = False

    def learn(self, labels: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
        """Learn labels, each as its inputs (d,) and its new votes (9,), in this order.

        Returns False, and leaves everything as it was, where the head would be no finite numbers afterwards.
        """
        head, changes = self.head, []
        for difference, votes in labels:
            if not (np.isfinite(difference).all() and np.isfinite(votes).all()):
                return False
            if (change := head.find_change(difference, votes)) is not None:
                head = head.changed_by(change)
                changes.append(change)
        if not (np.isfinite(head.weights).all() and np.isfinite(head.covariance).all()):
            return False
        self.head = head
        if not changes:
            return True
        n = len(self._ids)
        self._since_exact += len(changes)
        if self._since_exact >= EXACT_EVERY:
            self._since_exact = 0
            self._compute(0, n)
            return True
        along = self._x[:n] @ np.stack([c.spread for c in changes]).T.astype(np.float32)
        self._margins[:n] += along @ np.array([c.step for c in changes])
        along *= along
        self._variances[:n] -= along @ np.array([c.shrink for c in changes])
        return True

    def start_again(self) -> None:
        """Forget every label that was learnt since the training."""
        self.head, self._since_exact = self.registered, 0
        self._compute(0, len(self._ids))

    def compute_margins(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the margins (n,) of followed comparisons, and their uncertainties."""
        at = np.array([self._row[i] for i in ids], int)
        return self._margins[at], self._get_uncertainties(at)

    def list_lanes(self) -> list[int]:
        return np.unique(self._lanes[self._find_waiting()]).tolist()

    def count_per_lane(self) -> int:
        """Return how many comparisons at the head of each lane are ordered."""
        return max(LEAST_OF_LANE, HEAD // max(1, len(self.list_lanes())))

    def order(self, heads: Collection[str], rule: Rule) -> list[str]:
        """Return the comparisons that should be at the head of their lanes, and those that are there now, in the order
        in which raters are best asked.

        Comparisons that are not followed are left out.

        Args:
            heads: those that stand there now.
        """
        at = self._find_waiting()
        if not len(at):
            return []
        rng, per_lane = np.random.default_rng(0), self.count_per_lane()  # what is equal keeps its order
        scores = score_alone(self._make_pool(at, loads=False), rule, rng)
        best_first = np.lexsort((at, -scores))
        rank_in_lane = count_earlier(self._lanes[at[best_first]])
        candidates = at[best_first[rank_in_lane < CANDIDATES_PER_PLACE * per_lane]]
        pool = self._make_pool(candidates, loads=rule == "d-optimal")
        ordered = candidates[order_for_raters(pool, rule, BATCH, rng).places]
        is_ahead = count_earlier(self._lanes[ordered]) < per_lane
        rows = [self._row[id] for id in heads if id in self._row]
        is_head = np.zeros(len(self._ids), bool)
        is_head[rows] = True
        first = ordered[is_ahead | is_head[ordered]]
        is_head[ordered] = False
        later = at[best_first][is_head[at[best_first]]]
        return [self._ids[row] for row in [*first.tolist(), *later.tolist()]]

    def _find_waiting(self) -> np.ndarray:
        return np.flatnonzero(self._waits[: len(self._ids)])

    def _get_uncertainties(self, at: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(self._variances[at], 0) + self._novelty[at])

    def _make_pool(self, at: np.ndarray, *, loads: bool) -> Pool:
        def load(places: np.ndarray) -> CompletionInputs:
            """Differences as such: the second of each pair is 0."""
            x = self._x[at[places]]
            pairs = np.stack([np.arange(len(x)), np.full(len(x), len(x))], axis=1)
            return CompletionInputs(np.concatenate([x, np.zeros((1, x.shape[1]), np.float32)]), np.array([0]), pairs)

        return Pool(
            self._margins[at], self._get_uncertainties(at), self._prompts[at], self._pairs[at], self.head,
            load if loads else None,
        )  # fmt: skip

    def _compute(self, start: int, stop: int) -> None:
        """Compute margins and variances of some rows anew."""
        x = self._x[start:stop]
        self._margins[start:stop] = x @ self.head.weights.astype(np.float32)
        self._variances[start:stop] = np.einsum("nd,nd->n", x @ self.head.covariance.astype(np.float32), x)

    def _make_room(self, rows: int) -> None:
        if rows <= len(self._x):
            return
        more = max(1024, rows, len(self._x) + len(self._x) // 2) - len(self._x)
        for name in ("_x", "_margins", "_variances", "_novelty", "_lanes", "_prompts", "_pairs", "_waits"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros((more, *old.shape[1:]), old.dtype)]))

    def _number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))
