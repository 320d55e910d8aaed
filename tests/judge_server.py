"""A server that speaks the protocol of an endpoint, and fails as endpoints do. Judging itself is tried on a real one.

It is a real HTTP server on a port of its own. `answer` is called with each request's body and headers.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
#: What an answer is: a status, headers, and a body, which is JSON or, where it yields, parts that are sent one by one.
Answer = tuple[int, Mapping[str, str], Any]


def say(*texts: str, logprobs: Mapping[str, float] | None = None, prompt: int = 100, completion: int = 1) -> Answer:
    """Return a chat completion with a choice for each text; `logprobs` are of the first token, as probabilities."""
    choices = []
    for i, text in enumerate(texts):
        choice: Body = {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if logprobs is not None:
            top = [{"token": t, "logprob": math.log(p)} for t, p in logprobs.items()]
            choice["logprobs"] = {"content": [top[0] | {"token": text, "top_logprobs": top}]}
        choices.append(choice)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return (
        200,
        {},
        {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage},
    )


def fail(status: int, message: str = "no", headers: Mapping[str, str] | None = None, **more: Any) -> Answer:
    return status, headers or {}, {"error": {"message": message, **more}}


def find_answer(body: Body, letter: str) -> str:
    """Return the text that a question shows as answer A or B."""
    question = str(body["messages"][-1]["content"])
    return question.split(f"[ANSWER {letter} ")[1].split("\n", 1)[1].split(f"\n[END OF ANSWER {letter} ")[0]


@contextmanager
def serve_judge(answer: Callable[[Body, Mapping[str, str]], Answer]) -> Iterator[tuple[str, list[Body]]]:
    """The address of a server, and the bodies that it got."""
    bodies: list[Body] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            status, headers, content = answer(body, self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            if isinstance(content, Iterator):
                self.send_header("Connection", "close")
                self.end_headers()
                try:
                    for part in content:
                        self.wfile.write(part)
                        self.wfile.flush()
                except OSError:  # the client has gone
                    pass
                self.close_connection = True
                return
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
