"""Labels: what the judgments of a comparison, taken together, say of each pair of its completions.

Start with `aggregate` (judgments to labels); `vote_weight` says how much a vote counts in training.
"""
