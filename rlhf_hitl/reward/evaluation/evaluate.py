"""Evaluate a reward model on raters' labels of held-out prompts, beside the floors it has to beat."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.fitting import fit_label_model, read_labels
from rlhf_hitl.reward.evaluation.effects import (
    measure_length_effect,
    measure_order_effect,
    measure_three_way_accuracy,
)
from rlhf_hitl.reward.evaluation.evaluated_pairs import get_sign, make_evaluated_pair, score_correct, select_unseen
from rlhf_hitl.reward.evaluation.floors import (
    find_length_direction,
    load_pairs_of_other_prompts,
    predict_bag_of_words_margins,
)
from rlhf_hitl.reward.evaluation.rankings import measure_k_wise_accuracy, score_rankings
from rlhf_hitl.reward.evaluation.rewardbench import score_benchmark
from rlhf_hitl.reward.evaluation.slices import compute_slice_accuracies, estimate_mean
from rlhf_hitl.reward.evaluation_record import Estimate, EvaluatedPair, Evaluation, LabelOrigin, ReliabilityBin
from rlhf_hitl.reward.labelled_pairs import (
    LabelledPair,
    hash_labelled_pairs,
    load_labelled_pairs,
    select_readable,
)
from rlhf_hitl.reward.model import RewardModel
from rlhf_hitl.reward.readability import LeftOut
from rlhf_hitl.reward.rendering import measure_completion_lengths
from rlhf_hitl.reward.seen_prompts import SeenPrompts
from rlhf_hitl.stats.calibration import estimate_calibration_error, split_into_equal_bins
from rlhf_hitl.stats.ceiling import estimate_noise_ceiling
from rlhf_hitl.store import Store
from rlhf_hitl.types import DEFAULT_LABEL_MODEL, LabelModelName, Split, utc_now
from rlhf_hitl.wording import say_count

log = logging.getLogger(__name__)

MIN_CALIBRATION_LABELS = 20  # with fewer, the training labels show how readily raters call a tie


class NoLabelsToEvaluate(BadInput):
    """A split has no label with a preference about a prompt that the model has not seen."""


def evaluate_reward_model(
    model: RewardModel,
    store: Store,
    *,
    split: Split = Split.HELDOUT,
    home: Store | None = None,
    name: str = "",
    format: str = "",
    replayed: str = "",
    check_order: bool = False,
    label_model: LabelModelName = DEFAULT_LABEL_MODEL,
    include_judges: bool = False,
) -> tuple[Evaluation, list[EvaluatedPair]]:
    """Evaluate a model on the labels of a split. Of the held-out split, labels of prompts that the model has seen are
    left out.

    Args:
        store: where the labels are.
        home: the store whose labels teach the floors and show how readily raters call a tie, if that is another.
        name: of the evaluation; by default the split's.
        format: of the labels' file; a benchmark's format is also scored by the benchmark's own rules.
        replayed: what people call the file or hub id that the labels come from, if they are not the store's own.
        check_order: also compute some pairs anew in both orders: a reward must not depend on the other answer.
        label_model: how votes become labels, and so which side is right. Agreement is of the votes as they were
            given; the ceiling and the calibration weigh them as `Label.said` does.
        include_judges: measure against the votes of AI judges, too: how far the model agrees with other models.

    Returns:
        The figures, and every pair with the model's prediction, ties too, in order of comparison id.

    Raises:
        NoLabelsToEvaluate: no label with a preference in the split.
        BadInput: a reward that is not a finite number.
    """
    fitted = fit_label_model(store, label_model, judges_measure=include_judges)
    split_labels = read_labels(store, split=split, label_model=fitted, judges_measure=include_judges)
    labelled = load_labelled_pairs(store, split, fitted, judges_measure=include_judges)
    left_out = LeftOut("label")
    renderer = model.cache.backbone.renderer
    usable = select_readable(labelled, renderer, left_out)
    for line in left_out.lines():
        log.warning("%s", line)
    seen = model.seen or SeenPrompts.of((), is_complete=False)
    trained_on = [p for p in usable if p.comparison.prompt.family in seen.train]
    calibrated_on = [p for p in usable if p.comparison.prompt.family in seen.calibration - seen.train]
    pairs = select_unseen(usable, seen, split)
    is_decided = np.array([p.label.preferred is not None for p in pairs], bool)
    if not is_decided.any():
        n_seen = len(usable) - len(pairs)
        raise NoLabelsToEvaluate(
            f"{split.value} split of {store.safe_url}: {say_count(len(split_labels), 'label')}",
            expected="at least one with a preference",
            fix="import a preference set or rate comparisons of held-out prompts"
            + (f" (the model has seen the prompts of {say_count(n_seen, 'label')})" if n_seen else "")
            + "".join(f" ({line})" for line in left_out.lines()),
        )
    first, second = [p.first for p in pairs], [p.second for p in pairs]
    margins, stds, probabilities = model.margins(first, second)
    if not np.isfinite(margins).all():
        bad = pairs[int(np.argmin(np.isfinite(margins)))].comparison.id
        raise BadInput(
            f"margin of comparison {bad}", expected="a finite number", fix="train or fetch the reward model again"
        )
    truth = np.array([get_sign(p.label) for p in pairs])
    evaluated = [make_evaluated_pair(p, *values) for p, *values in zip(pairs, margins, stds, probabilities)]

    families = np.array([p.comparison.prompt.family for p in pairs])
    clusters = families[is_decided]
    correct = score_correct(margins * truth)[is_decided]
    longer_is_right = score_correct((measure_completion_lengths(first) - measure_completion_lengths(second)) * truth)[
        is_decided
    ]
    decided = [p for p, has_preference in zip(pairs, is_decided) if has_preference]
    fitted_at_home = fitted if home is None else fit_label_model(home, label_model)
    train, calibration = (
        load_pairs_of_other_prompts(home or store, s, families, fitted_at_home)
        for s in (Split.TRAIN, Split.CALIBRATION)
    )
    word_margins = predict_bag_of_words_margins(train, decided)
    bag_of_words = None
    if word_margins is not None:
        bag_of_words = estimate_mean(score_correct(word_margins * truth[is_decided]), clusters)
    rankings = score_rankings(model, pairs)
    confidence = np.maximum(probabilities, 1 - probabilities)[is_decided]
    ece, ece_low, ece_high = estimate_calibration_error(confidence, correct, clusters)
    scores, score_notes = score_benchmark(format, evaluated, rankings)
    tie_labels = calibration if len(calibration) >= MIN_CALIBRATION_LABELS else train
    tie_labels = select_readable(tie_labels, renderer, LeftOut("label"))
    evaluation = Evaluation(
        name=name or split.value,
        reward_model_id=model.id,
        created_at=utc_now().isoformat(timespec="seconds"),
        data_hash=hash_labelled_pairs(pairs),
        n=len(decided),
        ties=len(pairs) - len(decided),
        dropped=len(split_labels) - len(labelled),
        unreadable=left_out.as_dict(),
        trained_on=len(trained_on),
        accuracy=estimate_mean(correct, clusters),
        longer=estimate_mean(longer_is_right, clusters),
        bag_of_words=bag_of_words,
        ece=ece,
        ece_low=ece_low,
        ece_high=ece_high,
        reliability=tuple(
            ReliabilityBin(float(confidence[i].mean()), estimate_mean(correct[i], clusters[i]))
            for i in split_into_equal_bins(confidence)
        ),
        slices=compute_slice_accuracies(evaluated),
        noise_ceiling=_estimate_noise_ceiling(pairs, is_decided, families),
        simulated=any(p.label.simulated for p in pairs),
        measured_on=LabelOrigin(len(decided), sum(p.label.simulated for p in decided)),
        learnt_from=LabelOrigin.of_card(model.card),
        three_way=measure_three_way_accuracy(model, tie_labels, pairs, probabilities, families),
        length=measure_length_effect(evaluated),
        position=measure_order_effect(model, store, split, pairs, evaluated, check_model=check_order),
        k_wise=measure_k_wise_accuracy(rankings),
        scores=scores,
        score_notes=score_notes,
        split=split.value,
        calibrated_on=len(calibrated_on),
        knows_its_prompts=seen.is_complete,
        shorter_wins=find_length_direction(train) < 0,
        replayed=replayed,
        label_model=label_model,
        by_judges=sum(p.label.judges > 0 for p in decided),
    )
    return evaluation, evaluated


def _estimate_noise_ceiling(
    pairs: Sequence[LabelledPair], is_decided: np.ndarray, families: np.ndarray
) -> Estimate | None:
    votes = np.array([p.label.counted for p in pairs])
    certain = np.array([p.label.adjudicated for p in pairs], bool)
    ceiling = estimate_noise_ceiling(votes[:, 0], votes[:, 2], is_decided, families, certain=certain)
    return None if ceiling is None else Estimate(*ceiling, n=int(is_decided.sum()))
