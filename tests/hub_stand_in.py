"""A stand-in for the Hugging Face hub: the part of its HTTP interface through which files are sent, on this machine.

It keeps what it is sent in memory, as the hub does: a commit is there whole or not at all.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a" * 34


class StandInHub:
    """What was sent, and what to refuse.

    Attributes:
        repos: (type, name) → whether it is private.
        files: (type, name, branch) → path → content.
        refuse: the end of a path of a call → the status it is answered with.
        calls: method and path of every call.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], bool] = {}
        self.files: dict[tuple[str, str, str], dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.refuse: dict[str, int] = {}
        self.calls: list[str] = []
        self.address = ""

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        self.calls.append(f"{method} {path}")
        if path.startswith("/objects/"):
            self.objects[path.removeprefix("/objects/")] = body
            return 200, {}
        for end, status in self.refuse.items():
            if end in path:
                return status, {"error": f"refused with {status}"}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if ".git/info/lfs/objects/batch" in path:
            objects = json.loads(body)["objects"]
            known = [o | self._offer_upload(o["oid"]) for o in objects]
            return 200, {"transfer": "basic", "objects": known}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        _, _, kind, owner, name, call, branch, *_ = [*path.split("?")[0].split("/"), "", "", "", ""]
        repo = (kind.removesuffix("s"), f"{owner}/{name}")
        if repo not in self.repos:
            return 404, {"error": "Repository not found"}
        if method == "GET" and not call:
            return 200, {"id": repo[1], "private": self.repos[repo], "sha": "1" * 40}
        if call == "branch":
            if (*repo, branch) in self.files:
                return 409, {"error": "Reference already exists"}
            self.files[*repo, branch] = dict(self.files[*repo, "main"])
            return 200, {}
        if (*repo, branch) not in self.files:
            return 404, {"error": "Invalid rev id"}
        if call == "tree":
            names = sorted(self.files[*repo, branch])
            return 200, [{"type": "file", "path": name, "size": 1, "oid": "1" * 40} for name in names]
        if call == "preupload":
            return 200, {"files": [self._choose_mode(f) for f in json.loads(body)["files"]]}
        if call != "commit":
            return 501, {"error": f"no stand-in for {path}"}
        for name in self._list_deleted(body):
            del self.files[*repo, branch][name]
        self.files[*repo, branch] |= self._read_commit(body)
        return 200, {"commitUrl": f"{self.address}/{repo[1]}/commit/1", "commitOid": "1" * 40, "success": True}

    def _create(self, given: dict[str, Any]) -> tuple[int, Any]:
        repo = (given.get("type", "model"), f"{given['organization']}/{given['name']}")
        url = f"{self.address}/{'datasets/' if repo[0] == 'dataset' else ''}{repo[1]}"
        if repo in self.repos:
            return 409, {"error": "You already created this repo", "url": url}
        self.repos[repo] = given.get("private", given.get("visibility") == "private")
        self.files[*repo, "main"] = {}
        return 200, {"url": url, "name": repo[1]}

    def _offer_upload(self, oid: str) -> dict[str, Any]:
        return {} if oid in self.objects else {"actions": {"upload": {"href": f"{self.address}/objects/{oid}"}}}

    def _choose_mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["path"].endswith((".parquet", ".safetensors")) else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _list_deleted(self, body: bytes) -> list[str]:
        return [line["value"]["path"] for line in map(json.loads, body.splitlines()) if line["key"] == "deletedFile"]

    def _read_commit(self, body: bytes) -> dict[str, bytes]:
        sent = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                sent[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                sent[value["path"]] = self.objects[value["oid"]]
        return sent


@contextmanager
def run_stand_in_hub() -> Iterator[StandInHub]:
    hub = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("transfer-encoding") == "chunked":
                body = b"".join(iter(self._read_chunk, b""))
            status, content = hub.answer(self.command, self.path, body, self.headers.get("authorization", ""))
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST

        def _read_chunk(self) -> bytes:
            size = int(self.rfile.readline(), 16)
            data = self.rfile.read(size)
            self.rfile.readline()
            return data

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
