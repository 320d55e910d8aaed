"""The scope `feedback`: submit and correct judgments, read them, and download a dataset snapshot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from rlhf_hitl.api.auth import SEES_ALL, Caller
from rlhf_hitl.api.bodies import feedback as bodies
from rlhf_hitl.api.bodies.quality import feedback_to_json
from rlhf_hitl.api.json_body import BodyLimits
from rlhf_hitl.api.operations.shared import Cursor, Limit, PathId, ProjectFilter, make_page, make_temporary_folder
from rlhf_hitl.api.scoped_routes import ScopedRoutes
from rlhf_hitl.config import Settings
from rlhf_hitl.errors import NotFound

# Loaded before the first judgment that needs it: loading takes a third of a second, for which other raters would wait.
from rlhf_hitl.stats import value_of_vote  # noqa: F401
from rlhf_hitl.store import Store, guidelines, queue, views
from rlhf_hitl.store.accepted import record_export
from rlhf_hitl.store.judgments import read_judgments
from rlhf_hitl.types import Receipt, Role

#: Letters of rationales and rewrites after which a page of judgments ends: one judgment may have 120,000.
PAGE_LETTERS = 1_000_000
SNAPSHOTS = {"trl": "application/gzip", "jsonl": "application/gzip", "archive": "application/zip"}
REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"model": bodies.ReceiptOut, "description": "The idempotency key is known: the answer counts already."}
}


def add_operations(routes: ScopedRoutes, store: Store, settings: Settings) -> None:
    """Register the operations of the scope `feedback`."""

    # A rationale and a rewritten answer are the only long texts; 50 axes with 26 scores are the most values.
    limits = BodyLimits(max_bytes=3 * 2**19, max_values=5000)
    answer_options = {
        "status_code": 201, "response_model": bodies.ReceiptOut, "responses": REPEATED, "body_limits": limits
    }  # fmt: skip

    @routes("POST", "/judgments", **answer_options, error_statuses=(404, 409))
    def submit(caller: Caller, body: bodies.JudgmentBody) -> Any:
        """Submit a judgment. When the response arrives, the judgment is on disk."""
        receipt = queue.submit(
            store,
            body.lease_id,
            caller.rater.id,
            body.to_shown_answer(),
            idempotency_key=body.idempotency_key,
            guideline_version=body.guideline_version,
            interface_version=body.interface_version or "api-1",
            simulated=caller.rater.simulated,
        )
        told = None
        if receipt.gold is not None:
            told = feedback_to_json(receipt.gold, queue.load_lease(store, body.lease_id, caller.rater.id).order_shown)
        return _answer_with_receipt(receipt, told)

    @routes("POST", "/judgments/{judgment_id}/corrections", **answer_options, error_statuses=(404, 409))
    def correct(caller: Caller, judgment_id: PathId, body: bodies.AnswerBody) -> Any:
        """Correct one of your own judgments. The correction supersedes it; both stay in the store."""
        key = body.idempotency_key or f"correct:{judgment_id}"
        receipt = queue.correct(store, judgment_id, caller.rater.id, body.to_shown_answer(), idempotency_key=key)
        return _answer_with_receipt(receipt)

    @routes("GET", "/judgments", response_model=bodies.JudgmentPage)
    def list_judgments(
        caller: Caller,
        after: Cursor = 0,
        limit: Limit = 100,
        project: ProjectFilter = None,
        current: Annotated[bool, Query(description="Only judgments that no correction supersedes.")] = True,
    ) -> Any:
        """List judgments in the order they arrived. Raters get their own, leads and evaluators everybody's.

        A page has fewer than `limit` where their texts are long: follow `next` until it is null.
        """
        rater_id = None if caller.sees_all else caller.rater.id
        judgments = read_judgments(
            store, rater_id=rater_id, project=project, current=current, after=after, at_once=min(limit, 50)
        )
        items, length = [], 0
        for judgment in islice(judgments, limit):
            items.append(bodies.judgment_to_json(judgment, caller.sees_all))
            length += len(judgment.answer.rationale) + len(judgment.answer.rewrite)
            if length > PAGE_LETTERS:
                break
        return make_page(items, len(items) == limit or length > PAGE_LETTERS, "cursor")

    @routes("GET", "/judgments/last", response_model=bodies.LastOut, error_statuses=(404,))
    def last_judgment(caller: Caller) -> Any:
        """Return the caller's newest judgment and what was shown. It counts until it is corrected."""
        last = views.load_newest_judgment(store, caller.rater.id)
        if last is None:
            raise NotFound("last judgment", expected="one of your own", fix="judge something first")
        judgment, comparison = last
        seen = guidelines.keep_seen_of_comparison(store, comparison, judgment.guideline_version)
        return bodies.last_to_json(judgment, seen)

    @routes(
        "GET",
        "/snapshot",
        response_class=Response,
        responses={200: {"description": "The file.", "content": {kind: {} for kind in SNAPSHOTS.values()}}},
        error_statuses=(404,),
        roles=SEES_ALL,
    )
    def snapshot(
        caller: Caller,
        format: Literal["trl", "jsonl", "archive"] = "trl",
        project: ProjectFilter = None,
        min_votes: Annotated[int, Query(ge=1, le=1000)] = 1,
    ) -> Response:
        """Download a dataset snapshot of `rlhf-hitl export` as a gzipped tar. Admins may download the whole store."""
        if format == "archive" and caller.rater.role is not Role.ADMIN:
            raise HTTPException(403, "format 'archive': expected an admin, for it holds secrets. Fix: ask one")
        with make_temporary_folder(settings, "snapshot-") as folder:
            path = _write_snapshot(store, Path(folder), format, project, min_votes)
            with store.write() as conn:
                record_export(conn, caller.actor, format, project=project, with_accepted=True)
            size, file = path.stat().st_size, path.open("rb")  # an open file can be read after its folder is deleted
        headers = {"content-length": str(size), "content-disposition": f'attachment; filename="{path.name}"'}
        return StreamingResponse(_read_chunks(file), media_type=SNAPSHOTS[format], headers=headers)


def _write_snapshot(
    store: Store, folder: Path, format: Literal["trl", "jsonl", "archive"], project: str | None, min_votes: int
) -> Path:
    if format == "archive":
        from rlhf_hitl.formats import archive

        archive.write_archive(store, folder / "store.zip")
        return folder / "store.zip"
    from rlhf_hitl.formats.export import export_snapshot

    export_snapshot(store, folder / "snapshot", format=format, project=project, min_votes=min_votes)
    return Path(shutil.make_archive(str(folder / "snapshot"), "gztar", folder, "snapshot"))


def _read_chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(2**20):
            yield chunk


def _answer_with_receipt(receipt: Receipt, told: dict[str, Any] | None = None) -> JSONResponse:
    body: dict[str, Any] = {"id": receipt.judgment_id, "outcome": receipt.outcome, "gold": told, "qualification": None}
    if (standing := receipt.qualification) is not None:
        body["qualification"] = bodies.QualificationOut(**vars(standing)).model_dump(mode="json")
    return JSONResponse(body, 200 if receipt.outcome == "repeated" else 201)
