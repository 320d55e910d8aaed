"""The addresses of images on the pages: each is for one person, and says nothing to anybody else."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_hitl.store import Store


def make_image_address(store: Store, rater_id: str) -> Callable[[str], str]:
    """Return a function from an image's id to its address, relative to a page, for somebody to whom it is shown."""
    return lambda image_id: f"../images/{image_id}.png?key={sign_image(store, rater_id, image_id)}"


def sign_image(store: Store, rater_id: str, image_id: str) -> str:
    """Return the key that shows that the server itself has shown an image to somebody."""
    return store.sign("image", f"{rater_id}:{image_id}")
