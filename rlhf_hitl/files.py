"""Atomic, private writes: a file or folder appears under its name once it is whole, or it does not appear.

Content is written to a draft beside the target, on the same file system, and then moved there in one step. Readers
see the former content or the new one, never a part. Every draft has a name of its own, so threads and processes that
write the same target do not mix their content: the last one to finish wins. A draft is removed when writing fails;
only a killed process leaves one behind, as a hidden file or folder that ends in `.writing`. A file's draft is locked
while it is written, so that `remove_left_drafts` can tell those that were left.

What is written is its owner's alone (modes 0600 and 0700) whatever the umask, which this module leaves as it is: a
program that uses the package may want another for its own files. Who wants to share a file changes its mode.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from rlhf_hitl.errors import BadInput, RlhfHitlError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

#: What to do where the target of a folder holds files already: raise OSError, keep those files, or replace them.
Existing = Literal["refuse", "keep", "replace"]

DRAFT_SUFFIX = ".writing"
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


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
def atomic_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give the path of a draft to write to, which becomes `path` when the block ends without an exception.

    Args:
        path: the file to write; its folder must exist. An earlier file there is replaced. From the first byte on only
            its owner can read it, unless what writes it makes a new file of the draft.
        sync: wait until the content is on the disk before it is moved, so that a power cut cannot lose it.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`, not the draft.
    """
    draft = _make_draft_path(path)
    try:
        make_private_file(draft)
        with draft.open("rb") as held:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield draft
        draft.chmod(PRIVATE_FILE)
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


@contextmanager
def hold_alone(path: Path, *, what: str) -> Iterator[None]:
    """Hold a lock on a file while the block runs; it ends with the process, too. Where the file system has no locks,
    nothing is held.

    Raises:
        RlhfHitlError: somebody else holds it; `what` says of what there may be one at a time.
    """
    make_private_folder(path.parent)
    with path.open("ab") as f:
        if fcntl is not None:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise RlhfHitlError(
                    f"{path}: expected {what} at a time. Fix: wait for the other one to end, or stop it"
                ) from e
            except OSError:  # a file system without locks
                pass
        yield


def remove_left_drafts(path: Path) -> int:
    """Remove the drafts of a file that killed processes have left, and return how many there were. Those that are
    being written stay."""
    removed = 0
    for draft in path.parent.glob(f"{glob.escape(_start_draft_name(path))}*{DRAFT_SUFFIX}"):
        if fcntl is None or draft.is_symlink() or not draft.is_file():
            continue
        with suppress(OSError), draft.open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()
            removed += 1
    return removed


def make_private_file(path: Path) -> None:
    """Make an empty file that only its owner can read.

    Raises:
        OSError: it cannot be made, or something has this name already, be it a link to nothing.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))


def make_private_folder(path: Path) -> None:
    """Make a folder and its missing parents for their owner alone. A folder that is there stays as it is."""
    if not path.is_dir():
        if path.parent != path:
            make_private_folder(path.parent)
        path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 text file in one step (see `atomic_file`)."""
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path, *, existing: Existing = "refuse") -> Iterator[Path]:
    """Give an empty draft folder to fill, which becomes `path` when the block ends without an exception.

    Missing parents of `path` are made. For `existing`, see `place_folder`.
    """
    make_private_folder(path.parent)
    draft = _make_draft_path(path)
    draft.mkdir(mode=PRIVATE_FOLDER)
    try:
        yield draft
        place_folder(draft, path, existing=existing)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def place_folder(folder: Path, target: Path, *, existing: Existing = "refuse") -> None:
    """Move a finished folder to `target`, on the same file system. It takes the place of nothing or an empty folder.

    What is in it becomes its owner's alone.

    Args:
        existing: what to do where `target` holds files: "refuse" raises OSError; "keep" leaves them, and `folder`
            where it is (another process was quicker, and its copy is as good); "replace" removes them once the new
            folder is in place, and puts them back where that fails.

    Raises:
        OSError: the folder cannot be moved.
    """
    make_tree_private(folder)
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


def make_tree_private(folder: Path) -> list[Path]:
    """Take every right from group and others on a folder and all that is in it; returns what could be read before.

    Links are not followed, and what belongs to somebody else is left as it is.

    Raises:
        OSError: a right cannot be taken away.
    """
    opened = []
    for parent, folders, names in os.walk(folder, topdown=False):
        opened += [Path(parent, name) for name in (*folders, *names) if make_private(Path(parent, name))]
    return [*opened, folder] if make_private(folder) else opened


def make_private(path: Path) -> bool:
    """Take every right from group and others on one file or folder of ours; returns whether there was one to take.

    A link, a device and what belongs to somebody else are left as they are.

    Raises:
        OSError: the right cannot be taken away.
    """
    if not is_open_to_others(path):
        return False
    # Through a descriptor, so that a link that somebody puts there meanwhile is not followed.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not _is_ours(found):
            return False
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & PRIVATE_FOLDER)
    finally:
        os.close(descriptor)
    return True


def is_open_to_others(path: Path) -> bool:
    """Return whether a file or folder of ours gives group or others any right. Links are not followed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return _is_ours(found) and bool(found.st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _is_ours(found: os.stat_result) -> bool:
    # Windows knows neither owners nor these rights.
    ours = hasattr(os, "geteuid") and found.st_uid == os.geteuid()
    return ours and (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))


def _make_draft_path(path: Path) -> Path:
    return path.with_name(f"{_start_draft_name(path)}{secrets.token_hex(6)}{DRAFT_SUFFIX}")


def _start_draft_name(path: Path) -> str:
    # 40 characters are at most 160 bytes, so that the draft's name fits in the 255 a file system allows.
    return f".{path.name[:40]}."
