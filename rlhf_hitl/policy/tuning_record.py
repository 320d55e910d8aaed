"""What the record of a tuning says beside its settings: the other arguments of the script, and whose preferences the
policy learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rlhf_hitl.reward.evaluation_record import LabelOrigin

if TYPE_CHECKING:
    from rlhf_hitl.reward.model import RewardModel

#: Arguments that are of one machine or of one run, and not of what is to be run again.
OF_ONE_RUN = ("store", "output_dir", "logging_dir", "resume_from_checkpoint")


def list_arguments(*arguments: Any, **found: Any) -> dict[str, Any]:
    """Return the arguments of a script, apart from its settings: also those at their defaults, which may change.

    Args:
        arguments: dataclasses.
        found: what an argument stands for where it is another than was given, such as the id of the newest reward
            model; left out where it is empty.
    """
    given = {
        f.name: value
        for kind in arguments
        for f in fields(kind)
        if f.name not in OF_ONE_RUN and (value := getattr(kind, f.name)) not in ("", None)
    }
    return given | {name: value for name, value in found.items() if value}


def make_config(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `--config` takes to give the run of a card again.

    The rounds' first policy stands among the arguments: the settings may name that of the round before.
    """
    config = {**card.get("settings", {}), **card.get("arguments", {})}
    # TRL computes one of the two from the other, and refuses to be given both.
    if "steps_per_generation" in config:
        config.pop("generation_batch_size", None)
    return {name: value for name, value in config.items() if name not in OF_ONE_RUN}


def describe_reward_model(model: RewardModel | None) -> dict[str, Any]:
    """Return for a policy's card which reward model it follows, and what labels that learnt from."""
    if model is None:
        return {"reward_model_id": None}
    origin = LabelOrigin.of_card(model.card)
    if origin is None:
        labels = {"reward_model_simulated_labels": None if model.card.get("simulated") else 0}
    else:
        labels = {"reward_model_labels": origin.labels, "reward_model_simulated_labels": origin.simulated}
    return {"reward_model_id": model.id, **labels}


def describe_preferences(card: Mapping[str, Any]) -> str:
    """Return whose preferences a policy learnt, by its card: `raters' preferences`, or what of them is *simulated*."""
    sources = []  # of each source: are some simulated, are all
    if rater_pairs := card.get("rater_pairs"):
        simulated = card.get("simulated_rater_pairs", 0)
        sources.append((simulated > 0, simulated == rater_pairs))
    if card.get("reward_model_id") and card.get("model_pairs", 1):
        labels, simulated = card.get("reward_model_labels"), card.get("reward_model_simulated_labels", 0)
        sources.append((simulated != 0, simulated is not None and simulated > 0 and simulated == labels))
    if not any(some for some, _ in sources):
        return "raters' preferences"
    return "*simulated* preferences" if all(whole for _, whole in sources) else "partly *simulated* preferences"
