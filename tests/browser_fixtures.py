"""What tests of the pages share: a real server in a process of its own, a real Chromium, somebody who signs in."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from checkout import ROOT
from forked_processes import ForkedProcess
from rlhf_hitl.api.auth import SESSION_COOKIE
from rlhf_hitl.store import Store, guidelines, passwords, people, sign_in, tables
from rlhf_hitl.store.comparisons import find_comparisons, insert_comparisons
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Comparison, Completion, Message, Prompt, Rater, Role

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=20_000)  # of a page on a machine that does other things too

PASSWORD = "a-good-password"
VIEWPORT = {"width": 1280, "height": 800}
# The headless shell does the same with a third of the processor time of the whole browser.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
NO_CHROMIUM = "no Chromium here: install the package `chromium-headless-shell` or `chromium`"
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


class Server:
    """The served application in a process of its own, over a store the test can look into.

    It is started once and serves many tests: `reset` gives it a new store and an empty workspace. Its port stays, so
    that the browser's cache of Gradio's scripts stays good.
    """

    def __init__(self, folder: Path, template: Path):
        self.folder = folder
        self.template = template
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(template, folder / "preferences.db")
        self.store = Store.open(f"sqlite:///{folder}/preferences.db")
        self.address = ""
        self.process: ForkedProcess | None = None

    def start(self) -> Server:
        port = self.address.rpartition(":")[2] or "0"
        flags = ["serve", "--port", port, "--store", self.store.url, "--json"]
        env = os.environ | {"RLHF_HITL_WORKSPACE": str(self.folder / "workspace")}
        reader, writer = os.pipe()
        self.process = ForkedProcess("rlhf_hitl", flags, env, [writer, 2])
        os.close(writer)
        self.output = os.fdopen(reader)
        self.address = json.loads(self.output.readline())["address"]
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.output.close()
            self.process = None

    def reset(self, comparisons: list[Comparison] | None = None) -> None:
        """Replace the content of the store, and remove every other file of the folder."""
        with (
            closing(sqlite3.connect(self.template)) as empty,
            closing(sqlite3.connect(self.folder / "preferences.db", timeout=30)) as used,
        ):
            empty.backup(used)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith("preferences.db"):
                path.unlink()
        with self.store.write() as conn:
            insert_comparisons(self.store, conn, comparisons or [])

    def close(self) -> None:
        self.kill()
        self.store.close()

    def person(self, name: str, role: Role = Role.RATER, *, new: bool = False) -> Rater:
        """Somebody who may sign in; they have read the guideline unless they are new."""
        person = people.add_rater(self.store, name, role)
        with self.store.write() as conn:  # a hash takes a quarter of a second, so there is one for all
            conn.execute(tables.raters.update().where(tables.raters.c.id == person.id).values(password_hash=hashed()))
        if not new:
            in_force = guidelines.get_current_guideline(self.store)
            guidelines.record_acknowledgement(self.store, person.id, in_force.project, in_force.version)
        return person


class ServerPool:
    """The servers of a test process. A server that a test is done with serves the next one."""

    def __init__(self, folder: Path, template: Path):
        self.folder, self.template = folder, template
        self._idle: dict[tuple[tuple[str, str], ...], list[Server]] = defaultdict(list)
        self._started: list[Server] = []

    @contextmanager
    def server(self, comparisons: list[Comparison] | None = None) -> Iterator[Server]:
        """A server with these comparisons and nothing else, of the settings now in the environment."""
        idle = self._idle[tuple(sorted(i for i in os.environ.items() if i[0].startswith("RLHF_HITL_")))]
        if idle:
            server = idle.pop()
        else:
            server = Server(self.folder / str(len(self._started)), self.template).start()
            self._started.append(server)
        server.reset(comparisons)
        yield server
        if server.process is not None:  # not killed by the test
            idle.append(server)

    def close(self) -> None:
        for server in self._started:
            server.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory, sqlite_template) -> Iterator[ServerPool]:
    pool = ServerPool(tmp_path_factory.mktemp("servers"), sqlite_template)
    yield pool
    pool.close()


@pytest.fixture
def serve(servers):
    """A function that returns a server with a new store: `serve([pair(...)])`."""
    with ExitStack() as stack:
        yield lambda comparisons=None: stack.enter_context(servers.server(comparisons))


@pytest.fixture(scope="module")
def shared(servers):
    """A server whose twelve pairs every rater may judge; each test brings a rater of its own."""
    pairs = [pair(f"Question {i}?", f"First answer to {i}.", f"Second answer to {i}.", overlap=40) for i in range(12)]
    with servers.server(pairs) as server:
        yield server


@pytest.fixture(scope="session")
def playwright():
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with sync_api.sync_playwright() as p:
        yield p


@pytest.fixture(scope="session")
def chromium(playwright):
    """A browser for contexts of a test's own: other languages and screens, a clock, functions the page may call."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def profile(playwright, tmp_path_factory):
    """A browser context on disk. It keeps what the pages' scripts compile to, which halves the cost of a page."""
    context = playwright.chromium.launch_persistent_context(
        tmp_path_factory.mktemp("profile"),
        executable_path=CHROMIUM,
        args=["--no-sandbox"],
        viewport=VIEWPORT,
    )
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def context(profile):
    """The browser context most tests share, without cookies, storage or pages of the tests before."""
    before = list(profile.pages)
    yield profile
    profile.set_offline(False)
    profile.clear_permissions()
    profile.unroute_all()
    for page in profile.pages:
        if page not in before:
            page.close()
    profile.clear_cookies()
    session = profile.new_cdp_session(before[0])
    session.send("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "local_storage,indexeddb"})
    session.detach()


@pytest.fixture
def own_context(chromium):
    """A browser context of the test's own, for what cannot be taken back: a clock, functions that the page may call."""
    context = chromium.new_context(viewport=VIEWPORT)
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def page(context):
    yield from _watched_page(context)


@pytest.fixture
def own_page(own_context):
    yield from _watched_page(own_context)


def _watched_page(context):
    page = context.new_page()
    failures, blocked = [], []
    page.on("pageerror", lambda e: failures.append(str(e)))
    page.on("console", lambda m: blocked.append(m.text) if "Content Security Policy" in m.text else None)
    yield page
    assert failures == [], "no script of the page failed"
    assert blocked == [], "a page needs nothing that its policy blocks"


def pair(question: str, *answers: str, overlap: int = 1, chat: tuple[Message, ...] = ()) -> Comparison:
    prompt = Prompt.create((*chat, Message("user", question)))
    made = [
        Completion.create(prompt.id, (Message("assistant", a),), f"secret-policy-{i}", {"temperature": 0.7350918 + i})
        for i, a in enumerate(answers)
    ]
    return Comparison.create(prompt, made, overlap)


@cache
def hashed() -> str:
    return passwords.hash_password(PASSWORD)


def enter(page, server: Server, name: str) -> None:
    """Open somebody's first page with a session of theirs. The form for it is tested in test_accessibility.py."""
    [rater] = [r for r in people.list_raters(server.store) if r.name == name]
    secret = sign_in.start_session(server.store, sign_in.VerifiedPassword(rater, hashed()), 12)
    page.context.add_cookies([{"name": SESSION_COOKIE, "value": secret, "url": server.address, "sameSite": "Lax"}])
    page.goto(server.address)


def open_rating_page(page, server: Server, name: str) -> Rater:
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


#: The documentation's pictures are drawn anew on demand only: the tests look at the pages themselves.
DRAWS_PICTURES = os.environ.get("RLHF_HITL_SCREENSHOTS") == "1"
IMAGES = ROOT / "docs" / "images"
only_to_draw = pytest.mark.skipif(
    not DRAWS_PICTURES, reason="draws pictures of the documentation: RLHF_HITL_SCREENSHOTS=1"
)


def picture(page, name: str) -> None:
    """Draw a picture of the documentation in few colours: a quarter of the size, and nobody sees the difference."""
    if not DRAWS_PICTURES:
        return
    whole = Image.open(BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    whole.quantize(128, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)


@pytest.fixture
def shot(chromium):
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
        picture(page, name)
        context.close()

    return shot
