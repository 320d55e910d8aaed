"""The queue: a rater leases a place, looks at the comparison, and submits an answer.

A place is one wanted judgment of one comparison, so a comparison never gets more judgments than it wants. Start with
`leasing.py` (who holds which place), then `assignment.py` (which place comes next for a rater) and `submission.py`
(an answer becomes a judgment). `overlap.py` asks for more judgments where they are worth it. `gold_places.py` and
`qualifying.py` are about golds; `places.py` is what all share. `counts.py` tells how the queue stands; `locks.py` says
in which order rows are locked.
"""

from rlhf_hitl.store.queue.assignment import ANY_TASK, MOST_HELD, TaskFilter
from rlhf_hitl.store.queue.counts import count_places, count_places_by_lane, sum_places
from rlhf_hitl.store.queue.leasing import (
    LeaseOfAnotherRater,
    expire,
    holds_image,
    lease,
    lease_many,
    load_lease,
    release,
    renew,
    renew_all,
)
from rlhf_hitl.store.queue.overlap import apply_overlap_rule, apply_overlap_rules
from rlhf_hitl.store.queue.submission import correct, submit

__all__ = [
    "ANY_TASK",
    "MOST_HELD",
    "LeaseOfAnotherRater",
    "TaskFilter",
    "apply_overlap_rule",
    "apply_overlap_rules",
    "correct",
    "count_places",
    "count_places_by_lane",
    "expire",
    "holds_image",
    "lease",
    "lease_many",
    "load_lease",
    "release",
    "renew",
    "renew_all",
    "submit",
    "sum_places",
]
