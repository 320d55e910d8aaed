"""Labels: what the judgments of a comparison, taken together, say of each pair of its completions.

Start with `label_models` (votes to labels). `votes` says which judgments are votes, `fitting` fits a label model to
those of a store and is where labels are read, `kept_fits` keeps a fit for pages; `vote_weight` says how much a vote
counts in training.
"""
