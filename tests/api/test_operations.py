"""The API through its client, on either database: the scopes, who may use them, and what raters never see."""

from __future__ import annotations

import json
import re
import shutil
import socket
import tarfile
import threading
import zipfile
from datetime import timedelta

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient

from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.client import Client, NotAllowed, Unavailable
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, Conflict, NotFound
from rlhf_hitl.store import audit, guidelines, people, projects, queue, tables, tokens
from rlhf_hitl.store.comparisons import count_rows, find_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.store.reward_models import display_name, get_reward_model
from rlhf_hitl.store.routings import Routing, apply_routings
from rlhf_hitl.store.scores import read_scores
from rlhf_hitl.types import Axis, Guideline, Reason, Role, Route, Scope, utc_now

POLICY = "secret-policy-7b"


@pytest.fixture
def app(store, tmp_path):
    return create_headless_app(store, Settings(workspace=tmp_path))


@pytest.fixture
def address(app):
    """Where the application is served, in a thread of this process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def api(address, store):
    """A function that gives a client for somebody of a role, made where missing."""
    clients = []

    def client(name: str, role: Role = Role.RATER, scopes=tuple(Scope)) -> Client:
        known = {r.name: r for r in people.list_raters(store)}
        rater = known.get(name) or people.add_rater(store, name, role)
        secret = tokens.add_api_token(store, rater.id, "test", scopes)
        clients.append(Client(address, secret))
        return clients[-1]

    yield client
    for made in clients:
        made.close()


def row(i: int, **more) -> dict:
    sides = [
        {"messages": [{"role": "assistant", "content": f"{word} {i}"}], "policy": f"{POLICY}-{word}"}
        for word in ("red", "blue")
    ]
    return {"messages": [{"role": "user", "content": f"Which colour is {i}?"}], "completions": sides, **more}


def rank(client: Client, task, **more):
    return client.submit(task, "ranked", [[task.keys[0]], [task.keys[1]]], **more)


# The scopes


def test_an_import_says_all_that_it_counted(api):
    lead = api("lea", Role.LEAD)
    pair = {"prompt": "Q", "chosen": "a", "rejected": "b", "rater": "ann", "mood": [1, 2]}
    report = lead.import_rows([pair, pair, pair | {"chosen": "b", "rejected": "a"}, pair | {"rejected": "a"}])
    counted = {"rows": 4, "judgments": 1, "repeated_rows": 1, "repeated_votes": 1, "identical_sides": 1}
    assert {name: report[name] for name in counted} == counted
    assert (report["bad_lines"], report["splits_kept"]) == (0, 0)
    assert (report["unread"], report["noted"]) == ({"column mood": 4}, {})
    ranked = {"prompt": "Q", "completions": ["a", "c", "a"], "ranking": [[0], [1], [2]]}
    assert lead.import_rows([ranked])["noted"] == {"completions that repeat another of their prompt": 1}


def test_from_lines_to_a_snapshot(api, store, tmp_path):
    lead, ann = api("lea", Role.LEAD), api("ann")
    assert lead.import_rows(row(i) for i in range(3))["comparisons"] == 3
    seen = set()
    while tasks := ann.lease():
        assert rank(ann, tasks[0], strength=2, rationale="because", active_seconds=4.0).outcome == "counted"
        seen.add(tasks[0].prompt[-1].content)
    assert seen == {f"Which colour is {i}?" for i in range(3)}
    told = list(lead.judgments())
    assert [j.answer.strength for j in told] == [2, 2, 2]
    assert all(j.answer.ranking == tuple((i,) for i in j.order_shown) for j in told)
    assert {j.rater_id for j in told} == {people.get_rater_by_name(store, "ann").id}
    assert [(j.id, j.cursor, j.answer, j.route, j.created_at) for j in told] == [
        (j.id, j.seq, j.answer, j.route, j.created_at) for j in read_judgments(store)
    ]
    lead.snapshot(tmp_path / "s.tar.gz", format="jsonl")
    with tarfile.open(tmp_path / "s.tar.gz") as tar:
        manifest = json.load(tar.extractfile("snapshot/manifest.json"))
    assert sum(manifest["judgments"].values()) == 3


def test_prompts_completions_and_comparisons_one_by_one(api, store):
    lead = api("lea", Role.LEAD)
    [prompt] = lead.add_prompts([{"messages": [{"role": "user", "content": "Tea?"}], "tags": {"language": "en"}}])
    sides = [
        {"prompt_id": prompt, "messages": [{"role": "assistant", "content": text}], "policy": POLICY}
        for text in ("Yes.", "No.", "Perhaps.")
    ]
    ids = lead.add_completions(sides)
    [first] = lead.add_comparisons([{"prompt_id": prompt, "completion_ids": ids, "overlap": 2}], batch="pilot")
    assert lead.add_comparisons([{"prompt_id": prompt, "completion_ids": ids}]) == [first], "twice adds nothing"
    [found] = lead.comparisons()
    assert (found.id, found.batch, found.overlap, found.prompt.tags) == (first, "pilot", 2, {"language": "en"})
    assert [found] == list(find_comparisons(store))
    [task] = api("ann").lease()
    assert set(task.keys) == {"A", "B", "C"}
    other = lead.add_prompts([{"messages": [{"role": "user", "content": "Milk?"}]}])[0]
    with pytest.raises(NotFound):
        lead.add_completions(
            [{"prompt_id": "p_none", "messages": [{"role": "assistant", "content": "x"}], "policy": "p"}]
        )
    with pytest.raises(BadInput):
        lead.add_comparisons([{"prompt_id": other, "completion_ids": ids[:2]}])
    with pytest.raises(NotFound, match="nowhere"):
        lead.add_comparisons([{"prompt_id": prompt, "completion_ids": ids[:2]}], project="nowhere")


def test_nothing_is_imported_if_a_line_is_bad(api, store):
    lead = api("lea", Role.LEAD)
    with pytest.raises(BadInput, match=r"upload:2"):
        lead.import_rows([row(0), {"messages": "no list"}, row(1)])
    assert count_rows(store)["prompts"] == 0


def test_predictions_need_a_model_and_known_comparisons(api):
    lead = api("lea", Role.LEAD)
    lead.import_rows([row(0)])
    [comparison] = lead.comparisons()
    with pytest.raises(Conflict, match="train-reward"):
        lead.predict([comparison.id])
    with pytest.raises(BadInput):
        lead.predict()


def test_a_model_scores_what_is_in_the_store_and_what_is_not(api, store, tmp_path, tiny_model):
    from rlhf_hitl import simulate
    from rlhf_hitl.reward.backbone import Backbone
    from rlhf_hitl.reward.training.head_training import train_head

    lead = api("lea", Role.LEAD)
    lead.import_rows(row(i) for i in range(120))
    simulate.judge_queue(store, 100)
    train_head(store, Backbone(str(tiny_model)), tmp_path)
    ids = [c.id for c in lead.comparisons(judged=False)][:3]
    chats = [[{"role": "assistant", "content": text}] for text in ("one", "two two")]
    scores = lead.predict(ids, [{"prompt": [{"role": "user", "content": "Count."}], "completions": chats}])
    assert [s.comparison_id for s in scores] == [*ids, ""]
    assert {scores[-1].chosen, scores[-1].rejected} == {"0", "1"} == set(scores[-1].rewards)
    model = get_reward_model(store)
    kept = {s.comparison_id: s for s in read_scores(store, model.id)}
    assert [kept[i] for i in ids] == scores[:3]
    assert all(s.margin >= 0 and s.uncertainty >= 0 for s in scores)
    shutil.rmtree(model.path)
    with pytest.raises(Conflict, match=re.escape(f"reward model {display_name(model, with_id=True)}: its folder")):
        lead.predict(ids)


# Answers


def test_a_key_counts_once_and_for_one_comparison(api, store):
    lead, ann = api("lea", Role.LEAD), api("ann")
    lead.import_rows(row(i) for i in range(2))
    [task] = ann.lease()
    first, again = rank(ann, task, idempotency_key="k"), rank(ann, task, idempotency_key="k")
    assert (first.outcome, again.outcome) == ("counted", "repeated")
    assert first.judgment_id == again.judgment_id
    [other] = ann.lease()
    with pytest.raises(Conflict, match="another comparison"):
        rank(ann, other, idempotency_key="k")
    assert len(list(read_judgments(store))) == 1


def test_a_correction_supersedes_and_undo_brings_back_the_newest(api):
    lead, ann = api("lea", Role.LEAD), api("ann")
    lead.import_rows([row(0)])
    [task] = ann.lease()
    rank(ann, task, rationale="first thought")
    last = ann.last()
    assert last.judgment.answer.ranking == (("A",), ("B",))
    assert (last.judgment.comparison_id, last.judgment.order_shown, last.judgment.route) == (None, None, None)
    assert (last.prompt, last.completions) == (task.prompt, task.completions)
    fixed = ann.correct(last.judgment.id, "ranked", [["B"], ["A"]], rationale="second")
    assert fixed.outcome == "counted"
    again = ann.correct(last.judgment.id, "ranked", [["B"], ["A"]], rationale="second")
    assert (again.outcome, again.judgment_id) == ("repeated", fixed.judgment_id)
    with pytest.raises(Conflict, match=fixed.judgment_id):
        ann.correct(last.judgment.id, "all_bad")
    [current] = lead.judgments()
    assert (current.answer.rationale, current.supersedes) == ("second", last.judgment.id)
    assert [j.answer.rationale for j in lead.judgments(current=False)] == ["first thought", "second"]
    with pytest.raises(Conflict):
        ann.correct(last.judgment.id, "all_bad", idempotency_key="another")
    with pytest.raises(NotFound):
        api("bob").correct(fixed.judgment_id, "all_bad")


CONTRADICTORY = [
    ("ranked", [["A"], ["C"]], {}),
    ("ranked", [["A"], ["A"]], {}),
    ("ranked", [["A"], []], {}),
    ("ranked", [["A"]], {}),
    ("ranked", [], {}),
    ("skipped", [["A"], ["B"]], {}),
    ("ranked", [["A", "B"]], {"strength": 2}),
    ("ranked", [["A"], ["B"]], {"strength": 4}),
    ("ranked", [["A"], ["B"]], {"active_seconds": -1}),
    ("ranked", [["A"], ["B"]], {"surplus": False}),
    ("ranked", [["A"], ["B"]], {"reason": "unsafe"}),
    ("skipped", [], {"reason": "unsafe"}),
    ("skipped", [], {"reason": "no reason"}),
    ("ranked", [["A"], ["B"]], {"scores": {"helpful": 4}}),
    ("ranked", [["A"], ["B"]], {"scores": {"helpful": {"C": 4}}}),
    ("ranked", [["A"], ["B"]], {"scores": {"helpful": {"A": 6}}}),
    ("ranked", [["A"], ["B"]], {"scores": {"helpful": {"A": "4"}}}),
]


def test_a_contradictory_answer_is_refused_and_the_lease_stays(api, store, subtests):
    lead, ann = api("lea", Role.LEAD), api("ann")
    lead.import_rows([row(0)])
    [task] = ann.lease()
    for verdict, ranking, more in CONTRADICTORY:
        with subtests.test(f"{verdict} {ranking} {more}"):
            with pytest.raises(BadInput):
                ann.submit(task, verdict, ranking, **more)
            assert list(read_judgments(store)) == []
            assert [held.id for held in ann.lease()] == [task.id]
    assert rank(ann, task).outcome == "counted"


def test_scores_and_reasons_are_returned_in_letters_to_raters_and_in_ids_to_leads(api, store):
    lead, ann = api("lea", Role.LEAD), api("ann")
    lead.import_rows(row(i) for i in range(2))
    axes = (Axis("helpful", "Helpful"), Axis("mine", "Mine"))
    guidelines.publish_guideline(store, Guideline("default", "g1", "Be fair.", axes))
    [task] = ann.lease()
    assert task.guideline_version == "g1"
    rank(ann, task, scores={"helpful": {"A": 4, "B": 2.0}, "mine": {"B": 5}}, rewrite="Green.")
    assert ann.last().judgment.answer.scores == {"helpful": {"A": 4, "B": 2}, "mine": {"B": 5}}
    [task] = ann.lease()
    guidelines.publish_guideline(store, Guideline("default", "g2", "Be fair and kind."))
    ann.submit(task, "flagged", reason="wrong_language", guideline_version="g2")
    ranked, flagged = lead.judgments()
    first, second = ranked.order_shown
    assert ranked.answer.scores == {"helpful": {first: 4, second: 2}, "mine": {second: 5}}
    assert (ranked.answer.rewrite, ranked.answer.reason, ranked.guideline_version) == ("Green.", None, "g1")
    assert (flagged.answer.reason, flagged.guideline_version) == (Reason.WRONG_LANGUAGE, "g2")


def test_a_lease_of_another_rater_cannot_be_used(api):
    lead, ann, bob = api("lea", Role.LEAD), api("ann"), api("bob")
    lead.import_rows([row(0)])
    [task] = ann.lease()
    assert bob.lease() == []
    with pytest.raises(Conflict, match="another rater"):
        rank(bob, task)
    for act in (bob.renew, bob.release):
        with pytest.raises(NotFound):
            act(task)
    ann.release(task)
    [taken] = bob.lease()
    assert rank(bob, taken).outcome == "counted"
    assert rank(ann, task).outcome == "surplus", "what comes late is kept"


def test_a_renewed_lease_lasts_longer(api):
    lead, ann = api("lea", Role.LEAD), api("ann")
    lead.import_rows([row(0)])
    [task] = ann.lease(seconds=60)
    assert ann.renew(task, 600) - task.expires_at > timedelta(seconds=500)


def test_task_filters_pauses_and_quotas_reach_the_api(api, store):
    lead, ann = api("lea", Role.LEAD), api("ann")
    projects.add_project(store, "closed", open=False)
    projects.change_project(store, "default", rater_filters=["batch", "tags.topic"])
    lead.import_rows([row(0, tags={"language": "es", "topic": "a'b"})], batch="b1")
    lead.import_rows([row(1)], project="closed")
    assert ann.lease(project="closed") == ann.lease(batch="b2") == ann.lease(language="fr") == []
    assert ann.lease(tags={"topic": "other"}) == []
    [task] = ann.lease(language="es", batch="b1", tags={"topic": "a'b"})
    ann.release(task)
    people.change_rater(store, "ann", quota=1)
    assert len(ann.lease(5)) == 1
    people.change_rater(store, "ann", paused=True)
    ann.release(ann.lease()[0])
    assert ann.lease() == []


def test_a_lead_sees_the_queue_by_lane_and_a_rater_their_own_counts(api, store):
    lead, ann = api("lea", Role.LEAD), api("ann")
    lead.import_rows([row(i) for i in range(4)], batch="b1")
    rank(ann, ann.lease()[0])
    ann.lease()
    told = lead.queue()
    assert (told.filled, told.leased, told.free) == (1, 1, 2)
    assert list(told.lanes) == queue.count_places_by_lane(store)
    own = ann.queue()
    assert (own.filled, own.free, own.lanes) == (1, 1, ()), "fewer than ten are left"


def test_paging_misses_nothing_that_arrives_meanwhile(api, store):
    lead, ann = api("lea", Role.LEAD), api("ann")
    lead.import_rows(row(i) for i in range(35))
    for _ in range(20):
        rank(ann, ann.lease()[0])
    reading = lead.judgments(limit=7)
    seen = [next(reading).id for _ in range(10)]
    for _ in range(15):
        rank(ann, ann.lease()[0])
    seen += [j.id for j in reading]
    assert seen == [j.id for j in read_judgments(store)]
    assert len(seen) == len(list(lead.comparisons(limit=10))) == 35


# Who may what

OPERATIONS = {
    "input": [("POST", "/prompts"), ("POST", "/completions"), ("POST", "/comparisons"), ("POST", "/import"),
              ("GET", "/comparisons"), ("GET", "/comparisons/x_1")],
    "prediction": [("POST", "/predictions")],
    "task": [("POST", "/leases"), ("POST", "/leases/l_1/renew"), ("DELETE", "/leases/l_1"), ("GET", "/queue"),
             ("GET", "/images/img_1"), ("POST", "/adjudications/leases"), ("GET", "/adjudications")],
    "feedback": [("POST", "/judgments"), ("POST", "/judgments/j_1/corrections"), ("GET", "/judgments"),
                 ("GET", "/judgments/last"), ("GET", "/snapshot")],
    "manage": [("GET", "/projects"), ("POST", "/projects"), ("PATCH", "/projects/p"), ("GET", "/raters"),
               ("PUT", "/projects/p/members/r"), ("DELETE", "/projects/p/members/r"), ("PATCH", "/raters/r"),
               ("POST", "/leases/l_1/expire"), ("POST", "/invites"), ("GET", "/webhooks"), ("POST", "/webhooks"),
               ("DELETE", "/webhooks/w"), ("GET", "/audit"), ("POST", "/catalog/search"), ("GET", "/golds"),
               ("POST", "/golds"), ("POST", "/golds/end"), ("PUT", "/projects/p/qualified/r"),
               ("DELETE", "/projects/p/qualified/r"), ("POST", "/adjudications"), ("GET", "/assignments"),
               ("POST", "/assignments"), ("POST", "/assignments/end"), ("GET", "/policies"),
               ("POST", "/policies/ranking")],
}  # fmt: skip
MESSAGES = [{"role": "user", "content": "x"}]
#: What can be read, where `{}` cannot: who may not come in is told so before what they brought is looked into.
BODIES = {
    path: {"json": body}
    for path, body in {
        "/prompts": {"prompts": [{"messages": MESSAGES}]},
        "/completions": {"completions": [{"prompt_id": "p", "messages": MESSAGES, "policy": "p"}]},
        "/comparisons": {"comparisons": [{"prompt_id": "p", "completion_ids": ["a", "b"]}]},
        "/judgments": {"lease_id": "l_1", "verdict": "skipped"},
        "/judgments/j_1/corrections": {"verdict": "skipped"},
        "/projects": {"id": "p"},
        "/webhooks": {"url": "http://127.0.0.1:1/", "events": ["alert.raised"]},
    }.items()
}
OPENS = {
    Role.RATER: {"task", "feedback"},
    Role.EVALUATOR: {"prediction", "feedback"},
    Role.LEAD: {"input", "prediction", "task", "feedback", "manage"},
    Role.ADMIN: {"input", "prediction", "task", "feedback", "manage"},
}


@pytest.fixture
def plain(app):
    return TestClient(app, raise_server_exceptions=False)


def test_the_operations_listed_here_are_all_there_are(plain):
    listed = {(m, p) for ops in OPERATIONS.values() for m, p in ops}
    described = plain.get("/api/v1/openapi.json").json()["paths"]
    assert len(listed) == sum(len(ops) for ops in described.values())


def test_every_operation_asks_for_a_token_its_scope_and_a_role(plain, sqlite_store, tmp_path):
    app = create_headless_app(sqlite_store, Settings(workspace=tmp_path))
    plain = TestClient(app, raise_server_exceptions=False)
    for role, opens in OPENS.items():
        rater = people.add_rater(sqlite_store, role.value, role)
        every = tokens.add_api_token(sqlite_store, rater.id, "", list(Scope))
        for scope, operations in OPERATIONS.items():
            others = tokens.add_api_token(sqlite_store, rater.id, "", [s for s in Scope if s.value != scope])
            for method, path in operations:
                ask = (method, f"/api/v1{path}")
                body = BODIES.get(path, {"json": {}} if method in ("POST", "PATCH") else {})
                assert plain.request(*ask, **body).status_code == 401, ask
                got = plain.request(*ask, **body, headers={"authorization": f"Bearer {others}"})
                assert got.status_code == 403, (role, ask)
                got = plain.request(*ask, **body, headers={"authorization": f"Bearer {every}"})
                assert (got.status_code == 403) == (scope not in opens or needs_admin(role, path)), (
                    role,
                    ask,
                    got.text,
                )


def needs_admin(role: Role, path: str) -> bool:
    if path == "/snapshot" or path.startswith("/adjudications"):
        return role is Role.RATER
    return role is Role.LEAD and path.startswith(("/webhooks", "/audit"))


def test_a_lead_can_neither_invite_nor_change_a_lead(api, app, store):
    lead = api("lea", Role.LEAD)
    adam = people.add_rater(store, "adam", Role.ADMIN)
    ask = lead._http
    assert ask.post("/invites", json={"role": "rater"}).status_code == 201
    assert ask.post("/invites", json={"role": "admin"}).status_code == 403
    assert ask.patch(f"/raters/{adam.id}", json={"disabled": True}).status_code == 403
    assert ask.get("/snapshot", params={"format": "archive"}).status_code == 403


def test_an_expired_or_revoked_token_is_refused_everywhere(api, store):
    ann = api("ann")
    ann.lease()
    for token in tokens.list_tokens(store):
        tokens.revoke_token(store, token.id)
    with pytest.raises(NotAllowed):
        ann.lease()
    again = api("ann")
    people.change_rater(store, "ann", disabled=True)
    with pytest.raises(NotAllowed):
        again.lease()


def test_an_admin_downloads_the_whole_store(api, tmp_path):
    api("adam", Role.ADMIN).snapshot(tmp_path / "all.zip", format="archive")
    assert "judgments.ndjson" in zipfile.ZipFile(tmp_path / "all.zip").namelist()


# What a rater never sees


def test_no_response_to_a_rater_holds_what_raters_must_not_know(api, store):
    lead, ann, bob = api("lea", Role.LEAD), api("ann"), api("bob")
    lead.import_rows([row(i) for i in range(3)], overlap=2)
    made = list(find_comparisons(store))
    apply_routings(store, [Routing(c.id, Route.CONTROL, Route.AUTO, "drawn", round=7) for c in made])
    rank(bob, bob.lease()[0], rationale="what bob thinks")
    asks = ann._http
    got = [asks.post("/leases", json={"count": 2})]
    leases = [one["id"] for one in got[0].json()["leases"]]
    answer = {"verdict": "ranked", "ranking": [["A"], ["B"]]}
    got.append(asks.post("/judgments", json=answer | {"lease_id": leases[0]}))
    judgment = got[-1].json()["id"]
    got.append(asks.post("/judgments", json=answer | {"lease_id": leases[0]}))
    got.append(asks.post(f"/judgments/{judgment}/corrections", json=answer))
    got.append(asks.post(f"/leases/{leases[1]}/renew", json={}))
    got += [asks.get(path) for path in ("/judgments", "/judgments/last", "/queue", "/judgments?current=false")]
    foreign = next(read_judgments(store, rater_id=people.get_rater_by_name(store, "bob").id))
    got.append(asks.post(f"/judgments/{foreign.id}/corrections", json=answer))
    got += [asks.request(method, path.replace("x_1", made[0].id), json={}) for method, path in everything()]
    got.append(asks.delete(f"/leases/{leases[1]}"))
    assert {a.status_code for a in got[:9]} == {200, 201}
    sent = "\n".join(f"{a.text} {dict(a.headers)}" for a in got).replace("cache-control", "")
    with store.read() as conn:
        ids = list(conn.execute(tables.completions.select()).scalars())
    sent = sent.replace(foreign.id, "", 1)  # named back to whoever named it
    forbidden = [POLICY, "control", "drawn", "what bob thinks", "bob", foreign.id, *ids, *(c.id for c in made)]
    assert [text for text in forbidden if text in sent] == []


def everything():
    return [op for scope, ops in OPERATIONS.items() if scope not in ("task", "feedback") for op in ops]


# The client


def test_the_client_retries_what_may_be_sent_twice(address, store, api):
    api("lea", Role.LEAD).import_rows([row(0)])
    real, cuts = httpx.HTTPTransport(), {"left": 2}

    class Cut(httpx.BaseTransport):
        """A line that breaks after the server has done its work."""

        def handle_request(self, request):
            answer = real.handle_request(request)
            answer.read()
            if cuts["left"]:
                cuts["left"] -= 1
                raise httpx.ReadError("cut")
            return answer

    rater = people.add_rater(store, "ann", Role.RATER)
    with Client(address, tokens.add_api_token(store, rater.id, "", list(Scope)), transport=Cut()) as ann:
        [task] = ann.lease()
        cuts["left"] = 1
        assert rank(ann, task).outcome == "repeated"
    assert len(list(read_judgments(store))) == 1
    assert utc_now() - next(read_judgments(store)).created_at < timedelta(minutes=5)


def test_a_missing_server_is_reported():
    with Client("http://127.0.0.1:1", "x") as nobody, pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        nobody.import_rows([row(0)])  # what is not tried again, so that this does not take ten seconds


def test_the_audit_log_records_who_added_something(api, store):
    api("pipe", Role.ADMIN).add_prompts([{"messages": [{"role": "user", "content": "Hm?"}]}])
    [entry] = audit.list_entries(store, actions=["prompts.added"])
    assert entry.details == {"new": 1}


def test_a_disk_that_cannot_be_written_is_reported_as_503(store, tmp_path):
    (tmp_path / "taken").write_text("a file where the workspace should be")
    app = create_headless_app(store, Settings(workspace=tmp_path / "taken"))
    admin = people.add_rater(store, "root", Role.ADMIN)
    secret = tokens.add_api_token(store, admin.id, "", [Scope.INPUT])
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/api/v1/import", content=b"{}", headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 503
    assert "disk" in answer.json()["detail"]
