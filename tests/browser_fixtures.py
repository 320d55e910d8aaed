"""What tests of the pages share: a real server in a process of its own, a real Chromium, somebody who signs in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from checkout import ROOT
from rlhf_hitl.store import Store, guidelines, people
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Rater, Role

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

PASSWORD = "a-good-password"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Server:
    """The served application in a process of its own, over a store the test can look into."""

    def __init__(self, folder: Path, comparisons: list[Comparison] | None = None):
        self.folder = folder
        self.store = Store.open(f"sqlite:///{folder}/preferences.db", create=True)
        with self.store.write() as conn:
            insert_comparisons(self.store, conn, comparisons or [])
        self.address = ""
        self.process: subprocess.Popen | None = None

    def start(self) -> Server:
        port = self.address.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "rlhf_hitl", "serve", "--port", port, "--store", self.store.url, "--json"]
        env = os.environ | {"RLHF_HITL_WORKSPACE": str(self.folder / "workspace")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout is not None
        self.address = json.loads(self.process.stdout.readline())["address"]
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()  # type: ignore[union-attr]
            self.process = None

    def person(self, name: str, role: Role = Role.RATER, *, new: bool = False) -> Rater:
        """Somebody who may sign in; they have read the guideline unless they are new."""
        person = people.add_rater(self.store, name, role, PASSWORD)
        if not new:
            in_force = guidelines.get_current_guideline(self.store)
            guidelines.record_acknowledgement(self.store, person.id, in_force.project, in_force.version)
        return person


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(comparisons: list[Comparison] | None = None) -> Server:
        started.append(Server(tmp_path / str(len(started)), comparisons).start())
        return started[-1]

    yield start
    for server in started:
        server.kill()
        server.store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server whose twelve pairs every rater may judge; each test brings a rater of its own."""
    pairs = [pair(f"Question {i}?", f"First answer to {i}.", f"Second answer to {i}.", overlap=40) for i in range(12)]
    server = Server(tmp_path_factory.mktemp("shared"), pairs).start()
    yield server
    server.kill()
    server.store.close()


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install the package `chromium`")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def page(context):
    page = context.new_page()
    page.failures = []
    page.on("pageerror", lambda e: page.failures.append(str(e)))
    yield page
    assert page.failures == [], "no script of the page failed"


def pair(question: str, *answers: str, overlap: int = 1, chat: tuple[Message, ...] = ()) -> Comparison:
    prompt = Prompt.create((*chat, Message("user", question)))
    made = [
        Completion.create(prompt.id, (Message("assistant", a),), f"secret-policy-{i}", {"temperature": 0.7350918 + i})
        for i, a in enumerate(answers)
    ]
    return Comparison.create(prompt, made, overlap)


def enter(page, server: Server, name: str) -> None:
    page.goto(server.address + "/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def open_desk(page, server: Server, name: str) -> Rater:
    rater = server.person(name)
    enter(page, server, name)
    expect(page.locator("#card")).to_be_visible(timeout=30_000)
    return rater


def question(page) -> str:
    return page.locator("#prompt .text").last.inner_text().strip()


def answers(page) -> list[str]:
    return [a.strip() for a in page.locator(".answer .answer-text").all_inner_texts()]


def until_next(page, before: str) -> None:
    expect(page.locator("#prompt .text").last).not_to_have_text(before)
    until_sent(page)


def until_sent(page) -> None:
    """The server has confirmed everything."""
    expect(page.locator("#rating")).to_have_attribute("data-unsent", "0")
    expect(page.locator("#rating")).to_have_attribute("aria-busy", "false")


def judgments(server: Server, rater: Rater, *, current: bool = True):
    return list(read_judgments(server.store, rater_id=rater.id, current=current))


def ids_by_text(server: Server) -> dict[str, str]:
    return {c.text: c.id for x in find_comparisons(server.store) for c in x.completions}


def choose(page, name: str):
    return page.locator(f'[data-choice="{name}"]')


@pytest.fixture
def images(tmp_path) -> Path:
    """Where the pictures go: into the documentation when asked to draw it anew, else out of the way."""
    if os.environ.get("RLHF_HITL_SCREENSHOTS") != "1":
        return tmp_path
    return ROOT / "docs" / "images"


def picture(page, path: Path) -> None:
    """A screenshot in few colours: a quarter of the size, and nobody sees the difference."""
    whole = Image.open(BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    whole.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


@pytest.fixture
def shot(chromium, images):
    """A function that takes a picture of a page once `ready` is to be seen; signed in where it is told `who`."""

    def shot(
        server: Server, name: str, who: str, ready: str, *, path: str = "", then: Callable = lambda page: None,
        width: int = 1280, height: int = 800, dark: bool = False,
    ) -> None:  # fmt: skip
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page = context.new_page()
        if who:
            enter(page, server, who)
            page.wait_for_url(lambda url: "/login" not in url)
        if path or not who:
            page.goto(server.address + (path or "/login"))
        expect(page.locator(ready)).to_be_visible()
        then(page)
        picture(page, images / f"{name}.png")
        context.close()

    return shot
