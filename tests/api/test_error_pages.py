"""Errors in a browser are pages in the reader's language; programs get problem documents or JSON."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi import HTTPException
from starlette.testclient import TestClient

from rlhf_hitl.api import client_limits
from rlhf_hitl.api.app import create_app
from rlhf_hitl.api.error_pages import ErrorPages
from rlhf_hitl.config import Settings, TrustedProxies
from rlhf_hitl.store import Store, people
from rlhf_hitl.types import Role
from rlhf_hitl.ui.error_pages import EXPLAINED, name_error
from rlhf_hitl.ui.pages import load_translations

PASSWORD = "a-good-password"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LANGUAGES = tuple(load_translations())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole application, and addresses that fail in every way."""
    folder = tmp_path_factory.mktemp("site")
    store = Store.open(f"sqlite:///{folder}/data/preferences.db", create=True)
    people.add_rater(store, "ann", Role.RATER, PASSWORD)
    app = create_app(store, Settings(store=store.url, workspace=folder / "workspace"))

    @app.get("/fail/{status}")
    def fail(status: int):
        if status == 500:
            raise RuntimeError("a mistake of the server")
        raise HTTPException(status, "detail of the error", {"retry-after": "7"})

    yield app, store, folder / "data"
    store.close()


@pytest.fixture
def client(site):
    return TestClient(site[0], follow_redirects=False, raise_server_exceptions=False)


def read_page(response) -> tuple[str, str, list[str]]:
    """Return the heading, the sentence and the links of an error page."""
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert int(response.headers["content-length"]) == len(response.content)
    text = unescape(response.text)
    [heading] = re.findall(r"<h1>(.*?)</h1>", text)
    [sentence] = re.findall(r"<p>(.*?)</p>", text)
    return heading, sentence, re.findall(r'<a [^>]*href="([^"]+)"', text)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 418, 429, 500, 502, 503])
def test_each_error_is_a_page_in_the_readers_language(client, language, status):
    words = load_translations()[language]
    response = client.get(f"/fail/{status}", headers=BROWSER | {"accept-language": f"{language}-XX,en;q=0.2"})
    assert response.status_code == status
    named = name_error(status)
    links = ["/login"] if status == 401 else ["/"]
    assert read_page(response) == (words[f"error_{named}"], words[f"error_{named}_why"], links)
    assert f'<html lang="{language}" dir="{"rtl" if language == "ar" else "ltr"}">' in response.text
    assert "detail of the error" not in response.text
    assert status in (404, 500) or response.headers["retry-after"] == "7", (
        "what a browser is told beside the text stays"
    )


@pytest.mark.parametrize("status", [401, 404, 409, 500])
def test_programs_get_json(client, status):
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        response = client.get(f"/fail/{status}", headers=accept)
        assert response.status_code == status
        assert response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/nowhere/at/all.html", 404),
        ("GET", "/logout", 405),
        ("DELETE", "/login", 405),
        ("POST", "/nowhere", 404),
    ],
)
def test_an_address_that_does_not_exist_or_is_used_wrongly_is_a_page(client, method, path, status):
    response = client.request(method, path, headers=BROWSER)
    words = load_translations()["en"]
    assert response.status_code == status
    assert read_page(response)[0] == words[f"error_{status}"]
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"]


def test_a_head_request_is_answered_without_a_body(client):
    response = client.head("/nowhere", headers=BROWSER)
    assert (response.status_code, response.content) == (404, b"")


@pytest.mark.parametrize("path", ["/api/v1/leases", "/api/v1/nowhere", "/api/", "/metrics"])
def test_addresses_for_programs_answer_json_to_a_browser_too(client, path):
    response = client.get(path, headers=BROWSER)
    assert response.status_code in (401, 404, 405)
    assert response.json()["detail"]


def test_pages_of_a_page_that_do_not_exist_are_pages(client):
    assert client.get("/rate/nowhere", headers=BROWSER).headers["location"] == "/login"
    client.post("/login", data={"name": "ann", "password": PASSWORD})
    words = load_translations()["en"]
    missing = client.get("/rate/nowhere", headers=BROWSER)
    assert (missing.status_code, read_page(missing)[0]) == (404, words["error_404"])
    foreign = client.get("/lead/", headers=BROWSER)
    assert (foreign.status_code, read_page(foreign)[0]) == (403, words["error_role"])
    assert client.get("/rate/nowhere").json()["detail"], "a script of the page is told in JSON"


def test_a_form_of_another_site_or_one_too_large_is_answered_with_a_page(client):
    words = load_translations()["en"]
    large = client.post("/login", content=b"name=" + b"a" * 20_000, headers=BROWSER)
    assert (large.status_code, read_page(large)[0]) == (413, words["error_413"])
    foreign = client.post("/login", data={"name": "ann"}, headers=BROWSER | {"sec-fetch-site": "cross-site"})
    assert (foreign.status_code, read_page(foreign)[0]) == (403, words["error_403"])
    assert foreign.headers["content-security-policy"]


def test_a_wrong_invitation_is_explained_and_leads_to_the_sign_in(client):
    words = load_translations()["en"]
    for response in (
        client.get("/invite/mistyped", headers=BROWSER),
        client.post("/invite/mistyped", data={"name": "ivo", "password": PASSWORD}, headers=BROWSER),
    ):
        assert response.status_code == 404
        assert read_page(response) == (words["error_invitation"], words["error_invitation_why"], ["/login"])


def test_while_the_store_is_gone_pages_and_sign_in_say_so(client, site):
    _, store, folder = site
    client.post("/login", data={"name": "ann", "password": PASSWORD})
    store.close()
    gone = folder.rename(folder.parent / "elsewhere")
    try:
        words = load_translations()["en"]
        for path in ("/", "/rate/", "/login"):
            response = client.get(path, headers=BROWSER)
            assert (response.status_code, read_page(response)[0]) == (503, words["error_503"]), path
        assert client.get("/rate/").json()["status"] == 503
        assert client.get("/me").json()["status"] == 503
    finally:
        gone.rename(folder)
    assert client.get("/rate/", headers=BROWSER).status_code == 200


def test_who_asks_for_too_much_at_once_gets_a_page_with_all_headers(monkeypatch):
    monkeypatch.setattr(client_limits, "WAIT_SECONDS", 0)

    async def never(_scope, _receive, _send):
        raise AssertionError("no request gets through")

    limits = client_limits.ClientLimits(never, most=0, proxies=TrustedProxies(""))
    client = TestClient(ErrorPages(limits), raise_server_exceptions=False)
    response = client.get("/rate/", headers=BROWSER)
    assert (response.status_code, read_page(response)[0]) == (503, load_translations()["en"]["error_503"])
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-frame-options"] == "DENY"
    assert client.get("/rate/").json()["status"] == 503


def test_every_error_has_words():
    english = load_translations()["en"]
    assert {f"error_{name}{part}" for name in EXPLAINED for part in ("", "_why")} == {
        key for key in english if key.startswith("error_")
    }
