"""A cascade of answerers in order of cost: the reward model, then AI judges, and people last.

Where the reward model alone is not sure enough, the votes of judges are put together with what it says, and a choice
that they make sure is accepted. It stays the reward model's choice: judges who contradict it make it no surer. So every
answer of the cascade is one choice with a growing confidence, and the whole is tested like the reward model alone, in
one sequence from strict to lenient, at the full delta. Source of the idea: Jung et al. 2024, "Trust or Escalate", who
test a threshold for each judge.

What judges add is learnt from training labels that heads out of fold foretold; the bound's labels test and do nothing
else. Judges have no say in labels here: theirs would agree with them too well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlhf_hitl.errors import NotFound
from rlhf_hitl.labels.fitting import read_labels
from rlhf_hitl.labels.votes import rank_completions, read_votes
from rlhf_hitl.routing.calibration import collect_threshold_labels, find_preferred, read_calibration
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.elsewhere import NO_BAR, Bar
from rlhf_hitl.routing.threshold import Threshold
from rlhf_hitl.routing.threshold_labels import ThresholdLabels
from rlhf_hitl.stats.logistic import fit_logistic
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.witness import read_words
from rlhf_hitl.types import Role, Score, Split
from rlhf_hitl.wording import say_count

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

#: With fewer training labels that a judge has voted on, too, how much it adds is not known.
FEWEST_LABELS = 30
#: What a judge says counts as no surer than this, in logits: shares of few draws may be 0 or 1.
SUREST = 4.0

#: Comparison id → the completion named first, the other, and the judge's log odds that the first is better.
JudgeWords = Mapping[str, tuple[str, str, float]]


@dataclass(frozen=True)
class Cascade:
    """A reward model and the judges after it.

    Attributes:
        names: of the judges, the cheapest first.
        words: of each judge.
        worth: (2,), (3,), ... what the log odds of the model, the first judge, the second and so on count together.
        fitted: training labels that this was learnt from.
        tested: calibration labels with the confidence that the cascade has together; `threshold`: that of it.
        asked: calibration labels on which a judge's vote is known.
    """

    names: tuple[str, ...]
    words: tuple[JudgeWords, ...]
    worth: tuple[np.ndarray, ...]
    fitted: int
    tested: ThresholdLabels
    threshold: Threshold
    asked: int

    def compute_confidence(self, score: Score) -> float | None:
        """Return how sure the cascade is of the model's choice, at least as sure as the model; None where no judge has
        voted."""
        return _combine(score, self.words, self.worth)

    @property
    def reason(self) -> str:
        return f"the reward model with {' and '.join(self.names)}: {self.threshold.reason}"


def choose_cascade(store: Store, model: RewardModel, config: RoutingConfig, bar: Bar = NO_BAR) -> Cascade | str:
    """Return the cascade with the lowest threshold that calibration labels support, or why there is none.

    Where judges have been asked about all that the model is unsure of, what is accepted is what was tested. As long as
    they have been asked about some, those accepted are a part of the tested ones; audits watch them like all others.

    Raises:
        NotFound: there is no judge of a name.
    """
    judges = config.judges
    words = read_judge_words(store, judges)
    columns, wins, prompts = _read_training(store, model, words)
    if (n := len(wins)) < FEWEST_LABELS:
        return (
            f"{' and '.join(judges)} voted on {say_count(n, 'training label')} that raters decided; "
            f"{FEWEST_LABELS} are the fewest that tell what a judge adds. Fix: `rlhf-hitl judges run {judges[0]}`"
        )
    worth = tuple(
        np.maximum(fit_logistic(columns[:, : k + 1], wins, prompts).coefficients, 0) for k in range(1, len(judges) + 1)
    )
    tested = read_calibration(store, model, bar.value)
    combined = [None if t.score is None else _combine(t.score, words, worth) for t in tested]
    asked = sum(c is not None for c in combined)
    if not asked:
        return (
            f"{' and '.join(judges)} voted on no calibration label, which test what is accepted. "
            f"Fix: `rlhf-hitl judges run {judges[0]} --split calibration`"
        )
    together = [t if c is None else t._replace(confidence=c) for t, c in zip(tested, combined)]
    labels = collect_threshold_labels(together, 0, config, bar)
    return Cascade(tuple(judges), words, worth, n, labels, labels.choose_threshold(), asked)


def read_judge_words(store: Store, judges: Sequence[str]) -> tuple[JudgeWords, ...]:
    """Return what each judge says of comparisons of two completions, in every split.

    Raises:
        NotFound: no judge has this name.
    """
    by_name = {r.name: r.id for r in people.list_raters(store) if r.role is Role.JUDGE}
    for name in judges:
        if name not in by_name:
            known = ", ".join(sorted(by_name)) or "none"
            raise NotFound(f"judge {name!r}", expected=f"one of the judges: {known}", fix="see `rlhf-hitl judges list`")
    words: dict[str, dict[str, tuple[str, str, float]]] = {by_name[name]: {} for name in judges}
    for comparison_id, votes in read_votes(store, judges_measure=True):
        for vote in votes:
            if vote.rater_id not in words or len(vote.order_shown) != 2:
                continue
            first, second = vote.order_shown
            if vote.probabilities:
                p = np.clip(np.array(vote.probabilities, float)[[0, 2]], 1e-9, 1)
                odds = float(np.clip(np.log(p[0] / p[1]), -SUREST, SUREST))
            else:
                a, b = rank_completions(vote, (first, second))
                odds = float(np.sign(b - a))
            words[vote.rater_id][comparison_id] = first, second, odds
    return tuple(words[by_name[name]] for name in judges)


def _read_training(
    store: Store, model: RewardModel, words: Sequence[JudgeWords]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, of the training labels on which a judge has voted, the log odds of model and judges (n, 1 + judges) for
    the first completion, whether raters prefer it (n,), and the comparison (n,)."""
    preferred = find_preferred(read_labels(store, split=Split.TRAIN, judges=False))
    rows, wins, of = [], [], []
    for comparison_id, first, second, (p_first, _, p_second) in read_words(store, model.id, set().union(*words)):
        choice = preferred.get((comparison_id, frozenset((first, second))))
        said = [_read_odds(w, comparison_id, first, second) for w in words]
        if choice is None or all(odds is None for odds in said):
            continue
        rows.append([np.log(max(p_first, 1e-9) / max(p_second, 1e-9)), *(odds or 0.0 for odds in said)])
        wins.append(choice == first)
        of.append(comparison_id)
    return np.array(rows, float).reshape(len(rows), 1 + len(words)), np.array(wins, float), np.array(of)


def _read_odds(words: JudgeWords, comparison_id: str, first: str, second: str) -> float | None:
    """Return a judge's log odds that the first of two completions is better; None where it has not voted on them."""
    a, b, odds = words.get(comparison_id, ("", "", 0.0))
    return odds if (a, b) == (first, second) else -odds if (a, b) == (second, first) else None


def _combine(score: Score, words: Sequence[JudgeWords], worth: Sequence[np.ndarray]) -> float | None:
    own = min(max(score.probability, 1e-9), 1 - 1e-9)
    odds, surest = [np.log(own / (1 - own))], None
    for of_judge, coefficients in zip(words, worth):
        said = _read_odds(of_judge, score.comparison_id, score.chosen, score.rejected)
        odds.append(said or 0.0)
        if said is not None:
            together = 1 / (1 + np.exp(-float(coefficients @ odds)))
            surest = max(together, score.probability if surest is None else surest)
    return surest
