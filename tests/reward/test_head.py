"""The head: its fit, its likelihoods, the weight of a vote."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from reward_examples import make_votes_from_preferences
from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.head_fitting import _find_mode, calibrate_temperature, fit_head
from rlhf_hitl.reward.losses import ordinal_loss
from rlhf_hitl.reward.novelty import Novelty, join_pair
from rlhf_hitl.reward.style import fit_style_effects, is_mostly_style
from rlhf_hitl.reward.training.head_learning import learn_head, leave_prompts_out
from rlhf_hitl.reward.training.vote_weight_choice import choose_vote_weight
from rlhf_hitl.reward.vote_scale import place_cuts
from rlhf_hitl.stats.calibration import estimate_calibration_error
from rlhf_hitl.stats.vote_outcomes import FIRST_UNGRADED, SECOND_UNGRADED, TIE


def test_head_agrees_with_logistic_regression_under_the_same_prior():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    y = (rng.random(400) < expit(x @ rng.normal(size=6))).astype(int)
    mode, _ = _find_mode(x, make_votes_from_preferences(y), np.zeros(6), np.full(6, 2.0), np.zeros(6))
    reference = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    assert np.abs(mode - reference.coef_[0]).max() < 1e-4


def test_evidence_shrinks_noise_and_keeps_signal():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 21))
    noise = fit_head(x, make_votes_from_preferences(rng.random(300) < 0.5))
    signal = fit_head(x, make_votes_from_preferences(rng.random(300) < expit(x[:, :20] @ np.full(20, 1.0))))
    assert noise.precisions[0] > 10 * signal.precisions[0]
    assert np.abs(noise.weights).max() < 0.2


def test_uncertainty_falls_with_labels_and_grows_away_from_them():
    rng = np.random.default_rng(0)
    w = np.r_[np.ones(4), 0.5]

    def fitted(n):
        x = rng.normal(size=(n, 5))
        return fit_head(x, make_votes_from_preferences(rng.random(n) < expit(x @ w)))

    probe = np.ones((1, 5))
    few, many = fitted(40), fitted(2000)
    assert many.margins(probe)[1] < 0.5 * few.margins(probe)[1]
    assert few.margins(10 * probe)[1] == pytest.approx(10 * few.margins(probe)[1])
    assert few.probabilities(*few.margins(probe)) < expit(few.margins(probe)[0])  # doubt moves it to one half


def test_ties_pull_a_margin_to_zero():
    x = np.c_[np.ones((50, 1)), np.zeros((50, 1))]
    wins, even = (fit_head(x, make_votes_from_preferences(np.full(50, share))) for share in (1, 0.5))
    ties = fit_head(x, np.eye(9)[np.full(50, TIE)])
    assert wins.margins(x[:1])[0] > 1
    for neither in (even, ties):
        assert neither.margins(x[:1])[0] == pytest.approx(0, abs=1e-6)


def graded(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences (n, 7), votes (n, 9) of raters who use all of the scale (cuts at 0.5, 1.2, 2), and true margins."""
    rng = np.random.default_rng(seed)
    x = np.c_[rng.normal(size=(n, 6)), rng.normal(size=n)]
    margins = x @ np.r_[rng.normal(size=6), 0.3]
    seen = margins + rng.logistic(size=n)
    outcomes = np.select([seen > c for c in (2, 1.2, 0.5, -0.5, -1.2, -2)], [0, 1, 2, TIE, 6, 7], 8)
    votes = np.eye(9)[outcomes]
    ungraded = rng.random(n) < 0.3
    votes[ungraded, FIRST_UNGRADED], votes[ungraded, SECOND_UNGRADED] = (
        votes[ungraded, :3].sum(1),
        votes[ungraded, 6:].sum(1),
    )
    votes[np.ix_(ungraded, [0, 1, 2, 6, 7, 8])] = 0
    return x, votes, margins


def sum_ordinal_losses(margins: torch.Tensor, votes: np.ndarray, thresholds) -> torch.Tensor:
    """The votes' negative log likelihood as `losses.ordinal_loss` has it."""
    strengths = torch.tensor(votes[:, [0, 1, 2, 4, 6, 7, 8]])
    ungraded = torch.tensor(votes[:, [FIRST_UNGRADED, TIE, SECOND_UNGRADED]]) * torch.tensor([1.0, 0, 1])
    t = torch.as_tensor(thresholds, dtype=torch.float64)
    return (ordinal_loss(margins, strengths, t) + ordinal_loss(margins, ungraded, t[:1])).sum()


def test_a_head_of_strengths_and_ties_is_at_the_mode_of_the_ordinal_loss():
    x, votes, margins = graded(3000)
    head = fit_head(x, votes)
    w = torch.tensor(head.weights, requires_grad=True)
    t = torch.tensor(head.thresholds, requires_grad=True, dtype=torch.float64)
    likelihood = sum_ordinal_losses(torch.tensor(x) @ w, votes, t)
    of_weights, of_thresholds = torch.autograd.grad(likelihood, [w, t])
    prior = np.r_[np.full(6, head.precisions[0]), head.precisions[1]] * head.weights
    assert np.abs(of_weights.numpy() + prior).max() < 1e-2  # of slopes that sum up 3,000 labels
    assert np.abs(of_thresholds.numpy()).max() < 5
    assert head.thresholds == pytest.approx((0.5, 1.2, 2), abs=0.15)
    assert np.corrcoef(head.rewards(x), margins)[0, 1] > 0.99


def test_strengths_teach_more_than_preferences_alone():
    agreed = []
    for seed in range(20):
        x, votes, margins = graded(100, seed)
        plain = make_votes_from_preferences(votes[:, :4].sum(1) + votes[:, TIE] / 2)
        agreed.append([np.corrcoef(fit_head(x, v).rewards(x), margins)[0, 1] for v in (votes, plain)])
    graded_votes, preferences = np.mean(agreed, axis=0)
    assert graded_votes > preferences


def test_probabilities_are_of_raters_who_see_a_difference():
    x, votes, _ = graded(4000)
    head = fit_head(x, votes)
    seen = votes[:, TIE] == 0
    p = head.probabilities(*head.margins(x[seen]))
    first = votes[seen, :4].sum(1)
    right = np.where(p > 0.5, first, 1 - first)
    assert estimate_calibration_error(np.maximum(p, 1 - p), right, np.arange(len(p)))[0] < 0.03


@pytest.mark.parametrize("n", [50, 500])
def test_an_update_after_one_label_agrees_with_a_refit(n):
    """To a tenth of a standard deviation with 50 labels, to a hundredth with 500; prior and thresholds stay."""
    x, votes, _ = graded(n + 20, seed=1)
    head = fit_head(x[:n], votes[:n])
    alpha = np.r_[np.full(6, head.precisions[0]), head.precisions[1]]
    probes = np.random.default_rng(2).normal(size=(100, 7))
    for i in range(n, n + 20):
        updated = head.updated(x[i], votes[i])
        seen = np.r_[0:n, i]
        mode, hessian = _find_mode(x[seen], votes[seen], place_cuts(head.thresholds), alpha, head.weights)
        refitted = Head(mode, np.linalg.inv(hessian), head.precisions, thresholds=head.thresholds)
        (m, s), (again, spread) = updated.margins(probes), refitted.margins(probes)
        assert (np.abs(m - again) / spread).max() < 5 / n
        assert np.abs(s / spread - 1).max() < 5 / n
        assert (s < head.margins(probes)[1]).all()


def test_an_update_without_a_vote_or_a_difference_changes_nothing():
    x, votes, _ = graded(50)
    head = fit_head(x, votes)
    assert head.updated(x[0], np.zeros(9)) is head
    assert head.updated(np.zeros(7), votes[0]) is head


def quirky(prompts: int, each: int, quirk: float, rng: np.random.Generator, weights: np.ndarray):
    """Pairs whose raters go by `weights` and, on each prompt, by something of its own: differences, first preferred,
    prompts."""
    scale = 1 / np.sqrt(1 + np.arange(len(weights)))
    answers = rng.normal(size=(prompts, 6, len(weights))) * scale
    sides = np.array([rng.choice(6, 2, replace=False) for _ in range(prompts * each)])
    of = np.repeat(np.arange(prompts), each)
    x = answers[of, sides[:, 0]] - answers[of, sides[:, 1]]
    own = weights + quirk * rng.normal(size=(prompts, len(weights)))
    first = rng.random(len(of)) < 1 / (1 + np.exp(-(own[of] * x).sum(1)))
    return np.c_[x, np.zeros(len(x))], first.astype(float), of


@pytest.mark.parametrize(("prompts", "each", "quirk"), [(10, 80, 1.5), (400, 1, 0.5)])
def test_the_vote_weight_is_lower_where_votes_about_one_prompt_say_little_about_others(prompts, each, quirk):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=40)
    x, first, of = quirky(prompts, each, quirk, rng, weights)
    others, targets, _ = quirky(400, 1, quirk, rng, weights)

    def loss(vote_weight: float) -> float:
        head = fit_head(x, make_votes_from_preferences(first), vote_weight=vote_weight)
        p = head.probabilities(*head.margins(others))
        return float(-np.mean(targets * np.log(p) + (1 - targets) * np.log1p(-p)))

    vote_weight, losses = choose_vote_weight(x, make_votes_from_preferences(first), of)
    assert losses[vote_weight] == min(losses.values())
    assert (vote_weight < 1) == (each > 1)
    assert loss(vote_weight) <= loss(1.0)


def test_a_vote_weight_of_half_equals_half_a_vote_in_fits_and_updates():
    rng = np.random.default_rng(0)
    x, votes = rng.normal(size=(60, 5)), make_votes_from_preferences((rng.random(60) < 0.5).astype(float))
    half, of_halves = fit_head(x, votes, vote_weight=0.5), fit_head(x, votes / 2)
    assert np.allclose(half.weights, of_halves.weights)
    assert np.allclose(half.updated(x[0], votes[0]).weights, of_halves.updated(x[0], votes[0] / 2).weights)


def make_head(**fields) -> Head:
    return Head(np.array([1.0, 2.0]), np.eye(2) * 0.01, (1.0, 1.0), **fields)


@pytest.mark.parametrize("true_temperature", [0.5, 2.0])
def test_many_prompts_find_the_temperature_and_few_change_little(true_temperature):
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 3, 6000)
    said = (rng.random(6000) < expit(margins / true_temperature)).astype(float)

    def calibrated(n: int, prompts: np.ndarray) -> float:
        return calibrate_temperature(make_head(), margins[:n], np.zeros(n), said[:n], prompts).temperature

    assert calibrated(6000, np.arange(6000)) == pytest.approx(true_temperature, rel=0.12)  # next to 1 within the error
    assert abs(np.log(calibrated(8, np.arange(8)))) < 0.4
    # The same votes say less where they are of few prompts, and of a single one nothing.
    assert abs(np.log(calibrated(200, np.arange(200) // 50))) < abs(np.log(calibrated(200, np.arange(200)))) + 0.05
    assert calibrated(200, np.zeros(200)) == 1


def test_labels_that_no_temperature_fits_best_do_not_run_to_a_bound():
    margins = np.linspace(0.5, 2, 12)
    certain = calibrate_temperature(make_head(), margins, np.zeros(12), np.ones(12), np.arange(12))
    opposed = calibrate_temperature(make_head(), margins, np.zeros(12), np.zeros(12), np.arange(12))
    assert certain.temperature == 1  # twelve prompts make nothing surer
    assert 1 < opposed.temperature < 2.5
    margins, prompts = np.tile(margins, 4), np.arange(48)
    many = calibrate_temperature(make_head(), margins, np.zeros(48), np.ones(48), prompts)
    assert 0.3 < many.temperature < 1
    unknown = calibrate_temperature(make_head(), np.full(3, np.nan), np.zeros(3), np.ones(3), np.arange(3))
    assert unknown.temperature == 1


def test_a_temperature_that_fits_only_by_chance_stays_1():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        margins = rng.normal(0, 2, 200)
        said = (rng.random(200) < expit(margins)).astype(float)
        found.append(calibrate_temperature(make_head(), margins, np.zeros(200), said, np.arange(200) // 2).temperature)
    assert np.mean(np.array(found) == 1) > 0.8


def test_uncertainty_grows_with_novelty_and_moderates_only_beyond_the_usual():
    head = make_head(doubt=2.0)
    difference, novelty = np.array([[1.0, 0.0]] * 3), np.log([0.25, 1.0, 3.0])
    margins, stds = head.margins(difference, novelty)
    assert margins == pytest.approx(1)
    # By hand: 0.01 of the posterior; 4 for each time of the usual odds, of which one is in the margins already.
    assert stds**2 == pytest.approx([0.01, 0.01, 0.01 + 4 * 2])
    assert head.uncertainties(stds, novelty) ** 2 == pytest.approx([0.01 + 4 * 0.25, 0.01 + 4, 0.01 + 4 * 3])
    p = head.probabilities(margins, stds)
    assert p[0] == p[1] > p[2] > 0.5
    of_earlier_version = make_head()
    _, stds = of_earlier_version.margins(difference, novelty)
    assert of_earlier_version.uncertainties(stds, novelty) == pytest.approx(0.1)


def test_prompts_left_out_of_the_posterior_are_those_of_a_fit_without_them():
    rng = np.random.default_rng(0)
    x, prompts = rng.normal(size=(60, 4)), np.repeat(np.arange(20), 3)
    votes = make_votes_from_preferences((rng.random(60) < 0.5).astype(float))
    head = fit_head(x, votes)
    p = expit(x @ head.weights)
    for prompt, stds in zip(range(3), leave_prompts_out(head, x, votes, prompts).reshape(20, 3)):
        rest = prompts != prompt
        hessian = np.diag([head.precisions[0]] * 3 + [head.precisions[1]])
        hessian += (x[rest] * (p * (1 - p))[rest, None]).T @ x[rest]
        expected = np.einsum("nd,de,ne->n", x[~rest], np.linalg.inv(hessian), x[~rest])
        assert stds**2 == pytest.approx(expected, rel=1e-3)


def test_prompts_outside_the_training_axes_are_novel():
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(4, 300))
    prompts = np.repeat(np.arange(60), 4)

    def draw(n: int, axes: np.ndarray) -> np.ndarray:
        return (rng.normal(size=(n, 4)) @ axes + rng.normal(0, 0.1, (n, 300))).astype(np.float32)

    found = Novelty.fit(draw(240, axes), prompts)
    assert found is not None
    novelty, left_out = found
    home, elsewhere = novelty(draw(200, axes)), novelty(draw(200, rng.normal(size=(4, 300))))
    assert np.median(left_out) == pytest.approx(-left_out.std())  # 0 is one standard deviation above the median
    assert abs(np.median(home) - np.median(left_out)) < 0.3
    assert (elsewhere > np.quantile(home, 0.99)).all()
    features = draw(50, axes)  # how long features are says nothing: what is usual is an angle around the mean
    longer = novelty.mean.astype(np.float32) + 3 * (features - novelty.mean.astype(np.float32))
    assert novelty(longer) == pytest.approx(novelty(features), abs=1e-3)
    assert join_pair(np.array([0.0]), np.array([5.0])) == [0]
    assert Novelty.fit(draw(20, axes), np.repeat(np.arange(3), 7)[:20]) is None  # too few prompts to tell


def test_a_margin_that_goes_with_length_is_told_and_taken_away():
    rng = np.random.default_rng(0)
    n = 400
    chars = np.exp(rng.normal(6, 1, 2 * n))
    longer = np.log1p(chars[:n]) - np.log1p(chars[n:])
    features = rng.normal(size=(2 * n, 12)).astype(np.float32)
    features[:, 0] += np.log1p(chars)  # the features know the length, too
    better = longer + 0.7 * (features[:n, 1] - features[n:, 1])
    votes = make_votes_from_preferences(rng.random(n) < expit(better))
    styles, prompts = np.c_[np.log1p(chars), np.zeros((2 * n, 4))], np.arange(n) // 4
    learnt, neutral = (
        learn_head(features, chars, styles, votes, prompts, length_neutral=is_neutral) for is_neutral in (False, True)
    )
    differences = learnt.standardiser.differences(features, chars)
    with_length, without = (x.head.margins(differences)[0] for x in (learnt, neutral))
    assert abs(np.corrcoef(with_length, longer)[0, 1]) > 0.7
    assert abs(np.corrcoef(without, longer)[0, 1]) < 0.05
    assert np.corrcoef(without, features[:n, 1] - features[n:, 1])[0, 1] > 0.8
    assert learnt.head.without_length().weights == pytest.approx(neutral.head.weights)
    mostly = is_mostly_style(with_length, styles[:n] - styles[n:], learnt.head.style_effects)
    assert 0.3 < mostly.mean() < 0.9
    assert not is_mostly_style(without, styles[:n] - styles[n:], neutral.head.style_effects).any()
    with pytest.raises(BadInput, match="train it again"):
        make_head().without_length()


def test_style_effects_are_those_of_a_regression():
    styles = np.array([[1.0, 0, 0, 0, 0], [2, 1, 0, 0, 0], [-1, 0, 0, 0, 0], [0, -1, 0, 0, 0]] * 500)
    effects = fit_style_effects(styles @ np.array([0.5, -1, 0, 0, 0]), styles)
    assert effects == pytest.approx([0.5, -1, 0, 0, 0], abs=0.01)
    # 0.5 of a margin of 0.9 is more than half, of 1.1 it is not, and against the margin it never is.
    at = np.array([[1.0, 0, 0, 0, 0]] * 3)
    assert is_mostly_style(np.array([0.9, 1.1, -0.9]), at, np.array([0.5, 0, 0, 0, 0])).tolist() == [True, False, False]
