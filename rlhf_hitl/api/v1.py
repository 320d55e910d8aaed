"""The API, `/api/v1`: the four doors of a system with people in the loop (input, prediction, task, feedback).

A handler loads and calls one function of the layers below; `door.py` has authorised it. Errors are RFC 9457 problem
documents.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import Path as InPath
from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from rlhf_hitl import __version__
from rlhf_hitl.api import bodies
from rlhf_hitl.api.auth import SEES_ALL, Caller
from rlhf_hitl.api.manage import add_manage
from rlhf_hitl.api.predictor import Predictor
from rlhf_hitl.api.problems import add_handlers
from rlhf_hitl.api.scoped_routes import Api, ScopedRoutes
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import Store, audit, queue, views
from rlhf_hitl.store.comparisons import (
    find_comparisons,
    insert_comparisons,
    insert_completions,
    insert_prompts,
    load_completions,
    load_prompts,
)
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import DEFAULT_PROJECT, Completion, Prompt, Receipt, Role, Route, Scope, Split, utc_now

Id = Annotated[str, InPath(pattern=bodies.ID, max_length=80)]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
OfProject = Annotated[str | None, Query(max_length=80, pattern=bodies.ID)]
LINE = (
    '{"messages": [{"role": "user", "content": "Why is the sky blue?"}], "completions": ['
    '{"messages": [{"role": "assistant", "content": "Light scatters."}], "policy": "sft-3"}, '
    '{"messages": [{"role": "assistant", "content": "It reflects the sea."}], "policy": "sft-2"}]}\n'
)
NDJSON = {"application/x-ndjson": {"schema": {"type": "string"}, "example": LINE}}
SNAPSHOTS = {"trl": "application/gzip", "jsonl": "application/gzip", "archive": "application/zip"}
REPEATED: dict[int | str, dict[str, Any]] = {200: {"model": bodies.ReceiptOut, "description": "Known already."}}


def create_api(store: Store, settings: Settings) -> Api:
    """The API as an application of its own, to be mounted at `/api/v1`."""
    api = Api(
        title="rlhf_hitl",
        version=__version__,
        summary="People rank model outputs; programs bring them in and take the judgments out.",
        docs_url=None,  # the usual page of documentation takes its scripts from another site
        redoc_url=None,
        servers=[{"url": "/api/v1"}],
        generate_unique_id_function=lambda route: route.name,
    )
    add_handlers(api, store)
    scoped = partial(ScopedRoutes, api, store)
    _add_input(scoped(Scope.INPUT), store, settings)
    _add_prediction(scoped(Scope.PREDICTION), Predictor(store, settings.workspace))
    _add_task(scoped(Scope.TASK), store, settings)
    _add_feedback(scoped(Scope.FEEDBACK), store, settings)
    add_manage(scoped(Scope.MANAGE), store)
    return api


def _add_input(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    @routes("POST", "/prompts", status_code=201, response_model=bodies.Added)
    def add_prompts(who: Caller, body: bodies.PromptsBody) -> Any:
        """Add prompts. One that is there already is left as it is; a prompt family keeps its split."""
        made = [Prompt.create(bodies.chat(p.messages), p.tags, p.split) for p in body.prompts]
        with store.write() as conn:
            new = insert_prompts(store, conn, made, _source(who))
            audit.record(conn, who.actor, "prompts.added", "", new=new)
        return {"ids": [p.id for p in made], "new": new}

    @routes("POST", "/completions", status_code=201, response_model=bodies.Added, fails=(404,))
    def add_completions(who: Caller, body: bodies.CompletionsBody) -> Any:
        """Add completions of prompts that are there."""
        made = [Completion.create(c.prompt_id, bodies.chat(c.messages), c.policy, c.sampling) for c in body.completions]
        with store.write() as conn:
            load_prompts(conn, [c.prompt_id for c in made])
            new = insert_completions(store, conn, made)
            audit.record(conn, who.actor, "completions.added", "", new=new)
        return {"ids": [c.id for c in made], "new": new}

    @routes("POST", "/comparisons", status_code=201, response_model=bodies.Added, fails=(404,))
    def add_comparisons(who: Caller, body: bodies.ComparisonsBody) -> Any:
        """Add comparisons of completions that are there, and put them in line."""
        with store.write() as conn:
            prompts = load_prompts(conn, [c.prompt_id for c in body.comparisons])
            completions = load_completions(conn, [i for c in body.comparisons for i in c.completion_ids])
            made = [c.comparison(prompts, completions, body.project, body.batch) for c in body.comparisons]
            new = insert_comparisons(store, conn, made, _source(who))
            audit.record(conn, who.actor, "comparisons.added", body.project, new=new)
        return {"ids": [c.id for c in made], "new": new}

    @routes(
        "POST",
        "/import",
        status_code=201,
        response_model=bodies.Imported,
        fails=(404, 413),
        openapi_extra={"requestBody": {"required": True, "content": NDJSON}},
    )
    async def import_lines(
        who: Caller,
        request: Request,
        project: Annotated[str, Query(pattern=bodies.PROJECT, max_length=80)] = DEFAULT_PROJECT,
        batch: Annotated[str, Query(pattern=bodies.LINE, max_length=200)] = "",
        overlap: Annotated[int, Query(ge=1, le=1000)] = 1,
        queued: Annotated[bool, Query(description="Ask raters also about what comes with votes.")] = False,
    ) -> Any:
        """Stream prompts, completions and votes in, a JSON object a line in any format `rlhf-hitl import` knows.

        All of it is taken or, where a line is bad, nothing.
        """
        with tempfile.TemporaryDirectory(prefix="upload-", dir=_workspace(settings)) as folder:
            path = Path(folder) / "upload.jsonl"
            await _spool(request, path, settings.max_import_mb)
            return await run_in_threadpool(_import, path, who, project, batch, overlap, queued)

    def _import(path: Path, who: Caller, project: str, batch: str, overlap: int, queued: bool) -> Any:
        from rlhf_hitl.formats.importing import import_path

        try:
            report = import_path(store, path, project=project, batch=batch, overlap=overlap, queue=queued)
        except BadInput as e:  # the folder is ours; to the sender it is their upload
            named = {part: getattr(e, part).replace(str(path), "upload") for part in ("value", "expected", "fix")}
            raise type(e)(**named) from None
        with store.write() as conn:
            audit.record(conn, who.actor, "import", project, rows=report.rows, judgments=report.judgments)
        return report

    @routes("GET", "/comparisons", response_model=bodies.ComparisonPage)
    def list_comparisons(
        who: Caller,
        after: Annotated[str, Query(pattern=r"^[A-Za-z0-9_]*$", max_length=80)] = "",
        limit: Limit = 100,
        project: OfProject = None,
        split: Split | None = None,
        route: Route | None = None,
        judged: bool | None = None,
    ) -> Any:
        """Comparisons with everything, in order of id."""
        routes = None if route is None else [route]
        found = find_comparisons(
            store, split=split, routes=routes, judged=judged, project=project, after=after, limit=limit
        )
        return _page([bodies.comparison_out(c) for c in found], limit, "id")

    @routes("GET", "/comparisons/{comparison_id}", response_model=bodies.ComparisonOut, fails=(404,))
    def get_comparison(who: Caller, comparison_id: Id) -> Any:
        """One comparison with everything."""
        for found in find_comparisons(store, ids=[comparison_id], repeats=True):
            return bodies.comparison_out(found)
        raise NotFound(f"comparison {comparison_id!r}", expected="one in the store", fix="add it first")


def _add_prediction(routes: ScopedRoutes, predictor: Predictor) -> None:
    @routes("POST", "/predictions", response_model=bodies.Predictions, fails=(404, 409))
    def predict(who: Caller, body: bodies.PredictionsBody) -> Any:
        """Score comparisons of the store (the scores are kept) or texts (they are not) with a reward model."""
        texts = [t.comparison() for t in body.texts]
        model_id, kept, others = predictor.score(body.comparison_ids, [c for c, _ in texts], body.reward_model_id)
        scores = [bodies.score_out(s, s.comparison_id) for s in kept]
        scores += [bodies.score_out(s, None, positions) for s, (_, positions) in zip(others, texts)]
        return {"reward_model_id": model_id, "scores": scores}


def _add_task(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    @routes("POST", "/leases", response_model=bodies.Leases)
    def lease(who: Caller, body: bodies.LeaseBody) -> Any:
        """The next comparisons for the caller, those they hold first. An empty list: nothing is left for them."""
        seconds = body.seconds or settings.lease_seconds
        held = queue.lease_many(store, who.rater.id, body.count, seconds=seconds, wish=body.wish())
        return JSONResponse({"leases": [bodies.lease_out(one) for one in held]})

    @routes("POST", "/leases/{lease_id}/renew", response_model=bodies.Renewed, fails=(404, 409))
    def renew(who: Caller, lease_id: Id, body: bodies.RenewBody) -> Any:
        """Hold a comparison longer. One that ran out is had again if nobody has taken it."""
        until = queue.renew(store, lease_id, who.rater.id, seconds=body.seconds or settings.lease_seconds)
        return {"id": lease_id, "expires_at": until}

    @routes("DELETE", "/leases/{lease_id}", status_code=204, fails=(404,))
    def release(who: Caller, lease_id: Id) -> Response:
        """Give a comparison back unjudged."""
        queue.release(store, lease_id, who.rater.id)
        return Response(status_code=204)

    @routes("GET", "/queue", response_model=bodies.QueueOut)
    def queue_state(who: Caller) -> Any:
        """How the queue stands. A rater is told what they did in a day and what is left for them (up to 1000)."""
        if who.sees_all:
            return bodies.queue_out(queue.by_lane(store))
        tally = views.tally(store, who.rater.id, since=utc_now() - timedelta(days=1))
        return {"filled": tally.done, "leased": 0, "free": tally.left, "lanes": []}


def _add_feedback(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    takes_answers = {"status_code": 201, "response_model": bodies.ReceiptOut, "responses": REPEATED}

    @routes("POST", "/judgments", **takes_answers, fails=(404, 409))
    def submit(who: Caller, body: bodies.JudgmentBody) -> Any:
        """Keep a judgment. When this answers, it is on disk."""
        receipt = queue.submit(
            store,
            body.lease_id,
            who.rater.id,
            body.answer,
            idempotency_key=body.idempotency_key,
            guideline_version=body.guideline_version,
            interface_version=body.interface_version or "api-1",
            simulated=who.rater.simulated,
        )
        return _receipt(receipt)

    @routes("POST", "/judgments/{judgment_id}/corrections", **takes_answers, fails=(404, 409))
    def correct(who: Caller, judgment_id: Id, body: bodies.AnswerBody) -> Any:
        """Supersede a judgment of one's own. The first stays in the store."""
        answer = body.answer(views.judgment(store, judgment_id, who.rater.id).order_shown)
        key = body.idempotency_key or f"correct:{judgment_id}"
        return _receipt(queue.correct(store, judgment_id, who.rater.id, answer, idempotency_key=key))

    @routes("GET", "/judgments", response_model=bodies.JudgmentPage)
    def list_judgments(
        who: Caller,
        after: bodies.Cursor = 0,
        limit: Limit = 100,
        project: OfProject = None,
        current: Annotated[bool, Query(description="Only those no correction supersedes.")] = True,
    ) -> Any:
        """Judgments in the order they came: a rater's own, or everybody's for leads and evaluators."""
        rater = None if who.sees_all else who.rater.id
        found = read_judgments(store, rater_id=rater, project=project, current=current, after=after)
        return _page([bodies.judgment_out(j, who.sees_all) for j in islice(found, limit)], limit, "cursor")

    @routes("GET", "/judgments/last", response_model=bodies.LastOut, fails=(404,))
    def last_judgment(who: Caller) -> Any:
        """The caller's newest judgment with what it was of. It counts until its correction is sent."""
        last = views.newest_judgment(store, who.rater.id)
        if last is None:
            raise NotFound("last judgment", expected="one of your own", fix="judge something first")
        return bodies.last_out(*last)

    @routes(
        "GET",
        "/snapshot",
        response_class=Response,
        responses={200: {"description": "The file.", "content": {kind: {} for kind in SNAPSHOTS.values()}}},
        fails=(404,),
        only=SEES_ALL,
    )
    def snapshot(
        who: Caller,
        format: Literal["trl", "jsonl", "archive"] = "trl",
        project: OfProject = None,
        min_votes: Annotated[int, Query(ge=1, le=1000)] = 1,
    ) -> Response:
        """A dataset snapshot as `rlhf-hitl export` makes it, as a gzipped tar; or (admins) the whole store."""
        if format == "archive" and who.rater.role is not Role.ADMIN:
            raise HTTPException(403, "format 'archive': expected an admin, for it holds secrets. Fix: ask one")
        with tempfile.TemporaryDirectory(prefix="snapshot-", dir=_workspace(settings)) as folder:
            path = _snapshot(store, Path(folder), format, project, min_votes)
            with store.write() as conn:
                audit.record(conn, who.actor, "export", format, project=project)
            size, file = path.stat().st_size, path.open("rb")  # it outlives its name, and nothing is left behind
        headers = {"content-length": str(size), "content-disposition": f'attachment; filename="{path.name}"'}
        return StreamingResponse(_chunks(file), media_type=SNAPSHOTS[format], headers=headers)


def _snapshot(
    store: Store, folder: Path, format: Literal["trl", "jsonl", "archive"], project: str | None, min_votes: int
) -> Path:
    if format == "archive":
        from rlhf_hitl.formats import archive

        archive.write(store, folder / "store.zip")
        return folder / "store.zip"
    from rlhf_hitl.formats.export import export

    export(store, folder / "snapshot", format=format, project=project, min_votes=min_votes)
    return Path(shutil.make_archive(str(folder / "snapshot"), "gztar", folder, "snapshot"))


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(2**20):
            yield chunk


def _source(who: Caller) -> str:
    return f"api:{who.rater.name}"


def _page(items: list[dict[str, Any]], limit: int, cursor: str) -> dict[str, Any]:
    return {"items": items, "next": items[-1][cursor] if len(items) == limit else None}


def _receipt(receipt: Receipt) -> JSONResponse:
    body = {"id": receipt.judgment_id, "outcome": receipt.outcome}
    return JSONResponse(body, 200 if receipt.outcome == "repeated" else 201)


def _workspace(settings: Settings) -> Path:
    settings.workspace.mkdir(parents=True, exist_ok=True)
    return settings.workspace


async def _spool(request: Request, path: Path, most_mb: float) -> None:
    """Write a request's body to a file, whole."""
    room = int(most_mb * 2**20)
    with path.open("wb") as f:
        async for chunk in request.stream():
            room -= len(chunk)
            if room < 0:
                raise HTTPException(413, f"import: expected at most {most_mb:g} MB. Fix: send it in parts")
            await run_in_threadpool(f.write, chunk)
