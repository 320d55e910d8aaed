"""The images of a store: PNG files named by the hash of their pixels, kept once, beside the database.

They are in a folder beside a SQLite store, in `images` of the workspace for PostgreSQL, or where the setting
`RLHF_HITL_IMAGES` says: a folder, or an address that `fsspec` knows (`s3://bucket/images`), which several servers need.
A file is written before the row that names it, so every row has its file; a file without a row is harmless, and the
next import that brings the image uses it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import atomic_file, make_private_folder
from rlhf_hitl.store.engines import get_first_line
from rlhf_hitl.store.tables import images
from rlhf_hitl.types import ImagePart, utc_now
from rlhf_hitl.types.images import is_image_id

if TYPE_CHECKING:
    from rlhf_hitl.store.db import Store


class ImageFolder:
    """Keeps and gives images by their ids.

    Args:
        address: a folder, or an address of `fsspec`.
    """

    def __init__(self, address: str):
        self.address = address

    def save(self, image: ImagePart) -> int:
        """Keep an image that is read and not kept yet; for one that is only named, check that it is kept.

        Returns:
            The bytes of its file.

        Raises:
            BadInput: it is only named, and not kept here.
            OSError: it cannot be written.
        """
        if size := self.measure(image.id):
            return size
        if image.png is None:
            raise BadInput(
                f"image {image.id}", expected="one that the store keeps", fix="give the image itself, not its id"
            )
        self._folder.write(image.id, image.png)
        return len(image.png)

    def has(self, id: str) -> bool:
        return self.measure(id) > 0

    def measure(self, id: str) -> int:
        """Return the bytes of an image's file, or 0 where it is not kept here."""
        return self._folder.measure(id) if is_image_id(id) else 0

    def load(self, id: str) -> bytes:
        """Return an image as PNG.

        Raises:
            NotFound: it is not kept here.
        """
        try:
            if is_image_id(id):
                return self._folder.read(id)
        except FileNotFoundError:
            pass
        raise NotFound(f"image {id[:80]!r}", expected=f"one in {self.address}", fix="copy the folder of images there")

    @cached_property
    def _folder(self) -> _LocalFolder | _RemoteFolder:
        return _RemoteFolder(self.address) if "://" in self.address else _LocalFolder(Path(self.address))


class _LocalFolder:
    def __init__(self, root: Path):
        self._root = root

    def _find(self, id: str) -> Path:
        return self._root / id[4:6] / f"{id}.png"  # 256 folders, so that none is too large to be listed

    def measure(self, id: str) -> int:
        path = self._find(id)
        return path.stat().st_size if path.is_file() else 0

    def read(self, id: str) -> bytes:
        return self._find(id).read_bytes()

    def write(self, id: str, png: bytes) -> None:
        path = self._find(id)
        make_private_folder(path.parent)
        with atomic_file(path, sync=True) as draft:
            draft.write_bytes(png)


class _RemoteFolder:
    def __init__(self, address: str):
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(address)
        except (ValueError, ImportError) as e:
            raise BadInput(
                f"RLHF_HITL_IMAGES {address!r}", expected="a folder, or an address that fsspec knows", fix=str(e)[:200]
            ) from e

    def _find(self, id: str) -> str:
        return f"{self._root}/{id[4:6]}/{id}.png"

    def measure(self, id: str) -> int:
        try:
            return self._fs.size(self._find(id)) or 0
        except FileNotFoundError:
            return 0

    def read(self, id: str) -> bytes:
        data: Any = self._fs.cat_file(self._find(id))
        return data

    def write(self, id: str, png: bytes) -> None:
        self._fs.makedirs(self._find(id).rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(self._find(id), png)


def is_listed(conn: Connection, id: str) -> bool:
    """Return whether messages of the store may name this image, whether or not its file is here."""
    return conn.execute(sa.select(images.c.id).where(images.c.id == id)).first() is not None


def describe_missing(store: Store) -> str:
    """Return in a sentence why this machine lacks images of the store, "" where it has the one that came last."""
    with store.read() as conn:
        newest = _find_newest(conn)
    try:
        if newest is None or store.images.has(newest):
            return ""
    except Exception as e:  # an address of fsspec fails in ways of its own
        return f"{store.images.address} does not answer: {get_first_line(e)}"
    return f"{newest}, which came last, is not in {store.images.address}"


def describe_sharing(store: Store) -> str:
    """Return in a sentence that other servers of this store would not have its images; "" where they would."""
    if store.is_sqlite or load_settings().images:
        return ""
    with store.read() as conn:
        if _find_newest(conn) is None:
            return ""
    return f"images are in {store.images.address} of this machine: several servers need RLHF_HITL_IMAGES"


def _find_newest(conn: Connection) -> str | None:
    return conn.execute(sa.select(images.c.id).order_by(images.c.created_at.desc(), images.c.id).limit(1)).scalar()


def keep_images(folder: ImageFolder, conn: Connection, found: Iterable[ImagePart]) -> None:
    """Keep images and write a row for each that is new.

    Raises:
        BadInput: one is only named, and not kept.
    """
    parts = {image.id: image for image in found}
    if not parts:
        return
    known = set(conn.execute(sa.select(images.c.id).where(images.c.id.in_(list(parts)))).scalars())
    sizes = {id: folder.save(image) for id, image in parts.items()}
    new = [{"id": id, "bytes": size, "created_at": utc_now()} for id, size in sizes.items() if id not in known]
    if new:
        conn.execute(images.insert(), new)
