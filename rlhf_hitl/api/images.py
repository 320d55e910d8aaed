"""The images on the pages. An address is for one person: the server makes it for whom it shows the image to."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from rlhf_hitl.api.auth import find_session_rater
from rlhf_hitl.api.operations.task import IMAGE_HEADERS
from rlhf_hitl.api.problems import respond_with_problem
from rlhf_hitl.errors import NotFound
from rlhf_hitl.store import Store


def make_image_address(store: Store, rater_id: str) -> Callable[[str], str]:
    """Return a function from an image's id to its address, relative to a page, for somebody to whom it is shown."""
    return lambda image_id: f"../images/{image_id}.png?key={sign_image(store, rater_id, image_id)}"


def sign_image(store: Store, rater_id: str, image_id: str) -> str:
    """Return the key that says that the server has shown an image to somebody."""
    return store.sign("image", f"{rater_id}:{image_id}")


def add_image_route(app: FastAPI, store: Store) -> None:
    """Add the route of the addresses that `make_image_address` makes. Whoever it is not for gets what nobody gets."""

    @app.get("/images/{image_id}.png", include_in_schema=False)
    def send_image(request: Request, image_id: str, key: str = "") -> Response:
        rater = find_session_rater(store, request)
        if rater is not None and hmac.compare_digest(key.encode(), sign_image(store, rater.id, image_id).encode()):
            try:
                return Response(store.images.load(image_id), media_type="image/png", headers=IMAGE_HEADERS)
            except NotFound:
                pass
        return respond_with_problem(404, "image: expected one on your page. Fix: reload the page")
