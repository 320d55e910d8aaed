"""The images on the pages. An address is for one person: the server makes it for whom it shows the image to."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from rlhf_hitl.api.auth import find_session_rater
from rlhf_hitl.api.problems import respond_with_problem
from rlhf_hitl.errors import NotFound
from rlhf_hitl.store import Store
from rlhf_hitl.store.images import is_listed

log = logging.getLogger(__name__)

#: No browser keeps an image: on a shared computer it would stay on the disk, and Back would show it, after its reader
#: has signed out. An image is for whoever asked, and nothing but a picture.
IMAGE_HEADERS = {
    "cache-control": "private, no-store",
    "content-security-policy": "default-src 'none'; sandbox",
    "x-content-type-options": "nosniff",
}


def make_image_address(store: Store, rater_id: str) -> Callable[[str], str]:
    """Return a function from an image's id to its address, relative to a page, for somebody to whom it is shown."""
    return lambda image_id: f"../images/{image_id}.png?key={sign_image(store, rater_id, image_id)}"


def sign_image(store: Store, rater_id: str, image_id: str) -> str:
    """Return the key that says that the server has shown an image to somebody."""
    return store.sign("image", f"{rater_id}:{image_id}")


def respond_with_image(store: Store, image_id: str) -> Response:
    """Return an image as PNG to somebody who may see it, or else what is wrong: the log names a file that is missing.

    Raises:
        NotFound: the store never had it.
    """
    try:
        return Response(store.images.load(image_id), media_type="image/png", headers=IMAGE_HEADERS)
    except NotFound:
        with store.read() as conn:
            if not is_listed(conn, image_id):
                raise NotFound(f"image {image_id[:80]!r}", expected="one of this store", fix="check the id") from None
    where = store.images.address
    log.warning("image %s is in the store and not in %s: several servers need RLHF_HITL_IMAGES", image_id, where)
    return respond_with_problem(
        404, f"image {image_id!r}: expected its file on this server. Fix: tell the operator of this server"
    )


def add_image_route(app: FastAPI, store: Store) -> None:
    """Add the route of the addresses that `make_image_address` makes. Whoever it is not for gets what nobody gets."""

    @app.get("/images/{image_id}.png", include_in_schema=False)
    def send_image(request: Request, image_id: str, key: str = "") -> Response:
        rater = find_session_rater(store, request)
        if rater is not None and hmac.compare_digest(key.encode(), sign_image(store, rater.id, image_id).encode()):
            try:
                return respond_with_image(store, image_id)
            except NotFound:
                pass
        return respond_with_problem(404, "image: expected one on your page. Fix: sign in, and reload the page")
