"""The sign-in page speaks the reader's language, and can be used with a screen reader and on a phone."""

from __future__ import annotations

import re
import shutil

import pytest
from starlette.testclient import TestClient

from browser_fixtures import PASSWORD, expect
from rlhf_hitl.api.app import create_app
from rlhf_hitl.api.sign_in_throttle import SignInThrottle
from rlhf_hitl.config import Settings
from rlhf_hitl.store import Store, invitations, people
from rlhf_hitl.types import Role
from rlhf_hitl.ui.pages import load_translations, read_asset
from rlhf_hitl.ui.sign_in import choose_language, render_sign_in_page


@pytest.mark.parametrize(
    ("accept_language", "chosen"),
    [
        ("", "en"),
        ("hi", "hi"),
        ("es-MX,es;q=0.9,en;q=0.8", "es"),
        ("en;q=0.4, fr-CA;q=0.8, ar;q=0.6", "fr"),
        ("de-DE,de;q=0.9,zh-CN;q=0.7,en;q=0.5", "zh"),
        ("pt, eo;q=0.9", "en"),
        ("*;q=0.8, fr;q=0.5", "en"),
        ("fr;q=0, ar;q=0.1", "ar"),
        ("AR-eg ; Q=0.9", "ar"),
        ("fr, es", "fr"),
        (";;q=,=,fr;q=high,es;q=9,hi;q=nan,zh;q=0.2", "zh"),
    ],
)
def test_the_preferred_language_is_chosen(accept_language, chosen):
    assert choose_language(accept_language, ["en", "ar", "es", "fr", "hi", "zh"]) == chosen


@pytest.fixture(scope="module")
def site(tmp_path_factory, sqlite_template):
    """An application that stands for all tests, and its store."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(sqlite_template, folder / "preferences.db")
    with Store.open(f"sqlite:///{folder}/preferences.db") as store:
        yield create_app(store, Settings(workspace=folder), SignInThrottle(store, per_name=2)), store


@pytest.mark.parametrize("language", load_translations())
def test_every_problem_is_explained_in_the_readers_language(site, language):
    (app, store), number = site, list(load_translations()).index(language) + 1
    client = TestClient(app, follow_redirects=False, client=(f"10.0.0.{number}", 5000))
    words, reading = (
        load_translations()[language],
        {"accept-language": f"{language}-XX, en;q=0.1", "accept": "text/html"},
    )
    people.add_rater(store, f"ann {language}", Role.RATER, PASSWORD)
    invitation = f"/invite/{invitations.add_invitation(store, Role.RATER)}"

    def post(path: str, name: str, password: str = PASSWORD):
        return client.post(path, data={"name": name, "password": password}, headers=reading)

    def assert_answer(response, status: int, key: str, **values) -> None:
        assert response.status_code == status
        assert words[key].format(**values) in response.text
        assert f'<html lang="{language}" dir="{"rtl" if language == "ar" else "ltr"}">' in response.text

    assert_answer(client.get("/login", headers=reading), 200, "login_how")
    assert_answer(client.get(invitation, headers=reading), 200, "password_how")
    assert_answer(client.get("/invite/unknown", headers=reading), 404, "error_invitation")
    assert_answer(post("/invite/unknown", "ivo"), 404, "error_invitation_why")
    assert_answer(post(invitation, f"ann {language}"), 422, "login_name")
    assert_answer(post(invitation, f"ivo {language}", "short"), 422, "login_password")
    assert_answer(post("/login", f"ann {language}", "wrong-password"), 401, "login_mismatch")
    assert post("/login", f"ann {language}").status_code == 303
    assert_answer(client.get("/lead/", headers=reading), 403, "error_role")
    for _ in range(2):
        post("/login", "nobody")
    assert_answer(post("/login", "nobody"), 429, "login_throttled", minutes=1)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("language", load_translations())
def test_a_phone_shows_the_whole_page_and_a_problem_is_announced_with_its_field(chromium, language, dark):
    words = load_translations()[language]
    context = chromium.new_context(
        viewport={"width": 320, "height": 640}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_content(render_sign_in_page(language, problem="name", name="ann", invited=True))
    page.add_style_tag(content=read_asset("login.css"))  # which the server has
    main = page.get_by_role("main")
    name, password = (main.get_by_label(words[key]) for key in ("name", "password"))
    expect(name).to_be_focused()
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(name).to_have_accessible_description(words["login_name"])
    expect(main.get_by_role("alert")).to_have_text(words["login_name"])
    expect(password).to_have_accessible_description(f"{words['login_name']} {words['password_how']}")
    expect(main.get_by_role("button", name=words["start"])).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    brightness = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", brightness))) < 382) is dark
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("shown", "focused"),
    [
        ({}, "name"),
        ({"problem": "mismatch", "name": "ann"}, "password"),
        ({"problem": "mismatch"}, "name"),
        ({"problem": "password", "name": "ann", "invited": True}, "password"),
    ],
)
def test_the_first_field_to_fill_in_has_the_focus(page, shown, focused):
    page.set_content(render_sign_in_page("", **shown))
    expect(page.locator(f"#{focused}")).to_be_focused()
