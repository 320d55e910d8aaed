"""Pure statistics on numbers and NumPy arrays; nothing here knows of stores or models.

- `intervals`: confidence intervals of shares and means, also for clustered examples
- `agreement`: how far raters agree, corrected for chance, with intervals clustered by comparison
- `logistic`: what votes depend on, with errors clustered by prompt
- `paired`: a test that compares two models on the same examples
- `confidence_sequence`: an error rate that is watched for ever; `sequential`: the test of a win rate that ends once it
  is decided; `length_controlled` and `tag_regressions`: what else is said of a win rate
- `calibration`: whether probabilities are as often right as they say
- `davidson`: ties in pairwise comparisons
- `vote_outcomes`: the nine outcomes of a vote on a pair
- `rater_model`: what is true of each pair and what each rater is like, of votes; `rater_population`, `rater_measuring`,
  `rater_intervals`, `vote_likelihood` and `witness` are its parts
- `entropy`: the entropy of a distribution
- `ceiling`: the accuracy that is possible where raters disagree
"""
