"""Score the comparisons of a store with a reward model, a part on each process.

    accelerate launch -m rlhf_hitl.scripts.score --store postgresql://host/preferences

On CPUs: `rlhf-hitl score --processes 2`.
"""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import PartialState

from rlhf_hitl.arguments import parse_arguments, run_script
from rlhf_hitl.models import find_best_device
from rlhf_hitl.policy.training import DataArguments
from rlhf_hitl.routing.scoring import ScoringSummary, score_pool
from rlhf_hitl.store.runs import record_run
from rlhf_hitl.wording import say_count


def main(argv: Sequence[str] | None = None) -> ScoringSummary:
    """Score this process's part."""
    (data,) = parse_arguments((DataArguments,), argv)
    state = PartialState(cpu=find_best_device() == "cpu")
    with data.open_store() as store, record_run(store, "score"):
        summary = score_pool(store, data.open_reward_model(store), part=state.process_index, parts=state.num_processes)
    state.wait_for_everyone()
    return summary


if __name__ == "__main__":
    run_script(lambda: print(f"scored {say_count(main().scored, 'comparison')}"))
