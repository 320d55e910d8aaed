"""Feature rows on disk, by key: a folder of safetensors shards that several processes share."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlhf_hitl.files import DRAFT_SUFFIX, atomic_file, make_private_folder

log = logging.getLogger(__name__)

ABANDONED_AFTER_SECONDS = 3600  # the age from which a half-written shard is taken to have no writer any more


class FeatureStore:
    """Rows of one view by key. Each shard is written whole and never changed.

    Shards are memory-mapped and shared by processes. Two processes that compute the same row write it twice, which does
    no harm.
    """

    MERGE_AT = 64  # small shards; when there are more, they are merged into one
    SMALL = 16 * 2**20  # bytes

    def __init__(self, folder: Path):
        self.folder = folder
        make_private_folder(self.folder)
        self._rows: dict[str, tuple[Path, int]] = {}  # key → a shard that holds it, and its row there
        self._mapped: dict[Path, tuple[list[str], Any]] = {}  # shard → its keys, and its rows, read one at a time

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> np.ndarray:
        shard, i = self._rows[key]
        return self._mapped[shard][1][i : i + 1][0]

    def refresh(self) -> None:
        """Map the shards that other processes have written, and unmap those that are gone from disk: only then is their
        space freed.

        A shard that cannot be read (after a full disk, say) is removed, and its rows are computed again.
        """
        on_disk = set(self.folder.glob("*.safetensors"))
        if gone := self._mapped.keys() - on_disk:
            self._mapped = {shard: contents for shard, contents in self._mapped.items() if shard not in gone}
            # Built anew: the keys of a shard that is gone may be in another, into which it was merged.
            self._rows = {key: (shard, i) for shard, (keys, _) in self._mapped.items() for i, key in enumerate(keys)}
        for shard in sorted(on_disk - self._mapped.keys()):
            try:
                self._map_shard(shard)
            except FileNotFoundError:  # another process has merged it since: map what it was merged into
                return self.refresh()
            except (SafetensorError, KeyError, TypeError, ValueError) as e:
                log.warning("%s is damaged (%s) and was removed: its features are computed again", shard, e)
                shard.unlink(missing_ok=True)

    def write(self, keys: list[str], rows: np.ndarray) -> None:
        """Keep rows (n, width) under their keys."""
        self._write_shard(keys, rows)
        small = [shard for shard in self.folder.glob("*.safetensors") if _measure_file_size(shard) < self.SMALL]
        if len(small) > self.MERGE_AT:
            self.refresh()
            # All rows of each shard are copied, also those another shard has too: another process may be about to
            # remove that one.
            to_merge = {shard: self._mapped[shard] for shard in small if shard in self._mapped}
            merged = {key: rows[i : i + 1][0] for keys, rows in to_merge.values() for i, key in enumerate(keys)}
            if merged:  # otherwise other processes have merged them meanwhile
                self._write_shard(list(merged), np.stack(list(merged.values())))
            for path in to_merge:
                del self._mapped[path]
                path.unlink(missing_ok=True)

    def mark_used(self, keys: Iterable[str]) -> None:
        """Update the times of the shards that hold these keys: the least recently used shards are removed first."""
        for shard in {self._rows[key][0] for key in keys if key in self._rows}:
            with suppress(FileNotFoundError):
                os.utime(shard)

    def _write_shard(self, keys: list[str], rows: np.ndarray) -> None:
        shard = self.folder / f"{uuid.uuid4().hex}.safetensors"
        with atomic_file(shard) as draft:
            save_file({"features": rows}, draft, metadata={"keys": json.dumps(keys)})
            self._map_shard(shard, draft)  # before other processes see it, as they may merge it at once

    def _map_shard(self, shard: Path, file: Path | None = None) -> None:
        opened = safe_open(file or shard, framework="numpy")  # stays readable after the file is gone
        keys, rows = json.loads(opened.metadata()["keys"]), opened.get_slice("features")
        self._mapped[shard] = keys, rows
        self._rows |= {key: (shard, i) for i, key in enumerate(keys)}


def remove_least_recently_used(root: Path, max_bytes: float) -> None:
    """Remove shards from the stores under a folder, the least recently used first, until at most `max_bytes` are left.

    Half-written shards whose writer is gone are removed too.
    """
    for draft in root.glob(f"*/*{DRAFT_SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > ABANDONED_AFTER_SECONDS:
                draft.unlink()
    shards = []
    for path in root.glob("*/*.safetensors"):
        with suppress(FileNotFoundError):  # another process has removed it
            stat = path.stat()
            shards.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in shards)
    for _, size, path in sorted(shards):
        if total <= max_bytes:
            return
        total -= size
        path.unlink(missing_ok=True)


def _measure_file_size(path: Path) -> int:
    """Return a file's size in bytes; 0 if another process has removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
