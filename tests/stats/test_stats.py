"""Maths on numbers worked by hand and against reference libraries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlhf_hitl.routing.acquisition import compute_mutual_information
from rlhf_hitl.routing.threshold import choose_threshold, count_prompts_needed
from rlhf_hitl.stats import davidson
from rlhf_hitl.stats.calibration import estimate_calibration_error, split_into_equal_bins
from rlhf_hitl.stats.ceiling import estimate_noise_ceiling, fit_concentration, majority_probability
from rlhf_hitl.stats.intervals import (
    clopper_pearson_upper_bound,
    clustered_mean_interval,
    clustered_share_interval,
    clustered_share_upper_bound,
    wilson_interval,
)
from rlhf_hitl.stats.paired import mcnemar_p_value


def test_wilson_by_hand():
    # 8 of 10: centre (0.8 + z2/20) / (1 + z2/10), half-width by the formula, z = 1.96
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_upper_bound_without_errors_is_the_rule_of_three():
    # (1 - p)^n = delta has the solution p = 1 - delta^(1/n)
    assert clopper_pearson_upper_bound(0, 29, 0.05) == pytest.approx(1 - 0.05 ** (1 / 29))
    assert clopper_pearson_upper_bound(0, 0) == 1.0
    assert clopper_pearson_upper_bound(5, 5) == 1.0


@given(st.integers(0, 60), st.integers(1, 60))
def test_upper_bound_has_the_stated_coverage(errors, n):
    errors = min(errors, n - 1)
    bound = clopper_pearson_upper_bound(errors, n, 0.1)
    # were the true rate the bound, seeing so few errors would have probability delta
    assert stats.binom.cdf(errors, n, bound) == pytest.approx(0.1, abs=1e-6)


def test_clustered_is_wilson_where_every_example_is_its_own_cluster():
    values = np.array([1.0] * 160 + [0.0] * 40)
    low, high = clustered_share_interval(values, np.arange(200))
    assert (low, high) == pytest.approx(wilson_interval(160, 200), abs=0.002)  # but for the t correction


def test_clustered_is_wider_where_examples_of_a_prompt_agree():
    per_prompt = np.random.default_rng(1).integers(0, 2, 40).astype(float)
    values = np.repeat(per_prompt, 10)
    together = clustered_share_interval(values, np.repeat(np.arange(40), 10))
    apart = clustered_share_interval(values, np.arange(400))
    assert together[1] - together[0] > 2.5 * (apart[1] - apart[0])


def test_clustered_does_not_claim_certainty_from_a_few_right_answers():
    low, high = clustered_share_interval(np.ones(5), np.arange(5))
    assert low < 0.6
    assert high == 1.0
    assert clustered_share_interval(np.ones(50), np.zeros(50)) == (0.0, 1.0)


def test_clustered_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        p = rng.beta(3.5, 1.5, 12)  # twelve prompts that differ; the mean is 0.7
        values = (rng.random((12, 15)) < p[:, None]).astype(float).ravel()
        low, high = clustered_share_interval(values, np.repeat(np.arange(12), 15))
        covered += low <= 0.7 <= high
    assert covered / 600 > 0.92


def test_a_clustered_mean_is_students_interval_where_every_example_is_its_own_cluster():
    values = np.random.default_rng(0).normal(0.1, 0.3, 30)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert clustered_mean_interval(values, np.arange(30)) == pytest.approx((expected.low, expected.high))
    assert clustered_mean_interval(np.repeat(values, 3), np.repeat(np.arange(30), 3)) == pytest.approx(
        (expected.low, expected.high)
    )
    assert clustered_mean_interval(values, np.zeros(30)) == (-1, 1)


def test_mcnemar_by_hand():
    # eight of eight for one side: twice 1/256
    assert mcnemar_p_value(8, 0) == pytest.approx(2 / 256)
    assert mcnemar_p_value(0, 8) == mcnemar_p_value(8, 0)
    assert mcnemar_p_value(5, 5) == pytest.approx(1)
    assert mcnemar_p_value(0, 0) == 1


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20), st.floats(0, 100))
def test_davidsons_outcomes_are_probabilities_that_swap_with_the_sides(margins, nu):
    m = np.array(margins)
    p = davidson.davidson_probabilities(m, nu)
    assert p.sum(1) == pytest.approx(np.ones(len(m)))
    assert davidson.davidson_probabilities(-m, nu) == pytest.approx(p[:, ::-1])
    # without ties it is Bradley-Terry
    decided = p[:, 0] + p[:, 2] > 1e-9
    assert (p[:, 0] / (p[:, 0] + p[:, 2]))[decided] == pytest.approx((1 / (1 + np.exp(-m)))[decided])
    assert (davidson.is_tie_likeliest(m, nu) == (p.argmax(1) == 1))[np.ptp(np.sort(p)[:, 1:], 1) > 1e-9].all()


def test_davidson_by_hand():
    # equal answers and nu = 2: half of them are tied
    assert davidson.davidson_probabilities(np.zeros(1), 2.0)[0] == pytest.approx([0.25, 0.5, 0.25])
    assert davidson.fit_nu(np.zeros(8), np.array([1.0, 0, 1, 0, 1, 0, 1, 0])) == pytest.approx(2)
    assert davidson.fit_nu(np.zeros(8), np.zeros(8)) == 0
    # ties win where 2 ln nu exceeds the margin
    assert davidson.is_tie_likeliest(np.array([-1.0, 1.3, 1.4, -1.4]), 2.0).tolist() == [True, True, False, False]
    assert not davidson.is_tie_likeliest(np.array([0.0, 0.1, -3]), 1.0).any()


def test_davidsons_nu_is_recovered_from_simulated_ties():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 20_000)
    ties = rng.random(20_000) < davidson.davidson_probabilities(margins, 1.7)[:, 1]
    assert davidson.fit_nu(margins, ties) == pytest.approx(1.7, rel=0.05)


def test_the_share_with_the_majority_by_hand():
    # uniform shares: after one vote for it the first's share has the density 2p, and 3/4 of that lies above a half
    one, none = np.array([1]), np.array([0])
    assert majority_probability(one, none, 1.0) == pytest.approx(0.75)
    assert majority_probability(none, one, 1.0) == pytest.approx(0.75)
    assert majority_probability(one, one, 1.0) == pytest.approx(0.5)
    assert majority_probability(5 * one, none, 1.0) == pytest.approx(1 - 0.5**6)


@pytest.mark.parametrize("votes", [1, 2, 3, 5])
def test_the_noise_ceiling_is_the_accuracy_of_knowing_what_all_raters_prefer(votes):
    rng = np.random.default_rng(votes)
    truth = rng.beta(0.8, 0.8, 4000)  # share of all raters who prefer the first
    n = np.where(np.arange(4000) % 2, votes, 3)  # half of the pairs have three votes
    first = rng.binomial(n, truth)
    decided = first * 2 != n
    oracle = ((truth > 0.5) == (first * 2 > n))[decided].mean()
    result = estimate_noise_ceiling(first, n - first, decided, np.arange(4000), draws=40)
    assert result is not None
    value, low, high = result
    assert value == pytest.approx(oracle, abs=0.02)
    assert low < value < high < low + 0.05
    assert fit_concentration(first[n > 1], (n - first)[n > 1]) == pytest.approx(0.8, rel=0.15)


def test_without_pairs_of_several_votes_there_is_no_noise_ceiling():
    one = np.ones(500)
    assert estimate_noise_ceiling(one, 0 * one, one > 0, np.arange(500)) is None


def test_the_calibration_error_by_hand():
    # One bin, as for fewer than forty. The model states 0.8 and is right on five of ten: the mean gap is 0.3.
    p, y, each = np.full(10, 0.8), np.array([1.0, 0] * 5), np.arange(10)
    # Pairs of different labels: (3² - (5 * 0.2² + 5 * 0.8²)) / (10 * 9)
    assert estimate_calibration_error(p, y, each)[0] == pytest.approx(((9 - 3.4) / 90) ** 0.5)
    # Two prompts of five labels, whose gaps add up to -1 and 4: the product is below 0, so they share no gap.
    prompts = np.array([0, 1] * 5)
    assert estimate_calibration_error(p, y, prompts)[0] == 0
    # Two bins of twenty with gaps of 0.1 and -0.3, each the mean of gaps that are all alike.
    p = np.repeat([0.6, 0.9], 20)
    y = p - np.repeat([0.1, -0.3], 20)
    value, low, high = estimate_calibration_error(p, y, np.arange(40))
    assert value == pytest.approx(((0.01 + 0.09) / 2) ** 0.5)
    assert low < value < high


@given(st.lists(st.floats(0, 1), max_size=50), st.integers(1, 12))
def test_bins_hold_every_value_once_and_are_of_about_equal_count(values, bins):
    parts = split_into_equal_bins(np.array(values), bins)
    assert sorted(i for part in parts for i in part) == list(range(len(values)))
    assert len({len(part) for part in parts}) <= 2
    assert all(len(part) for part in parts)


def test_there_are_no_more_bins_than_labels_fill():
    assert [len(split_into_equal_bins(np.zeros(n))) for n in (1, 16, 39, 40, 199, 200, 9999)] == [1, 1, 1, 2, 9, 10, 10]


@given(
    st.lists(
        st.tuples(st.floats(0.5, 1), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 30)), min_size=1, max_size=80
    )
)
def test_the_interval_of_a_calibration_error_holds_it(labels):
    p, y, clusters = (np.array(column) for column in zip(*labels))
    value, low, high = estimate_calibration_error(p, y, clusters)
    assert 0 <= low <= value <= high <= 1


@pytest.mark.parametrize("gap", [0.0, 0.15, 0.3])
@pytest.mark.parametrize("n", [16, 100, 400])
def test_the_interval_of_a_calibration_error_covers_the_true_one(n, gap):
    """Of 300 evaluations nine in ten or more; and a model without a gap is not said to have one, however few labels."""
    rng = np.random.default_rng(n)
    covered, values = 0, []
    for _ in range(300):
        p = rng.uniform(0.6, 1, n)
        value, low, high = estimate_calibration_error(p, (rng.random(n) < p - gap).astype(float), np.arange(n))
        covered += low <= gap <= high
        values.append(value)
    assert covered >= 270
    assert np.median(values) == pytest.approx(gap, abs=0.13 if n == 16 else 0.05)


def test_labels_of_one_prompt_widen_the_interval_of_a_calibration_error():
    """Forty prompts of ten labels, on each of which the model is right always or never: they count as forty."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(40), 10)
    covered = {"prompts": 0, "labels": 0}
    for _ in range(300):
        p, y = np.full(400, 0.7), np.repeat(rng.random(40) < 0.7, 10).astype(float)
        for name, clusters in (("prompts", prompts), ("labels", np.arange(400))):
            covered[name] += estimate_calibration_error(p, y, clusters)[1] == 0
    assert covered["prompts"] > 265
    assert covered["labels"] < 200


def test_where_all_labels_are_right_the_interval_says_how_few_they_are():
    value, low, high = estimate_calibration_error(np.full(16, 0.9), np.ones(16), np.arange(16))
    assert (value, low) == (pytest.approx(0.1), 0)
    assert 0.15 < high < 0.3
    assert estimate_calibration_error(np.full(4, 0.9), np.ones(4), np.zeros(4))[1:] == (0, 1)  # one prompt


def test_mutual_information_prefers_doubt_of_the_model_to_disagreement_of_people():
    unsure_model, split_people, sure = compute_mutual_information(np.array([0.0, 0.0, 6.0]), np.array([3.0, 0.01, 0.1]))
    assert unsure_model > 0.2
    assert split_people == pytest.approx(0, abs=1e-3)  # a coin flip, and we know that it is one
    assert sure == pytest.approx(0, abs=1e-3)


def test_mutual_information_against_numerical_integration():
    margin, std = 0.7, 1.3
    w = np.random.default_rng(0).normal(margin, std, 400_000)

    def entropy(p):
        return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))

    p = stats.norm.cdf(w * np.sqrt(np.pi / 8))
    exact = entropy(p.mean()) - entropy(np.clip(p, 1e-12, 1 - 1e-12)).mean()
    assert compute_mutual_information(np.array([margin]), np.array([std]))[0] == pytest.approx(exact, abs=0.01)


def test_a_threshold_needs_enough_prompts_to_show_its_bound():
    assert count_prompts_needed(0.1, 0.05) == 29, "0.9^29 is below 0.05 and 0.9^28 is not"
    needed = count_prompts_needed(0.1, 0.05, clustered=True)
    assert needed == 31, "a little more for the unknown spread between prompts"
    few = choose_threshold(np.full(90, 0.99), np.zeros(90), np.arange(90) % (needed - 1), max_error=0.1, delta=0.05)
    assert few.accepts_nothing
    assert f"{needed} prompts are the fewest" in few.reason
    enough = choose_threshold(np.full(needed, 0.99), np.zeros(needed), np.arange(needed), max_error=0.1, delta=0.05)
    assert enough.value == 0.99
    assert enough.bound <= 0.1


def test_a_threshold_stops_before_the_errors_begin():
    confidence = np.linspace(1, 0.5, 200)
    wrong = (np.arange(200) >= 100).astype(float)
    result = choose_threshold(confidence, wrong, np.arange(200), max_error=0.1, delta=0.05)
    assert confidence[110] < result.value < confidence[50]
    accepted = confidence >= result.value
    assert wrong[accepted].mean() <= 0.1
    assert (result.accepted, result.errors) == (accepted.sum(), wrong[accepted].sum())


@pytest.mark.parametrize("labels", [1, 5])
@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
def test_the_error_bound_holds_as_often_as_it_says(labels, together):
    """400 worlds whose true error at each confidence is known: the bound may break in at most delta of them.

    Each prompt has so many labels. `together` is the chance that a label of a prompt is wrong exactly where its
    prompt's draw says so, and not on its own account: with 1, labels of one prompt say no more than one of them.
    """
    rng = np.random.default_rng(7)
    broken = accepting = 0
    n = 150
    for _ in range(400):
        confidence = rng.uniform(0.5, 1, (n, labels))
        own, shared = rng.random((n, labels)), rng.random((n, 1))
        wrong = (np.where(rng.random((n, labels)) < together, shared, own) > confidence).astype(float)
        prompts = np.repeat(np.arange(n), labels)
        result = choose_threshold(confidence.ravel(), wrong.ravel(), prompts, max_error=0.15, delta=0.1)
        if result.accepts_nothing:
            continue
        accepting += 1
        true_error = 1 - (1 + result.value) / 2  # mean of 1 - c over c uniform on [value, 1]
        broken += true_error > 0.15
    assert accepting > 100
    assert broken / 400 <= 0.1


def test_the_bound_for_clusters_is_that_of_independent_examples_where_there_is_one_in_each():
    values = (np.arange(200) < 14).astype(float)
    alone = clopper_pearson_upper_bound(14, 200)
    assert alone <= clustered_share_upper_bound(values, np.arange(200)) < alone + 0.002
    fourfold = clustered_share_upper_bound(np.repeat(values, 4), np.repeat(np.arange(200), 4))
    assert fourfold == pytest.approx(clustered_share_upper_bound(values, np.arange(200)), abs=0.002)
    assert clustered_share_upper_bound(np.zeros(0), np.zeros(0)) == clustered_share_upper_bound(values, values * 0) == 1


def test_ties_among_confidences_are_accepted_together_or_not_at_all():
    confidence = np.array([0.9] * 40 + [0.6] * 40)
    wrong = np.array([0.0] * 40 + [1.0] * 40)
    result = choose_threshold(confidence, wrong, np.arange(80), max_error=0.1, delta=0.05)
    assert result.value == 0.9
    assert result.accepted == 40
