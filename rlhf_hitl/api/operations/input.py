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
from rlhf_hitl.api.json_body import count_values
from rlhf_hitl.api.operations.shared import MANY_TEXTS, Limit, PathId, ProjectFilter, make_page, make_temporary_folder
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
from rlhf_hitl.store.policies import record_met_policies
from rlhf_hitl.types import DEFAULT_PROJECT, Completion, Prompt, Route, Split, parse_tools

EXAMPLE_LINE = (
    '{"messages": [{"role": "user", "content": "Why is the sky blue?"}], "completions": ['
    '{"messages": [{"role": "assistant", "content": "Light scatters."}], "policy": "sft-3"}, '
    '{"messages": [{"role": "assistant", "content": "It reflects the sea."}], "policy": "sft-2"}]}\n'
)
#: Bytes of a line whose values are counted exactly, which takes a dozen times its memory.
LOOK_CLOSER = 8 * 2**20
NDJSON = {"application/x-ndjson": {"schema": {"type": "string"}, "example": EXAMPLE_LINE}}


def add_operations(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    """Register the operations of the scope `input`."""

    @routes("POST", "/prompts", status_code=201, response_model=bodies.Added, body_limits=MANY_TEXTS)
    def add_prompts(caller: Caller, body: bodies.PromptsBody) -> Any:
        """Add prompts. Prompts the store has already are left as they are; a prompt family keeps its split."""
        prompts = [Prompt.create(parse_chat(p.messages), p.tags, p.split, parse_tools(p.tools)) for p in body.prompts]
        with store.write() as conn:
            new = insert_prompts(store, conn, prompts, _name_source(caller))
            audit.record(conn, caller.actor, "prompts.added", "", new=new)
        return {"ids": [p.id for p in prompts], "new": new}

    @routes(
        "POST",
        "/completions",
        status_code=201,
        response_model=bodies.Added,
        body_limits=MANY_TEXTS,
        error_statuses=(404,),
    )
    def add_completions(caller: Caller, body: bodies.CompletionsBody) -> Any:
        """Add completions of prompts that the store has."""
        completions = [
            Completion.create(c.prompt_id, parse_chat(c.messages), c.policy, c.sampling) for c in body.completions
        ]
        with store.write() as conn:
            load_prompts(conn, [c.prompt_id for c in completions])  # raises NotFound where one is missing
            new = insert_completions(store, conn, completions)
            record_met_policies(store, conn, {c.policy for c in completions}, _name_source(caller))
            audit.record(conn, caller.actor, "completions.added", "", new=new)
        return {"ids": [c.id for c in completions], "new": new}

    @routes(
        "POST",
        "/comparisons",
        status_code=201,
        response_model=bodies.Added,
        body_limits=MANY_TEXTS,
        error_statuses=(404,),
    )
    def add_comparisons(caller: Caller, body: bodies.ComparisonsBody) -> Any:
        """Add comparisons of completions that the store has to the queue."""
        with store.write() as conn:
            prompts = load_prompts(conn, [c.prompt_id for c in body.comparisons])
            completions = load_completions(conn, [i for c in body.comparisons for i in c.completion_ids])
            comparisons = [c.to_comparison(prompts, completions, body.project, body.batch) for c in body.comparisons]
            new = insert_comparisons(store, conn, comparisons, _name_source(caller))
            audit.record(conn, caller.actor, "comparisons.added", body.project, new=new)
        return {"ids": [c.id for c in comparisons], "new": new}

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
        queued: Annotated[bool, Query(description="Queue comparisons that already have votes for raters too.")] = False,
    ) -> Any:
        """Import prompts, completions and votes: one JSON object a line, in any format `rlhf-hitl import` knows.

        All lines are imported or, where one of them is bad, none.
        """
        with make_temporary_folder(settings, "upload-") as folder:
            path = Path(folder) / "upload.jsonl"
            await _write_body(request, path, settings.max_import_mb)
            return await run_in_threadpool(import_file, path, caller, project, batch, overlap, queued)

    def import_file(path: Path, caller: Caller, project: str, batch: str, overlap: int, queued: bool) -> Any:
        from rlhf_hitl.formats.importing import import_path

        _refuse_costly_lines(path)
        try:
            report = import_path(store, path, project=project, batch=batch, overlap=overlap, queue=queued)
        except BadInput as e:  # its text names our temporary file, which means nothing to the sender
            parts = {part: getattr(e, part).replace(str(path), "upload") for part in ("value", "expected", "fix")}
            raise type(e)(**parts) from None
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
        """List comparisons with their prompts and completions, ordered by id."""
        routes = None if route is None else [route]
        comparisons = find_comparisons(
            store, split=split, routes=routes, judged=judged, project=project, after=after, limit=limit
        )
        items = [bodies.comparison_to_json(c) for c in comparisons]
        return make_page(items, len(items) == limit, "id")

    @routes("GET", "/comparisons/{comparison_id}", response_model=bodies.ComparisonOut, error_statuses=(404,))
    def get_comparison(caller: Caller, comparison_id: PathId) -> Any:
        """Return one comparison with its prompt and completions."""
        for comparison in find_comparisons(store, ids=[comparison_id], repeats=True):
            return bodies.comparison_to_json(comparison)
        raise NotFound(f"comparison {comparison_id!r}", expected="one in the store", fix="add it first")


def _name_source(caller: Caller) -> str:
    return f"api:{caller.rater.name}"


def _refuse_costly_lines(path: Path) -> None:
    """Refuse a file in which a line has more values than a body may have: whoever reads a line as JSON holds up
    everybody else until it is read.

    Raises:
        BadInput: with the number of the line.
    """
    from rlhf_hitl.formats.limits import Limits, read_lines

    most = Limits.load().line_bytes  # a longer line is left out here, and refused by the import
    with path.open("rb") as f:
        for number, line in read_lines(f, b"\n", most, lambda number: None):
            marks = sum(map(line.count, (b",", b"[", b"{")))  # in texts too: few, and there is no need to look closer
            if marks < MANY_TEXTS.max_values:
                continue
            if len(line) > LOOK_CLOSER or count_values(line) > MANY_TEXTS.max_values:
                raise BadInput(
                    f"upload:{number}: a line of more than {MANY_TEXTS.max_values:,} values",
                    expected="fewer in a line that is sent to a server",
                    fix="split it, or run `rlhf-hitl import` where the store is",
                )


async def _write_body(request: Request, path: Path, max_mb: float) -> None:
    """Write a request's body to a file as it arrives, so that it is never in memory as a whole."""
    bytes_left = int(max_mb * 2**20)
    with path.open("wb") as f:
        async for chunk in request.stream():
            bytes_left -= len(chunk)
            if bytes_left < 0:
                raise HTTPException(413, f"import: expected at most {max_mb:g} MB. Fix: send it in parts")
            await run_in_threadpool(f.write, chunk)
