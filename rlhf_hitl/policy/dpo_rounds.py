"""Rounds of DPO: sample with the policy so far, pair, train, and again (iterative or online DPO).

Source: Xiong et al. 2024, "Iterative preference learning from human feedback: bridging theory and practice for RLHF
under KL-constraint", which keeps the first policy as the reference; Dong et al. 2024, "RLHF workflow".
"""

from __future__ import annotations

import copy
import gc
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from accelerate import PartialState

from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import make_private_folder, write_text_atomically
from rlhf_hitl.policy.dpo import FIGURES, DPOSettings, train_dpo
from rlhf_hitl.policy.dpo_pair import DPOPair
from rlhf_hitl.policy.policy_folder import LOGS, TRAINING_CARD, read_training_card, require_free_folder
from rlhf_hitl.policy.trl_training import list_changed_settings
from rlhf_hitl.reward.vision import ImageLoader


class MadePairs(NamedTuple):
    """The pairs of a round, the same in every process.

    Attributes:
        not_paired: what made no pair, by reason.
        sampled: counts of the fresh answers, as `SamplingCounts` gives them; None where none were sampled.
    """

    pairs: Sequence[DPOPair]
    not_paired: Mapping[str, int]
    sampled: Mapping[str, Any] | None = None


#: Makes the pairs of a round (from 0) for the policy so far.
PairMaker = Callable[[int, str], MadePairs]


def train_dpo_in_rounds(
    settings: DPOSettings,
    make_pairs: PairMaker,
    load_image: ImageLoader | None = None,
    *,
    rounds: int = 1,
    reference: Literal["first", "previous"] = "first",
    data: Any = None,
    card: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train `rounds` times, each time from the policy of the round before, and write the last to `settings.output_dir`.

    Finished rounds are kept beside it until the last one is written, and a call with the same settings goes on after
    them. Returns the figures of the last round, with those of all under `rounds` where there are several.

    Args:
        reference: `first`: every round trains one and the same adapter, and the reference is the policy without it.
            `previous`: a round's reference is the policy it starts from.
        card: more of what the cards of the policies should say.
        data: what else decides about the pairs, in JSON: rounds made with other data are not gone on from.

    Raises:
        BadInput: as of `train_dpo`; or there are finished rounds of other settings.
    """
    out = require_free_folder(settings.output_dir)
    if rounds == 1:
        made = make_pairs(0, settings.model_name_or_path)
        return train_dpo(settings, made.pairs, load_image, not_paired=made.not_paired, sampled=made.sampled, card=card)
    if reference == "previous" and not settings.merge:
        raise BadInput(
            "merge false with reference previous",
            expected="merge true: an adapter of the last round would need the policy of the round before",
            fix="leave merge out, or set reference first",
        )
    kept = out.with_name(f".{out.name}.rounds")
    _require_same_settings(kept, {"settings": list_changed_settings(settings), "reference": reference, "data": data})
    policy, before, done = settings.model_name_or_path, None, []
    for number in range(rounds):
        is_last = number == rounds - 1
        folder = out if is_last else kept / f"round-{number + 1}"
        if not (folder / TRAINING_CARD).is_file():
            made = make_pairs(number, policy)
            is_first_kept = reference == "first"
            of_round = copy.copy(settings)
            of_round.output_dir = str(folder)
            if not is_first_kept:
                of_round.model_name_or_path = policy
            elif not is_last:
                of_round.merge = False
            figures = train_dpo(
                of_round,
                made.pairs,
                load_image,
                not_paired=made.not_paired,
                sampled=made.sampled,
                start_adapter=before if is_first_kept else None,
                card={"round": number + 1, "earlier_rounds": done, "reference": reference} | dict(card or {}),
            )
            gc.collect()  # the trainer before the next one's model is loaded
        else:
            finished = read_training_card(folder)
            figures = {name: finished[name] for name in FIGURES if name in finished}
        done = [*done, {"round": number + 1, **figures}]
        policy, before = str(folder), folder
    if PartialState().is_main_process:
        for logs in kept.glob(f"round-*/{LOGS}"):
            (out / LOGS).mkdir(exist_ok=True)
            logs.rename(out / LOGS / logs.parent.name)
        shutil.rmtree(kept, ignore_errors=True)
    PartialState().wait_for_everyone()
    return figures | {"rounds": done}


def _require_same_settings(kept: Path, plan: dict[str, Any]) -> None:
    """Note the settings of rounds where they begin. Raises BadInput if rounds with other settings are kept there."""
    file, text = kept / "settings.json", json.dumps(plan, indent=2, sort_keys=True, default=str)
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise BadInput(
            f"rounds in {kept}",
            expected="rounds of the same settings, to go on from",
            fix="give the same settings again, remove that folder, or choose another output_dir",
        )
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        make_private_folder(kept)
        write_text_atomically(file, text)
    PartialState().wait_for_everyone()
