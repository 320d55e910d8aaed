"""Ask an OpenAI-compatible endpoint: OpenAI, vLLM, llama.cpp, Ollama, `transformers serve`, and others.

A request is tried again where that can help, every try is noted with what it cost, and none is sent that could pass the
budget. What an endpoint refuses by name (`temperature`, `n`, `max_tokens`, …) is left out from then on.

The requests run on an event loop in a thread of its own, so that one that never ends can be cut off: a timeout here is
for the whole request, while that of an HTTP library begins anew with each byte.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import httpx
import openai

from rlhf_hitl.endpoints.budget import Budget
from rlhf_hitl.endpoints.errors import CannotAsk
from rlhf_hitl.endpoints.keys import Key
from rlhf_hitl.endpoints.responses import clean_text, read_retry_after, says_refusal
from rlhf_hitl.types.judges import CallOutcome

#: How often a request is tried again after 408, 409, 429, 5xx or a broken connection, and after a timeout.
RETRIES, RETRIES_OF_TIMEOUT = 4, 1
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
#: An endpoint that asks to wait longer is given up for now.
LONGEST_RETRY_AFTER_SECONDS = 300.0
#: What an endpoint answers to a request that it cannot take as it is, such as one that is too long for its model.
REFUSING = (400, 413, 422)
MOST_BYTES = 4 << 20  # of a response
MOST_ERROR_LETTERS = 300
BUDGET_POLL_SECONDS = 0.01
#: Parameters that an endpoint may refuse by name, and what takes their place.
REFUSABLE = {
    "max_tokens": "max_completion_tokens", "top_logprobs": "", "logprobs": "", "temperature": "", "n": "",
    "top_p": "", "seed": "", "stop": "",
}  # fmt: skip


@dataclass(frozen=True)
class EndpointCall:
    """One request and what came of it. `cost` is in the currency of the prices; where an endpoint does not say how many
    tokens a call took, it is the most that the call can have cost."""

    outcome: CallOutcome
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    error: str = ""
    reached_nobody: bool = False  # there was no connection to send it over


class Response(Protocol):
    """What was read of a response."""

    @property
    def outcome(self) -> CallOutcome: ...
    @property
    def error(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


R = TypeVar("R", bound=Response)
#: Keeps a call, and what was read of its response where there was one. It is called before an error is raised, too.
NoteCall = Callable[[EndpointCall, R | None], None]


@dataclass(frozen=True)
class _Try(Generic[R]):
    """One try: its call, what was read, and how long to wait before the next one (0: as usual); None: there is none."""

    call: EndpointCall
    response: R | None = None
    wait: float | None = None


class EndpointClient:
    """Sends requests for chat completions. `run` may be called by several threads.

    Args:
        timeout_seconds: for one request in all.

    Attributes:
        refused: names of parameters that the endpoint does not take.
    """

    def __init__(self, address: str, model: str, key: Key, budget: Budget, timeout_seconds: float):
        self.refused: set[str] = set()
        self._address, self._model, self._key, self._budget = address, model, key, budget
        self._timeout_seconds = timeout_seconds
        self._has_replied = False
        self._wait_until = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()
        # The library would retry by itself, and such tries would be counted nowhere. It insists on a key.
        self._client = openai.AsyncOpenAI(
            base_url=address, api_key=key.reveal() or "none", max_retries=0, organization="", project="",
            timeout=timeout_seconds,
        )  # fmt: skip

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do some work on the event loop, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Break off what runs, and end the thread."""
        if not self._loop.is_closed():
            self.run(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _stop(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def request(
        self,
        make_body: Callable[[], dict[str, Any]],
        most_prompt_tokens: int,
        read: Callable[[Mapping[str, Any]], R],
        note: NoteCall[R],
    ) -> R | None:
        """Return what was read of the response to one request, tried again where that can help.

        None: there was no response, and the last call that was noted says why.

        Args:
            make_body: called for every try; its `max_tokens` and `n` say how much the answer can cost.
            read: reads a response; raises ValueError where that is no chat completion.

        Raises:
            BudgetReached: a try could pass the budget; then it is not sent.
            CannotAsk: no request can succeed.
        """
        tries = {CallOutcome.FAILED: 1 + RETRIES, CallOutcome.TIMED_OUT: 1 + RETRIES_OF_TIMEOUT}
        while True:
            await asyncio.sleep(max(0.0, self._wait_until - self._loop.time()))
            tried = await self._try(self._fit(make_body()), most_prompt_tokens, read, note)
            note(tried.call, tried.response)
            outcome = tried.call.outcome
            if tried.wait is None:
                return tried.response
            tries[outcome] -= 1
            if tries[outcome] <= 0:
                if outcome is CallOutcome.FAILED and not self._has_replied:
                    raise CannotAsk(
                        f"endpoint {self._address}: expected a server that answers ({tried.call.error}). "
                        "Fix: check the address, and that the server runs"
                    )
                return None
            tries_made = RETRIES - tries[CallOutcome.FAILED]
            backoff = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**tries_made) * random.uniform(0.75, 1.25)
            await asyncio.sleep(tried.wait or backoff)

    def remove_key(self, text: str) -> str:
        """Return a text without the key in any form in which a server may send it back."""
        return self._key.remove_from(text)

    def _fit(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a body without what the endpoint refuses."""
        for name in self.refused & body.keys():
            value = body.pop(name)
            if REFUSABLE[name]:
                body[REFUSABLE[name]] = value
        return body

    async def _try(
        self, body: dict[str, Any], most_prompt_tokens: int, read: Callable[[Mapping[str, Any]], R], keep: NoteCall[R]
    ) -> _Try[R]:
        """Send one request.

        Raises:
            BudgetReached: it could pass the budget; then it is not sent.
            CannotAsk: no request can succeed; this one was noted.
        """
        most_answer = (body.get("max_tokens") or body.get("max_completion_tokens") or 0) * body.get("n", 1)
        while (reserved := self._budget.reserve(most_prompt_tokens, most_answer)) is None:
            await asyncio.sleep(BUDGET_POLL_SECONDS)
        began, cost = time.perf_counter(), 0.0

        def note(outcome: CallOutcome, error: str = "", tokens: tuple[int, int] = (0, 0)) -> EndpointCall:
            return EndpointCall(outcome, *tokens, cost, time.perf_counter() - began, self._word(error))

        try:
            async with asyncio.timeout(self._timeout_seconds):
                content = await self._send(body)
            self._has_replied = True
            response = read(content)
            usage = response.prompt_tokens, response.completion_tokens
            # Who does not say how many tokens it took may have taken the most.
            cost = reserved if usage == (0, 0) else self._budget.compute_cost(*usage)
            return _Try(note(response.outcome, response.error, usage), response)
        except (TimeoutError, openai.APITimeoutError):
            cost = reserved  # it may be charged for
            return _Try(note(CallOutcome.TIMED_OUT, f"no whole answer in {self._timeout_seconds:g} s"), wait=0.0)
        except openai.APIStatusError as e:
            self._has_replied = True
            return self._read_status(e, note, lambda call: keep(call, None))
        except openai.APIConnectionError as e:
            failed = note(CallOutcome.FAILED, f"{e} {e.__cause__ or ''}")
            return _Try(replace(failed, reached_nobody=isinstance(e.__cause__, httpx.ConnectError)), wait=0.0)
        except (openai.OpenAIError, ValueError) as e:  # what is no answer of such an endpoint
            cost = reserved
            return _Try(note(CallOutcome.FAILED, f"no chat completion: {e}"))
        finally:
            self._budget.settle(reserved, cost)

    async def _send(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object that the endpoint answers.

        Raises:
            ValueError: it answers something else, or too much.
        """
        received = bytearray()
        async with self._client.chat.completions.with_streaming_response.create(**body) as response:
            async for chunk in response.iter_bytes():
                received += chunk
                if len(received) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES:,} bytes")
        try:
            content = json.loads(received)
        except RecursionError as e:
            raise ValueError("nested too deeply") from e
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content

    def _read_status(
        self, e: openai.APIStatusError, note: Callable[..., EndpointCall], keep: Callable[[EndpointCall], None]
    ) -> _Try[Any]:
        """Return what an error of the endpoint means for a request, or raise CannotAsk where it means all."""
        status, said = e.status_code, f"{e.status_code} {_read_message(e)}"
        call = note(CallOutcome.FAILED, said)

        def give_up(call: EndpointCall, expected: str, fix: str) -> None:
            keep(call)
            raise CannotAsk(f"endpoint {self._address}: expected {expected}. Fix: {fix}") from None

        if status in (401, 403):
            # It may repeat a part of the key.
            call = replace(call, error=self._key.remove_parts_from(call.error))
            give_up(call, f"a key that it accepts ({call.error})", self._say_where_key_is())
        if status == 402 or "insufficient_quota" in said:
            give_up(call, f"an account with credit ({call.error})", "add credit, or take another endpoint")
        if status == 404:
            fix = f"check the address, which often ends in /v1, and the model {self._model!r}"
            give_up(call, f"this model at this address ({call.error})", fix)
        named = [name for name in REFUSABLE if name not in self.refused and _names(said, name)]
        if status in (400, 422) and named:
            # `top_logprobs` is nothing without `logprobs`.
            self.refused |= {named[0]} | ({"logprobs", "top_logprobs"} if "logprobs" in named[0] else set())
            return _Try(call, wait=1e-3)
        if status in (408, 409, 429) or status >= 500:
            wait = read_retry_after(e.response.headers)
            if wait > LONGEST_RETRY_AFTER_SECONDS:
                give_up(call, f"to wait less than {wait:,.0f} s", "run this again after that time")
            if wait:
                self._wait_until = max(self._wait_until, self._loop.time() + wait)  # the other requests wait as well
            return _Try(call, wait=wait)
        if status in REFUSING or says_refusal(said):
            return _Try(replace(call, outcome=CallOutcome.REFUSED))
        return _Try(call)

    def _say_where_key_is(self) -> str:
        return f"check the key in {self._key.source}" if self._key.source else "name it with --api-key-env VARIABLE"

    def _word(self, error: str) -> str:
        return clean_text(self._key.remove_from(" ".join(error.split())))[:MOST_ERROR_LETTERS]


def _names(text: str, parameter: str) -> bool:
    return re.search(rf"(?<!\w){parameter}(?!\w)", text) is not None


def _read_message(e: openai.APIStatusError) -> str:
    """Return what an endpoint says of an error: its message and, where they are not in it, its code and parameter."""
    body: Any = e.body
    if isinstance(body, dict):
        body = body.get("error", body)
    if not isinstance(body, dict):
        return str(body or e.response.reason_phrase)
    said = str(body.get("message") or body.get("detail") or body)
    more = [str(body[k]) for k in ("code", "param") if body.get(k) and str(body[k]) not in said]
    return " ".join([said, *more])
