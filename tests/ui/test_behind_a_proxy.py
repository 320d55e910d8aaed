"""In a browser, behind a real proxy that offers the server below a path of its site and strips that path."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from browser_fixtures import PASSWORD, Server, choose, expect, judgments, pair, until_sent
from checkout import ROOT
from handmade_evaluations import bundled, put
from rlhf_hitl.types import Role

DEPLOY = ROOT / "configs" / "deploy"
#: Proxy → its program. CI installs nginx.
PROGRAMS = {"nginx": shutil.which("nginx") or shutil.which("/usr/sbin/nginx"), "caddy": shutil.which("caddy")}


def find_free_port() -> int:
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def proxied(name: str, upstream: str, folder: Path) -> Iterator[str]:
    """The proxy, with the example of configs/deploy in a site that has other things, too. Its address is returned."""
    program, port = PROGRAMS[name], find_free_port()
    if program is None:
        if name == "nginx" and os.environ.get("CI"):
            pytest.fail("no nginx here, and CI installs it")
        pytest.skip(f"no {name} here: apt-get install {name if name == 'caddy' else 'nginx-light'}")
    example = {"nginx": "nginx-prefix.conf", "caddy": "Caddyfile.prefix"}[name]
    ours = (DEPLOY / example).read_text().replace("127.0.0.1:7860", urlsplit(upstream).netloc)
    (folder / "ours").write_text(ours)
    if name == "nginx":
        temporary = " ".join(
            f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "conf").write_text(
            f"daemon off; pid {folder}/pid; error_log stderr; worker_processes 1; events {{}}\n"
            f"http {{ access_log off; {temporary}\nserver {{ listen 127.0.0.1:{port}; include {folder}/ours;\n"
            "location / { return 418 'another program of this site'; } } }"
        )
        command = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "conf")]
    else:
        (folder / "conf").write_text(
            f"{{\n admin off\n auto_https off\n}}\nhttp://127.0.0.1:{port} {{\n import {folder}/ours\n"
            ' respond "another program of this site" 418\n}\n'
        )
        command = [program, "run", "--adapter", "caddyfile", "--config", str(folder / "conf")]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HOME": str(folder)})
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


#: How the server learns the path: by its own setting, or from the header of a proxy that it knows.
TOLD = {"flag": {"RLHF_HITL_ROOT_PATH": "/hitl"}, "header": {"RLHF_HITL_TRUSTED_PROXIES": "127.0.0.1"}}


@pytest.mark.parametrize(("proxy", "told"), [("nginx", "header"), ("caddy", "flag")])
def test_people_work_below_a_path_of_a_site(serve, own_page, tmp_path, monkeypatch, proxy, told):
    for name, value in TOLD[told].items():
        monkeypatch.setenv(name, value)
    server: Server = serve([pair(f"Question {i}?", "One.", "Two.", overlap=2) for i in range(3)])
    lead = server.person("lea", Role.LEAD)
    put(server.folder / "workspace", "small", bundled(1, 0.6))
    page, asked, failed = own_page, [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda r: failed.append((r.status, r.url)) if r.status >= 400 else None)
    with proxied(proxy, server.address, tmp_path) as site:
        page.goto(f"{site}/hitl")  # without the slash, as people type it
        expect(page).to_have_url(f"{site}/hitl/login")
        page.locator("#name").fill("lea")
        page.locator("#password").fill("wrong" + PASSWORD)
        page.locator("button").click()
        expect(page.locator("#problem")).to_be_visible()
        assert failed.pop()[0] == 401
        page.locator("#password").fill(PASSWORD)
        page.locator("button").click()
        expect(page).to_have_url(f"{site}/hitl/lead/")
        expect(page.locator("#overview")).not_to_have_attribute("aria-busy", "true", timeout=30_000)
        assert {cookie["path"] for cookie in page.context.cookies()} == {"/hitl"}
        page.get_by_role("link", name="Rate", exact=True).click()
        expect(page).to_have_url(f"{site}/hitl/rate/")
        expect(page.locator("#card")).to_be_visible(timeout=30_000)
        choose(page, "A3").click()
        page.keyboard.press("Enter")
        until_sent(page)
        assert len(judgments(server, lead)) == 1
        page.get_by_role("link", name="Replay").click()
        expect(page).to_have_url(f"{site}/hitl/replay/")
        expect(page.locator("#evaluations .panel")).to_be_visible(timeout=30_000)
        page.locator("#evaluations tbody a").first.click()
        expect(page.locator("#evaluation h2").first).to_be_visible()
        page.get_by_role("link", name="People").click()
        expect(page.locator("#overview")).not_to_have_attribute("aria-busy", "true", timeout=30_000)
        page.goto(f"{site}/hitl/api/v1/openapi.json")
        assert '"url":"/hitl/api/v1"' in page.content()
        assert all(urlsplit(url).path.startswith("/hitl") for url in asked if url.startswith("http")), asked
        assert failed == []
        page.goto(f"{site}/hitl/nowhere")
        page.get_by_role("link").click()
        expect(page).to_have_url(f"{site}/hitl/lead/")
        assert httpx.get(f"{site}/hitl/metrics", trust_env=False).status_code == 404
        assert httpx.get(f"{site}/hitl/healthz", trust_env=False).json() == {"status": "ok"}
