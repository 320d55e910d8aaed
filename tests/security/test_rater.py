"""A rater who wants to know which policy wrote which answer, and what the store knows of what they are shown."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import schemathesis
from schemathesis.engine import events, from_schema
from starlette.testclient import TestClient

from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store, guidelines, judgments, people, projects, queue, scores, tokens, views
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.tables import reward_models
from rlhf_hitl.types import (
    DEFAULT_AXES,
    Answer,
    Comparison,
    Completion,
    Guideline,
    Message,
    Prompt,
    Role,
    Route,
    Scope,
    Score,
    ShownAnswer,
    Split,
    Verdict,
    utc_now,
)
from rlhf_hitl.ui import rating_service

RANKED = ShownAnswer(Answer(Verdict.RANKED, (("A",), ("B",)), 2))
POLICIES = ("policy-tuned-4711", "policy-base-0815")


def make_comparison(i: int, **more: Any) -> Comparison:
    prompt = Prompt.create(
        (Message("user", f"Question {i}?"),), {"hiddenkey": f"hiddenvalue{i % 2}"}, Split.CALIBRATION
    )
    answers = [Completion.create(prompt.id, (Message("assistant", f"Answer {i}.{p[-4:]}"),), p) for p in POLICIES]
    return Comparison.create(prompt, answers, batch=f"hiddenbatch{i % 3}", **more)


@pytest.fixture
def filled(store: Store) -> list[Comparison]:
    """Comparisons of which some are routed and scored by a model."""
    made = [make_comparison(i, overlap=2) for i in range(60)]
    with store.write() as conn:
        insert_comparisons(store, conn, made, "hiddensource.jsonl")
    apply_routings(store, [Routing(c.id, Route.ESCALATED, Route.AUTO, "hiddenreason") for c in made[:20]])
    return made


def test_who_knows_both_names_cannot_tell_the_sides_apart(store, filled, add_raters):
    """What could be computed from names and texts before: the canonical order, and the hash that turns it."""
    [ann] = add_raters(store, 1)
    leases = queue.lease_many(store, ann, 60, seconds=1800)
    assert len(leases) == 60
    first_shown_first = 0
    guessed = 0
    for lease in leases:
        ids = [c.id for c in lease.comparison.completions]
        first_shown_first += lease.order_shown[0] == ids[0]
        turn = int(hashlib.sha256(lease.comparison.id.encode()).hexdigest()[:7], 16) % 2
        guessed += lease.order_shown[0] == ids[turn]
    for hits in (first_shown_first, guessed):
        assert 12 <= hits <= 48, "a fair coin is outside of this once in a million times"


def test_the_order_is_another_in_every_store_and_stays_in_each(empty_url, sqlite_store, add_raters):
    made = [make_comparison(i, overlap=2) for i in range(40)]
    with Store.open(empty_url, create=True) as other:
        shown = []
        for store in (other, sqlite_store):
            with store.write() as conn:
                insert_comparisons(store, conn, made)
            ann, bob = add_raters(store, 2)
            first, second = (
                {x.comparison.id: x.order_shown for x in queue.lease_many(store, r, 40, seconds=9)} for r in (ann, bob)
            )
            assert all(first[c.id] == second[c.id][::-1] for c in made), "counterbalanced over the places"
            shown.append(first)
        assert 5 <= sum(shown[0][c.id] == shown[1][c.id] for c in made) <= 35


@pytest.mark.parametrize("k", [3, 4])
def test_of_more_answers_each_order_is_as_likely_as_any_other(sqlite_store, add_raters, k):
    """A turned canonical order would leave k of the k! orders."""
    made = []
    for i in range(120):
        prompt = Prompt.create((Message("user", f"Question {i}?"),))
        sides = [Completion.create(prompt.id, (Message("assistant", f"{i}.{j}"),), f"p{j}") for j in range(k)]
        made.append(Comparison.create(prompt, sides))
    with sqlite_store.write() as conn:
        insert_comparisons(sqlite_store, conn, made)
    [ann] = add_raters(sqlite_store, 1)
    turned = 0
    for lease in queue.lease_many(sqlite_store, ann, 120, seconds=9):
        ids = [c.id for c in lease.comparison.completions]
        turned += lease.order_shown in {tuple(ids[i:] + ids[:i]) for i in range(k)}
    assert turned < 90, "half of the orders of three, a quarter of those of four"


def test_hidden_repeats_do_not_show_by_the_order_of_leases_or_by_what_is_left(store, add_raters):
    with store.write() as conn:
        insert_comparisons(store, conn, [make_comparison(i) for i in range(60)])
    projects.change_project(store, "default", repeat_every=2)
    [ann] = add_raters(store, 1)
    for _ in range(25):
        [lease] = queue.lease_many(store, ann, 1, seconds=900, chance=lambda: 0.99)
        queue.submit(store, lease.id, ann, RANKED)
    draws = itertools.cycle([0.1, 0.1, 0.9])  # a repeat, which one, none
    left = views.load_progress(store, ann, since=utc_now()).left
    assert left == 30, "35, in tens"
    held = queue.lease_many(store, ann, 6, seconds=900, chance=lambda: next(draws))
    repeats = [lease.comparison.repeat_of is not None for lease in held]
    assert sorted(set(repeats)) == [False, True]
    assert views.load_progress(store, ann, since=utc_now()).left == left
    again = queue.lease_many(store, ann, 6, seconds=900)
    assert [lease.id for lease in again] == [lease.id for lease in held]
    for lease in held:
        queue.release(store, lease.id, ann)
    third = queue.lease_many(store, ann, 6, seconds=900, chance=lambda: 0.99)
    assert [lease.comparison.id for lease in third] == [lease.comparison.id for lease in held]
    repeat = third[repeats.index(True)]
    before = views.load_progress(store, ann, since=utc_now()).left
    queue.submit(store, repeat.id, ann, RANKED)
    assert views.load_progress(store, ann, since=utc_now()).left == before, "nor by what is left after it was judged"


def test_who_chooses_by_a_tag_gets_hidden_repeats_too_and_of_that_tag(store, add_raters):
    made = [make_comparison(i) for i in range(100)]
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    projects.change_project(store, "default", repeat_every=2, rater_filters=["tags.hiddenkey"])
    [ann] = add_raters(store, 1)
    for _ in range(80):
        [lease] = queue.lease_many(store, ann, 1, seconds=900, chance=lambda: 0.99)
        queue.submit(store, lease.id, ann, RANKED)
    draws = itertools.cycle([0.1, 0.5])
    wanted = queue.TaskFilter(tags={"hiddenkey": "hiddenvalue1"}, by_rater=True)
    held = queue.lease_many(store, ann, 6, seconds=900, task_filter=wanted, chance=lambda: next(draws))
    assert len(held) == 6
    assert all(lease.comparison.repeat_of for lease in held)
    assert {lease.comparison.prompt.tags["hiddenkey"] for lease in held} == {"hiddenvalue1"}


def test_a_repeat_is_in_the_history_like_any_other_judgment(store, add_raters, tmp_path):
    with store.write() as conn:
        insert_comparisons(store, conn, [make_comparison(i) for i in range(40)])
    projects.change_project(store, "default", repeat_every=2)
    ann = people.add_rater(store, "ann", Role.RATER)
    for i in range(30):
        [lease] = queue.lease_many(store, ann.id, 1, seconds=900, chance=lambda i=i: 0.1 if i > 25 else 0.99)
        queue.submit(store, lease.id, ann.id, RANKED)
    judged = list(judgments.read_judgments(store))
    history = rating_service.answer_call("history", store, Settings(workspace=tmp_path), ann, {})["judged"]
    assert [row["id"] for row in history] == [j.id for j in judged[::-1]]
    assert len({j.comparison_id for j in judged} - {make_comparison(i).id for i in range(40)}) > 0, "some are repeats"


def test_one_search_by_tags_runs_at_a_time(client, store, monkeypatch):
    projects.change_project(store, "default", rater_filters=["tags.hiddenkey"])
    wanted, answers = {"tags": {"hiddenkey": "hiddenvalue1"}}, []
    lease_many = queue.lease_many

    def search_again(*args, **kwargs):
        monkeypatch.setattr(queue, "lease_many", lease_many)
        answers.append(client.post("/api/v1/leases", json=wanted).status_code)
        return lease_many(*args, **kwargs)

    monkeypatch.setattr(queue, "lease_many", search_again)
    answers.append(client.post("/api/v1/leases", json=wanted).status_code)
    answers.append(client.post("/api/v1/leases", json=wanted).status_code)
    assert answers == [409, 200, 200]


def test_a_rater_does_not_hold_a_comparison_for_longer_than_the_server_allows(client):
    [lease] = client.post("/api/v1/leases", json={"seconds": 86_000}).json()["leases"]
    most = utc_now() + timedelta(seconds=Settings().lease_seconds)
    assert datetime.fromisoformat(lease["expires_at"]) <= most
    renewed = client.post(f"/api/v1/leases/{lease['id']}/renew", json={"seconds": 86_000}).json()
    assert datetime.fromisoformat(renewed["expires_at"]) <= most + timedelta(seconds=5)


def test_a_closed_project_cannot_be_told_from_none(store, filled, tmp_path):
    ann = people.add_rater(store, "ann", Role.RATER)
    projects.add_project(store, "hiddenproject", open=False)
    answers = [
        rating_service.answer_call("acknowledge", store, Settings(workspace=tmp_path), ann, {"id": f"{name}@default-1"})
        for name in ("hiddenproject", "none", "default")
    ]
    assert answers[0] == answers[1]
    assert answers[2] == {}


def test_the_next_in_line_and_the_control_share_do_not_follow_from_the_id(store, filled):
    def hash_of(id: str) -> int:
        return int(hashlib.sha256(id.encode()).hexdigest()[:7], 16)

    drawn = sorted(filled, key=lambda c: store.draw("queue", c.id, 2**28))
    assert drawn != sorted(filled, key=lambda c: hash_of(c.id))
    control = {c.id for c in filled if store.draw("control", c.id, 10) < 3}
    by_hash = {
        c.id for c in filled if int(hashlib.sha256(f"control:{c.id}".encode()).hexdigest()[:12], 16) / 16**12 < 0.3
    }
    assert control != by_hash


@pytest.fixture
def client(store: Store, filled, tmp_path) -> TestClient:
    ann = people.add_rater(store, "ann", Role.RATER)
    key = tokens.add_api_token(store, ann.id, "", [Scope.TASK, Scope.FEEDBACK])
    app = create_headless_app(store, Settings(store=store.url, workspace=tmp_path / "workspace"))
    return TestClient(app, headers={"authorization": f"Bearer {key}"}, raise_server_exceptions=False)


FILTERS = [
    {"tags": {"hiddenkey": "hiddenvalue1"}},
    {"tags": {"hiddenkey": "made up"}},
    {"tags": {"made up": "hiddenvalue1"}},
    {"batch": "hiddenbatch1"},
    {"batch": "made up"},
    {"batch": ""},
]


@pytest.mark.parametrize("asked", FILTERS, ids=json.dumps)
def test_a_filter_is_no_oracle(client, asked):
    answer = client.post("/api/v1/leases", json=asked)
    assert answer.status_code == 422
    name = "batch" if "batch" in asked else f"tags.{next(iter(asked['tags']))}"
    assert answer.json()["detail"].startswith(f"filter by {name}: expected what a project lets raters choose by")


def test_raters_choose_by_what_a_project_opens_and_leads_by_anything(client, store):
    projects.change_project(store, "default", rater_filters=["tags.hiddenkey"])
    [lease] = client.post("/api/v1/leases", json={"tags": {"hiddenkey": "hiddenvalue1"}}).json()["leases"]
    assert int(re.findall(r"\d+", lease["prompt"][0]["content"])[0]) % 2 == 1
    assert client.post("/api/v1/leases", json={"batch": "hiddenbatch1", "count": 2}).status_code == 422
    lead = people.add_rater(store, "lea", Role.LEAD)
    key = tokens.add_api_token(store, lead.id, "", [Scope.TASK])
    of_lead = {"authorization": f"Bearer {key}"}
    assert client.post("/api/v1/leases", json={"batch": "hiddenbatch1"}, headers=of_lead).json()["leases"]


def test_a_filter_of_one_project_opens_nothing_in_another(client, store):
    projects.add_project(store, "other", rater_filters=["batch"])
    with store.write() as conn:
        insert_comparisons(store, conn, [make_comparison(900, project="other")])
    [lease] = client.post("/api/v1/leases", json={"batch": "hiddenbatch0"}).json()["leases"]
    assert lease["project"] == "other", "not the twenty of that batch in the default project"


def test_a_filter_has_a_known_form(store):
    with pytest.raises(BadInput, match=r"tags\.NAME"):
        projects.change_project(store, "default", rater_filters=["category"])


class Secrets:
    """Every text of a store that a rater must not receive."""

    def __init__(self, comparisons: list[Comparison], other: str):
        ids = [id for c in comparisons for id in (c.id, c.prompt.id, *(a.id for a in c.completions))]
        # Half of an id is as good as the whole for who can compute it.
        self._ids = re.compile("|".join(re.escape(id[:12]) for id in ids))
        words = [*POLICIES, "hiddenkey", "hiddenvalue", "hiddenbatch", "hiddensource", "hiddenreason", other,
                 Split.CALIBRATION.value, Route.ESCALATED.value, "modelhidden", "0.7311", "-1.2345"]  # fmt: skip
        self._words = re.compile("|".join(map(re.escape, words)))

    def find(self, received: str, sent: str) -> set[str]:
        """Return what was received and is secret, but for what the rater has sent themselves."""
        found = self._ids.findall(received) + self._words.findall(received)
        return {text for text in found if text not in sent}


def add_scores(store: Store, comparisons: list[Comparison]) -> None:
    model = {"id": "modelhidden", "backend": "head", "path": "/hiddensource", "backbone": "b", "data_hash": "h"}
    with store.write() as conn:
        conn.execute(
            reward_models.insert().values(model | {"simulated": False, "figures": {}, "created_at": utc_now()})
        )
    made = [Score(c.id, "modelhidden", *(a.id for a in c.completions), -1.2345, 0.5, 0.7311) for c in comparisons]
    scores.insert_scores(store, made)


@schemathesis.serializer("application/x-ndjson")
def _as_lines(_context: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def walk(client: TestClient, lease_ids: Iterator[str], judgment_ids: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield what a rater sends and receives when they call every operation of the API in many ways."""
    config = schemathesis.Config.from_dict(
        {
            "seed": 1,
            "headers": {"Authorization": client.headers["authorization"]},
            "continue-on-failure": True,
            "cache": {"enabled": False},
            "checks": {"enabled": False},
            "phases": {name: {"enabled": False} for name in ("coverage", "stateful", "examples")},
            "generation": {"deterministic": True, "max-examples": 6, "no-shrink": True, "database": "none"},
        }
    )

    async def without_webhooks(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await client.app(scope, receive, send)

    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", without_webhooks, config=config)
    own_ids = {"lease_id": lease_ids, "judgment_id": judgment_ids}

    def use_own_ids(_context: Any, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: next(own_ids[k]) if k in own_ids and isinstance(v, str) else v for k, v in value.items()}

    for name in ("map_path_parameters", "map_body"):
        use_own_ids.__name__ = name
        schema.hook(use_own_ids)
    for event in from_schema(schema).execute():
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.ScenarioFinished):
            for interaction in event.recorder.interactions.values():
                request, response = interaction.request, interaction.response
                if response is not None:
                    yield f"{request.uri} {request.body!r}", f"{response.headers} {response.content!r}"


def test_nothing_that_a_rater_receives_tells_what_is_hidden(store, filled, client, tmp_path):
    if not store.is_sqlite:
        pytest.skip("what is answered does not depend on the database, and making the calls takes long")
    ann = next(r for r in people.list_raters(store) if r.name == "ann")
    other = people.add_rater(store, "hiddenrater", Role.RATER)
    add_scores(store, filled)
    guidelines.publish_guideline(store, Guideline("default", "strict", "Score.", scores="required"))
    for lease in queue.lease_many(store, other.id, 5, seconds=1800):
        axis_scores = {axis.id: dict.fromkeys(lease.order_shown, 3) for axis in DEFAULT_AXES}
        ranking = tuple((id,) for id in lease.order_shown)
        queue.submit(store, lease.id, other.id, Answer(Verdict.RANKED, ranking, 2, scores=axis_scores))
    secret = Secrets(filled, "hiddenrater")
    leases = [lease.id for lease in queue.lease_many(store, ann.id, 20, seconds=1800)]
    receipt = client.post("/api/v1/judgments", json={"lease_id": leases[0], "verdict": "all_bad"}).json()
    received = 0
    for sent, answer in walk(client, itertools.cycle(leases), itertools.repeat(receipt["id"])):
        received += 1
        assert not secret.find(answer, sent), f"{sent[:300]} was answered {answer[:2000]}"
    assert received > 100
    for name, sent in page_calls(leases[1], receipt["id"]):
        answer = json.dumps(rating_service.answer_call(name, store, Settings(workspace=tmp_path), ann, sent))
        assert not secret.find(answer, json.dumps(sent)), f"{name}({sent}) was answered {answer[:2000]}"


def page_calls(lease: str, judgment: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield calls of the rating page: as the page makes them, and with the parts of each missing or wrong."""
    whole: dict[str, dict[str, Any]] = {
        "open": {}, "history": {"words": "answer"}, "renew": {"lapsed": [lease]}, "revisit": {"id": judgment},
        "difference": {"id": lease},
        "submit": {"id": lease, "verdict": "ranked", "ranks": [1, 2], "strength": 2},
        "acknowledge": {"id": "default@strict"}, "try_example": {"id": "e_1", "verdict": "ranked", "ranks": [1, 2]},
    }  # fmt: skip
    strange = (None, 0, -1, "", "x" * 300, [], [[]], {}, {"A": 1}, ["A", "Z"], [1, 2, 3], "c_0", True)
    for name, sent in whole.items():
        yield name, sent
        for key in (*sent, "mode", "scores", "have", "id", "reason", "verdict", "day", "words"):
            for value in strange:
                yield name, sent | {key: value}
