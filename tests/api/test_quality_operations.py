"""Golds, qualification, adjudication and assignments over the API, on either database: what each role is told."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings
from rlhf_hitl.store import people, queue, tokens
from rlhf_hitl.types import Role, Scope

GOLD = {
    "messages": [{"role": "user", "content": "What is 7 times 8?"}],
    "completions": [[{"role": "assistant", "content": text}] for text in ("54", "56")],
    "ranking": [[1], [0]],
    "strength": 3,
    "explanation": "7 times 8 is 56.",
}


@pytest.fixture
def api(store, tmp_path):
    """A function that calls the API as somebody of a role, made where missing: `api("lea", "GET", "/golds")`."""
    client = TestClient(create_headless_app(store, Settings(workspace=tmp_path)))
    secrets: dict[str, str] = {}

    def call(name: str, method: str, path: str, body=None, *, role=Role.RATER, status: int = 200):
        if name not in secrets:
            rater = people.add_rater(store, name, role)
            secrets[name] = tokens.add_api_token(store, rater.id, "test", tuple(Scope))
        headers = {"authorization": f"Bearer {secrets[name]}"}
        answer = client.request(method, f"/api/v1{path}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    call("lea", "GET", "/golds", role=Role.LEAD)
    return call


def answer(lease, best: str, **more):
    """The body of a judgment that prefers the completion of a text."""
    keys = sorted(lease["completions"], key=lambda c: c["messages"][0]["content"] != best)
    return {"lease_id": lease["id"], "verdict": "ranked", "ranking": [[c["key"]] for c in keys], **more}


def id_of(store, name: str) -> str:
    return people.get_rater_by_name(store, name).id


def test_a_gold_comes_like_any_other_and_its_receipt_brings_the_right_answer(api, store, add_comparisons):
    add_comparisons(store, 3)
    assert api("lea", "POST", "/golds", {"golds": [GOLD]}, status=201) == {"golds": 1, "new": 1}
    changed = api("lea", "PATCH", "/projects/default", {"gold_every": 2, "gold_feedback": True})
    assert (changed["gold_every"], changed["gold_feedback"], changed["qualification"]) == (2, True, None)
    api("ann", "GET", "/queue")
    queue.lease_many(store, id_of(store, "ann"), 1, seconds=1800, chance=lambda: 0.0)
    api("lea", "PATCH", "/projects/default", {"gold_every": 0})
    gold, other = api("ann", "POST", "/leases", {"count": 2})["leases"]
    assert gold.keys() == other.keys()
    assert gold["prompt"] == GOLD["messages"]
    receipt = api("ann", "POST", "/judgments", answer(gold, "54"), status=201)
    letter = next(c["key"] for c in gold["completions"] if c["messages"][0]["content"] == "56")
    assert receipt["gold"] == {
        "agreed": False, "verdict": "ranked", "strength": 3, "explanation": "7 times 8 is 56.",
        "ranking": [[letter], [{"A": "B", "B": "A"}[letter]]],
    }  # fmt: skip
    assert api("ann", "POST", "/judgments", answer(gold, "54"))["gold"] == receipt["gold"]
    usual = api("ann", "POST", "/judgments", answer(other, "0.0"), status=201)
    assert (usual["gold"], usual["qualification"]) == (None, None)
    [listed] = api("lea", "GET", "/golds")
    assert [listed["completions"][i][0]["content"] for [i] in listed["ranking"]] == ["56", "54"]
    assert api("lea", "POST", "/golds/end", {"ids": [listed["id"]]}) == {"ended": 1}
    assert api("lea", "GET", "/golds") == []
    assert [g["ended"] for g in api("lea", "GET", "/golds?ended=true")] == [True]
    api("lea", "POST", "/golds/end", {"ids": ["x_none"]}, status=404)
    for method, path in (("GET", "/golds"), ("GET", "/assignments"), ("GET", "/adjudications")):
        api("ann", method, path, status=403)


def test_a_rater_learns_how_they_stand_with_a_qualification(api, store, add_comparisons):
    add_comparisons(store, 1, overlap=3)
    refused = api("lea", "PATCH", "/projects/default", {"qualification": {"golds": 1}}, status=422)
    assert "purpose qualification" in refused["detail"]
    api("lea", "POST", "/golds", {"golds": [GOLD], "purpose": "qualification"}, status=201)
    rule = {"golds": 1, "pass_mark": 0.75, "retries": 0, "expires_days": 30}
    assert api("lea", "PATCH", "/projects/default", {"qualification": rule})["qualification"] == rule
    got = api("ann", "POST", "/leases", {"count": 5})
    [gold] = got["leases"]
    [standing] = got["qualifications"]
    assert (standing["project"], standing["state"], standing["golds"]) == ("default", "asked", 1)
    receipt = api("ann", "POST", "/judgments", answer(gold, "54"), status=201)
    assert (receipt["gold"], receipt["qualification"]["state"]) == (None, "failed")
    failed = api("ann", "POST", "/leases", {})
    assert (failed["leases"], failed["qualifications"][0]["state"]) == ([], "failed")
    path = f"/projects/default/qualified/{id_of(store, 'ann')}"
    assert api("lea", "PUT", path)["state"] == "qualified"
    working = api("ann", "POST", "/leases", {})
    assert (len(working["leases"]), working["qualifications"]) == (1, [])
    assert api("lea", "DELETE", path)["state"] == "asked"
    api("lea", "DELETE", path, status=404)
    api("ann", "PUT", path, status=403)
    assert api("lea", "PATCH", "/projects/default", {"qualification": "off"})["qualification"] is None


def test_a_lead_decides_with_the_votes_in_their_own_letters(api, store, add_comparisons):
    [comparison] = add_comparisons(store, 1, overlap=2)
    for name, best in (("ann", "0.0"), ("bob", "0.1")):
        [lease] = api(name, "POST", "/leases", {})["leases"]
        api(name, "POST", "/judgments", answer(lease, best, rationale=f"{name} says so"), status=201)
    sent = api("lea", "POST", "/adjudications", {"ids": [comparison.id, "x_none"], "reason": "they split"})
    assert sent == {"sent": 1, "waiting": 0, "decided": 0, "refused": 1}
    assert api("lea", "GET", "/adjudications") == {"waiting": 1, "for_you": 1, "decided": 0}
    [lease] = api("lea", "POST", "/adjudications/leases", {})["leases"]
    text_of = {c["key"]: c["messages"][0]["content"] for c in lease["completions"]}
    assert [text_of[v["ranking"][0][0]] for v in lease["votes"]] == ["0.0", "0.1"]
    assert [v["rationale"] for v in lease["votes"]] == ["ann says so", "bob says so"]
    assert {tuple(v["order_shown"]) for v in lease["votes"]} == {("A", "B"), ("B", "A")}
    receipt = api("lea", "POST", "/judgments", answer(lease, "0.1"), status=201)
    assert receipt["outcome"] == "counted"
    assert api("lea", "GET", "/adjudications") == {"waiting": 0, "for_you": 0, "decided": 1}
    api("ann", "POST", "/adjudications/leases", {}, status=403)
    api("ann", "POST", "/adjudications", {"ids": [comparison.id]}, status=403)


def test_a_lead_assigns_and_ends_assignments(api, store, add_comparisons):
    made = add_comparisons(store, 2)
    api("ann", "GET", "/queue")
    ann, ids = id_of(store, "ann"), [c.id for c in made]
    assert api("lea", "POST", "/assignments", {"rater_id": ann, "ids": [*ids, "x_none"]}) == {
        "rater": "ann", "assigned": 2, "refused": {"unknown": 1}
    }  # fmt: skip
    listed = api("lea", "GET", f"/assignments?rater_id={ann}")
    assert {(a["comparison_id"], a["state"], a["assigned_by"]) for a in listed} == {
        (id, "waiting", id_of(store, "lea")) for id in ids
    }
    assert api("bob", "POST", "/leases", {})["leases"] == []
    assert api("lea", "POST", "/assignments/end", {"rater_id": ann, "ids": ids[:1]}) == {"ended": 1}
    assert len(api("bob", "POST", "/leases", {"count": 2})["leases"]) == 1
    api("lea", "POST", "/assignments", {"rater_id": "r_none", "ids": ids}, status=404)
    api("lea", "POST", "/assignments", {"rater_id": ann, "slice": "nothing"}, status=404)
    api("ann", "POST", "/assignments", {"rater_id": ann, "ids": ids}, status=403)
