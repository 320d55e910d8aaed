"""Routing: which comparisons go to raters, and which are accepted on the reward model's score.

Start with `router.py` (`route_pool`). `scoring.py` scores unjudged comparisons, `threshold.py` finds the confidence
above which the model may decide alone, `rules.py` sends to people what a lead wants them to see, and `acquisition.py`
measures how much a judgment would teach the model.
"""
