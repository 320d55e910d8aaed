"""Whatever is sent to the API, it answers as its OpenAPI says: never with a 5xx, never with a trace."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.engine import events, from_schema
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store, people, projects, queue, tokens, views
from rlhf_hitl.store.comparisons import count_rows, insert_comparisons
from rlhf_hitl.types import Answer, Comparison, Completion, Message, Prompt, Role, Scope, Verdict

#: Operations whose body may keep to the schema and be refused all the same, and why. JSON Schema cannot say it.
REFUSED = {
    "add_prompts": "a prompt needs a message with text",
    "add_completions": "an image has to be one",
    "predict": "completions have to differ",
    "import_lines": "the lines have to be of a known format",
    "submit": "verdict, ranking, strength and reason have to go together",
    "correct": "verdict, ranking, strength and reason have to go together",
    "snapshot": "there has to be something to export",
    "add_project": "the name has to be free, and an overlap rule's most not below its least",
    "change_project": "an overlap rule's most must not be below its least",
    "add_webhook": "the address has to have a host",
    "change_rater": "nobody can disable themselves",
    "add_golds": "the ranking has to name the completions that are there",
    "grant": "the project has to ask for a qualification",
    "withdraw": "the project has to ask for a qualification",
    "search_comparisons": "all its lists together may have a thousand values",
    "assign": "it takes ids or a slice",
    "end_assignments": "it takes ids or a slice",
}
#: What a call may be refused with whether or not it keeps to the schema.
REFUSALS = ("401", "403", "404", "409", "413")
#: Operations that no call here gets through, and why.
UNREACHED = {
    "predict": "it takes a trained model; test_v1.py has one",
    "image": "it takes an image; test_images.py has one",
    **dict.fromkeys(
        ("add_golds", "end_golds", "grant", "withdraw"),
        "it takes golds with their right answer; test_quality_operations.py has them",
    ),
}


@schemathesis.serializer("application/x-ndjson")
def _as_lines(_context: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


class Site:
    """The application over a store that has something of everything."""

    def __init__(self, store: Store, folder: Path):
        self.store = store
        self.ada = people.add_rater(store, "ada", Role.ADMIN)
        self.bob = people.add_rater(store, "bob", Role.RATER)
        self.key = tokens.add_api_token(store, self.ada.id, "", list(Scope))
        app = create_headless_app(store, Settings(store=store.url, workspace=folder, max_import_mb=2))
        self.client = TestClient(app, headers={"authorization": f"Bearer {self.key}"}, raise_server_exceptions=False)

        async def without_webhooks(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"  # started, it would deliver to the addresses that are made up here
            await app(scope, receive, send)

        self.app: ASGIApp = without_webhooks
        projects.add_project(store, "coding")
        made = [_comparison(i) for i in range(60)]
        self.known = made[0]
        with store.write() as conn:
            insert_comparisons(store, conn, made)
        for lease in queue.lease_many(store, self.ada.id, 5, seconds=1800):
            queue.submit(store, lease.id, self.ada.id, _answer(lease.order_shown))
        queue.lease_many(store, self.ada.id, 5, seconds=1800)

    def schema(self, coverage: bool) -> Any:
        config = schemathesis.Config.from_dict(
            {
                "seed": 1,
                "headers": {"Authorization": f"Bearer {self.key}"},
                "continue-on-failure": True,
                "cache": {"enabled": False},
                "phases": {"coverage": {"enabled": coverage}},
                "generation": {
                    "deterministic": True,
                    "max-examples": 5 if coverage else 2,
                    "no-shrink": True,
                    "database": "none",
                },
                "checks": {
                    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx"]},
                    "positive_data_acceptance": {"expected-statuses": ["2xx", *REFUSALS]},
                    "negative_data_rejection": {"expected-statuses": ["400", "405", "422", *REFUSALS]},
                },
                "operations": [
                    # Their bodies have the fields of `submit` and of `add_completions`.
                    {"include-operation-id": ["correct", "predict"], "phases": {"coverage": {"enabled": False}}},
                    {
                        "include-operation-id": list(REFUSED),
                        "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "422", *REFUSALS]}},
                    },
                ],
            }
        )
        schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", self.app, config=config)

        @schema.hook
        def map_path_parameters(_context: Any, value: Any) -> Any:
            return self._with_known_ids(value)

        @schema.hook
        def map_body(_context: Any, value: Any) -> Any:
            return self._with_known_ids(value)

        return schema

    def _with_known_ids(self, value: Any) -> Any:
        """The same, with ids the store knows in about half of the places where it says what could be one."""
        if isinstance(value, list):
            return [self._with_known_ids(v) for v in value]
        if not isinstance(value, dict):
            return value
        return {k: self._known_id(k, v) or self._with_known_ids(v) for k, v in value.items()}

    def _known_id(self, name: str, value: Any) -> str | list[str] | None:
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(i, str) and re.fullmatch(r"[\w.-]{1,80}", i, re.ASCII) for i in ids):
            return None
        if name == "rater_id":
            return self.bob.id if value == self.ada.id or value < "V" else None  # never ada: she would be shut out
        if not ids or ids[0] > "V":
            return None
        match name:
            case "lease_id":
                return next((lease.id for lease in queue.lease_many(self.store, self.ada.id, 1, seconds=1800)), None)
            case "judgment_id":
                newest = views.load_newest_judgment(self.store, self.ada.id)
                return newest[0].id if newest else None
            case "completion_ids":
                return [c.id for c in self.known.completions] if 2 <= len(ids) <= 26 else None
            case "prompt_id":
                return self.known.prompt.id
            case "comparison_id":
                return self.known.id
        return None


def _comparison(i: int) -> Comparison:
    prompt = Prompt.create((Message("user", f"Question {i}?"),), {"language": "en"})
    sides = [Completion.create(prompt.id, (Message("assistant", f"{i}.{j}"),), "policy") for j in range(2)]
    return Comparison.create(prompt, sides, overlap=3)


def _answer(shown: tuple[str, ...]) -> Answer:
    return Answer(Verdict.RANKED, tuple((i,) for i in shown), strength=2)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def site(request, tmp_path_factory) -> Iterator[Site]:
    """One for all tests that send what is refused."""
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        url = f"sqlite:///{folder}/preferences.db"
        if request.param == "postgres":
            url = stack.enter_context(request.getfixturevalue("postgres").database())
        yield Site(stack.enter_context(Store.open(url, create=True)), folder)


def run(schema: Any) -> tuple[list[str], dict[str, set[int]]]:
    """What is wrong, and the statuses each operation answered with."""
    wrong: dict[Any, str] = {}
    statuses: dict[str, set[int]] = defaultdict(set)
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError):
            wrong[event.label, event.info.title] = f"{event.label}: {event.info.title}: {event.info.message}"
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.ScenarioFinished):
            for id, case in event.recorder.cases.items():
                call = event.recorder.interactions.get(id)
                if call is not None and call.response is not None:
                    statuses[case.value.operation.label].add(call.response.status_code)
            for checks in event.recorder.checks.values():
                for failed in (check for check in checks if check.failure_info is not None):
                    failure = failed.failure_info.failure
                    said = f"{failure.operation}: {failed.name}: {failure.message}\n{failed.failure_info.code_sample}"
                    wrong.setdefault((failure.operation, failed.name), said)
    return list(wrong.values()), statuses


def test_every_operation_answers_as_its_openapi_says(store, tmp_path):
    # The edges of every field, one by one, on one database only: they take most of the time.
    schema = Site(store, tmp_path).schema(coverage=store.is_sqlite)
    wrong, statuses = run(schema)
    assert not wrong, "\n\n".join(wrong)
    if store.is_sqlite:
        names = {op.ok().label: op.ok().definition.raw["operationId"] for op in schema.get_all_operations()}
        through = {names[label] for label, found in statuses.items() if any(200 <= status < 300 for status in found)}
        assert through == set(names.values()) - UNREACHED.keys()


def check(answer: Any, *statuses: int, of: str = "") -> None:
    """The answer has one of the statuses, and says no more than a problem document may."""
    said = f"{of[:80]!r}: {answer.status_code}: {answer.text[:500]}"
    assert answer.status_code in statuses, said
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", said
        assert answer.json()["status"] == answer.status_code
    assert not re.search(r"Traceback|\.py\b|sqlite:|postgresql|sqlalchemy|psycopg|/tmp/", answer.text), said
    assert len(answer.content) < 100_000, said


def content(site: Site) -> list[Any]:
    """Everything that a call could have added."""
    return [count_rows(site.store), projects.list_projects(site.store), people.list_raters(site.store)]


DEEP = "[" * 100_000 + "]" * 100_000
BODIES = {
    "no UTF-8": b'{"verdict": "skipped", "lease_id": "\xff\xfe"}',
    "half a pair": b'{"verdict": "skipped", "lease_id": "l_1", "rationale": "\\ud800"}',
    "a NUL": b'{"verdict": "skipped", "lease_id": "l_1", "rationale": "\\u0000"}',
    "a NUL as it is": b'{"verdict": "skipped", "lease_id": "l_1", "rationale": "\x00"}',
    "deep": DEEP.encode(),
    "deep inside": f'{{"verdict": "skipped", "lease_id": "l_1", "scores": {{"a": {DEEP}}}}}'.encode(),
    "many digits": f'{{"verdict": "skipped", "lease_id": "l_1", "active_seconds": {"9" * 10_000}}}'.encode(),
    "a large number": f'{{"verdict": "skipped", "lease_id": "l_1", "active_seconds": {"9" * 400}}}'.encode(),
    "1e999": b'{"verdict": "skipped", "lease_id": "l_1", "active_seconds": 1e999}',
    "infinity": b'{"verdict": "skipped", "lease_id": "l_1", "scores": {"a": Infinity}}',
    "no number": b'{"verdict": "skipped", "lease_id": "l_1", "scores": {"a": NaN}}',
    "an unknown key": b'{"verdict": "skipped", "lease_id": "l_1", "surplus": false}',
    "another type": b'{"verdict": "skipped", "lease_id": ["l_1"]}',
    "a list": b"[]",
    "null": b"null",
    "cut off": b'{"verdict": "skipped", "lease_id": "l_1"',
    "nothing": b"",
    "nothing but space": b" \n",
}


def test_a_body_that_cannot_be_used_is_refused_and_changes_nothing(site):
    before = content(site)
    for name, body in BODIES.items():
        as_json = {"content-type": "application/json"}
        check(site.client.post("/api/v1/judgments", content=body, headers=as_json), 400, 422, of=name)
    usual = b'{"verdict": "skipped", "lease_id": "l_1"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "a", "\xff"):
        headers = {"content-type": kind.encode("latin-1")}
        check(site.client.post("/api/v1/judgments", content=usual, headers=headers), 422, of=kind)
    assert content(site) == before


LINES = {
    "nothing": b"",
    "no lines": b"\n\n",
    "no JSON": b"messages\n",
    "no object": b"null\n",
    "no UTF-8": b'{"messages": [{"role": "user", "content": "\xff"}]}\n',
    "half a pair": b'{"messages": [{"role": "user", "content": "\\ud800"}]}\n',
    "half a pair in a tag": b'{"messages": [{"role": "user", "content": "a"}], "tags": {"\\ud800": "b"}}\n',
    "deep": b'{"messages": ' + DEEP.encode() + b"}\n",
    "many digits": b'{"messages": [{"role": "user", "content": "a"}], "n": ' + b"9" * 10_000 + b"}\n",
    "another shape": b'{"messages": {"role": "user"}}\n',
    "compressed": b"\x1f\x8b\x08\x00" + b"\x00" * 100,
    "a zip": b"PK\x03\x04" + b"\x00" * 100,
    "a good line and a bad one": b'{"messages": [{"role": "user", "content": "good"}]}\n{"messages": 1}\n',
    "one long line": b'{"messages": [{"role": "user", "content": "' + b"a" * 1_500_000,
}


def test_an_import_that_cannot_be_used_is_refused_whole(site):
    before = content(site)
    for name, body in LINES.items():
        answer = site.client.post("/api/v1/import", content=body, headers={"content-type": "application/x-ndjson"})
        check(answer, 422, of=name)
    assert content(site) == before


def test_a_nul_in_a_text_is_refused_on_both_databases_in_bodies_queries_and_paths(site):
    before = content(site)
    chat, side = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    for tags, policy in (({"a\x00b": "c"}, "p"), ({"a": "b\x00c"}, "p"), ({}, "p\x00")):
        prompt = {"messages": chat, "tags": tags}
        completion = {"messages": side, "policy": policy}
        line = json.dumps(prompt | {"completions": [completion]}) + "\n"
        check(site.client.post("/api/v1/import", content=line), 422)
        if tags:
            check(site.client.post("/api/v1/prompts", json={"prompts": [prompt]}), 422)
        else:
            completion |= {"prompt_id": site.known.prompt.id}
            check(site.client.post("/api/v1/completions", json={"completions": [completion]}), 422)
    assert content(site) == before


@pytest.mark.parametrize("path", ["judgments", "import", "prompts"])
def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(site, path):
    before = content(site)
    check(site.client.post(f"/api/v1/{path}", content=b" " * 20_000_000), 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(320):
            yield b" " * 65_536

    check(site.client.post(f"/api/v1/{path}", content=chunks(), headers={"content-type": "application/json"}), 413)
    assert content(site) == before


def test_of_two_equal_json_keys_the_last_one_counts(site):
    body = b'{"count": 3, "count": 1, "count": 2}'
    answer = site.client.post("/api/v1/leases", content=body, headers={"content-type": "application/json"})
    check(answer, 200)
    assert len(answer.json()["leases"]) == 2


NAMES = ['"', "'", "a\"b", "a'b", "a.b", "a[0]", "$.a", "$", "[", "]", "%", "a%b", "\\", "a\\\"b", "é", "",
         " ", "{}", "; DROP TABLE prompts; --", "{key}", ":key", "%(key)s", "a" * 200, "😀"]  # fmt: skip


def test_tags_of_any_name_find_their_prompt_and_no_other(site):
    made = []
    for i, name in enumerate(NAMES):
        prompt = Prompt.create((Message("user", f"Tagged {i}?"),), {name: name})
        sides = [Completion.create(prompt.id, (Message("assistant", f"{j}"),), "policy") for j in range(2)]
        made.append(Comparison.create(prompt, sides))
    with site.store.write() as conn:
        insert_comparisons(site.store, conn, made)
    cal = people.add_rater(site.store, "cal", Role.LEAD)
    key = {"authorization": "Bearer " + tokens.add_api_token(site.store, cal.id, "", [Scope.TASK])}
    for i, name in enumerate(NAMES):
        for tags, found in (({name: name + "x"}, []), ({name + "'": name}, []), ({name: name}, [f"Tagged {i}?"])):
            if max(map(len, [*tags, *tags.values()])) > 200:
                continue
            answer = site.client.post("/api/v1/leases", json={"tags": tags}, headers=key)
            check(answer, 200, of=name)
            leases = answer.json()["leases"]
            assert [one["prompt"][0]["content"] for one in leases] == found
            for one in leases:
                check(site.client.delete(f"/api/v1/leases/{one['id']}", headers=key), 204)


QUERIES = ["limit=0", "limit=1e3", "limit=99999999999999999999", "after=-1", "after=9223372036854775808", "after=1.5",
           "project=%00", "project=%ff", "project=%ED%A0%80", "project=" + "a" * 10_000, "project=a%27b",
           "current=maybe", "limit=%EF%BC%95%00", "after=" + "9" * 5000]  # fmt: skip


def test_queries_and_paths_that_cannot_be_used_are_refused(site):
    for query in QUERIES:
        check(site.client.get(f"/api/v1/judgments?{query}"), 422, of=query)
    for id in ("%00", "%ff", "a%2Fb", "%0a", "a" * 10_000, "%2e%2e%2f%2e%2e%2fetc", "%ED%A0%80", "l_none", "'"):
        for method, path in (("POST", "/leases/{}/expire"), ("GET", "/comparisons/{}"), ("DELETE", "/webhooks/{}")):
            check(site.client.request(method, "/api/v1" + path.format(id)), 404, 422, of=id)


CREDENTIALS = ["", "Bearer", "Bearer ", "Bearer  x", "Basic YTpi", "bearer \xff\xfe", "Bearer " + "a" * 100_000, "\x01",
               "Bearer a,b", "Bearer rh_api_", "Digest x"]  # fmt: skip


def test_invalid_credentials_are_refused(site):
    for shown in CREDENTIALS:
        headers = {"authorization": shown.encode("latin-1")}
        check(site.client.get("/api/v1/judgments", headers=headers), 401, of=shown)
    for cookie in ("rlhf_hitl_session=", "rlhf_hitl_session=\xff", "=;=;", f"rlhf_hitl_session={site.key}"):
        headers = {"authorization": b"", "cookie": cookie.encode("latin-1")}
        check(site.client.get("/api/v1/judgments", headers=headers), 401, of=cookie)
