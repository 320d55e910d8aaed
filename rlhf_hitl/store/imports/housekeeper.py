"""What a server does beside its requests so that imports end and raters do not wait: finish, delete, write back."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from rlhf_hitl.store.db import Store
from rlhf_hitl.store.imports.finishing import finish_waiting_imports
from rlhf_hitl.store.imports.staging import delete_old_imports

LOOK_INTERVAL = 30.0  # seconds between two looks for an import whose importer died
WRITE_BACK_INTERVAL = 2.0
#: A write-ahead log of more bytes is written back here, before a rater's commit has to do it.
WAL_BYTES = 2 << 20

log = logging.getLogger("rlhf_hitl.imports")


class Housekeeper:
    """A thread that finishes imports whose importer died, deletes what imports leave, and keeps SQLite's log short.

    Any number of processes may run one on the same store: each import is applied by one of them at a time.
    """

    def __init__(self, store: Store, *, look_interval: float = LOOK_INTERVAL):
        self.store, self.look_interval = store, look_interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)  # an import that goes on is finished by the next server

    def _run(self) -> None:
        look_at = time.monotonic()
        while not self._stop.wait(min(WRITE_BACK_INTERVAL, self.look_interval)):
            try:
                self._write_back()
                if time.monotonic() >= look_at:
                    finish_waiting_imports(self.store, wait=False, stop=self._stop.is_set)
                    delete_old_imports(self.store)
                    look_at = time.monotonic() + self.look_interval
            except Exception as e:  # of any kind: the thread has to go on
                log.error("imports cannot be looked after", exc_info=e)

    def _write_back(self) -> None:
        if not self.store.is_sqlite:
            return
        wal = Path(f"{self.store.file}-wal")
        if wal.exists() and wal.stat().st_size > WAL_BYTES:
            self.store.write_back()
