"""The processes that draw texts: each may be killed at any moment, which is how a text is kept within its budget.

A match of a regular expression holds Python's global lock until it ends: nothing in the same process can stop it, and
meanwhile the server would answer nobody. `python -m rlhf_hitl.ui.render_worker` therefore loads what draws texts, then
forks a worker for each socket that it is sent, which takes a millisecond or two. The system itself kills a worker whose
processor time runs out, and limits its memory. A worker ends with its socket, and all end with the server.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

from rlhf_hitl.ui.difference import mark_differing_words
from rlhf_hitl.ui.formula import run_with_large_stack
from rlhf_hitl.ui.highlighting import COMMON_LANGUAGES, find_lexer
from rlhf_hitl.ui.markdown import render_in_stages

#: What a worker says first: that all it may need is loaded, or that it was forked before and should be used once only.
WARM, COLD = b"warm", b"cold"
DONE = b"done"
#: Seconds by the clock after which a worker is killed, whatever processor time it was given on a busy machine.
LONGEST = 3.0
#: Bytes of memory that a worker may take.
MEMORY = 1 * 2**30
#: How much the workers give way to the server and its database, which everybody waits for.
NICENESS = 5
#: The part of a text's time after which drawing is ended by itself, so that what was drawn until then is kept.
_SOFT_SHARE = 0.9

# What a worker can be asked for: texts and seconds → HTML, better and better.
_JOBS: dict[str, Callable[[list[str], float], Iterator[list[str]]]] = {
    "text": lambda texts, seconds: ([html] for html in render_in_stages(texts[0], seconds * _SOFT_SHARE)),
    "difference": lambda texts, seconds: iter([list(mark_differing_words(*texts))]),
}


def answer_requests(connection: Connection, hello: bytes) -> None:
    """Say hello, and answer one request after another until the server closes the connection.

    A request is the JSON object `{"job", "texts", "seconds"}`. The answers are lists of HTML, better and better, and at
    last DONE.
    """
    connection.send_bytes(hello)
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        # Not handled, so the system kills the process, even within a match of a regular expression.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        for html in _JOBS[request["job"]](request["texts"], request["seconds"]):
            connection.send_bytes(json.dumps(html, ensure_ascii=False).encode())
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(DONE)


def run_fork_server(control: socket.socket) -> None:
    """Fork a worker for each socket that comes over `control`, until the server closes it."""
    os.nice(NICENESS)
    _limit_resources()
    to_load = [*COMMON_LANGUAGES, ""]
    while True:
        # Between two workers what is most used is loaded, so that the first worker does not wait for all of it.
        if to_load and not select.select([control], [], [], 0)[0]:
            _load(to_load.pop(0))
            continue
        _, sockets, _, _ = socket.recv_fds(control, 1, 1)
        if not sockets:
            return
        if os.fork() == 0:
            control.close()
            _run_worker(sockets[0], COLD if to_load else WARM)
        os.close(sockets[0])


def _load(language: str) -> None:
    lexer = find_lexer(language)
    if lexer is not None:
        list(lexer.get_tokens("x"))
    for _ in render_in_stages("| a |\n|---|\n| $x^2$ *b* |\n\n```text\nc\n```", 1.0):
        pass
    gc.collect()
    gc.freeze()  # a collection in a worker would touch, and so copy, all of this memory


def _run_worker(fd: int, hello: bytes) -> None:
    try:
        with suppress(OSError):  # the server is gone
            run_with_large_stack(lambda: answer_requests(Connection(fd), hello))
    except (MemoryError, RecursionError):
        pass  # the server sees that the worker has ended
    except BaseException:  # a mistake of ours, which must be seen, without the text that is drawn
        kind, _, trace = sys.exc_info()
        while trace and trace.tb_next:
            trace = trace.tb_next
        line = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
        os.write(2, f"rlhf_hitl: drawing a text failed: {kind.__name__ if kind else '?'} in {line}\n".encode())
    finally:
        os._exit(0)


def _limit_resources() -> None:
    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        with suppress(ValueError, OSError):  # the system does not have it
            resource.setrlimit(what, (most, resource.getrlimit(what)[1]))


def main() -> None:
    for number in (signal.SIGPROF, signal.SIGALRM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets ended workers by itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, with which this ends
    run_fork_server(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
