"""The API, `/api/v1`: input, prediction, task and feedback, and what a lead manages.

A handler loads, authorises and calls one function of the layers below. Errors are RFC 9457 problem documents.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from rlhf_hitl import __version__
from rlhf_hitl.api import bodies
from rlhf_hitl.api.auth import Caller, caller
from rlhf_hitl.api.predictor import Predictor
from rlhf_hitl.api.problems import RESPONSES, add_handlers
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, NotFound, RlhfHitlError
from rlhf_hitl.store import Store, audit, catalog, events, people, projects, queue, tokens, views
from rlhf_hitl.types import DEFAULT_PROJECT, Comparison, Completion, Prompt, Role, Route, Scope, Split, utc_now

Id = Annotated[str, InPath(pattern=r"^[A-Za-z0-9_.-]+$", max_length=80)]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
Cursor = Annotated[int, Query(ge=0, lt=2**31, description="`next` of the page before.")]
NDJSON = {"application/x-ndjson": {"schema": {"type": "string"}, "example": '{"messages": [...], "completions": []}\n'}}
FOLDERS = {"trl": "application/gzip", "jsonl": "application/gzip", "archive": "application/zip"}


def _through(door: Scope) -> Callable[[Request], Caller]:
    """Who asks, if they may go through this door."""

    def check(request: Request) -> Caller:
        who = caller(request.app.state.store, request)
        if who is None:
            raise HTTPException(
                401, "credentials: expected a valid API token or session. Fix: send Authorization: Bearer"
            )
        if not who.may(door):
            raise HTTPException(
                403,
                f"role {who.rater.role.value!r}: expected one, and a token, that may use {door.value!r}. "
                "Fix: ask for such a token",
            )
        return who

    return check


ForInput = Annotated[Caller, Depends(_through(Scope.INPUT))]
ForPrediction = Annotated[Caller, Depends(_through(Scope.PREDICTION))]
ForTask = Annotated[Caller, Depends(_through(Scope.TASK))]
ForFeedback = Annotated[Caller, Depends(_through(Scope.FEEDBACK))]
ForManage = Annotated[Caller, Depends(_through(Scope.MANAGE))]


def create_api(store: Store, settings: Settings) -> FastAPI:
    """The API as an application of its own, to be mounted at `/api/v1`."""
    api = FastAPI(
        title="rlhf_hitl",
        version=__version__,
        summary="People rank model outputs; programs bring them in and take the judgments out.",
        docs_url=None,  # the usual page of documentation takes its scripts from another site
        redoc_url=None,
        responses=RESPONSES,
        servers=[{"url": "/api/v1"}],
    )
    api.state.store = store
    add_handlers(api)
    _add_input(api, store, settings)
    _add_prediction(api, store, settings)
    _add_task(api, store, settings)
    _add_feedback(api, store, settings)
    _add_manage(api, store)
    return api


def _add_input(api: FastAPI, store: Store, settings: Settings) -> None:
    tag: dict[str, Any] = {"tags": ["input"]}

    @api.post("/prompts", status_code=201, response_model=bodies.Added, **tag)
    def add_prompts(body: bodies.PromptsBody, who: ForInput) -> Any:
        """Add prompts. One that is there already is left as it is; a prompt family keeps its split."""
        made = [Prompt.create(bodies.chat(p.messages), p.tags, p.split) for p in body.prompts]
        with store.write() as conn:
            new = catalog.add_prompts(store, conn, list({p.id: p for p in made}.values()), f"api:{who.rater.name}")
        return {"ids": [p.id for p in made], "new": new}

    @api.post("/completions", status_code=201, response_model=bodies.Added, **tag)
    def add_completions(body: bodies.CompletionsBody, who: ForInput) -> Any:
        """Add completions of prompts that are there."""
        made = [Completion.create(c.prompt_id, bodies.chat(c.messages), c.policy, c.sampling) for c in body.completions]
        with store.write() as conn:
            _known(conn, "prompts", [c.prompt_id for c in made])
            new = catalog.add_completions(store, conn, list({c.id: c for c in made}.values()))
        return {"ids": [c.id for c in made], "new": new}

    @api.post("/comparisons", status_code=201, response_model=bodies.Added, **tag)
    def add_comparisons(body: bodies.ComparisonsBody, who: ForInput) -> Any:
        """Add comparisons of completions that are there, and put them in line."""
        with store.write() as conn:
            found = catalog.completions_by_id(conn, [i for c in body.comparisons for i in c.completion_ids])
            asked = catalog.prompts_by_id(conn, [c.prompt_id for c in body.comparisons])
            made = [
                Comparison.create(
                    asked[c.prompt_id],
                    [found[i] for i in c.completion_ids],
                    c.overlap,
                    c.route,
                    body.project,
                    body.batch,
                )
                for c in body.comparisons
            ]
            strangers = [(c.id, a.id) for c in made for a in c.completions if a.prompt_id != c.prompt.id]
            if strangers:
                raise BadInput(
                    f"completion {strangers[0][1]}", expected="one of the comparison's prompt", fix="mend the ids"
                )
            new = catalog.add_comparisons(store, conn, made, f"api:{who.rater.name}"[:200])
        return {"ids": [c.id for c in made], "new": new}

    @api.post(
        "/import",
        status_code=201,
        response_model=bodies.Imported,
        openapi_extra={"requestBody": {"required": True, "content": NDJSON}},
        **tag,
    )
    async def import_lines(
        request: Request,
        who: ForInput,
        project: Annotated[str, Query(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)] = DEFAULT_PROJECT,
        batch: Annotated[str, Query(pattern=r"^[^\x00-\x1f]*$", max_length=200)] = "",
        overlap: Annotated[int, Query(ge=1, le=1000)] = 1,
        queued: Annotated[bool, Query(description="Ask raters also about what comes with votes.")] = False,
    ) -> Any:
        """Stream prompts, completions and votes in, a JSON object a line in any format `rlhf-hitl import` knows.

        All of it is taken or, where a line is bad, nothing.
        """
        with _folder(settings) as folder:
            path = folder / "upload.jsonl"
            await _spool(request, path, settings.max_import_mb)
            report = await run_in_threadpool(_import, path, project, batch, overlap, queued, who)
        return {name: getattr(report, name) for name in bodies.Imported.model_fields}

    def _import(path: Path, project: str, batch: str, overlap: int, queued: bool, who: Caller) -> Any:
        from rlhf_hitl.formats.importing import import_path

        try:
            report = import_path(store, path, project=project, batch=batch, overlap=overlap, queue=queued)
        except RlhfHitlError as e:
            # The folder is ours; to the sender it is their upload.
            raise type(e)(**_renamed(e, str(path), "upload")) if isinstance(e, BadInput) else e  # noqa: B904
        with store.write() as conn:
            audit.record(conn, who.actor, "import", project, rows=report.rows, judgments=report.judgments)
        return report

    @api.get("/comparisons", response_model=bodies.ComparisonPage, **tag)
    def list_comparisons(
        who: ForInput,
        after: Annotated[str, Query(pattern=r"^[A-Za-z0-9_]*$", max_length=80)] = "",
        limit: Limit = 100,
        project: Annotated[str | None, Query(max_length=80, pattern=r"^[^\x00]*$")] = None,
        split: Split | None = None,
        route: Route | None = None,
        judged: bool | None = None,
    ) -> Any:
        """Comparisons with everything, in order of id."""
        routes = None if route is None else [route]
        found = catalog.find(
            store, split=split, routes=routes, judged=judged, project=project, after=after, limit=limit
        )
        items = list(found)
        return {
            "items": [bodies.comparison_out(c) for c in items],
            "next": items[-1].id if len(items) == limit else None,
        }

    @api.get("/comparisons/{comparison_id}", response_model=bodies.ComparisonOut, **tag)
    def get_comparison(comparison_id: Id, who: ForInput) -> Any:
        """One comparison with everything."""
        for found in catalog.find(store, ids=[comparison_id], repeats=True):
            return bodies.comparison_out(found)
        raise NotFound(f"comparison {comparison_id!r}", expected="one in the store", fix="add it first")


def _add_prediction(api: FastAPI, store: Store, settings: Settings) -> None:
    predictor = Predictor(store, settings.workspace)

    @api.post("/predictions", response_model=bodies.Predictions, tags=["prediction"])
    def predict(body: bodies.PredictionsBody, who: ForPrediction) -> Any:
        """Score comparisons of the store (the scores are kept) or texts (they are not) with a reward model."""
        if not body.comparison_ids and not body.texts:
            raise BadInput("body {}", expected="comparison_ids or texts", fix="say what to score")
        wanted = list(dict.fromkeys(body.comparison_ids))
        found = {c.id: c for c in catalog.find(store, ids=wanted, repeats=True)}
        if missing := [i for i in wanted if i not in found]:
            raise NotFound(f"comparison {missing[0]!r}", expected="one in the store", fix="add it first")
        outside = [_comparison_of(t) for t in body.texts]
        model_id, scores = predictor.score([found[i] for i in wanted], [c for c, _ in outside], body.reward_model_id)
        out = [bodies.score_out(s, s.comparison_id) for s in scores[: len(wanted)]]
        out += [bodies.score_out(s, None, names) for s, (_, names) in zip(scores[len(wanted) :], outside)]
        return {"reward_model_id": model_id, "scores": out}


def _add_task(api: FastAPI, store: Store, settings: Settings) -> None:
    tag: dict[str, Any] = {"tags": ["task"]}

    @api.post("/leases", response_model=bodies.Leases, **tag)
    def lease(body: bodies.LeaseBody, who: ForTask) -> Any:
        """The next comparisons for the caller, those they hold first. An empty list: nothing is left for them."""
        held = queue.lease_many(
            store, who.rater.id, body.count, seconds=body.seconds or settings.lease_seconds, wish=body.wish()
        )
        return JSONResponse({"leases": [bodies.lease_out(one) for one in held]})

    @api.post("/leases/{lease_id}/renew", response_model=bodies.Renewed, **tag)
    def renew(lease_id: Id, body: bodies.RenewBody, who: ForTask) -> Any:
        """Hold a comparison longer. One that ran out is had again if nobody has taken it."""
        until = queue.renew(store, lease_id, who.rater.id, seconds=body.seconds or settings.lease_seconds)
        return {"id": lease_id, "expires_at": until}

    @api.delete("/leases/{lease_id}", status_code=204, **tag)
    def release(lease_id: Id, who: ForTask) -> Response:
        """Give a comparison back unjudged."""
        queue.release(store, lease_id, who.rater.id)
        return Response(status_code=204)

    @api.get("/queue", response_model=bodies.QueueOut, **tag)
    def state(who: ForTask) -> Any:
        """How the queue stands. A rater is told what they did in a day and what is left for them (up to 1000)."""
        if not who.sees_all:
            tally = views.tally(store, who.rater.id, since=utc_now() - timedelta(days=1))
            return {"filled": tally.done, "leased": 0, "free": tally.left, "lanes": []}
        lanes = queue.by_lane(store)
        totals = {k: sum(getattr(lane, k) for lane in lanes) for k in ("filled", "leased", "free")}
        return totals | {"lanes": [vars(lane) for lane in lanes]}


def _add_feedback(api: FastAPI, store: Store, settings: Settings) -> None:
    tag: dict[str, Any] = {"tags": ["feedback"]}
    repeated: dict[int | str, dict[str, Any]] = {200: {"model": bodies.ReceiptOut, "description": "Known already."}}

    @api.post("/judgments", status_code=201, response_model=bodies.ReceiptOut, responses=repeated, **tag)
    def submit(body: bodies.JudgmentBody, who: ForFeedback) -> Any:
        """Keep a judgment. When this answers, it is on disk."""
        lease = views.lease_of(store, body.lease_id, who.rater.id)
        receipt = queue.submit(
            store,
            lease.id,
            who.rater.id,
            body.answer(lease.order_shown),
            idempotency_key=body.idempotency_key,
            guideline_version=body.guideline_version or settings.guideline_version,
            interface_version=body.interface_version or "api-1",
            simulated=who.rater.simulated,
        )
        return _receipt(receipt)

    @api.post(
        "/judgments/{judgment_id}/corrections",
        status_code=201,
        response_model=bodies.ReceiptOut,
        responses=repeated,
        **tag,
    )
    def correct(judgment_id: Id, body: bodies.AnswerBody, who: ForFeedback) -> Any:
        """Supersede a judgment of one's own. The first stays in the store."""
        old = views.judgment(store, judgment_id, who.rater.id)
        key = body.idempotency_key or f"correct:{judgment_id}"
        answer = body.answer(old.order_shown)
        return _receipt(queue.correct(store, judgment_id, who.rater.id, answer, idempotency_key=key))

    @api.get("/judgments", response_model=bodies.JudgmentPage, **tag)
    def list_judgments(
        who: ForFeedback,
        after: Cursor = 0,
        limit: Limit = 100,
        project: Annotated[str | None, Query(max_length=80, pattern=r"^[^\x00]*$")] = None,
        current: Annotated[bool, Query(description="Only those no correction supersedes.")] = True,
    ) -> Any:
        """Judgments in the order they came: a rater's own, or everybody's for leads and evaluators."""
        rater = None if who.sees_all else who.rater.id
        found = queue.history(store, rater_id=rater, project=project, current=current, after=after)
        items = list(islice(found, limit))
        last = items[-1].seq if len(items) == limit else None
        return {"items": [bodies.judgment_out(j, who.sees_all) for j in items], "next": last}

    @api.get("/judgments/last", response_model=bodies.LastOut, **tag)
    def undo(who: ForFeedback) -> Any:
        """The caller's newest judgment with what it was of. It counts until its correction is sent."""
        last = views.newest_judgment(store, who.rater.id)
        if last is None:
            raise NotFound("last judgment", expected="one of your own", fix="judge something first")
        judgment, comparison = last
        shown = bodies.shown_out(comparison, judgment.order_shown)
        out = {"judgment": bodies.judgment_out(judgment, False), "prompt": bodies.chat_out(comparison.prompt.messages)}
        return out | {"completions": shown}

    @api.get(
        "/snapshot",
        response_class=FileResponse,
        responses={200: {"description": "The snapshot as a file.", "content": {kind: {} for kind in FOLDERS.values()}}},
        **tag,
    )
    def snapshot(
        who: ForFeedback,
        format: Literal["trl", "jsonl", "archive"] = "trl",
        project: Annotated[str | None, Query(max_length=80, pattern=r"^[^\x00]*$")] = None,
        min_votes: Annotated[int, Query(ge=1, le=1000)] = 1,
    ) -> Any:
        """A dataset snapshot as `rlhf-hitl export` makes it, as a gzipped tar; or (admins) the whole store."""
        allowed = who.sees_all if format != "archive" else who.rater.role is Role.ADMIN
        if not allowed:
            raise HTTPException(
                403, f"role {who.rater.role.value!r}: expected one that may export {format!r}. Fix: ask a lead"
            )
        folder = Path(tempfile.mkdtemp(prefix="snapshot-", dir=_workspace(settings)))
        try:
            path = _snapshot(folder, format, project, min_votes)
            with store.write() as conn:
                audit.record(conn, who.actor, "export", format, project=project)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        done = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(path, filename=path.name, media_type=FOLDERS[format], background=done)

    def _snapshot(
        folder: Path, format: Literal["trl", "jsonl", "archive"], project: str | None, min_votes: int
    ) -> Path:
        if format == "archive":
            from rlhf_hitl.formats import archive

            archive.write(store, folder / "store.zip")
            return folder / "store.zip"
        from rlhf_hitl.formats.export import export

        export(store, folder / "snapshot", format=format, project=project, min_votes=min_votes)
        return Path(shutil.make_archive(str(folder / "snapshot"), "gztar", folder, "snapshot"))


def _add_manage(api: FastAPI, store: Store) -> None:
    tag: dict[str, Any] = {"tags": ["manage"]}

    @api.get("/projects", response_model=list[bodies.ProjectOut], **tag)
    def list_projects(who: ForManage) -> Any:
        """Every project."""
        return [vars(p) for p in projects.everything(store)]

    @api.post("/projects", status_code=201, response_model=bodies.ProjectOut, **tag)
    def add_project(body: bodies.ProjectBody, who: ForManage) -> Any:
        """Make a project."""
        return vars(projects.add(store, body.id, open=body.open, repeat_every=body.repeat_every, by=who.actor))

    @api.patch("/projects/{project_id}", response_model=bodies.ProjectOut, **tag)
    def change_project(project_id: Id, body: bodies.ProjectChange, who: ForManage) -> Any:
        """Pause it, let it go on, open or close it. What is left out stays."""
        return vars(projects.change(store, project_id, **body.model_dump(), by=who.actor))

    @api.put("/projects/{project_id}/members/{rater_id}", status_code=204, **tag)
    def admit(project_id: Id, rater_id: Id, who: ForManage) -> Response:
        """Let a rater work in a project that is not open to all."""
        projects.admit(store, project_id, people.get(store, rater_id).name, by=who.actor)
        return Response(status_code=204)

    @api.delete("/projects/{project_id}/members/{rater_id}", status_code=204, **tag)
    def dismiss(project_id: Id, rater_id: Id, who: ForManage) -> Response:
        """Take a rater out of a project's members."""
        projects.dismiss(store, project_id, people.get(store, rater_id).name, by=who.actor)
        return Response(status_code=204)

    @api.get("/raters", response_model=list[bodies.RaterOut], **tag)
    def list_raters(who: ForManage) -> Any:
        """Everybody, with what they may be offered."""
        return [bodies.rater_out(r) for r in people.everyone(store)]

    @api.patch("/raters/{rater_id}", response_model=bodies.RaterOut, **tag)
    def change_rater(rater_id: Id, body: bodies.RaterChange, who: ForManage) -> Any:
        """Pause, shut out, or set languages and quota of a rater; of leads and admins only as an admin."""
        rater = people.get(store, rater_id)
        _outranks(who, rater.role)
        return bodies.rater_out(people.change(store, rater.name, **body.model_dump(), by=who.actor))

    @api.post("/leases/{lease_id}/expire", status_code=204, **tag)
    def expire(lease_id: Id, who: ForManage) -> Response:
        """Take a comparison back from whoever holds it."""
        queue.expire(store, lease_id, by=who.actor)
        return Response(status_code=204)

    @api.post("/invites", status_code=201, response_model=bodies.InviteOut, **tag)
    def invite(body: bodies.InviteBody, who: ForManage) -> Any:
        """Make a link by which one person becomes a rater (or, as an admin, anything)."""
        _outranks(who, body.role)
        secret = tokens.invite(store, body.role, project=body.project, days=body.days, by=who.actor)
        return {"path": f"/invite/{secret}"}

    @api.get("/webhooks", response_model=list[bodies.WebhookOut], **tag)
    def list_webhooks(who: ForManage) -> Any:
        """Every webhook, without its secret."""
        _admin(who)
        return [_webhook_out(w) for w in events.all_webhooks(store)]

    @api.post("/webhooks", status_code=201, response_model=bodies.WebhookOut, **tag)
    def add_webhook(body: bodies.WebhookBody, who: ForManage) -> Any:
        """Have events sent to an address, signed as https://www.standardwebhooks.com says."""
        _admin(who)
        made = events.add_webhook(store, body.url, body.events, by=who.actor)
        return _webhook_out(made) | {"secret": made.secret}

    @api.delete("/webhooks/{webhook_id}", status_code=204, **tag)
    def end_webhook(webhook_id: Id, who: ForManage) -> Response:
        """Send nothing more to it."""
        _admin(who)
        events.end_webhook(store, webhook_id, by=who.actor)
        return Response(status_code=204)

    @api.get("/audit", response_model=bodies.AuditPage, **tag)
    def list_audit(who: ForManage, after: Cursor = 0, limit: Limit = 100) -> Any:
        """Who did what, oldest first."""
        _admin(who)
        items = audit.entries(store, after=after, limit=limit)
        return {"items": [vars(e) for e in items], "next": items[-1].seq if len(items) == limit else None}


def _known(conn: Any, what: Literal["prompts", "completions"], ids: list[str]) -> None:
    if missing := sorted(set(ids) - catalog.known_ids(conn, what, ids)):
        raise NotFound(f"{what[:-1]} {missing[0]!r}", expected="one in the store", fix="add it first")


def _comparison_of(texts: bodies.TextsBody) -> tuple[Comparison, dict[str, str]]:
    """A comparison that is not kept, and completion id → its position as sent."""
    prompt = Prompt.create(bodies.chat(texts.prompt))
    made = [Completion.create(prompt.id, bodies.chat(c), "") for c in texts.completions]
    return Comparison.create(prompt, made), {c.id: str(i) for i, c in enumerate(made)}


def _receipt(receipt: Any) -> JSONResponse:
    body = {"id": receipt.judgment_id, "outcome": receipt.outcome}
    return JSONResponse(body, 200 if receipt.outcome == "repeated" else 201)


def _webhook_out(w: events.Webhook) -> dict[str, Any]:
    return {"id": w.id, "url": w.url, "events": list(w.events), "ended": w.ended_at is not None}


def _outranks(who: Caller, role: Role) -> None:
    if who.rater.role is not Role.ADMIN and role is not Role.RATER:
        raise HTTPException(
            403, f"role {who.rater.role.value!r}: expected an admin for a {role.value}. Fix: ask an admin"
        )


def _admin(who: Caller) -> None:
    if who.rater.role is not Role.ADMIN:
        raise HTTPException(403, f"role {who.rater.role.value!r}: expected an admin. Fix: ask one")


def _workspace(settings: Settings) -> Path:
    settings.workspace.mkdir(parents=True, exist_ok=True)
    return settings.workspace


@contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="upload-", dir=_workspace(settings)) as folder:
        yield Path(folder)


async def _spool(request: Request, path: Path, most_mb: float) -> None:
    """Write a request's body to a file, whole."""
    room = int(most_mb * 2**20)
    with path.open("wb") as f:
        async for chunk in request.stream():
            room -= len(chunk)
            if room < 0:
                raise HTTPException(413, f"import: expected at most {most_mb:g} MB. Fix: send it in parts")
            await run_in_threadpool(f.write, chunk)


def _renamed(e: BadInput, old: str, new: str) -> dict[str, str]:
    return {k: getattr(e, k).replace(old, new) for k in ("value", "expected", "fix")}
