"""What live learning holds in memory: the registered model, its head as it learns, and the comparisons that wait."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlhf_hitl.reward.registry import open_reward_model
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.routing.acquisition_names import Rule
from rlhf_hitl.routing.gain_record import load_gains
from rlhf_hitl.routing.gains import DEFAULT_RULE
from rlhf_hitl.routing.live_head import LiveHead, OpenInputs
from rlhf_hitl.routing.live_labels import LabelFollower, NewLabels, VotesWithdrawn
from rlhf_hitl.routing.ranking import find_split_pairs
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons
from rlhf_hitl.store.judgments import read_store_revision
from rlhf_hitl.store.live_learning import LiveFacts, OpenComparison, RoutedBy, read_heads, read_open_comparisons
from rlhf_hitl.store.reward_models import get_reward_model

#: Open comparisons that are followed, the first in line; and how many are loaded at once.
MOST_OPEN, LOADED_AT_ONCE = 200_000, 64


class Follower:
    """Follows the judgments and the open comparisons of a store with one registered model.

    Attributes:
        revision: of the store, up to which judgments were learnt.
        has_news: whether the order of the queue may be another one than when it was found last.
        to_load: open comparisons whose inputs are still to be loaded, the first in line first.
        problem: why nothing is learnt, and the queue stays as it is; empty where it is.

    Raises:
        NotFound, BadInput: the model cannot be loaded, or keeps no record of what it has learnt.
    """

    def __init__(self, store: Store, routed: RoutedBy, workspace: Path):
        self.store, self.routed = store, routed
        self.model = open_reward_model(store, routed.reward_model_id, workspace, register=False)
        gains = load_gains(Path(get_reward_model(store, routed.reward_model_id).path))
        self.rule: Rule = DEFAULT_RULE if gains is None else gains.rule
        self.head = LiveHead(self.model.head)
        self.to_load: list[OpenComparison] = []
        self.has_news, self.problem, self.beyond = False, "", 0
        self.unread: set[str] = set()
        self.ordered = {"moved": 0, "of": 0, "updated_at": ""}
        if not self.head.is_finite:
            self.problem = "the reward model's head is no finite numbers; train it again"
        elif self.rule == "random":
            self.problem = "raters are asked at random, which no label changes"
        self.labels = LabelFollower(store, self.model)
        self.revision = read_store_revision(store)
        self._learn(self.labels.read_all())
        self.look_at_pool(routed)

    def look_at_pool(self, routed: RoutedBy) -> None:
        """Follow what waits for raters now, and nothing else."""
        rows, self.beyond = read_open_comparisons(self.store, routed.reward_model_id, MOST_OPEN)
        split = find_split_pairs(self.store)
        rows = [row for row in rows if frozenset((row.chosen, row.rejected)) not in split]
        followed = self.head.followed
        self.head.forget(followed - {row.comparison_id for row in rows})
        known = followed | self.unread
        self.to_load = [row for row in rows if row.comparison_id not in known]
        self.routed = routed

    def load_more(self) -> bool:
        """Load the inputs of some more comparisons. Returns whether there were any."""
        rows, self.to_load = self.to_load[:LOADED_AT_ONCE], self.to_load[LOADED_AT_ONCE:]
        if not rows:
            return False
        comparisons = {c.id: c for c in find_comparisons(self.store, ids=[row.comparison_id for row in rows])}
        rows = [row for row in rows if row.comparison_id in comparisons]
        sides, policies = [], []
        for row in rows:
            comparison = comparisons[row.comparison_id]
            pair = [comparison.find_completion(i) for i in (row.chosen, row.rejected)]
            prompt = comparison.prompt
            sides += [Conversation(prompt.messages, c.messages, prompt.tools) for c in pair]
            policies.append("\n".join(sorted(c.policy for c in pair)))
        at_hand = np.all(self.model.cache.are_read(sides).reshape(-1, 2), axis=1).tolist()
        self.unread |= {row.comparison_id for row, is_read in zip(rows, at_hand) if not is_read}
        kept = [i for i, is_read in enumerate(at_hand) if is_read]
        if kept:
            differences = self.model.differences([sides[2 * i] for i in kept], [sides[2 * i + 1] for i in kept])
            self.head.add(
                OpenInputs(
                    [rows[i].comparison_id for i in kept],
                    differences,
                    np.array([rows[i].uncertainty for i in kept]),
                    np.array([rows[i].lane_id for i in kept]),
                    [rows[i].family for i in kept],
                    [policies[i] for i in kept],
                )
            )
        if not self.to_load:
            if not self.problem and self.head.says_the_same:
                self.problem = "the head says the same of all comparisons; train it again"
            self.has_news |= bool(self.labels.learnt)
        return True

    def learn_new(self) -> None:
        """Learn from the judgments that came since the last time.

        Where a vote that was learnt since the training is corrected, everything since then is learnt anew.
        """
        revision = read_store_revision(self.store)
        if revision == self.revision:
            return
        try:
            new = self.labels.read_after(self.revision, revision)
        except VotesWithdrawn:
            self.labels.start_again()
            self.head.start_again()
            new = self.labels.read_all()
        self._learn(new)
        self.revision, self.has_news = revision, True

    def find_order(self) -> list[str]:
        """Return the comparisons at the head of the queue in the order in which they are best asked; none where the
        queue should stay as it is."""
        if self.problem or not self.labels.learnt:
            return []
        heads = read_heads(self.store, self.head.list_lanes(), self.head.count_per_lane())
        return self.head.order(heads, self.rule)

    def describe(self) -> LiveFacts:
        return LiveFacts(
            labels=len(self.labels.learnt),
            votes=round(self.labels.votes, 3),
            open=len(self.head),
            waiting=len(self.to_load),
            beyond=self.beyond,
            unread=len(self.unread) + len(self.labels.unread),
            corrected=len(self.labels.corrected),
            problem=self.problem,
            **self.ordered,
        )

    def _learn(self, new: NewLabels) -> None:
        self.head.forget(new.judged)
        self.to_load = [row for row in self.to_load if row.comparison_id not in new.judged]
        if not self.problem and not self.head.learn(new.labels):
            self.problem = "a label would make the head no finite numbers; train it again"
