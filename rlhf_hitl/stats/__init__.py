"""Pure statistics on numbers and NumPy arrays; nothing here knows of stores or models.

- `intervals`: confidence intervals of shares and means, also for clustered examples
- `agreement`: how far raters agree, corrected for chance, with intervals clustered by comparison
- `logistic`: what votes depend on, with errors clustered by prompt
- `paired`: a test that compares two models on the same examples
- `calibration`: whether probabilities are as often right as they say
- `davidson`: ties in pairwise comparisons
- `entropy`: the entropy of a distribution
- `ceiling`: the accuracy that is possible where raters disagree
"""
