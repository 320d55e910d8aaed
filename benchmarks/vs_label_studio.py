"""Compare next task + submit over HTTP with Label Studio: PostgreSQL under both, same machine, same run.

    python benchmarks/vs_label_studio.py

Eight raters, each a user with a token of their own, take a comparison and answer it as fast as the server allows. One
cycle is both requests: `GET /api/projects/N/next` and `POST /api/tasks/N/annotations/` there, `POST /api/v1/leases`
and `POST /api/v1/judgments` here. Both hold the same prompts and completions (the bundled set's, numbered), one
judgment wanted each, in a PostgreSQL with the settings of a fresh installation. Each is run in the ways its users run
it, in turn, twice over, and the quicker way counts: `label-studio start` and gunicorn with two workers; `rlhf-hitl
serve` with one worker and with two.

Label Studio comes from PyPI into an environment of its own (`--peer-env`, built where there is none: some minutes and
2 GB). Its calls home are switched off. Left out: its pages, proxies and networks; only the server's work is measured.
`--ours` measures our side alone and keeps no result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from platformdirs import user_cache_path
from record import write_result
from servers import (
    JsonConnection,
    PostgresServer,
    RlhfHitlServer,
    ServerProcess,
    add_raters,
    answers_http,
    fill_store,
    find_free_port,
    make_judgment_body,
    start_postgres,
)

from rlhf_hitl.store import Store
from rlhf_hitl.types import Comparison, Completion, Message, Prompt

#: One cycle of a rater: take the next task, answer it. Returns the task's id.
Cycle = Callable[[], Awaitable[str]]


class Peer(Protocol):
    ways: ClassVar[dict[str, str]]  # how it is run: name in the figures → name in the table

    def start_server(self, way: str) -> ServerProcess:
        """Return its server, started in one of its ways, with all tasks in the queue."""
        ...

    def make_raters(self) -> list[Cycle]: ...


def make_texts(n: int) -> list[tuple[str, str, str]]:
    """Return n different triples (prompt, first completion, second completion)."""
    lines = (resources.files("rlhf_hitl.bundled") / "set.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]

    def text(chat: list[dict[str, str]]) -> str:
        return "\n\n".join(m["content"] for m in chat)

    out = []
    for i in range(n):
        row = rows[i % len(rows)]
        first, second = row["completions"][:2]
        out.append((f"{i}. {text(row['messages'])}", text(first["messages"]), text(second["messages"])))
    return out


class Ours:
    ways: ClassVar = {"one": "`rlhf-hitl serve`", "two": "`rlhf-hitl serve --workers 2`"}

    def __init__(self, pg: PostgresServer, folder: Path, pairs: list[tuple[str, str, str]], raters: int):
        self._pg, self._folder, self._pairs, self._n, self._turn = pg, folder, pairs, raters, 0

    def start_server(self, way: str) -> ServerProcess:
        self._turn += 1  # a store of its own for each turn: it gets far enough to empty one
        url = self._pg.create_database(f"ours_{self._turn}")
        store = Store.open(url, create=True)
        fill_store(store, (_make_comparison(*pair) for pair in self._pairs))
        self._tokens = add_raters(store, self._n).values()
        store.close()
        self._server = RlhfHitlServer(url, self._folder, workers={"one": 1, "two": 2}[way])
        return self._server

    def make_raters(self) -> list[Cycle]:
        def make_rater(client: JsonConnection) -> Cycle:
            async def cycle() -> str:
                leases = require_status(200, await client.call("POST", "/api/v1/leases", {"count": 1}))["leases"]
                if not leases:
                    sys.exit("the queue is empty: take more --comparisons")
                task = leases[0]
                require_status(201, await client.call("POST", "/api/v1/judgments", make_judgment_body(task)))
                return f"{self._turn}: {task['prompt']}"

            return cycle

        return [make_rater(JsonConnection(self._server.address, f"Bearer {token}")) for token in self._tokens]


def _make_comparison(asked: str, *answers: str) -> Comparison:
    prompt = Prompt.create((Message("user", asked),))
    completions = [Completion.create(prompt.id, (Message("assistant", a),), "policy") for a in answers]
    return Comparison.create(prompt, completions)


class LabelStudio:
    ways: ClassVar = {"start": "`label-studio start`", "gunicorn": "gunicorn, two workers"}
    CONFIG = """<View><Text name="prompt" value="$prompt"/><Pairwise name="pw" toName="first,second"/>
        <Text name="first" value="$first"/><Text name="second" value="$second"/></View>"""

    def __init__(self, env: Path, pg: PostgresServer, folder: Path, pairs: list[tuple[str, str, str]], raters: int):
        self._bin, self._folder = _install_label_studio(env), folder
        self._tokens = [uuid.uuid4().hex + "0" * 8 for _ in range(raters)]
        pg.create_database("label_studio")
        self._env = {
            "DJANGO_DB": "default",
            "POSTGRE_NAME": "label_studio",
            "POSTGRE_USER": "bench",
            "POSTGRE_PASSWORD": "",
            "POSTGRE_HOST": pg.host,
            "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
            "COLLECT_ANALYTICS": "False",
            "LATEST_VERSION_CHECK": "False",
            "SENTRY_DSN": "",
        }
        for i, token in enumerate(self._tokens):
            user = ["--username", f"rater{i}@example.com", "--password", uuid.uuid4().hex, "--user-token", token]
            command = [self._bin / "label-studio", "init", "--quiet", *user, "--enable-legacy-api-token"]
            subprocess.run(command, check=True, env=os.environ | self._env, capture_output=True)
        with self.start_server("start"):
            self._project = asyncio.run(self._make_project(pairs))

    async def _make_project(self, pairs: list[tuple[str, str, str]]) -> int:
        owner = JsonConnection(self._address, f"Token {self._tokens[0]}")
        project = {"title": "benchmark", "label_config": self.CONFIG}
        made = require_status(201, await owner.call("POST", "/api/projects/", project))["id"]
        tasks = [{"data": dict(zip(("prompt", "first", "second"), pair))} for pair in pairs]
        for i in range(0, len(tasks), 1000):
            require_status(201, await owner.call("POST", f"/api/projects/{made}/import", tasks[i : i + 1000]))
        owner.close()
        return made

    def start_server(self, way: str) -> ServerProcess:
        port = find_free_port()
        self._address, env = f"http://127.0.0.1:{port}", os.environ | self._env
        if way == "start":
            command = ["label-studio", "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
        else:
            command = ["gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "core.wsgi:application"]
            # As its own container does, with uwsgi in the place of gunicorn.
            package = next(self._bin.parent.glob("lib/python*/site-packages/label_studio"))
            env |= {"PYTHONPATH": str(package), "DJANGO_SETTINGS_MODULE": "core.settings.label_studio"}
        log = self._folder / "served.log"
        return ServerProcess(
            [self._bin / command[0], *command[1:]], log, lambda: answers_http(port, "/health"), env=env
        )

    def make_raters(self) -> list[Cycle]:
        def make_rater(client: JsonConnection) -> Cycle:
            async def cycle() -> str:
                task = require_status(200, await client.call("GET", f"/api/projects/{self._project}/next"))["id"]
                choice = {"id": "choice", "from_name": "pw", "to_name": "first", "type": "pairwise"}
                body = {"result": [choice | {"value": {"selected": "left"}}], "lead_time": 1.0}
                require_status(201, await client.call("POST", f"/api/tasks/{task}/annotations/", body))
                return str(task)

            return cycle

        return [make_rater(JsonConnection(self._address, f"Token {token}")) for token in self._tokens]


def _install_label_studio(env: Path) -> Path:
    """Return the programs of the peer's environment, which is built if it does not exist."""
    if not (env / "bin" / "label-studio").exists():
        print(f"building {env}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", env], check=True, stdout=sys.stderr)
        install = [env / "bin" / "pip", "install", "--quiet", "label-studio", "gunicorn"]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return env / "bin"


def require_status(expected: int, answer: tuple[int, Any]) -> Any:
    status, body = answer
    if status != expected:
        raise RuntimeError(f"expected {expected}, got {status}: {body}")
    return body


async def repeat_cycles(raters: list[Cycle], seconds: float, warm_up: float) -> tuple[list[float], list[str]]:
    """Let every rater repeat cycles until the time is over. Returns seconds per cycle and the answered tasks."""
    cycle_seconds: list[float] = []
    tasks: list[str] = []
    begin = time.monotonic() + warm_up

    async def repeat(cycle: Cycle) -> None:
        while (start := time.monotonic()) < begin + seconds:
            tasks.append(await cycle())
            if begin <= (end := time.monotonic()) < begin + seconds:
                cycle_seconds.append(end - start)

    await asyncio.gather(*(repeat(cycle) for cycle in raters))
    return cycle_seconds, tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-env", type=Path, default=user_cache_path("rlhf_hitl_benchmarks") / "label-studio")
    parser.add_argument("--comparisons", type=int, default=20_000)
    parser.add_argument("--raters", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30, help="Of each way, in each of two turns.")
    parser.add_argument("--ours", action="store_true", help="Leave Label Studio out.")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n, raters, seconds, turns = args.comparisons, args.raters, args.seconds, 2
    if args.quick:
        n, raters, seconds, turns = 1000, 2, 2, 1
    with start_postgres() as pg, tempfile.TemporaryDirectory() as folder:
        pairs = make_texts(n)
        made: dict[str, Peer] = (
            {}
            if args.ours
            else {"label_studio": LabelStudio(args.peer_env, pg, _make_subfolder(folder, "theirs"), pairs, raters)}
        )
        made["ours"] = Ours(pg, _make_subfolder(folder, "ours"), pairs, raters)
        ways = {name: list(peer.ways)[: 1 if args.quick else None] for name, peer in made.items()}
        seconds_by_way: dict[tuple[str, str], list[list[float]]] = {}
        answered: dict[str, list[str]] = {name: [] for name in made}
        for _ in range(turns):
            for name, peer in made.items():
                for way in ways[name]:
                    with peer.start_server(way):
                        times, tasks = asyncio.run(repeat_cycles(peer.make_raters(), seconds, warm_up=min(5, seconds)))
                    seconds_by_way.setdefault((name, way), []).append(times)
                    answered[name] += tasks
                    print(f"{name}, {way}: {len(times) / seconds:.2f} cycles/s", file=sys.stderr)
    figures: dict[str, float | int | None] = {"comparisons": n, "raters": raters, "seconds": turns * seconds}
    best = {}
    for name in made:
        by_way = {way: _compute_figures(seconds_by_way[name, way], turns * seconds) for way in ways[name]}
        figures |= {f"{name}.{way}.{key}": value for way, part in by_way.items() for key, value in part.items()}
        best[name] = max(by_way.values(), key=lambda part: part["cycles_per_s"])
        figures[f"{name}.answered_twice"] = sum(times > 1 for times in Counter(answered[name]).values())
    if "label_studio" in best:
        figures["cycles_ratio"] = best["ours"]["cycles_per_s"] / best["label_studio"]["cycles_per_s"]
        figures["p95_ratio"] = best["ours"]["p95_ms"] / best["label_studio"]["p95_ms"]
    write_result("vs_label_studio", figures, seeds=[], notes=_write_notes(args), quick=args.quick or args.ours)


def _compute_figures(turns: list[list[float]], seconds: float) -> dict[str, float]:
    cycles = [t for turn in turns for t in turn]
    p50, p95 = np.percentile(cycles, [50, 95]) * 1000
    return {"cycles_per_s": len(cycles) / seconds, "p50_ms": float(p50), "p95_ms": float(p95)}


def _write_notes(args: argparse.Namespace) -> str:
    notes = "Ratios are ours to theirs, the quicker way of each. answered_twice: wanted one judgment and got more."
    if args.ours:
        return notes
    listed = subprocess.run([args.peer_env / "bin" / "pip", "freeze"], capture_output=True, text=True, check=True)
    versions = [v for v in listed.stdout.split() if v.split("==")[0].lower() in ("label-studio", "gunicorn", "django")]
    return f"{notes} Theirs: {', '.join(versions)}, COLLECT_ANALYTICS and SENTRY_DSN off."


def _make_subfolder(folder: str, name: str) -> Path:
    made = Path(folder) / name
    made.mkdir()
    return made


if __name__ == "__main__":
    main()
