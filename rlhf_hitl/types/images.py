"""Images: read with Pillow, made anew without metadata, and named by the hash of their pixels.

Nothing is ever fetched: an image is in the file or the request itself, as bytes or as a `data:` URL. A path or an
address is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rlhf_hitl.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

#: Limits of one image. The pixels bound what reading it takes: two seconds and 300 MB at the limit.
MAX_PIXELS, MAX_SIDE = 2**24, 16_384
MAX_BYTES = 65 * 2**20  # of the file: no PNG of so many pixels is larger
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

_ID = re.compile(r"img_[0-9a-f]{64}")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def is_image_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def read_image(value: Any, unread: Counter[str] | None = None) -> tuple[str, bytes]:
    """Return the id and the PNG of an image: 8 bits a channel, grey, RGB or RGBA, upright, without metadata.

    The id is the hash of the pixels, so an image that is exported and imported again, or saved in another lossless
    format, is the same one.

    Args:
        value: bytes; a `data:` URL; base64 text; `{"bytes": …}`, as `datasets` writes images; or a Pillow image.
        unread: counts what of the image is not kept: frames after the first, bits beyond 8.

    Raises:
        BadInput: it is a path or an address, no image of a known format, too large, or broken.
    """
    from PIL import Image

    id, png, lost = _remake(value) if isinstance(value, Image.Image) else _remake_bytes(_take_bytes(value))
    if unread is not None:
        unread.update(lost)
    return id, png


@lru_cache(3)  # the votes on one image are mostly adjacent, and three of the largest take 400 MB
def _remake_bytes(data: bytes) -> tuple[str, bytes, Counter[str]]:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise BadInput(f"image of {len(data):,} bytes and more pixels", expected=_SIZE, fix="make it smaller") from e
    except (UnidentifiedImageError, ValueError, OSError, SyntaxError) as e:
        raise BadInput(
            f"image of {len(data):,} bytes",
            expected=f"a whole {', '.join(FORMATS)}",
            fix=f"convert it, if it is an image{_explain(e)}",
        ) from e
    return _remake(image)


def _explain(error: Exception) -> str:
    """Return what Pillow says of a file that is of its formats and wrong, such as a text of it that is too large."""
    return f" ({str(error)[:100]})" if isinstance(error, ValueError) else ""


def _remake(image: Image) -> tuple[str, bytes, Counter[str]]:
    """Return the id and the PNG of an image, and the counts of what is not kept."""
    from PIL import Image as images
    from PIL import ImageOps

    _check_size(image)
    unread: Counter[str] = Counter()
    try:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            unread["frames of an animated image after the first"] += frames - 1
        upright = _to_eight_bits(ImageOps.exif_transpose(image), unread)
        clean, png = images.frombytes(upright.mode, upright.size, upright.tobytes()), io.BytesIO()
        clean.save(png, "PNG")
        # Grey is hashed as RGB: a file format without grey makes no other image of it.
        colours = clean.convert("RGB") if clean.mode == "L" else clean
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, images.DecompressionBombError) as e:
        raise BadInput("image", expected="a whole image", fix=f"it is cut off or broken: save it again ({e})") from e
    digest = hashlib.sha256(f"{colours.mode} {colours.width}x{colours.height}\n".encode())
    digest.update(colours.tobytes())
    return f"img_{digest.hexdigest()}", png.getvalue(), unread


def _take_bytes(value: Any) -> bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
    elif isinstance(value, str):
        if len(value) > MAX_BYTES * 4 // 3 + 100:
            raise BadInput(f"image of {len(value):,} letters", expected=_SIZE, fix="make it smaller")
        match = _DATA_URL.match(value)
        try:
            data = base64.b64decode(value[match.end() if match else 0 :].encode(), validate=True)
        except (binascii.Error, ValueError):
            data = b""
        # A short word such as "image" is base64 too.
        if not data or (match is None and len(data) < 24):
            raise BadInput(
                f"image {value[:60]!r}",
                expected="the image itself, as bytes or a `data:image/…;base64,` URL",
                fix="put it into the file: paths and addresses are never fetched",
            )
    else:
        raise BadInput(
            f"image {str(value)[:60]!r}", expected="the image as bytes or as a `data:` URL", fix="put it into the file"
        )
    if len(data) > MAX_BYTES:
        raise BadInput(f"image of {len(data):,} bytes", expected=_SIZE, fix="make it smaller")
    return data


_SIZE = f"at most {MAX_BYTES // 2**20} MiB, {MAX_PIXELS:,} pixels and {MAX_SIDE:,} pixels a side"


def _check_size(image: Image) -> None:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadInput(f"image of {width:,} × {height:,} pixels", expected=_SIZE, fix="make it smaller")


def _to_eight_bits(image: Image, unread: Counter[str]) -> Image:
    """Return the image as L, RGB or RGBA."""
    image.load()
    if image.mode.startswith(("I", "F")):  # 16 bits a pixel and more, as radiographs have
        unread["bits of an image beyond 8 a channel"] += 1
        extrema: Any = image.getextrema()
        low, high = extrema
        # What is written as 16 bits is scaled as such; other numbers by their own range.
        low, high = (0, 65_535) if low >= 0 and 255 < high <= 65_535 else (min(low, 0), max(high, 255))
        scale = 255 / (high - low)
        return image.convert("F").point(lambda x: x * scale + -low * scale).convert("L")
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return image.convert("L")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        return with_alpha if with_alpha.getchannel("A").getextrema() != (255, 255) else with_alpha.convert("RGB")
    return image.convert("RGB")
