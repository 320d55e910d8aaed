"""The loop: rounds of sampling, routing, review, training, tuning and promotion, which can be stopped and resumed.

Start with `runner.py` (`Loop`), which runs the steps of a round and keeps their results; `steps.py` holds the ten
steps, `config.py` their settings.
"""

from rlhf_hitl.loop.config import LoopConfig
from rlhf_hitl.loop.progress import PromotionProgress, ReviewProgress
from rlhf_hitl.loop.runner import Loop

__all__ = ["Loop", "LoopConfig", "PromotionProgress", "ReviewProgress"]
