"""What looks unlike the training prompts is not accepted."""

import numpy as np
import pytest
from routing.test_routing import SURE, comparison, draw, score

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.head import HOME_SHARES
from rlhf_hitl.routing.acceptance import Acceptance
from rlhf_hitl.routing.config import RoutingConfig
from rlhf_hitl.routing.elsewhere import FEWEST, NO_BAR, UNSEEN, Bar, choose_bar, summarise_home
from rlhf_hitl.routing.router import decide_routes
from rlhf_hitl.routing.rules import UNLIKE, count_by_rule
from rlhf_hitl.routing.rules_file import parse_rules
from rlhf_hitl.routing.threshold import find_own_error
from rlhf_hitl.types import Route

USUAL = tuple(float(np.quantile(np.arange(1000) / 1000, q)) for q in HOME_SHARES)


def test_a_pool_from_home_is_cut_at_the_highest_bar():
    pool = np.random.default_rng(0).random(5000)
    assert choose_bar(USUAL, pool) == Bar(USUAL[-1], 0.0)
    assert choose_bar(USUAL, np.array([])) == Bar(USUAL[-1], 0.0)
    assert choose_bar((), pool) == NO_BAR


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_of_a_mixed_pool_hardly_any_below_the_bar_are_from_elsewhere(share):
    rng = np.random.default_rng(1)
    n = 5000
    home, elsewhere = rng.random(round(n * (1 - share))), 0.6 + 0.6 * rng.random(round(n * share))
    bar = choose_bar(USUAL, np.r_[home, elsewhere])
    below = (home <= bar.value).sum(), (elsewhere <= bar.value).sum()
    assert below[0] > 0.4 * len(home)
    assert below[1] < 0.1 * sum(below)
    # A tenth at home and a twentieth from elsewhere, half of which are wrong, make 0.95 e + 0.05 / 2 = 0.1.
    assert bar.elsewhere >= UNSEEN
    assert find_own_error(0.1, 0.05) == pytest.approx(0.075 / 0.95)
    assert find_own_error(0.1, 0.0) == 0.1
    assert find_own_error(0.1, 0.3) == 0, "half of 30 % are more than a tenth"


def test_home_is_what_the_calibration_split_says_where_it_is_large_enough():
    assert summarise_home(np.ones(FEWEST - 1), USUAL) == USUAL
    assert summarise_home(np.full(FEWEST, 7.0), USUAL) == (7.0,) * len(HOME_SHARES)
    assert summarise_home(np.ones(FEWEST), ()) == ()  # a model that has no doubt is barred from nothing


def test_what_is_unlike_goes_to_people_and_only_a_rule_that_says_so_lets_it_pass():
    near, far, unsure = (comparison(i) for i in range(3))
    pool = {c.id: c for c in (near, far, unsure)}
    scores = [score(near, 0.9), score(far, 0.99, uncertainty=2.0), score(unsure, 0.6, uncertainty=2.0)]

    def route(text: str) -> tuple:
        config = RoutingConfig.from_rules(parse_rules(text, "f"), control_share=0, audit_share=0)
        return tuple(decide_routes(scores, pool, Acceptance(SURE, bar=Bar(1.0)), config, 1, draw))

    decisions = route("accept: 0.8")
    assert [d.route for d in decisions] == [Route.AUTO, Route.HUMAN, Route.HUMAN]
    assert decisions[1].reason.startswith(f"rule '{UNLIKE}': it looks unlike the training prompts")
    assert count_by_rule(decisions) == {UNLIKE: {"human": 1}}
    assert [d.route for d in route("accept_unlike_training: true")] == [Route.AUTO, Route.AUTO, Route.HUMAN]
    with pytest.raises(BadInput, match="accept_unlike_training"):
        parse_rules("accept_unlike_training: 1", "f")
