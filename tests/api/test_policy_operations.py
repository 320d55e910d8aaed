"""Policies over the API: the ranking and the lineage are for leads, and say what the command says."""

from __future__ import annotations

from starlette.testclient import TestClient

from handmade_votes import fill
from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings
from rlhf_hitl.store import people, tokens
from rlhf_hitl.store.policies import PolicyMethod, record_policy
from rlhf_hitl.types import Role, Scope


def test_leads_get_the_ranking_and_raters_nothing(store, add_raters, tmp_path):
    fill(store, add_raters(store, 1), 120, tastes={"tuned": 2}, policies=("base", "tuned"), topic="code")
    record_policy(store, "tuned", path=tmp_path, parent="base", method=PolicyMethod.PPO)
    client = TestClient(create_headless_app(store, Settings(workspace=tmp_path)))
    headers = {}
    for role in (Role.LEAD, Role.RATER, Role.EVALUATOR):
        person = people.add_rater(store, role.value, role)
        secret = tokens.add_api_token(store, person.id, "test", tuple(Scope))
        headers[role] = {"authorization": f"Bearer {secret}"}

    def rank(body, role=Role.LEAD):
        return client.post("/api/v1/policies/ranking", json=body, headers=headers[role])

    found = rank({"style_control": True, "tags": {"topic": "code"}}).json()
    assert [(p["policy"], p["rank"]) for p in found["policies"]] == [("tuned", 1), ("base", 2)]
    assert (found["base"], found["population"]) == ("base", "people")
    assert {s["feature"] for s in found["style"]} == {"length", "headings", "lists", "bold"}
    assert rank({"tags": {"topic": "poems"}}).json()["policies"] == []
    assert rank({"base": "nobody"}).status_code == 404
    assert rank({"project": "nowhere"}).status_code == 404
    [root, tuned] = client.get("/api/v1/policies", headers=headers[Role.LEAD]).json()
    assert (root["method"], tuned["method"], tuned["place"], tuned["parent"]) == (None, "ppo", "here", "base")
    sent = {"prompts": [{"messages": [{"role": "user", "content": "Why?"}]}]}
    [prompt_id] = client.post("/api/v1/prompts", json=sent, headers=headers[Role.LEAD]).json()["ids"]
    answered = {"prompt_id": prompt_id, "messages": [{"role": "assistant", "content": "Yes."}], "policy": "sent"}
    said = {"completions": [answered]}
    assert client.post("/api/v1/completions", json=said, headers=headers[Role.LEAD]).status_code == 201
    last = client.get("/api/v1/policies", headers=headers[Role.LEAD]).json()[-1]
    assert (last["policy"], last["method"], last["parent"]) == ("sent", "import", None)
    for role in (Role.RATER, Role.EVALUATOR):
        assert rank({}, role).status_code == 403
        assert client.get("/api/v1/policies", headers=headers[role]).status_code == 403
