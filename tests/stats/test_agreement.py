"""Agreement between raters: hand-worked and published cases, the `krippendorff` package, and what cannot be known."""

import time
from fractions import Fraction

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_hitl.stats.agreement import (
    MIN_COMPARISONS,
    Coefficient,
    count_categories,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    measure_agreement,
    measure_rater_agreement,
    pairwise_agreement,
)

N = None
#: Four observers, twelve units, five categories (Krippendorff 2011, *Computing Krippendorff's Alpha-Reliability*).
KRIPPENDORFF_2011 = [
    [1, 1, N, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4],
    [4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2], [N, 5, 5, 5], [N, N, 1, 1], [N, N, 3, N],
]  # fmt: skip
#: Fourteen raters, ten subjects, five categories: the example of Fleiss' kappa in Wikipedia.
FOURTEEN_RATERS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def get_ends(coefficient):
    assert coefficient.low is not None
    assert coefficient.high is not None
    return coefficient.low, coefficient.high


def make_votes(rows):
    """Return (unit, rater, category) of a table with a row a unit and a column a rater; None is no vote."""
    votes = [(u, r, value - 1) for u, row in enumerate(rows) for r, value in enumerate(row) if value is not None]
    return tuple(np.array(column) for column in zip(*votes))


def make_counts(rows, categories):
    unit, _, category = make_votes(rows)
    return count_categories(unit, category, len(rows), categories)


def test_published_examples():
    counts = make_counts(KRIPPENDORFF_2011, 5)
    assert krippendorff_alpha(counts) == pytest.approx(0.743421052631579, abs=1e-12)
    assert krippendorff_alpha(counts, "ordinal") == pytest.approx(0.815387503754881, abs=1e-12)
    # irrCAC 0.4 says so of the same table, which has missing votes and a unit with one vote.
    assert fleiss_kappa(counts) == pytest.approx(0.761169275422411, abs=1e-12)
    assert gwet_ac1(counts) == pytest.approx(0.775444068126995, abs=1e-12)
    assert fleiss_kappa(np.array(FOURTEEN_RATERS)) == pytest.approx(0.209930704422, abs=1e-9)


def test_three_units_by_hand():
    """Votes: (A A B), (A A), (B C), and one alone (C)."""
    counts = np.array([[2, 1, 0], [2, 0, 0], [0, 1, 1], [0, 0, 1]])
    # Pairs that say the same: 1 of 3, 1 of 1, 0 of 1.
    assert pairwise_agreement(counts) == pytest.approx(2 / 5, abs=1e-12)
    observed = (Fraction(1, 3) + 1 + 0) / 3
    shares = [(Fraction(2, 3) + 1) / 4, (Fraction(1, 3) + Fraction(1, 2)) / 4, (Fraction(1, 2) + 1) / 4]
    assert sum(shares) == 1
    by_chance = sum(p * p for p in shares)
    assert fleiss_kappa(counts) == pytest.approx(float((observed - by_chance) / (1 - by_chance)), abs=1e-12)
    by_chance = sum(p * (1 - p) for p in shares) / 2
    assert gwet_ac1(counts) == pytest.approx(float((observed - by_chance) / (1 - by_chance)), abs=1e-12)
    # Of the 7 votes that have another: 4 A, 2 B, 1 C. Unlike coincidences: A-B twice 2/2, B-C twice 1/1.
    disagreement, expected = Fraction(2 + 2, 7), Fraction(7 * 7 - 16 - 4 - 1, 7 * 6)
    assert krippendorff_alpha(counts) == pytest.approx(float(1 - disagreement / expected), abs=1e-12)
    # Ordinal distances, squared: A-B (4/2 + 2/2)², B-C (2/2 + 1/2)², A-C (4/2 + 2 + 1/2)².
    disagreement = Fraction(2 * 9, 7) + Fraction(2, 7) * Fraction(9, 4)
    expected = Fraction(2, 42) * (4 * 2 * 9 + 2 * 1 * Fraction(9, 4) + 4 * 1 * Fraction(81, 4))
    assert krippendorff_alpha(counts, "ordinal") == pytest.approx(float(1 - disagreement / expected), abs=1e-12)


tables = st.lists(st.lists(st.sampled_from([N, 1, 2, 3, 4]), min_size=4, max_size=4), min_size=2, max_size=15)


@settings(max_examples=200, deadline=None)
@given(tables, st.sampled_from(["nominal", "ordinal"]))
def test_alpha_equals_the_krippendorff_package(rows, level):
    """Random tables with votes missing anywhere. Where the package refuses (one category, no two votes), it is None."""
    values = np.array([[np.nan if v is None else v for v in row] for row in rows])
    ours = krippendorff_alpha(make_counts([*rows, [N] * 4, [1, N, N, N]], 4), level)
    paired = [row for row in rows if sum(v is not None for v in row) > 1]
    if len({v for row in paired for v in row if v is not None}) < 2:
        assert ours is None
    else:
        theirs = krippendorff.alpha(values.T, level_of_measurement=level, value_domain=[1, 2, 3, 4])
        assert ours == pytest.approx(theirs, abs=1e-9)


def test_agreement_of_each_rater_by_hand():
    unit, rater, category = make_votes([[1, 1, 2], [1, 1, N], [2, N, 2], [1, N, N]])
    a, b, c, nobody = measure_rater_agreement(unit, rater, category, 4)
    assert (a.share.value, a.vote_pairs, a.comparisons) == (pytest.approx(3 / 4), 4, 3)
    assert (b.share.value, b.vote_pairs, b.comparisons) == (pytest.approx(2 / 3), 3, 2)
    assert (c.share.value, c.vote_pairs, c.comparisons) == (pytest.approx(1 / 3), 3, 2)
    assert (nobody.share, nobody.vote_pairs) == (Coefficient(), 0)
    assert a.share.low is None, "three comparisons are too few for a bootstrap"


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros((0, 3), int),
        np.zeros((5, 3), int),
        np.eye(3, dtype=int),  # one vote a unit
        np.array([[1, 0, 0]]),  # one vote in all
    ],
)
def test_without_two_votes_on_a_unit_nothing_is_known(counts):
    measured = measure_agreement(counts)
    for name in ("alpha_nominal", "alpha_ordinal", "fleiss_kappa", "gwet_ac1", "pairwise"):
        assert getattr(measured, name) == Coefficient(), name
    assert (measured.votes, measured.units, measured.vote_pairs) == (0, 0, 0)


def test_where_all_say_the_same_chance_leaves_nothing_to_explain():
    measured = measure_agreement(np.array([[3, 0, 0]] * 1000))
    assert measured.alpha_nominal == measured.alpha_ordinal == measured.fleiss_kappa == Coefficient()
    # AC1 knows no such paradox: chance is 0 here. Its bootstrap has seen nothing else, so it has no interval.
    assert measured.gwet_ac1 == Coefficient(1.0)
    assert measured.pairwise.value == 1.0
    assert 0.99 < get_ends(measured.pairwise)[0] < 0.999, "Wilson's interval, over comparisons"


def test_all_ties_one_rater_and_perfect_agreement_are_never_nan():
    unit = np.arange(50)
    [alone] = measure_rater_agreement(unit, np.zeros(50, int), np.ones(50, int), 1)
    assert alone.share == Coefficient()
    assert measure_rater_agreement(unit[:0], unit[:0], unit[:0], 2)[1].share == Coefficient()
    perfect = measure_agreement(np.array([[2, 0, 0], [0, 0, 2]] * 20))
    assert perfect.alpha_nominal == Coefficient(1.0)
    assert krippendorff_alpha(np.array([[2], [3]])) is None
    assert gwet_ac1(np.array([[2], [3]])) is None


def test_few_comparisons_have_no_interval():
    counts = np.array([[2, 0], [1, 1], [0, 2]] * 3)
    assert len(counts) < MIN_COMPARISONS
    few = measure_agreement(counts)
    assert few.alpha_nominal.value is not None
    assert few.alpha_nominal.low is None
    assert measure_agreement(np.tile(counts, (2, 1))).alpha_nominal.low is not None


def draw_counts(rng, comparisons, pairs=1, votes=3, noise=0.4):
    """Return counts and clusters of comparisons whose pairs all have the same truth and the same votes."""
    truth = rng.integers(0, 2, comparisons)
    said = np.where(rng.random((comparisons, votes)) < noise, rng.integers(0, 2, (comparisons, votes)), truth[:, None])
    counts = np.stack([(said == c).sum(1) for c in (0, 1)], 1)
    return np.repeat(counts, pairs, axis=0), np.repeat(np.arange(comparisons), pairs)


def test_intervals_are_clustered_by_comparison():
    """Six pairs that repeat each other say no more than one."""
    counts, clusters = draw_counts(np.random.default_rng(0), 200, pairs=6)
    once = measure_agreement(counts[::6])
    repeated = measure_agreement(counts, clusters)
    as_if_independent = measure_agreement(counts)

    def width(measured):
        low, high = get_ends(measured.fleiss_kappa)
        return high - low

    assert repeated.fleiss_kappa.value == pytest.approx(once.fleiss_kappa.value)
    assert width(repeated) == pytest.approx(width(once), rel=0.1)
    assert width(as_if_independent) < 0.55 * width(repeated)


def test_drawing_equal_comparisons_together_is_drawing_them_one_by_one():
    counts, _ = draw_counts(np.random.default_rng(1), 300)
    rng = np.random.default_rng(2)
    one_by_one = [fleiss_kappa(counts[rng.integers(0, 300, 300)]) for _ in range(2000)]
    measured = measure_agreement(counts).fleiss_kappa
    expected = np.quantile(np.array(one_by_one, float), [0.025, 0.975])
    assert get_ends(measured) == pytest.approx(tuple(expected), abs=0.02)


@pytest.mark.parametrize("comparisons", [25, 100])
def test_intervals_hold_what_is_true_as_often_as_they_say(comparisons):
    """Two outcomes, equally frequent; a vote is random with probability 0.4: alpha = kappa = AC1 = 0.36."""
    rng = np.random.default_rng(3)
    held = dict.fromkeys(("alpha_nominal", "fleiss_kappa", "gwet_ac1", "pairwise"), 0)
    runs = 300
    for run in range(runs):
        measured = measure_agreement(draw_counts(rng, comparisons)[0], resamples=400, seed=run)
        for name in held:
            low, high = get_ends(getattr(measured, name))
            held[name] += low <= (0.68 if name == "pairwise" else 0.36) <= high
    assert min(held.values()) > 0.9 * runs, held


def test_a_hundred_thousand_votes_take_seconds():
    rng = np.random.default_rng(4)
    unit, rater, category = (
        rng.integers(0, 40_000, 100_000),
        rng.integers(0, 4000, 100_000),
        rng.integers(0, 3, 100_000),
    )
    began = time.monotonic()
    measured = measure_agreement(count_categories(unit, category, 40_000, 3))
    of_raters = measure_rater_agreement(unit, rater, category, 4000)
    assert time.monotonic() - began < 30  # it takes 4 s on one core
    assert get_ends(measured.alpha_nominal)[0] < 0.01
    assert len(of_raters) == 4000
