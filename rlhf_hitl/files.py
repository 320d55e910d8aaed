"""Atomic writes: a file or folder appears under its name once it is whole, or it does not appear.

Content is written to a draft beside the target, on the same file system, and then moved there in one step. Readers
see the former content or the new one, never a part. Every draft has a name of its own, so threads and processes that
write the same target do not mix their content: the last one to finish wins. A draft is removed when writing fails;
only a killed process leaves one behind, as a hidden file or folder that ends in `.writing`.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from rlhf_hitl.errors import BadInput

#: What to do where the target of a folder holds files already: raise OSError, keep those files, or replace them.
Existing = Literal["refuse", "keep", "replace"]

DRAFT_SUFFIX = ".writing"


def check_may_write(
    out: Path, content: str, kind: Literal["file", "folder"], *, is_earlier: Callable[[Path], bool], overwrite: bool
) -> None:
    """Refuse to replace what is at `out`, unless that is asked for and is of the same sort.

    Args:
        content: what is to be written there, in one word.
        kind: what it is written as.
        is_earlier: whether a path holds an earlier one of the same sort.

    Raises:
        BadInput: there is something else, or an earlier one without `overwrite`.
    """
    if not out.exists():
        return
    if not overwrite:
        raise BadInput(f"{out}", expected=f"a {kind} that does not exist yet", fix="name another, or add --overwrite")
    if not is_earlier(out):
        raise BadInput(f"{out}", expected=f"an earlier {content} to overwrite", fix="name another: this is not one")


@contextmanager
def atomic_file(path: Path, *, private: bool = False, sync: bool = False) -> Iterator[Path]:
    """Give the path of a draft to write to, which becomes `path` when the block ends without an exception.

    Args:
        path: the file to write; its folder must exist. An earlier file there is replaced.
        private: only the file's owner can read it (mode 0600), from the first byte on.
        sync: wait until the content is on the disk before it is moved, so that a power cut cannot lose it.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`, not the draft.
    """
    draft = _make_draft_path(path)
    try:
        if private:
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield draft
        if sync:
            with draft.open("rb") as f:
                os.fsync(f.fileno())
        os.replace(draft, path)
    except OSError as e:
        if e.filename in (draft, str(draft)):
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise
    finally:
        with suppress(OSError):
            draft.unlink()


def write_text_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Write a UTF-8 text file in one step (see `atomic_file`)."""
    with atomic_file(path, private=private) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path, *, existing: Existing = "refuse") -> Iterator[Path]:
    """Give an empty draft folder to fill, which becomes `path` when the block ends without an exception.

    Missing parents of `path` are made. For `existing`, see `place_folder`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _make_draft_path(path)
    draft.mkdir()
    try:
        yield draft
        place_folder(draft, path, existing=existing)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def place_folder(folder: Path, target: Path, *, existing: Existing = "refuse") -> None:
    """Move a finished folder to `target`, on the same file system. It takes the place of nothing or an empty folder.

    Args:
        existing: what to do where `target` holds files: "refuse" raises OSError; "keep" leaves them, and `folder`
            where it is (another process was quicker, and its copy is as good); "replace" removes them once the new
            folder is in place, and puts them back where that fails.

    Raises:
        OSError: the folder cannot be moved.
    """
    try:
        os.replace(folder, target)
        return
    except OSError:
        if existing == "refuse" or not target.is_dir():
            raise
    if existing == "keep":
        return
    former = _make_draft_path(target)
    target.rename(former)
    try:
        os.replace(folder, target)
    except OSError:
        former.rename(target)
        raise
    shutil.rmtree(former)


def _make_draft_path(path: Path) -> Path:
    # 40 characters are at most 160 bytes, so that the draft's name fits in the 255 a file system allows.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}{DRAFT_SUFFIX}")
