"""The server's own check of its raters: a thread that looks again when new judgments have come."""

from __future__ import annotations

import logging
import threading
import time

from rlhf_hitl.store import Store
from rlhf_hitl.store.judgments import read_store_revision

CHECK_INTERVAL = 300.0  # seconds between two looks, at least
#: A check that takes long is followed by a pause so many times as long: it takes two hundredths of a processor at most.
PAUSE_TIMES = 50

log = logging.getLogger("rlhf_hitl.checks")


class RaterChecker:
    """A thread that runs the checks of raters when judgments have come since the last time.

    Any number of processes may run one on the same store: a finding is written once, whoever comes first.
    """

    def __init__(self, store: Store, *, interval: float = CHECK_INTERVAL):
        self.store, self.interval = store, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rater-checks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=15)

    def _run(self) -> None:
        checked, pause = 0, self.interval
        while not self._stop.wait(pause):
            begun = time.monotonic()
            try:
                revision = read_store_revision(self.store)
                if revision != checked:
                    from rlhf_hitl.labels.checks import check_raters  # loads SciPy, which a server's start need not

                    check_raters(self.store)
                    checked = revision
            except Exception as e:  # of any kind: the thread has to go on
                log.error("raters cannot be checked", exc_info=e)
            pause = max(self.interval, PAUSE_TIMES * (time.monotonic() - begun))
