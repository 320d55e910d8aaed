"""What of a margin goes with length and format: a head may have learnt those in place of what raters care about.

A head reads the length, and its other inputs know length and format too. So how much of a margin goes with them is
measured by a regression of the training margins on the differences in style, without an intercept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_hitl.labels.answer_features import read_format
from rlhf_hitl.reward.rendering import Conversation, count_characters

#: The log of the length, and whether there is a list, a heading, bold text, a code block.
STYLES = ("length", "list", "heading", "bold", "code")


def measure_style(chats: Sequence[Conversation]) -> np.ndarray:
    """Return what STYLES are of each completion, (n, 5)."""
    rows = [
        (
            np.log1p(count_characters(chat.completion)),
            *read_format("\n".join(m.text for m in chat.completion if m.role == "assistant")),
        )
        for chat in chats
    ]
    return np.array(rows, float).reshape(-1, len(STYLES))


def fit_style_effects(margins: np.ndarray, styles: np.ndarray) -> np.ndarray:
    """Return how much of a margin goes with a difference of 1 in each style, (5,).

    Args:
        margins: (n,) of training pairs; styles: (n, 5) of the first completion less those of the second.
    """
    gram = styles.T @ styles + np.eye(styles.shape[1])  # a little ridge: a style that nobody uses has no effect
    return np.linalg.solve(gram, styles.T @ margins)


def is_mostly_style(margins: np.ndarray, styles: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Return whether more than half of each margin goes with length and format, (n,) bool.

    Args:
        styles: (n, 5) differences; effects: (5,), of `fit_style_effects`.
    """
    return (styles @ effects) * np.sign(margins) > np.abs(margins) / 2
