"""Measure automation under a bound: what is accepted of comparisons, and how often the promise is broken.

    python benchmarks/automation.py --data ../shared/data --workspace DIR

Real votes (MT-Bench, LLMFAO): each label is predicted by a head that saw nothing of its prompt
(`out_of_fold.py`). A resample draws as many prompts as the set has, with replacement, whole; their labels choose the
threshold, and the truth is the set itself: so the error of what is accepted is known, and a threshold that breaks the
bound is counted. Labels are majorities of people that prefer a side. Beside it: an oracle that knows all errors, and
confidence 0.8 with no test. The cascade asks GPT-4's recorded votes where the head is not sure enough: its confidence
in a vote is fitted to the labels of half the prompts, and thresholds are chosen and measured on the other half, with
the head alone and GPT-4 alone on the same half.

Power: 250 labels, delta 0.1, and the accepted share over the oracle's, for simulated judges that are right in 0.7 to
0.9, and real labels drawn one by one. Whether a judge is over- or underconfident changes nothing, for the test reads
confidences as an order only; judges whose order is noisy, or says nothing, and labels that come five to a prompt are
drawn, too. `power.with_training` adds 1,000 training labels out of fold.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from labels_judge import JUDGE, VOTES, join_judge
from out_of_fold import load_out_of_fold
from record import write_result
from scipy.optimize import brentq
from scipy.special import expit, logit

from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.labels.votes import read_votes
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.routing.cascade import Answerer, choose_cascade
from rlhf_hitl.routing.threshold import choose_threshold
from rlhf_hitl.stats.logistic import fit_logistic
from rlhf_hitl.store import Store
from rlhf_hitl.types import Role

SETS, BOUNDS = ("mt_bench", "llmfao"), (0.1, 0.05)
DELTA, FIXED = 0.1, 0.8
LABELS, MORE_LABELS = 250, 1000
ACCURACIES, POWER_BOUNDS = (0.7, 0.75, 0.8, 0.85, 0.9), (0.2, 0.15)
POPULATION = 50_000
