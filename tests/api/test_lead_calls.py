"""The calls of the lead's page over the real application, on either database: who may make them, and what they tell."""

from __future__ import annotations

import json
import uuid
from datetime import datetime

import pytest
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from plain_words import assert_plain
from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.api.auth import ROLES_OF_PAGE, SESSION_COOKIE
from rlhf_hitl.api.page_guard import PageGuard
from rlhf_hitl.config import Settings
from rlhf_hitl.store import people, projects, queue, sign_in
from rlhf_hitl.store.comparisons import insert_comparisons
from rlhf_hitl.store.routings import Routing, apply_routings, read_routings
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Route, Verdict
from rlhf_hitl.ui import lead
from rlhf_hitl.ui.rendering import start_rendering

PASSWORD = "a-good-password"
CALLS = {"open": {}, "figures": {}, "accepted": {}, "escalate": {"id": "x_none"}}


@pytest.fixture
def site(store, tmp_path):
    """The application with the lead's page alone, over a store of the test's own. It is given the page's calls as a
    browser would send them. The other pages take longer to build than these tests to run."""
    settings = Settings(store=store.url, workspace=tmp_path / "workspace")
    app = create_headless_app(store, settings)
    lead.mount(app, "/lead", store, settings, Middleware(PageGuard, store=store, roles=ROLES_OF_PAGE["/lead"]))
    start_rendering()
    return Site(store, app)


class Site:
    def __init__(self, store, app):
        self.store, self.app = store, app
        config = self.enter("an-admin", Role.ADMIN).get("/lead/config").json()
        self.component = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "page")

    def enter(self, name: str, role: Role) -> TestClient:
        people.add_rater(self.store, name, role, PASSWORD)
        verified = sign_in.verify_password(self.store, name, PASSWORD)
        assert verified is not None
        return TestClient(self.app, cookies={SESSION_COOKIE: sign_in.start_session(self.store, verified, 1)})

    def send(self, client: TestClient, name: str, data):
        body = {"fn_name": name, "component_id": self.component, "data": data, "session_hash": uuid.uuid4().hex}
        return client.post("/lead/gradio_api/component_server/", json=body)

    def call(self, client: TestClient, name: str, **data):
        answer = self.send(client, name, data)
        assert answer.status_code == 200, answer.text
        return answer.json()


def put(store, *questions: str, project="default", batch="", overlap=1, **tags) -> list[Comparison]:
    made = []
    for question in questions:
        prompt = Prompt.create((Message("user", question),), tags)
        sides = [Completion.create(prompt.id, (Message("assistant", text),), "p") for text in ("yes", "no")]
        made.append(Comparison.create(prompt, sides, overlap, project=project, batch=batch))
    with store.write() as conn:
        insert_comparisons(store, conn, made)
    return made


def accept(store, *questions: str, **where) -> list[Comparison]:
    made = put(store, *questions, **where)
    apply_routings(store, [Routing(c.id, Route.AUTO, Route.AUTO, "sure") for c in made])
    return made


@pytest.mark.parametrize("role", [Role.RATER, Role.EVALUATOR])
def test_who_does_not_lead_is_refused_every_call(site, role):
    [made] = accept(site.store, "Sure?")
    client = site.enter("somebody", role)
    for name, data in (CALLS | {"escalate": {"id": made.id}}).items():
        answer = site.send(client, name, data)
        assert answer.status_code == 403, name
        assert "Sure?" not in answer.text
    assert [d.route for d in read_routings(site.store)] == [Route.AUTO]


def test_nobody_and_who_was_disabled_are_refused_every_call(site):
    lead = site.enter("lea", Role.LEAD)
    assert site.send(lead, "open", {}).status_code == 200
    people.change_rater(site.store, "lea", disabled=True)
    for client in (lead, TestClient(site.app)):
        for name, data in CALLS.items():
            assert site.send(client, name, data).status_code == 401, name


def test_the_queue_is_told_by_project_language_and_batch(site):
    store = site.store
    projects.add_project(store, "coding", open=False)
    projects.add_project(store, "empty")
    projects.change_project(store, "coding", paused=True)
    put(store, "a?", "b?", language="en", overlap=2)
    put(store, "c?", project="coding", batch="pilot")
    accept(store, "d?", "e?", project="coding", batch="pilot")
    accept(store, "f?", language="es")
    ann, bob = (people.add_rater(store, name, Role.RATER).id for name in ("ann", "bob"))
    lease = queue.lease(store, ann, seconds=1800)
    assert lease is not None
    queue.submit(store, lease.id, ann, Answer(Verdict.SKIPPED))
    queue.lease(store, bob, seconds=1800)
    lead = site.enter("lea", Role.LEAD)

    told = site.call(lead, "open")
    assert told["projects"] == [
        {"id": "coding", "paused": True, "open": False, "overlap_rule": None},
        {"id": "default", "paused": False, "open": True, "overlap_rule": None},
        {"id": "empty", "paused": False, "open": True, "overlap_rule": None},
    ]
    names = ("project", "language", "batch", "paused", "members_only", "open", "held", "done", "accepted")
    assert [tuple(lane[name] for name in names) for lane in told["lanes"]] == [
        ("coding", "", "pilot", True, True, 1, 0, 0, 2),
        ("default", "en", "", False, False, 2, 1, 1, 0),
        ("default", "es", "", False, False, 0, 0, 0, 1),
        ("empty", None, "", False, False, 0, 0, 0, 0),
    ]
    assert told["totals"] == {"open": 3, "held": 1, "done": 1, "open_paused": 1}
    assert told["accepted"] == {"total": 3, "newer": 3, "routes": {}}
    judged = {row["name"]: (row["judged"], row["last"]) for row in told["people"]}
    assert judged["bob"] == (0, None)
    assert judged["ann"][0] == 1
    assert datetime.fromisoformat(judged["ann"][1]).tzinfo is not None

    of_one = site.call(lead, "open", project="coding")
    assert [lane["project"] for lane in of_one["lanes"]] == ["coding"]
    assert of_one["totals"] == {"open": 1, "held": 0, "done": 0, "open_paused": 1}
    assert of_one["accepted"]["total"] == 2
    assert len(of_one["projects"]) == 3, "which one may choose from"
    nowhere = site.call(lead, "open", project="nowhere")
    assert (nowhere["lanes"], nowhere["accepted"]["total"]) == ([], 0)


def test_rows_beyond_the_limit_are_counted(site, monkeypatch):
    monkeypatch.setattr("rlhf_hitl.ui.lead.LANES_LIMIT", 3)
    monkeypatch.setattr("rlhf_hitl.ui.lead.PEOPLE_LIMIT", 2)
    for n in range(5):
        put(site.store, f"{n}?", batch=f"batch-{n}")
        people.add_rater(site.store, f"rater {n}", Role.RATER)
    told = site.call(site.enter("lea", Role.LEAD), "open")
    assert [lane["batch"] for lane in told["lanes"]] == ["batch-0", "batch-1", "batch-2"]
    assert told["lanes_left_out"] == 2
    assert told["totals"]["open"] == 5, "the totals hold them all"
    assert (len(told["people"]), told["people_count"]) == (2, 7)


def test_accepted_comparisons_come_in_pages_and_what_changed_is_told(site):
    store = site.store
    made = accept(store, *(f"Question {i}?" for i in range(5)))
    lead = site.enter("lea", Role.LEAD)
    first = site.call(lead, "accepted", limit=2)
    assert [row["asked"] for row in first["rows"]] == ["Question 4?", "Question 3?"]
    assert (first["total"], first["looked_at"]) == (5, 2)
    second = site.call(lead, "accepted", limit=2, before=first["before"])
    assert [row["asked"] for row in second["rows"]] == ["Question 2?", "Question 1?"]
    found = site.call(lead, "accepted", words="QUESTION 0")
    assert ([row["id"] for row in found["rows"]], found["before"]) == ([made[0].id], None)
    shown = [row["id"] for row in first["rows"]]
    newest = max(row["seq"] for row in first["rows"])

    assert site.call(lead, "escalate", id=made[4].id) == {"sent": True, "exported": None}
    assert site.call(lead, "escalate", id=made[4].id) == {"sent": False, "exported": None}
    accept(store, "Another?")
    changes = site.call(lead, "open", shown=shown, newest=newest)["accepted"]
    assert changes == {"total": 5, "newer": 1, "routes": {made[4].id: "escalated", made[3].id: "auto"}}


def test_the_figures_are_those_of_the_report(site):
    told = site.call(site.enter("lea", Role.LEAD), "figures")
    assert len(told["figures"]) == 5
    assert told["simulated"] is False
    assert {"key", "title", "unit", "value", "low", "high", "note"} <= told["figures"][0].keys()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("open", {"project": "x" * 81}),
        ("open", {"shown": ["x"] * 51}),
        ("open", {"shown": ["x" * 81]}),
        ("open", {"newest": -1}),
        ("open", {"newest": 2**60}),
        ("open", {"role": "admin"}),
        ("accepted", {"words": "x" * 201}),
        ("accepted", {"before": "1; DROP TABLE routings"}),
        ("accepted", {"before": 1.5}),
        ("accepted", {"limit": 51}),
        ("accepted", {"limit": 0}),
        ("accepted", {"project": 5}),
        ("escalate", {"id": "x" * 81}),
        ("escalate", {"id": None}),
        ("escalate", {}),
        ("escalate", {"id": "x_none"}),
        ("escalate", "x_none"),
    ],
)
def test_what_is_longer_or_other_than_it_may_be_is_refused_in_one_line(site, name, data):
    [made] = accept(site.store, "Sure?")
    answer = site.send(site.enter("lea", Role.LEAD), name, data)
    assert answer.status_code == 200, json.dumps(data)
    problem = answer.json()["problem"]
    assert len(problem.splitlines()) == 1
    assert ": expected " in problem
    assert ". Fix: " in problem
    assert_plain(problem)
    assert "rows" not in answer.json()
    assert [d.comparison_id for d in read_routings(site.store, newest=False)] == [made.id]


@pytest.mark.parametrize("words", ["%", "_", "';--", '"', "\\", "x' OR '1'='1"])
def test_words_and_projects_are_no_sql(site, words):
    accept(site.store, "Sure?")
    lead = site.enter("lea", Role.LEAD)
    assert site.call(lead, "accepted", words=words)["rows"] == []
    assert site.call(lead, "accepted", project=words)["rows"] == []
    assert site.call(lead, "open", project=words)["totals"] == {"open": 0, "held": 0, "done": 0, "open_paused": 0}
