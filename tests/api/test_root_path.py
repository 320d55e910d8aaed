"""Below a path of a site: behind a proxy that strips it, whatever the server sends stays below it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from command_line import run_command
from rlhf_hitl.api.app import create_app, create_headless_app
from rlhf_hitl.config import Settings, load_settings, read_root_path
from rlhf_hitl.errors import BadInput
from rlhf_hitl.store import Store, people
from rlhf_hitl.store.invitations import add_invitation
from rlhf_hitl.types import Role

PASSWORD = "a-good-password"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
ODD_PREFIXES = (
    "//evil.example", "/a//b", "/..", "/hitl/..", "/.", "/hitl/../x", "hitl", "https://evil.example", "/hitl\nx: y",
    "/hitl\r\nset-cookie: a=b", "/hi tl", "/hitl?x", "/hitl#x", "/%2e%2e", "/hitl\\", '/"><script>', "/hitl, /other",
    "/h\u00eftl", "/" + "a" * 200, "/hitl;x", "\x00",
)  # fmt: skip


class StrippingProxy:
    """A site that offers the application below a path, as a proxy does that strips it, and nothing else.

    Args:
        headers: that it adds.
    """

    def __init__(self, app: ASGIApp, prefix: str, headers: dict[str, str]):
        self.app, self.prefix = app, prefix
        self.headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        assert scope["path"].startswith(self.prefix + "/"), f"{scope['path']} is asked for, which is not ours"
        stripped = scope["path"].removeprefix(self.prefix)
        headers = [*scope["headers"], *self.headers]
        await self.app({**scope, "path": stripped, "raw_path": stripped.encode(), "headers": headers}, receive, send)


@pytest.fixture
def make_client(sqlite_store: Store, tmp_path):
    """A function that returns a client of a site with the application below /hitl."""

    def make(
        *,
        told: str | None = None,
        root_path: str = "",
        trusted: str = "127.0.0.1",
        peer: str = "127.0.0.1",
        create=create_app,
    ):
        settings = Settings(
            store=sqlite_store.url, workspace=tmp_path / "workspace", trusted_proxies=trusted, root_path=root_path
        )
        headers = {} if told is None else {"x-forwarded-prefix": told}
        proxy = StrippingProxy(create(sqlite_store, settings), "/hitl", headers)
        return TestClient(proxy, client=(peer, 5000), follow_redirects=False, raise_server_exceptions=False)

    return make


WAYS = {"flag": {"root_path": "/hitl"}, "header": {"told": "/hitl"}, "both": {"told": "/hitl/", "root_path": "/other"}}


@pytest.mark.parametrize("way", WAYS)
def test_all_that_is_sent_stays_below_the_path(sqlite_store, make_client, way):
    people.add_rater(sqlite_store, "lea", Role.ADMIN, PASSWORD)
    site = make_client(**WAYS[way])
    assert site.get("/hitl/").headers["location"] == "/hitl/login"
    assert site.get("/hitl/rate/", headers=BROWSER).headers["location"] == "/hitl/login"
    page = site.get("/hitl/login", headers=BROWSER)
    addresses = re.findall(r'(?:href|src|action)="([^"]+)"', page.text)
    assert set(addresses) == {"/hitl/favicon.ico", "/hitl/login.css", "/hitl/login"}
    for address in set(addresses):
        assert site.get(address).status_code == 200
    signed_in = site.post("/hitl/login", data={"name": "lea", "password": PASSWORD})
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/hitl/lead/")
    cookies = signed_in.headers.get_list("set-cookie")
    assert len(cookies) == 2
    assert all("; Path=/hitl;" in cookie for cookie in cookies)
    assert site.get("/hitl/").headers["location"] == "/hitl/lead/"
    assert site.get("/hitl/login").headers["location"] == "/hitl/"
    assert site.get("/hitl/rate").headers["location"] == "/hitl/rate/"  # the slash is added by Starlette
    for name in ("rate", "adjudicate", "lead", "data", "raters", "people", "policies", "replay"):
        page = site.get(f"/hitl/{name}/", headers=BROWSER)
        assert page.status_code == 200
        [config] = re.findall(r'"root": ?"([^"]+)"', page.text)[:1]
        assert config == f"http://testserver/hitl/{name}"
        [scripts] = [re.findall(r'(?:src|href)="(\.?/[^"]*assets/[^"]+\.(?:js|css))"', page.text)]
        assert scripts
        assert all(address.startswith("./") for address in scripts)
    assert site.get("/hitl/me").json()["pages"] == [
        *("/rate", "/adjudicate", "/lead", "/data", "/raters", "/people", "/policies", "/replay")
    ]
    error = site.get("/hitl/nowhere", headers=BROWSER)
    assert error.status_code == 404
    assert set(re.findall(r'(?:href|src)="([^"]+)"', error.text)) == {
        "/hitl/favicon.ico", "/hitl/login.css", "/hitl/"
    }  # fmt: skip
    assert site.get("/hitl/manifest.json").json()["icons"][0]["src"] == "favicon.ico"
    description = site.get("/hitl/api/v1/openapi.json").json()
    assert description["servers"] == [{"url": "/hitl/api/v1"}]
    problem = site.get("/hitl/api/v1/nowhere", headers=BROWSER)  # a page only where a person asks
    assert problem.headers["content-type"] == "application/problem+json"
    metrics = site.get("/hitl/metrics").text
    assert 'route="/rate"' in metrics
    assert "hitl/" not in metrics  # the routes are called as they are without a prefix
    assert site.post("/hitl/logout").headers["location"] == "/hitl/login"
    assert site.get("/hitl/me").status_code == 401  # the cookie is gone, too


def test_an_invitation_is_accepted_below_the_path(sqlite_store, make_client):
    site, secret = make_client(told="/hitl"), add_invitation(sqlite_store, Role.RATER)
    page = site.get(f"/hitl/invite/{secret}", headers=BROWSER)
    assert "action=" not in page.text  # it is sent to where it is
    accepted = site.post(f"/hitl/invite/{secret}", data={"name": "zoe", "password": PASSWORD})
    assert accepted.headers["location"] == "/hitl/rate/"
    gone = site.get(f"/hitl/invite/{secret}", headers=BROWSER)
    assert 'href="/hitl/login"' in gone.text


@pytest.mark.parametrize(("trusted", "peer"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.5")])
def test_a_prefix_of_an_unknown_proxy_is_ignored(make_client, trusted, peer):
    site = make_client(told="/evil", trusted=trusted, peer=peer)
    assert site.get("/hitl/").headers["location"] == "/login"
    assert "evil" not in site.get("/hitl/login", headers=BROWSER).text
    with_path = make_client(told="/evil", root_path="/hitl", trusted=trusted, peer=peer)
    assert with_path.get("/hitl/").headers["location"] == "/hitl/login"


@pytest.mark.parametrize("prefix", ODD_PREFIXES)
def test_an_odd_prefix_is_refused_wherever_it_is_given(make_client, monkeypatch, prefix):
    with pytest.raises(ValueError, match="expected a path such as /hitl"):
        read_root_path(prefix)
    site = make_client(told=prefix, create=create_headless_app)  # no page is asked for
    answer = site.get("/hitl/login", headers=BROWSER)
    assert answer.status_code == 400
    assert "evil" not in answer.text
    assert "x-forwarded-prefix" in site.get("/hitl/healthz").json()["detail"]
    done = run_command("serve", "--root-path", prefix)
    assert done.returncode == 2
    assert "--root-path" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    if "\x00" not in prefix:
        monkeypatch.setenv("RLHF_HITL_ROOT_PATH", prefix)
        with pytest.raises(BadInput, match="RLHF_HITL_ROOT_PATH"):
            load_settings()


@pytest.mark.parametrize("prefix", ["", "/"])
def test_no_prefix_is_the_site_itself(make_client, prefix):
    assert make_client(told=prefix, root_path="/other").get("/hitl/").headers["location"] == "/login"


def test_two_prefixes_are_refused(make_client):
    site = make_client(told="/hitl")
    assert site.get("/hitl/login", headers={"x-forwarded-prefix": "/evil"}).status_code == 400


@given(st.text(max_size=30))
def test_whatever_is_accepted_leads_nowhere_else(text):
    try:
        path = read_root_path(text)
    except ValueError:
        return
    assert path == "" or re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9_~.-]*)+", path)


def test_of_two_servers_of_a_host_each_reads_its_own_cookie(sqlite_store, make_client):
    people.add_rater(sqlite_store, "ann", Role.RATER, PASSWORD)
    site = make_client(root_path="/hitl")
    own = site.post("/hitl/login", data={"name": "ann", "password": PASSWORD}).cookies["rlhf_hitl_session"]
    site.cookies.clear()
    # A browser sends the one with the longer path first.
    both = f"rlhf_hitl_session={own}; rlhf_hitl_session=of-the-server-at-the-root"
    assert site.get("/hitl/me", headers={"cookie": both}).json()["name"] == "ann"
