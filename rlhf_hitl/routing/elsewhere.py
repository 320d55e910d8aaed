"""What of a pool may be from elsewhere: it looks unlike the training prompts, so no tested error speaks for it.

A comparison at home is as uncertain as those of the calibration split. Of a pool, more than the expected share may be
less certain than that: then it is a mixture, and its share from home is told by how many are as certain as the surer
half of home (Storey 2002, "A direct approach to false discovery rates"). The bar is lowered until hardly any of those
below it are from elsewhere. A pool that looks like home is cut at the highest bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhf_hitl.reward.head import HOME_SHARES

#: A pool with more above the highest bar, half as many again as at home, is a mixture. Of what is below its bar, at
#: most so many may be from elsewhere by what uncertainties tell; so many are taken to be, as some look usual.
MIXED, TOLERATED, UNSEEN = 0.075, 0.01, 0.05
#: Fewer comparisons say too little of what is usual at home.
FEWEST = 40


@dataclass(frozen=True)
class Bar:
    """The uncertainty above which nothing is accepted.

    Attributes:
        value: in logits; infinite where what is usual is not known.
        elsewhere: the share of those below it that is taken to be from elsewhere.
    """

    value: float = np.inf
    elsewhere: float = 0.0

    def tighten(self, max_error: float) -> float:
        """Return the error that may be shown at home so that it is below `max_error` with those from elsewhere, of
        which half are taken to be wrong."""
        return max((max_error - self.elsewhere / 2) / (1 - self.elsewhere), 0.0)


NO_BAR = Bar()


def summarise_home(uncertainties: np.ndarray, usual: tuple[float, ...]) -> tuple[float, ...]:
    """Return the uncertainties below which HOME_SHARES of what is at home are: of comparisons that the model has not
    learnt where there are enough, or else the model's own of left-out training pairs, which seem less certain than they
    are, because the axes were fitted to them.

    Args:
        uncertainties: (n,) of the calibration split; usual: `Head.usual_uncertainties`.
    """
    if not usual or len(uncertainties) < FEWEST:
        return usual
    return tuple(np.quantile(uncertainties, HOME_SHARES).tolist())


def choose_bar(usual: tuple[float, ...], uncertainties: np.ndarray) -> Bar:
    """Return the bar for a pool.

    Args:
        usual: the uncertainties below which HOME_SHARES of what is at home are; empty where none was measured.
        uncertainties: (n,) of the pool.
    """
    if not usual:
        return NO_BAR
    if not len(uncertainties) or np.mean(uncertainties > usual[-1]) <= MIXED:
        return Bar(usual[-1])
    below = np.array([np.mean(uncertainties <= value) for value in usual])
    shares = np.array(HOME_SHARES)
    from_home = min(1.0, float((below / shares).min()))
    elsewhere = np.where(below > 0, 1 - from_home * shares / np.maximum(below, 1e-12), 0.0)
    fitting = np.flatnonzero(elsewhere <= TOLERATED)
    best = int(fitting[-1]) if len(fitting) else int(elsewhere.argmin())
    return Bar(usual[best], float(np.clip(elsewhere[best], UNSEEN, 0.999)))
