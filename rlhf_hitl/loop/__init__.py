"""The loop: rounds of sampling, routing, review, training, tuning and promotion, which can be stopped and resumed.

Start with `runner.py` (`Loop`), which runs the steps of a round and keeps their results; `steps.py` holds the eight
steps, `config.py` their settings.
"""

from rlhf_hitl.loop.config import LoopConfig
from rlhf_hitl.loop.runner import Loop
from rlhf_hitl.loop.steps import ReviewProgress

__all__ = ["Loop", "LoopConfig", "ReviewProgress"]
