"""The workspace is its owner's alone: what this program writes there, and what an earlier version left open.

It holds the store with the hashes of passwords, features and models made of people's texts, and keys. A workspace whose
folder is private is not read any further, so that looking at one costs nothing.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from rlhf_hitl.files import is_open_to_others, make_private, make_private_folder, make_tree_private
from rlhf_hitl.wording import say_count

#: What this program puts into a workspace. Where the folder is shared with other things, only these are its own.
CONTENTS = ("preferences.db*", "secret.key", "sign-in.txt", "features", "reward", "policies", "evaluations")

log = logging.getLogger("rlhf_hitl.workspace")


def restrict_new_files() -> None:
    """Make every file that this process and its children create its owner's alone. For programs, not for libraries."""
    os.umask(0o077)


def protect_workspace(folder: Path, *, make: bool = False) -> None:
    """Take all rights from group and others on a workspace and what is in it, and log in one line what was changed.

    A folder that has other uses is left as it is, and only what this program puts there is protected: a home, the root
    of a file system, a folder that others may write to (/tmp), and one that holds a checkout (`.git`).
    What cannot be protected is logged as a warning; it is no error.

    Args:
        make: make the folder where it is missing.
    """
    if make:
        make_private_folder(folder)
    folder = folder.resolve()
    if not folder.is_dir():
        return
    if _is_readable_and_not_ours(folder):
        log.warning(
            "workspace %s: other users of this machine may be able to read it, and it is not yours to change. "
            "Fix: ask its owner to change its mode to 0700",
            folder,
        )
    shared = _has_other_uses(folder)
    opened: list[Path] = []
    try:
        if not shared:
            opened = make_tree_private(folder) if is_open_to_others(folder) else []
        else:
            for path in (path for pattern in CONTENTS for path in sorted(folder.glob(pattern))):
                if is_open_to_others(path):
                    opened += make_tree_private(path) if path.is_dir() else [path] * make_private(path)
    except OSError as e:
        log.warning(
            "workspace %s: other users of this machine may be able to read it (%s: %s). Fix: change its mode to 0700",
            folder, e.filename or folder, e.strerror or e,
        )  # fmt: skip
        return
    if opened:
        counted = say_count(len(opened), "file or folder", "files and folders")
        log.warning(
            "workspace %s: other users of this machine could read %s in it; now only you can%s",
            folder, counted, ". The folder itself is used for other things and stays as it was" if shared else "",
        )  # fmt: skip


def protect_store_files(store: Path) -> None:
    """Take all rights from group and others on the files of a SQLite store, and log in one line what was changed.

    The folder is not touched: it may be shared with other things.
    """
    opened = []
    for path in (store, *(store.with_name(store.name + suffix) for suffix in ("-wal", "-shm", "-journal"))):
        try:
            opened += [path.name] * make_private(path)
        except OSError as e:
            log.warning(
                "store %s: other users of this machine may be able to read it (%s). Fix: change its mode to 0600",
                path, e.strerror or e,
            )  # fmt: skip
            return
    if opened:
        log.warning("store %s: other users of this machine could read %s; now only you can", store, ", ".join(opened))
    elif _is_readable_and_not_ours(store):
        log.warning(
            "store %s: other users of this machine may be able to read it, and it is not yours to change. "
            "Fix: ask its owner to change its mode to 0600",
            store,
        )


def _is_readable_and_not_ours(path: Path) -> bool:
    found = path.stat()
    return not _is_ours(found) and bool(found.st_mode & stat.S_IROTH)


def _is_ours(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()  # Windows has no such owners


def _has_other_uses(folder: Path) -> bool:
    found = folder.stat()
    return (
        not _is_ours(found)
        or bool(found.st_mode & (stat.S_ISVTX | stat.S_IWOTH))
        or folder == folder.parent
        or folder == Path.home().resolve()
        or (folder / ".git").exists()
    )
