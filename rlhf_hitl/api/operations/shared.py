"""What operations of several scopes share: path and query parameters, pages of a listing, a temporary folder."""

from __future__ import annotations

import tempfile
from typing import Annotated, Any

from fastapi import Path, Query

from rlhf_hitl.api.bodies.fields import ID
from rlhf_hitl.api.json_body import BodyLimits
from rlhf_hitl.config import Settings
from rlhf_hitl.files import make_private_folder

PathId = Annotated[str, Path(pattern=ID, max_length=80)]
Cursor = Annotated[int, Query(ge=0, lt=2**31, description="`next` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="The most items to return.")]
ProjectFilter = Annotated[str | None, Query(max_length=80, pattern=ID)]


#: Of the operations that take texts by the thousand. Larger ones are streamed to `/import`.
MANY_TEXTS = BodyLimits(max_bytes=4 * 2**20, max_values=50_000)


def make_page(items: list[dict[str, Any]], is_full: bool, cursor: str) -> dict[str, Any]:
    """Return one page of a listing: `next` is the last item's `cursor`, or None where the page is not full."""
    return {"items": items, "next": items[-1][cursor] if is_full else None}


def make_temporary_folder(settings: Settings, prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder in the workspace, which has room for large files; it is deleted on leaving its context."""
    make_private_folder(settings.workspace)
    return tempfile.TemporaryDirectory(prefix=prefix, dir=settings.workspace)
