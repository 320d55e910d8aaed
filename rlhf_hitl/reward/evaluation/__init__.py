"""Evaluating reward models on held-out judgments.

Start with `evaluate.py`: it scores the labelled pairs of a split and returns the figures (`evaluation_record`, one
package up) and the pairs. `storage` keeps both in a folder, which reports and pages read without loading a model.

- What is measured: `floors` (the rules to beat), `effects` (length, order, ties), `rankings` (three or more
  completions), `slices`, and `rewardbench` (public benchmarks by their own rules).
- Between two models and before a release: `compare`, `gates`.
- What shows it: `plots`, `html_report`, and for a page over any number of pairs `pair_index` and `browse`.
"""
