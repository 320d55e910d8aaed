"""rlhf_hitl: people rank, models learn, and only what a model is unsure of comes back to people."""

__version__ = "0.1.0"
