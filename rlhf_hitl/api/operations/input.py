"""The scope `input`: add prompts, completions and comparisons, import files, and list what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from rlhf_hitl.api.auth import Caller
from rlhf_hitl.api.bodies import input as bodies
from rlhf_hitl.api.bodies.fields import LINE, PROJECT
from rlhf_hitl.api.bodies.messages import parse_chat
from rlhf_hitl.api.operations.shared import Limit, PathId, ProjectFilter, page, temporary_folder
from rlhf_hitl.api.scoped_routes import ScopedRoutes
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.store import Store, audit
from rlhf_hitl.store.comparisons import (
    find_comparisons,
    insert_comparisons,
    insert_completions,
    insert_prompts,
    load_completions,
    load_prompts,
)
from rlhf_hitl.types import DEFAULT_PROJECT, Completion, Prompt, Route, Split

EXAMPLE_LINE = (
    '{"messages": [{"role": "user", "content": "Why is the sky blue?"}], "completions": ['
    '{"messages": [{"role": "assistant", "content": "Light scatters."}], "policy": "sft-3"}, '
    '{"messages": [{"role": "assistant", "content": "It reflects the sea."}], "policy": "sft-2"}]}\n'
)
NDJSON = {"application/x-ndjson": {"schema": {"type": "string"}, "example": EXAMPLE_LINE}}


def add_operations(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    @routes("POST", "/prompts", status_code=201, response_model=bodies.Added)
    def add_prompts(caller: Caller, body: bodies.PromptsBody) -> Any:
        """Add prompts. One that is there already is left as it is; a prompt family keeps its split."""
        made = [Prompt.create(parse_chat(p.messages), p.tags, p.split) for p in body.prompts]
        with store.write() as conn:
            new = insert_prompts(store, conn, made, _source(caller))
            audit.record(conn, caller.actor, "prompts.added", "", new=new)
        return {"ids": [p.id for p in made], "new": new}

    @routes("POST", "/completions", status_code=201, response_model=bodies.Added, error_statuses=(404,))
    def add_completions(caller: Caller, body: bodies.CompletionsBody) -> Any:
        """Add completions of prompts that are there."""
        made = [Completion.create(c.prompt_id, parse_chat(c.messages), c.policy, c.sampling) for c in body.completions]
        with store.write() as conn:
            load_prompts(conn, [c.prompt_id for c in made])
            new = insert_completions(store, conn, made)
            audit.record(conn, caller.actor, "completions.added", "", new=new)
        return {"ids": [c.id for c in made], "new": new}

    @routes("POST", "/comparisons", status_code=201, response_model=bodies.Added, error_statuses=(404,))
    def add_comparisons(caller: Caller, body: bodies.ComparisonsBody) -> Any:
        """Add comparisons of completions that are there, and put them in line."""
        with store.write() as conn:
            prompts = load_prompts(conn, [c.prompt_id for c in body.comparisons])
            completions = load_completions(conn, [i for c in body.comparisons for i in c.completion_ids])
            made = [c.comparison(prompts, completions, body.project, body.batch) for c in body.comparisons]
            new = insert_comparisons(store, conn, made, _source(caller))
            audit.record(conn, caller.actor, "comparisons.added", body.project, new=new)
        return {"ids": [c.id for c in made], "new": new}

    @routes(
        "POST",
        "/import",
        status_code=201,
        response_model=bodies.Imported,
        error_statuses=(404, 413),
        openapi_extra={"requestBody": {"required": True, "content": NDJSON}},
    )
    async def import_lines(
        caller: Caller,
        request: Request,
        project: Annotated[str, Query(pattern=PROJECT, max_length=80)] = DEFAULT_PROJECT,
        batch: Annotated[str, Query(pattern=LINE, max_length=200)] = "",
        overlap: Annotated[int, Query(ge=1, le=1000)] = 1,
        queued: Annotated[bool, Query(description="Ask raters also about what comes with votes.")] = False,
    ) -> Any:
        """Stream prompts, completions and votes in, a JSON object a line in any format `rlhf-hitl import` knows.

        All of it is taken or, where a line is bad, nothing.
        """
        with temporary_folder(settings, "upload-") as folder:
            path = Path(folder) / "upload.jsonl"
            await _spool(request, path, settings.max_import_mb)
            return await run_in_threadpool(_import, path, caller, project, batch, overlap, queued)

    def _import(path: Path, caller: Caller, project: str, batch: str, overlap: int, queued: bool) -> Any:
        from rlhf_hitl.formats.importing import import_path

        try:
            report = import_path(store, path, project=project, batch=batch, overlap=overlap, queue=queued)
        except BadInput as e:  # the folder is ours; to the sender it is their upload
            named = {part: getattr(e, part).replace(str(path), "upload") for part in ("value", "expected", "fix")}
            raise type(e)(**named) from None
        with store.write() as conn:
            audit.record(conn, caller.actor, "import", project, rows=report.rows, judgments=report.judgments)
        return report

    @routes("GET", "/comparisons", response_model=bodies.ComparisonPage)
    def list_comparisons(
        caller: Caller,
        after: Annotated[str, Query(pattern=r"^[A-Za-z0-9_]*$", max_length=80)] = "",
        limit: Limit = 100,
        project: ProjectFilter = None,
        split: Split | None = None,
        route: Route | None = None,
        judged: bool | None = None,
    ) -> Any:
        """Comparisons with everything, in order of id."""
        routes = None if route is None else [route]
        found = find_comparisons(
            store, split=split, routes=routes, judged=judged, project=project, after=after, limit=limit
        )
        return page([bodies.comparison_out(c) for c in found], limit, "id")

    @routes("GET", "/comparisons/{comparison_id}", response_model=bodies.ComparisonOut, error_statuses=(404,))
    def get_comparison(caller: Caller, comparison_id: PathId) -> Any:
        """One comparison with everything."""
        for found in find_comparisons(store, ids=[comparison_id], repeats=True):
            return bodies.comparison_out(found)
        raise NotFound(f"comparison {comparison_id!r}", expected="one in the store", fix="add it first")


def _source(caller: Caller) -> str:
    return f"api:{caller.rater.name}"


async def _spool(request: Request, path: Path, most_mb: float) -> None:
    """Write a request's body to a file, whole."""
    room = int(most_mb * 2**20)
    with path.open("wb") as f:
        async for chunk in request.stream():
            room -= len(chunk)
            if room < 0:
                raise HTTPException(413, f"import: expected at most {most_mb:g} MB. Fix: send it in parts")
            await run_in_threadpool(f.write, chunk)
