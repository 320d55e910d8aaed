"""The server's side of `render_worker.py`: starts workers when they are needed, and others when those were killed."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

from rlhf_hitl.ui.render_worker import COLD, DONE

log = logging.getLogger(__name__)

#: Workers of one server process: as many texts are drawn at a time. More would take cores from the server.
WORKERS = min(4, max(2, (os.cpu_count() or 2) // 2))
#: Seconds by the clock that a worker may take to start and to answer, on a machine that is busy with other things.
PATIENCE = 5.0


class RenderPool:
    """Workers that draw one text at a time each: as many as there are threads that ask for one."""

    def __init__(self) -> None:
        self.is_ready = False  # whether a worker has been there: the first one takes longer
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._cold: set[Connection] = set()  # are used once only
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process that workers are forked from, without waiting until it is ready."""
        with self._lock:
            if self._control is None:
                self._start_fork_server()

    def draw(self, job: str, texts: Sequence[str], seconds: float) -> tuple[str, ...] | None:
        """Return the HTML of texts, as much of it as is drawn within so many seconds of processor time: maybe none.

        None means that it is not the text's fault: no worker could be started.
        """
        request = json.dumps({"job": job, "texts": list(texts), "seconds": seconds}).encode()
        try:
            worker = self._send_to_a_worker(request)
        except OSError as e:
            log.error("no process that draws texts could be started; a text is shown as it was written: %s", e)
            return None
        html: tuple[str, ...] = ()
        try:
            while worker.poll(PATIENCE):
                answer = worker.recv_bytes()
                if answer == DONE:
                    self._keep(worker)
                    return html
                html = tuple(json.loads(answer))
        except (EOFError, OSError):  # it was killed
            pass
        self._end(worker)
        return html

    def _send_to_a_worker(self, request: bytes) -> Connection:
        """Return a worker that has been sent the request. One that waited may have been ended, by whom is not known."""
        while True:
            worker, is_new = self._take_worker()
            try:
                worker.send_bytes(request)
                return worker
            except OSError:
                self._end(worker)
                if is_new:
                    raise

    def _end(self, worker: Connection) -> None:
        self._cold.discard(worker)
        worker.close()  # which ends the worker, if it is still at work

    def _keep(self, worker: Connection) -> None:
        with self._lock:
            if worker not in self._cold:
                return self._idle.append(worker)
            self._cold.remove(worker)
        worker.close()

    def _take_worker(self) -> tuple[Connection, bool]:
        """Return a worker that waits for a text, or else a new one, and whether it is new."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), False
            control = self._control or self._start_fork_server()
        try:
            return self._fork_worker(control), True
        except OSError:  # the process that forks has ended: it is started once more
            with self._lock:
                if self._control is control:
                    self._start_fork_server()
                control = self._control or control
            return self._fork_worker(control), True

    def _fork_worker(self, control: socket.socket) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(control, [b"w"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        worker = Connection(ours.detach())
        # It says once that it is there: one that ends before has not been given a text that could be the reason.
        try:
            if worker.poll(PATIENCE):
                if worker.recv_bytes() == COLD:
                    self._cold.add(worker)
                self.is_ready = True
                return worker
        except EOFError:
            pass
        worker.close()
        raise OSError("it ended while it started, or did not start in time")

    def _start_fork_server(self) -> socket.socket:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: a file named like a module, in the folder where the server runs, is not imported.
            command = [sys.executable, "-P", "-m", "rlhf_hitl.ui.render_worker", str(theirs.fileno())]
            environment = {
                k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "HOME")
            }
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        self._control = ours
        return ours
