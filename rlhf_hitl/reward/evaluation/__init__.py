"""Evaluating reward models on held-out judgments. Start with `evaluate.py`."""
