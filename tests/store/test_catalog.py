"""The catalog finds and counts what a filter says, on either database: compared with a plain loop over the store."""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import Store, audit, catalog, catalog_index, people, projects, queue
from rlhf_hitl.store.catalog import count_facets, find_comparison_ids, search_catalog
from rlhf_hitl.store.catalog_history import load_history
from rlhf_hitl.store.catalog_index import CatalogIndexer, count_changes
from rlhf_hitl.store.catalog_words import split_words
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.judgments import append_judgment, judgment_to_row, read_judgments
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.slices import add_slice, find_slice_ids, get_slice, list_slices, remove_slice
from rlhf_hitl.types import (
    Answer,
    Comparison,
    Completion,
    Judgment,
    Message,
    Prompt,
    Reason,
    Role,
    Route,
    Split,
    Verdict,
    utc_now,
)
from rlhf_hitl.types.catalog import FACETS, ComparisonFilter

QUESTIONS = ("How many birds?", "Wie viele Vögel?", "有多少只鸟?", "कितने पक्षी?", '100% of O\'Reilly_1 & co \\ "x"', "")
TAGS = ({}, {"topic": "birds", "language": "de"}, {"topic": "a=b; DROP TABLE catalog", "language": "en"}, {"n": "1"})
LEAD = audit.Actor("lead")


def make_pair(i: int, *, k: int = 2, project: str = "default") -> Comparison:
    prompt = Prompt.create((Message("user", f"{QUESTIONS[i % 6]} number {i}"),), TAGS[i % 4], list(Split)[i % 3])
    policies = ("small", "large", "o'tuned %")
    answers = [
        Completion.create(prompt.id, (Message("assistant", f"Answer {i} {j} émile"),), policies[(i + j) % 3])
        for j in range(k)
    ]
    return Comparison.create(prompt, answers, overlap=4, project=project, batch="b" if i % 5 == 0 else "")


def judge(store: Store, comparison: Comparison, rater: str, best: int | None, role: Role | None = None, **more) -> str:
    """A judgment as it is kept: `best` is the completion that is preferred; None for both bad; -1 for a skip."""
    ids = [c.id for c in comparison.completions]
    if best == -1:
        answer = Answer(Verdict.SKIPPED, reason=Reason.UNCLEAR)
    elif best is None:
        answer = Answer(Verdict.ALL_BAD)
    else:
        answer = Answer(
            Verdict.RANKED, ((ids[best],), *((i,) for i in ids if i != ids[best])), rationale="Clearer! naïve"
        )
    row = judgment_to_row(
        answer, comparison_id=comparison.id, rater_id=rater, order_shown=ids, route="human", created_at=utc_now(),
        role=role and role.value, **{"idempotency_key": f"{comparison.id}{rater}{more}"} | more,
    )  # fmt: skip
    with store.write() as conn:
        append_judgment(conn, row)
    return row["id"]


def fill(store: Store, n: int = 36) -> list[Comparison]:
    """Comparisons of every kind, with judgments of every kind."""
    projects.add_project(store, "birds")
    raters = [people.add_rater(store, f"rater {i}", Role.RATER).id for i in range(4)]
    lead_id = people.add_rater(store, "a lead", Role.LEAD).id
    judge_id = people.add_rater(store, "a model", Role.JUDGE).id
    made = [make_pair(i, k=3 if i % 11 == 0 else 2, project="birds" if i % 7 == 0 else "default") for i in range(n)]
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    for i, comparison in enumerate(made):
        for r in range(i % 4):
            judge(store, comparison, raters[r], [0, 1, None, -1][(i * (r + 1) // 3) % 4])
        if i % 6 == 1:
            judge(store, comparison, judge_id, 0, Role.JUDGE)
        if i % 9 == 1:  # corrected once, and a surplus one
            first = judge(store, comparison, raters[3], 0, idempotency_key=f"first {i}")
            judge(store, comparison, raters[3], 1, supersedes=first, idempotency_key=f"second {i}")
        if i % 10 == 3:
            judge(store, comparison, lead_id, 1, Role.LEAD, idempotency_key=f"lead {i}")
    apply_routings(
        store, [Routing(c.id, Route.AUTO, Route.AUTO, "sure", round=i % 3) for i, c in enumerate(made) if i % 8 == 0]
    )
    CatalogIndexer(store).update()
    return made


# A plain loop over the store, written for clarity alone.


@dataclass(frozen=True)
class Plain:
    """What a comparison has of each facet, its words, its votes and its entropy."""

    id: str
    values: dict[str, set[str]]
    words: set[str]
    votes: int
    entropy: float | None

    def meets(self, wanted: ComparisonFilter) -> bool:
        if any(not self.values[facet] & set(values) for facet, values in wanted.facets.items()):
            return False
        for part in wanted.words.split():
            for word in plain_words(part):
                is_begin = part.endswith("*") and word == plain_words(part)[-1] and len(word) >= 3
                if not any(w.startswith(word) if is_begin else w == word for w in self.words):
                    return False
        limits = [(self.votes, wanted.least_votes, wanted.most_votes)]
        limits += [(self.entropy, wanted.least_entropy, wanted.most_entropy)]
        for value, least, most in limits:
            if least is not None and (value is None or value < least):
                return False
            if most is not None and (value is None or value > most):
                return False
        return not wanted.ids or self.id in wanted.ids


def plain_words(text: str) -> list[str]:
    """Runs of letters, digits and marks; Chinese character by character."""
    words, run = [], ""
    for letter in unicodedata.normalize("NFKC", text).casefold() + " ":
        is_alone = "\u4e00" <= letter <= "\u9fff"
        if unicodedata.category(letter)[0] in "LNM" and not is_alone:
            run += letter
            continue
        words += [run] if run else []
        words += [letter] if is_alone else []
        run = ""
    return words


def read_plainly(store: Store, extra: dict[str, set[str]]) -> list[Plain]:
    judgments: dict[str, list[Judgment]] = {}
    for judgment in read_judgments(store):
        judgments.setdefault(judgment.comparison_id, []).append(judgment)
    return [describe(c, judgments.get(c.id, []), extra.get(c.id, set())) for c in find_comparisons(store)]


def describe(comparison: Comparison, standing: list[Judgment], rounds: set[str]) -> Plain:
    votes = [j for j in standing if j.role is Role.RATER and j.answer.verdict in (Verdict.RANKED, Verdict.ALL_BAD)]
    decisions = [j for j in standing if j.role is Role.LEAD][-1:]
    ids = [c.id for c in comparison.completions]
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]

    def count(given: list[Judgment], pair: tuple[str, str]) -> Counter[str]:
        counted = Counter[str]()
        for j in given:
            rank = {i: n for n, group in enumerate(j.answer.ranking) for i in group}
            a, b = rank.get(pair[0], 0), rank.get(pair[1], 0)
            counted["first" if a < b else "second" if a > b else "tie"] += 1
        return counted

    labels = [count(decisions or votes, pair) for pair in pairs] if decisions or votes else []
    entropy = [sum(-n / label.total() * log(n / label.total()) for n in label.values()) for label in labels]
    largest = [max(counted.values()) / counted.total() for pair in pairs if (counted := count(votes, pair))]
    agreement = "unjudged" if not votes else "one_vote" if len(votes) == 1 else None
    if agreement is None:
        agreement = "unanimous" if min(largest) == 1 else "majority" if min(largest) > 0.5 else "split"
    outcome: set[str] = set()
    if labels and len(ids) == 2:
        first, second, tie = (labels[0][name] for name in ("first", "second", "tie"))
        outcome = {"tie" if tie >= max(first, second) or first == second else "first" if first > second else "second"}
    texts = [m.content for m in comparison.prompt.messages] + [
        m.content for c in comparison.completions for m in c.messages
    ]
    values = {
        "project": {comparison.project},
        "batch": {comparison.batch} - {""},
        "split": {comparison.prompt.split.value},
        "language": {comparison.prompt.language} - {""},
        "tag": {f"{k}={v}" for k, v in comparison.prompt.tags.items()},
        "policy": {c.policy for c in comparison.completions},
        "route": {comparison.route.value},
        "round": rounds,
        "state": {"adjudicated" if decisions else "judged" if votes else "unjudged"},
        "agreement": {agreement},
        "outcome": outcome,
        "verdict": {j.answer.verdict.value for j in standing},
        "rater": {j.rater_id for j in standing},
        "judge": {"yes" if any(j.role is Role.JUDGE for j in standing) else "no"},
        "kind": {"usual"},
    }
    said = [j.answer.rationale for j in standing]
    words = {word for text in [*texts, *said] for word in plain_words(str(text))}
    return Plain(comparison.id, values, words, len(votes), max(entropy, default=None))


def read_pages(store: Store, wanted: ComparisonFilter, limit: int = 7) -> list[str]:
    """Every page, one after another."""
    found: list[str] = []
    after = None
    while True:
        page = search_catalog(store, wanted, after=after, limit=limit)
        found += [hit.comparison.id for hit in page.hits]
        if page.next is None:
            return found
        after = page.next


@pytest.fixture(scope="module", params=["sqlite", "postgres", "plain"])
def filled(request, tmp_path_factory, sqlite_template) -> Iterator[tuple[Store, list[Plain]]]:
    """A filled store on each database, and on a SQLite that was built without FTS5."""
    folder = tmp_path_factory.mktemp("catalog")
    if request.param == "postgres":
        postgres = request.getfixturevalue("postgres")
        with postgres.database(template=postgres.template) as url, Store.open(url) as store:
            yield fill_and_read(store)
        return
    (folder / "catalog.db").write_bytes(sqlite_template.read_bytes())
    with Store.open(f"sqlite:///{folder}/catalog.db") as store:
        if request.param == "plain":
            with store.write() as conn:
                conn.exec_driver_sql("DROP TABLE catalog_words")
                conn.exec_driver_sql("CREATE TABLE catalog_words (words TEXT NOT NULL)")
        yield fill_and_read(store)


def fill_and_read(store: Store) -> tuple[Store, list[Plain]]:
    made = fill(store)
    return store, read_plainly(store, {c.id: {str(i % 3)} for i, c in enumerate(made) if i % 8 == 0})


def facet_values(plain: list[Plain], facet: str) -> list[str]:
    return sorted({value for p in plain for value in p.values[facet]})


WORDS = (
    "birds",
    "VÖGEL",
    "鸟",
    "पक्षी",
    "number 7",
    "num*",
    "nu*",
    "émile",
    "E'mile",
    "clearer",
    "naïve",
    "o'reilly_1",
    "100%",
)
HOSTILE = (
    "'",
    '"',
    "%",
    "_",
    "\\",
    "' OR 1=1 --",
    "a & !b",
    "x:*",
    "<->",
    "NEAR(a b)",
    "¤",
    "¤1",
    "*",
    "(",
    "body:x",
    "-a",
    "\x7f",
)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_found_and_counted_is_what_a_plain_loop_finds(filled, data):
    store, plain = filled
    chosen = {}
    for facet in data.draw(st.lists(st.sampled_from(FACETS), max_size=3, unique=True)):
        values = [*facet_values(plain, facet), "no such value", "%"]
        chosen[facet] = tuple(data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)))
    chosen["words"] = " ".join(data.draw(st.lists(st.sampled_from([*WORDS, *HOSTILE]), max_size=2)))
    for name, strategy in (("votes", st.integers(0, 3)), ("entropy", st.sampled_from([0.0, 0.5, 0.693147, 2.0]))):
        for end in ("least", "most"):
            chosen[f"{end}_{name}"] = data.draw(st.one_of(st.none(), strategy)) if data.draw(st.booleans()) else None
    if data.draw(st.integers(0, 5)) == 0:
        chosen["ids"] = tuple(data.draw(st.lists(st.sampled_from([p.id for p in plain]), min_size=1, max_size=4)))
    wanted = ComparisonFilter(**chosen)
    met = [p for p in plain if p.meets(wanted)]
    assert sorted(read_pages(store, wanted)) == sorted(p.id for p in met)
    page = search_catalog(store, wanted)
    assert (page.total, page.is_exact) == (len(met), True)
    counted = count_facets(store, wanted)
    assert not counted.estimated
    for facet in FACETS:
        others = [p for p in plain if p.meets(replace(wanted, **{facet: ()}))]
        expected = Counter(value for p in others for value in p.values[facet])
        assert counted.counts[facet] == {**dict.fromkeys(wanted.facets.get(facet, ()), 0), **expected}


def test_pages_are_newest_first_and_stand_still_while_others_are_added(store, add_comparisons):
    made = add_comparisons(store, 7)
    indexer = CatalogIndexer(store)
    indexer.update()
    wanted = ComparisonFilter()
    numbers = [hit.number for hit in search_catalog(store, wanted).hits]
    assert numbers == sorted(numbers, reverse=True)
    assert {hit.comparison.id for hit in search_catalog(store, wanted).hits} == {c.id for c in made}
    first = search_catalog(store, wanted, limit=3)
    add_comparisons(store, 4, first=50)
    indexer.update()
    rest = search_catalog(store, wanted, after=first.next, limit=10)
    assert [h.number for h in first.hits + rest.hits] == numbers
    assert search_catalog(store, wanted).total == 11


@pytest.mark.parametrize("words", HOSTILE)
def test_no_character_of_a_search_is_read_as_sql_or_as_an_operator(filled, words):
    store, plain = filled
    assert sorted(read_pages(store, ComparisonFilter(words=words))) == sorted(
        p.id for p in plain if p.meets(ComparisonFilter(words=words))
    )


def test_ids_of_prompts_completions_and_judgments_find_their_comparisons(filled):
    store, _ = filled
    judgment = next(iter(read_judgments(store)))
    comparison = next(iter(find_comparisons(store, ids=[judgment.comparison_id])))
    for id in (comparison.id, comparison.prompt.id, comparison.completions[0].id, judgment.id):
        for wanted in (ComparisonFilter(ids=(id,)), ComparisonFilter(words=id)):
            assert [h.comparison.id for h in search_catalog(store, wanted).hits] == [comparison.id]
    assert read_pages(store, ComparisonFilter(words="x_00000000")) == []


def test_large_counts_are_the_samples_and_say_so(store, add_comparisons, monkeypatch):
    monkeypatch.setattr(catalog, "ENOUGH_IN_SAMPLE", 3)
    made = add_comparisons(store, 500, k=2)
    CatalogIndexer(store).update()
    for wanted in (ComparisonFilter(), ComparisonFilter(words="question"), ComparisonFilter(route=("human",))):
        page = search_catalog(store, wanted, limit=20)
        assert (page.total, page.is_exact) == (500, False)
        counted = count_facets(store, wanted)
        assert counted.counts["route"] == {"human": 500}
        assert "route" in counted.estimated
        assert sorted(read_pages(store, wanted, 120)) == sorted(c.id for c in made)
    few = search_catalog(store, ComparisonFilter(words="Question 77?"))
    assert (few.total, few.is_exact) == (1, True)


def test_who_answers_a_request_waits_so_long_for_the_catalog_and_no_longer(sqlite_store, add_comparisons, monkeypatch):
    made = add_comparisons(sqlite_store, 30)
    monkeypatch.setattr(catalog_index, "GENTLE", (5, 5))
    with pytest.raises(Conflict, match="try again"):
        list(find_comparison_ids(sqlite_store, ComparisonFilter(), seconds=0.0))
    assert len(list(find_comparison_ids(sqlite_store, ComparisonFilter(), seconds=60.0))) == len(made)


def test_of_more_values_than_are_looked_up_the_commonest_are_counted(store, monkeypatch):
    monkeypatch.setattr(catalog, "MOST_TERMS", 40)
    made = []
    for i in range(60):
        prompt = Prompt.create((Message("user", f"Question {i}?"),))
        pair = [Completion.create(prompt.id, (Message("assistant", t),), f"policy {i}") for t in "ab"]
        made.append(Comparison.create(prompt, pair, batch=f"batch {max(i, 40)}"))
    for some in (made[41:], made[:41]):  # the commonest batch comes last
        with store.write() as conn:
            insert_comparisons(store, conn, some)
        CatalogIndexer(store).update()
    counts = count_facets(store, ComparisonFilter()).counts
    assert counts["batch"]["batch 40"] == 41
    assert sum(counts["split"].values()) == sum(counts["kind"].values()) == 60


@pytest.mark.parametrize("walk", [0, 10**9])
def test_either_way_to_a_page_of_many_finds_the_same(store, add_comparisons, monkeypatch, walk):
    for name in ("WALK", "WALK_WITH_WORDS"):
        monkeypatch.setattr(catalog, name, walk)
    monkeypatch.setattr(catalog, "ENOUGH_IN_SAMPLE", 2)
    made = add_comparisons(store, 300)
    CatalogIndexer(store).update()
    for wanted in (ComparisonFilter(words="question"), ComparisonFilter(split=("train", "heldout", "calibration"))):
        assert sorted(read_pages(store, wanted, 70)) == sorted(c.id for c in made)


def test_a_judgment_a_route_and_a_correction_are_found_once_they_are_in_the_catalog(store, add_comparisons, add_raters):
    [comparison] = add_comparisons(store, 1)
    [rater] = add_raters(store, 1)
    indexer = CatalogIndexer(store)
    indexer.update()
    lease = queue.lease(store, rater, seconds=1800)
    order = [[i] for i in lease.order_shown]
    receipt = queue.submit(store, lease.id, rater, Answer(Verdict.RANKED, tuple(map(tuple, order)), rationale="Zebra"))
    assert count_changes(store) >= 1
    assert indexer.update()
    assert count_changes(store) == 0
    assert read_pages(store, ComparisonFilter(words="zebra", rater=(rater,), agreement=("one_vote",))) == [
        comparison.id
    ]
    queue.correct(store, receipt.judgment_id, rater, Answer(Verdict.SKIPPED), idempotency_key="k")
    indexer.update()
    assert read_pages(store, ComparisonFilter(verdict=("skipped",), agreement=("unjudged",))) == [comparison.id]
    assert read_pages(store, ComparisonFilter(verdict=("ranked",))) == []
    apply_routings(store, [Routing(comparison.id, Route.ESCALATED, Route.ESCALATED, "unsure", round=4)])
    indexer.update()
    assert read_pages(store, ComparisonFilter(route=("escalated",), round=("4",))) == [comparison.id]


def test_several_indexers_and_raters_at_once_leave_a_catalog_that_says_what_the_store_says(store, add_raters):
    made = [make_pair(i) for i in range(40)]
    raters = add_raters(store, 3)
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    done = threading.Event()

    def keep() -> None:
        indexer = CatalogIndexer(store)
        while not done.is_set():
            indexer.update(gentle=True)

    threads = [threading.Thread(target=keep) for _ in range(2)]
    for thread in threads:
        thread.start()
    for rater in raters:
        for i, comparison in enumerate(made):
            judge(store, comparison, rater, i % 2)
    done.set()
    for thread in threads:
        thread.join()
    CatalogIndexer(store).update()
    assert len(read_pages(store, ComparisonFilter(least_votes=3))) == 40
    assert count_facets(store, ComparisonFilter()).counts["rater"] == dict.fromkeys(raters, 40)


def test_a_history_has_everything_superseded_and_surplus_judgments_too(store):
    fill(store, 12)
    corrected = next(j for j in read_judgments(store) if j.supersedes)
    history = load_history(store, corrected.comparison_id)
    assert [k.superseded_by for k in history.judgments if k.judgment.id == corrected.supersedes] == [corrected.id]
    assert (
        history.judgment_count
        == len(history.judgments)
        == len(list(read_judgments(store, comparison_ids=[corrected.comparison_id], current=False)))
    )
    routed = next(i for i in find_comparison_ids(store, ComparisonFilter(route=("auto",))))
    assert [(r["route"], r["reason"]) for r in load_history(store, routed).routings] == [("auto", "sure")]
    with pytest.raises(NotFound, match="comparison 'x_none'"):
        load_history(store, "x_none")


# Filters as text


VALUES = st.lists(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=8), max_size=3).map(tuple)
FILTERS = st.builds(
    ComparisonFilter,
    words=st.text(st.characters(blacklist_categories=("Cs",)), max_size=20),
    least_votes=st.one_of(st.none(), st.integers(0, 9)),
    most_entropy=st.one_of(st.none(), st.floats(0, 3)),
    ids=VALUES,
    **dict.fromkeys(FACETS, VALUES),
)


@given(FILTERS)
@example(ComparisonFilter(words="a=b&c", tag=("x=y=z", "ü")))
def test_a_filter_is_the_same_after_json_and_after_an_address(wanted):
    assert ComparisonFilter.from_plain(json.loads(json.dumps(wanted.to_plain()))) == wanted
    assert ComparisonFilter.from_pairs(wanted.to_pairs()) == wanted


@pytest.mark.parametrize(
    ("plain", "complaint"),
    [
        ({"colour": ["red"]}, "filter by 'colour'"),
        ({"tag": "a"}, "tag 'a': expected a list of texts"),
        ({"tag": [1]}, "expected a list of texts"),
        ({"least_votes": "2"}, "least_votes '2': expected a number"),
        ({"least_votes": True}, "expected a number"),
        ({"least_votes": -1}, "expected 0 or more"),
        ({"most_entropy": float("nan")}, "expected 0 or more"),
        ({"words": "x" * 501}, "words of 501 characters"),
        ({"rater": ["r"] * 51}, "rater of 51 values"),
        ({"words": None}, "expected text"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_by_name(plain, complaint):
    with pytest.raises(BadInput, match=re.escape(complaint)):
        ComparisonFilter.from_plain(plain)


@given(st.text())
def test_words_are_the_same_when_they_are_cut_again(text):
    assert [w for word in split_words(text) for w in split_words(word)] == split_words(text)


# Slices


def test_a_slice_is_kept_found_by_name_and_forgotten(store, add_comparisons):
    made = add_comparisons(store, 5)
    wanted = ComparisonFilter(words="3")
    add_slice(store, "threes", wanted, "those with a three", by=LEAD)
    assert get_slice(store, "threes").filter == wanted
    assert [s.name for s in list_slices(store)] == ["threes"]
    assert find_slice_ids(store, "threes") == {made[3].id}
    assert find_slice_ids(store, None) is None
    with pytest.raises(BadInput, match="agreement=banana: expected one of unjudged, one_vote"):
        add_slice(store, "nonsense", ComparisonFilter(agreement=("banana",)), by=LEAD)
    with pytest.raises(BadInput, match="a name that is free"):
        add_slice(store, "threes", ComparisonFilter(words="4"))
    remove_slice(store, "threes", by=LEAD)
    with pytest.raises(NotFound, match="slice 'threes'"):
        get_slice(store, "threes")
    assert [e.action for e in audit.list_entries(store)] == ["slice.added", "slice.removed"]


@pytest.mark.parametrize("name", ["", " ", "x" * 81, "a\u202eb", "a\nb"])
def test_a_slice_needs_a_name_that_can_be_seen_and_a_condition(store, name):
    with pytest.raises(BadInput, match="slice"):
        add_slice(store, name, ComparisonFilter(words="a"))
    with pytest.raises(BadInput, match="a filter"):
        add_slice(store, "all", ComparisonFilter())
