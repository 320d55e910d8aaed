"""Routing: which comparisons go to raters, and which are accepted on the reward model's score.

Start with `router.py` (`route_pool`). `scoring.py` scores what waits, `threshold.py` finds the confidence from which on
the model may decide alone, and `acquisition.py` says which comparisons teach the model most.
"""
