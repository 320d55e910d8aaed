"""Runs: what each command that works with a model, and each step of the loop, took of a machine."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from threading import Event, Thread
from typing import Any

import sqlalchemy as sa

from rlhf_hitl.errors import LAUNCHED, RlhfHitlError
from rlhf_hitl.store.db import Store
from rlhf_hitl.store.tables import runs
from rlhf_hitl.types import utc_now

SAVE_SECONDS = 60.0  # between two savings of a run that goes on: so much of it is not counted if it is killed

log = logging.getLogger(__name__)
_is_recording: ContextVar[bool] = ContextVar("is_recording", default=False)


class RunOutcome(StrEnum):
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Run:
    """What one command, or one step of the loop, took of one machine.

    Attributes:
        device: what it computed on; empty where that is not known.
        seconds: from its beginning to its end, or until they were last saved.
        outcome: None while it goes on, and for ever if it was killed.
        round: of the loop; None outside it.
    """

    command: str
    began_at: datetime
    seconds: float
    outcome: RunOutcome | None
    device: str = ""
    round: int | None = None
    step: str | None = None


def read_runs(store: Store) -> list[Run]:
    """Return every run, in the order in which they began."""
    with store.read() as conn:
        rows = conn.execute(sa.select(*(c for c in runs.c if c.name != "seq")).order_by(runs.c.seq)).mappings().all()
    outcomes = {None: None} | {outcome.value: outcome for outcome in RunOutcome}
    return [Run(**{**row, "outcome": outcomes[row["outcome"]]}) for row in rows]


@contextmanager
def record_run(store: Store, command: str, *, round: int | None = None, step: str | None = None) -> Iterator[None]:
    """Record the seconds that the block takes, whether it finishes, fails or is interrupted.

    They are saved each minute, so that a run that is killed counts too. No second counts twice: nothing is recorded
    within a run that is recorded, in the processes that one launches, or in more than one process of a machine.
    """
    if _is_recording.get() or LAUNCHED in os.environ or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    began = time.monotonic()
    row = {"command": command, "round": round, "step": step, "device": "", "began_at": utc_now(), "seconds": 0.0}
    try:
        with store.write() as conn:
            seq = conn.execute(runs.insert().values(row).returning(runs.c.seq)).scalar_one()
    except RlhfHitlError as e:  # a store that can be read only, or a full disk
        log.warning("the machine time of this %s is not counted: %s", command, e)
        yield
        return

    def save(**more: Any) -> None:
        with store.write() as conn:
            values = {"seconds": time.monotonic() - began} | more
            conn.execute(runs.update().where(runs.c.seq == seq).values(values))

    def save_again_and_again() -> None:
        while not ended.wait(SAVE_SECONDS):
            with suppress(RlhfHitlError):  # there is another time
                save()

    ended = Event()
    saving = Thread(target=save_again_and_again, name="run", daemon=True)
    saving.start()
    token = _is_recording.set(True)
    outcome = RunOutcome.FAILED
    try:
        yield
        outcome = RunOutcome.FINISHED
    except KeyboardInterrupt:
        outcome = RunOutcome.INTERRUPTED
        raise
    finally:
        _is_recording.reset(token)
        ended.set()
        saving.join()
        try:
            save(outcome=outcome.value, device=_name_device())
        except RlhfHitlError as e:
            log.warning("the machine time of this %s is not counted to its end: %s", command, e)


def _name_device() -> str:
    """Return the device that this process can compute on, e.g. "cuda (NVIDIA H200)".

    What has computed with a model has imported torch; here it is not imported.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return "cpu"
    if torch.cuda.is_available():
        try:
            return f"cuda ({torch.cuda.get_device_name()})"[:200]
        except RuntimeError:  # a GPU that failed in this run says no more
            return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
