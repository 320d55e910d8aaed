"""A limit for log lines that clients cause: a line that comes again and again is counted, not written.

A bad request costs a client nothing, and a line for each would fill the disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rlhf_hitl.wording import say_count

#: Loggers whose lines a client can cause at will: bad requests, connections that close when something is sent, and
#: images whose files are missing.
LOGGERS_OF_CLIENTS = ("uvicorn.error", "asyncio", "rlhf_hitl.api.images")


class LogLimit(logging.Filter):
    """Lets each line of the code write to the log `most` times in so many seconds, and each error that it reports.

    The first line written after others were left out says how many.
    """

    def __init__(self, most: int = 5, seconds: float = 60, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._most, self._seconds, self._clock = most, seconds, clock
        self._windows: dict[tuple[object, ...], list[float]] = {}  # where → [start of the window, lines in it]

    def filter(self, record: logging.LogRecord) -> bool:
        now, where = self._clock(), (record.pathname, record.lineno, *_find_origin(record))
        window = self._windows.setdefault(where, [now, 0])
        if now - window[0] > self._seconds:
            left_out = int(window[1]) - self._most
            window[:] = [now, 0]
            if left_out > 0:
                counted = say_count(left_out, "more such line was left out", "more such lines were left out")
                record.msg = f"{record.msg} ({counted})"
        window[1] += 1
        return window[1] <= self._most


def _find_origin(record: logging.LogRecord) -> tuple[object, ...]:
    """Return the kind of the error that a record reports and the line that raised it; nothing if it reports none."""
    error_type, _, trace = record.exc_info or (None, None, None)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return () if trace is None else (error_type, trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def limit_log_of_clients() -> None:
    """Limit what clients can cause in this process's log."""
    for name in LOGGERS_OF_CLIENTS:
        logger = logging.getLogger(name)
        if not any(isinstance(f, LogLimit) for f in logger.filters):
            logger.addFilter(LogLimit())
