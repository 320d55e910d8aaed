"""What the reward model may accept of a pool: the tested threshold, and what narrows it or stands beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_hitl.routing.calibration import choose_home_bar, read_threshold_labels
from rlhf_hitl.routing.cascade import Cascade, choose_cascade
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.elsewhere import NO_BAR, Bar
from rlhf_hitl.routing.threshold import Threshold
from rlhf_hitl.routing.threshold_curve import apply_target
from rlhf_hitl.routing.threshold_labels import save_threshold_labels
from rlhf_hitl.store import Store
from rlhf_hitl.store.automation import read_automation, say_state
from rlhf_hitl.store.reward_models import get_reward_model
from rlhf_hitl.store.routing_targets import read_targets
from rlhf_hitl.types import AutomationState, Score

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel


class Standing(NamedTuple):
    """How sure the answerers are of a comparison, and how sure they have to be.

    `judges` are the names of those whose votes count beside the model's word; empty where it stands alone.
    """

    confidence: float
    threshold: Threshold
    judges: str = ""

    def __str__(self) -> str:
        """Why it is accepted, or is not."""
        who = f"with {self.judges}: " if self.judges else ""
        if self.threshold.accepts_nothing or self.confidence >= self.threshold.value:
            return who + self.threshold.reason
        return f"{who}confidence {self.confidence:.3f} is below {self.threshold.value:.3f}"


@dataclass(frozen=True)
class Acceptance:
    """What may be accepted of a pool.

    Attributes:
        threshold: what the model's confidence has to reach where no judge is heard.
        demanded: project → that threshold there, where a lead demands another.
        cascade: the judges that are heard beside the model, with their threshold; None: none is.
        judged: project → the cascade's threshold there, where a lead demands another.
        unheard: why no judge is heard although some are named.
        bar: what is more uncertain than its value looks unlike the training prompts, and is not accepted.
        halted: project → why nothing is accepted there, in a sentence.
    """

    threshold: Threshold
    demanded: Mapping[str, Threshold] = field(default_factory=dict)
    cascade: Cascade | None = None
    judged: Mapping[str, Threshold] = field(default_factory=dict)
    unheard: str = ""
    bar: Bar = NO_BAR
    halted: Mapping[str, str] = field(default_factory=dict)

    def weigh(self, score: Score, project: str) -> Standing:
        """Return how sure the model is, or the model and the judges who have voted, and how sure they have to be.

        Where judges are heard, their threshold is that of the model's own word, too: it was tested with both, and two
        tests at the full delta would break the bound more often than one.
        """
        if self.cascade is None:
            return Standing(score.probability, self.demanded.get(project, self.threshold))
        threshold = self.judged.get(project, self.cascade.threshold)
        together = self.cascade.compute_confidence(score)
        if together is None or score.probability >= threshold.value:
            return Standing(score.probability, threshold)
        return Standing(together, threshold, " and ".join(self.cascade.names))


def choose_acceptance(store: Store, model: RewardModel, config: RoutingConfig, scores: Sequence[Score]) -> Acceptance:
    """Return what may be accepted of a pool by its scores, and keep the labels that test it beside the model.

    Raises:
        NotFound: there is no judge of a name.
    """
    bar = NO_BAR if config.rules.accept_unlike_training else choose_home_bar(store, model, scores)
    tested = read_threshold_labels(store, model, config, bar)
    save_threshold_labels(Path(get_reward_model(store, model.id).path), tested)
    threshold, targets = tested.choose_threshold(forecasts=True), read_targets(store)
    cascade = choose_cascade(store, model, config, bar) if config.judges else ""
    changes = read_automation(store).values()
    heard = cascade if isinstance(cascade, Cascade) else None
    return Acceptance(
        threshold,
        {name: apply_target(tested, threshold, target, forecasts=True) for name, target in targets.items()},
        heard,
        {} if heard is None else {n: apply_target(heard.tested, heard.threshold, t) for n, t in targets.items()},
        cascade if isinstance(cascade, str) else "",
        bar,
        {c.project: say_state(store, c) for c in changes if c.state is not AutomationState.RUNNING},
    )
