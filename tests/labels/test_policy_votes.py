"""What votes say of policies: who counts, what is left out, and the order that published sets give."""

from __future__ import annotations

from handmade_votes import answer, ask, fill, put_comparisons, vote
from rlhf_hitl.formats.importing import import_path
from rlhf_hitl.labels import policy_votes as p
from rlhf_hitl.labels.policy_report import list_roots, make_policy_report
from rlhf_hitl.labels.policy_votes import read_policy_votes
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.policies import PolicyMethod, record_policy
from rlhf_hitl.store.tables import raters
from rlhf_hitl.types import Comparison, Role


def weigh_rater(store, id, weight):
    with store.write() as conn:
        conn.execute(raters.update().where(raters.c.id == id).values(vote_weight=weight))


def test_a_ranking_of_three_is_three_pairs_that_weigh_half(store, add_raters):
    ann, ben = add_raters(store, 2)
    [three] = put_comparisons(store, 1, k=3)
    policy = {c.policy: n for n, c in enumerate(three.completions)}
    best, tied, other = (policy[f"policy {n}"] for n in (2, 0, 1))
    vote(store, three, ann, f"{best}>{tied}={other}")
    weigh_rater(store, ben, 0.5)
    vote(store, three, ben, f"{best}>{tied}")
    votes = read_policy_votes(store)
    assert votes.policies == ("policy 0", "policy 1", "policy 2")
    assert (votes.votes, len(votes.vote)) == (2, 4)
    report = make_policy_report(votes)
    names = [figures.policy for figures in report.policies]
    first, zero, one = (names.index(f"policy {n}") for n in (2, 0, 1))
    assert report.wins[first][zero] == 0.5 + 0.5
    assert report.wins[first][one] == 0.5
    assert report.ties[zero][one] == report.ties[one][zero] == 0.5


def test_what_says_nothing_of_policies_is_counted_by_name(store, add_raters):
    ann, ben = add_raters(store, 2)
    weigh_rater(store, ben, 0.0)
    prompt = ask()
    made = [
        Comparison.create(prompt, [answer(prompt, "a", one), answer(prompt, "b", other)])
        for one, other in (("x", "y"), ("x", "x"), ("x", "unknown"))
    ]
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    for comparison in made:
        vote(store, comparison, ann, ">")
    vote(store, made[0], ben, ">")
    votes = read_policy_votes(store)
    assert votes.votes == 1
    assert votes.left_out == {p.UNTRUSTED: 1, p.SAME_POLICY: 1, p.NO_POLICY: 1}
    assert any("Left out: 1 pair of answers of one policy" in note for note in make_policy_report(votes).say_notes())


def test_people_judges_and_simulated_raters_are_never_mixed(store, add_raters):
    ann, judge, bot = add_raters(store, 3)
    policies = ("good", "bad")
    fill(store, [judge], 60, seed=2, tastes={"bad": 2}, policies=policies, role=Role.JUDGE.value)
    fill(store, [bot], 60, seed=3, tastes={"bad": 2}, policies=policies, simulated=True)
    alone = make_policy_report(read_policy_votes(store))
    assert (alone.population, alone.policies[0].policy) == ("simulated", "bad")
    assert any("simulated" in note for note in alone.say_notes())
    fill(store, [ann], 60, seed=1, tastes={"good": 2}, policies=policies)
    report = make_policy_report(read_policy_votes(store))
    assert (report.population, report.policies[0].policy) == ("people", "good")
    assert report.counts == {"people": 60, "judges": 60, "simulated": 60}
    assert make_policy_report(read_policy_votes(store, "judges")).policies[0].policy == "bad"


def test_where_nearly_all_is_tied_the_scale_is_said_to_be_stretched(store, add_raters):
    [ann] = add_raters(store, 1)
    prompts = [ask(f"Question {i}?") for i in range(24)]
    made = [Comparison.create(q, [answer(q, "a", "good"), answer(q, "b", "alike")]) for q in prompts]
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    for comparison in made[2:4]:
        vote(store, comparison, ann, "=")
    assert not make_policy_report(read_policy_votes(store)).is_stretched, "who only tied is as good: nothing stretches"
    for comparison in made[:2]:
        vote(store, comparison, ann, ">")
    assert not make_policy_report(read_policy_votes(store)).is_stretched
    for comparison in made[4:]:
        vote(store, comparison, ann, "=")
    report = make_policy_report(read_policy_votes(store))
    assert report.tie_rate > 0.9
    assert any("stretches the scale" in note for note in report.say_notes())


def test_filters_by_tag_and_style_control(store, add_raters):
    both = add_raters(store, 2)
    fill(store, both, 150, seed=1, tastes={"good": 2}, policies=("good", "bad"), topic="code")
    fill(store, both, 150, seed=2, tastes={"bad": 2, "bold": 2}, policies=("good", "bad"), topic="poems")
    votes = read_policy_votes(store, with_style=True)
    _, tags = votes.count_choices()
    assert set(tags["topic"]) == {"code", "poems"}
    code = make_policy_report(votes, tags={"topic": "code"})
    poems = make_policy_report(votes, tags={"topic": "poems"}, style_control=True)
    assert (code.policies[0].policy, poems.policies[0].policy) == ("good", "bad")
    assert code.pairs + poems.pairs == len(votes.vote)
    assert code.left_out[p.FILTERED] == poems.pairs
    worth = {s.feature: s for s in poems.style}
    assert worth["bold"].low > 0
    assert abs(worth["headings"].value) < 1e-9, "no answer has one"
    assert poems.policies[0].plain_rating != poems.policies[0].rating
    assert make_policy_report(votes, language="xx").policies == []


def test_win_rates_are_against_the_root_of_the_longest_line(store, add_raters):
    fill(store, add_raters(store, 1), 120, tastes={"tuned": 1}, policies=("base", "tuned", "other"))
    assert make_policy_report(read_policy_votes(store), list_roots(store)).base is None
    record_policy(store, "other", path="other", method=PolicyMethod.BASE)
    record_policy(store, "tuned", path="tuned", parent="base", method=PolicyMethod.DPO)
    report = make_policy_report(read_policy_votes(store), list_roots(store))
    assert report.base == "base"
    by_name = {figures.policy: figures for figures in report.policies}
    assert by_name["base"].win_rate is None
    assert by_name["tuned"].win_rate > 0.5


def test_mt_bench_gives_the_published_order(sqlite_store, shared_data):
    import_path(sqlite_store, shared_data / "mt_bench" / "mtbench_human_joined.jsonl.gz")
    report = make_policy_report(read_policy_votes(sqlite_store))
    names = [figures.policy for figures in report.policies]
    # Zheng et al. 2023, "Judging LLM-as-a-judge", figures of human votes: GPT-3.5 and Claude do not differ there.
    assert names[0] == "gpt-4"
    assert set(names[1:3]) == {"gpt-3.5-turbo", "claude-v1"}
    assert names[3:] == ["vicuna-13b-v1.2", "alpaca-13b", "llama-13b"]
    assert [figures.rank for figures in report.policies[3:]] == [4, 5, 6]
