"""The log as JSON, one record a line.

No line holds the text of a prompt or a completion, a secret or a name.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from rlhf_hitl.visible import escape_unseen_json


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON, with what was passed as `extra`."""

    STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in self.STANDARD_FIELDS}
        if record.exc_info:
            # The type and the place of an error, not its message, which may quote what a user sent.
            error_type, _, trace = record.exc_info
            frames = []
            while trace is not None:
                code = trace.tb_frame.f_code
                frames.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}:{code.co_name}")
                trace = trace.tb_next
            line |= {"error": error_type.__name__ if error_type else "", "trace": frames[-12:]}
        return escape_unseen_json(json.dumps(line, ensure_ascii=False, default=str))


def log_as_json() -> None:
    """Write every log line of this process to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("rlhf_hitl").setLevel(logging.INFO)  # lines of other packages may hold whole addresses
