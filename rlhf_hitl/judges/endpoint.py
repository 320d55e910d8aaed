"""A judge behind an OpenAI-compatible endpoint: OpenAI, vLLM, llama.cpp, Ollama, `transformers serve`, and others.

Log-probabilities of the answer's letter are asked for, and used where the endpoint gives them. Where it gives none, the
question is drawn several times if the settings say so, else the plain answer counts. What an endpoint refuses by name
(`logprobs`, `temperature`, `n`, `max_tokens`) is left out from then on.

The requests run on an event loop in a thread of its own, so that one that never ends can be cut off: a timeout here is
for the whole request, while that of an HTTP library begins anew with each byte.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import openai

from rlhf_hitl.judges.asking import CannotJudge, Opinion, clean_text, find_rationale, weigh_letters
from rlhf_hitl.judges.budget import Budget, bound_tokens
from rlhf_hitl.judges.keys import Key
from rlhf_hitl.judges.replies import Reply, read_reply, read_retry_after, says_refusal
from rlhf_hitl.judges.templates import Question
from rlhf_hitl.types.judges import CallOutcome, Judge, JudgeCall

#: How often a request is tried again after 408, 409, 429, 5xx or a broken connection, and after a timeout.
RETRIES, RETRIES_OF_TIMEOUT = 4, 1
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
#: An endpoint that asks to wait longer is given up for now.
LONGEST_RETRY_AFTER_SECONDS = 300.0
MOST_BYTES = 4 << 20  # of a response
MOST_ERROR_LETTERS = 300
BUDGET_POLL_SECONDS = 0.01
#: OpenAI gives the 20 likeliest tokens at most.
LIKELIEST_TOKENS = 20
#: Parameters that an endpoint may refuse by name, and what takes their place.
REFUSABLE = {"max_tokens": "max_completion_tokens", "top_logprobs": "", "logprobs": "", "temperature": "", "n": ""}


@dataclass(frozen=True)
class _Try:
    """One request: its call, what was replied, and how long to wait before it is tried again; None: it is not."""

    call: JudgeCall
    replies: tuple[Reply, ...] = ()
    wait: float | None = None


class Endpoint:
    """Asks a model behind an endpoint.

    Args:
        load_image: returns the PNG of an image by its id.
    """

    def __init__(self, judge: Judge, key: Key, budget: Budget, load_image: Callable[[str], bytes] | None = None):
        self.takes_images = judge.settings.takes_images
        self._judge, self._key, self._budget, self._load_image = judge, key, budget, load_image
        self._refused: set[str] = set()  # parameters
        self._gives_logprobs = True  # until it was asked
        self._has_replied = False
        self._wait_until = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge endpoint", daemon=True)
        self._thread.start()
        # The library would retry by itself, and such tries would be counted nowhere. It insists on a key.
        self._client = openai.AsyncOpenAI(
            base_url=judge.address, api_key=key.reveal() or "none", max_retries=0, organization="", project="",
            timeout=judge.settings.timeout_seconds,
        )  # fmt: skip

    def ask(self, question: Question, order_shown: tuple[str, str], calls: list[JudgeCall]) -> Opinion | None:
        """Ask one question: see `Asker`."""
        return self._run(self._ask(question, order_shown, calls))

    def close(self) -> None:
        """Break off what runs, and end the thread."""
        if not self._loop.is_closed():
            self._run(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _stop(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _ask(self, question: Question, order: tuple[str, str], calls: list[JudgeCall]) -> Opinion | None:
        template, draws = question.template, self._judge.settings.draws
        if self._gives_logprobs or draws == 1:
            replies = await self._request(question, order, calls, {"temperature": 0.0})
            if not replies:
                return None
            [reply] = replies
            if reply.weights is not None:  # log-probabilities
                probabilities = weigh_letters(reply.weights, template)
                return probabilities and Opinion(probabilities, self._keep(question, reply))
            self._gives_logprobs = False
            if draws == 1:
                probabilities = weigh_letters({reply.letter: 1.0}, template)
                return probabilities and Opinion(probabilities, self._keep(question, reply))
        drawn: list[Reply] = []
        for _ in range(draws):
            parameters = {"temperature": self._judge.settings.temperature, "n": draws - len(drawn)}
            replies = await self._request(question, order, calls, parameters)
            drawn += replies[: draws - len(drawn)]
            if len(drawn) == draws or calls[-1].outcome not in (CallOutcome.ANSWERED, CallOutcome.UNREADABLE):
                break
        if not drawn:
            return None
        weights: dict[str, float] = {}
        for reply in drawn:
            weights[reply.letter] = weights.get(reply.letter, 0.0) + 1.0
        probabilities = weigh_letters(weights, template, prior=0.5)
        return probabilities and Opinion(probabilities, self._keep(question, drawn[0]))

    def _keep(self, question: Question, reply: Reply) -> str:
        return self._key.remove_from(find_rationale(question.template, reply.text, reply.start))

    async def _request(
        self, question: Question, order: tuple[str, str], calls: list[JudgeCall], parameters: dict[str, Any]
    ) -> tuple[Reply, ...]:
        """Return the readable replies to one request, tried again where that can help; none: the last call says why."""
        tries = {CallOutcome.FAILED: 1 + RETRIES, CallOutcome.TIMED_OUT: 1 + RETRIES_OF_TIMEOUT}
        while True:
            await asyncio.sleep(max(0.0, self._wait_until - self._loop.time()))
            tried = await self._try(question, order, calls, self._make_body(question, parameters))
            calls.append(tried.call)
            outcome = tried.call.outcome
            if tried.wait is None:
                return tried.replies
            tries[outcome] -= 1
            if tries[outcome] <= 0:
                if outcome is CallOutcome.FAILED and not self._has_replied:
                    raise CannotJudge(
                        f"endpoint {self._judge.address}: expected a server that answers ({tried.call.error}). "
                        "Fix: check the address, and that the server runs"
                    )
                return ()
            tries_made = RETRIES - tries[CallOutcome.FAILED]
            backoff = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**tries_made) * random.uniform(0.75, 1.25)
            await asyncio.sleep(tried.wait or backoff)

    def _make_body(self, question: Question, parameters: dict[str, Any]) -> dict[str, Any]:
        content: Any = question.content[0]
        if question.images:
            content = [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image_url", "image_url": {"url": self._encode_image(part.id, part.png)}}
                for part in question.content
            ]
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": content}]
        body = {"model": self._judge.model, "messages": messages, "max_tokens": question.template.max_tokens}
        body |= {name: value for name, value in parameters.items() if (name, value) != ("n", 1)}
        if self._gives_logprobs:
            body |= {"logprobs": True, "top_logprobs": LIKELIEST_TOKENS}
        for name in self._refused & body.keys():
            value = body.pop(name)
            if REFUSABLE[name]:
                body[REFUSABLE[name]] = value
        return body

    def _encode_image(self, id: str, png: bytes | None) -> str:
        if png is None:
            assert self._load_image is not None
            png = self._load_image(id)
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"

    async def _try(
        self, question: Question, order: tuple[str, str], calls: list[JudgeCall], body: dict[str, Any]
    ) -> _Try:
        """Send one request.

        Raises:
            BudgetReached: it could pass the budget; then it is not sent.
            CannotJudge: no request can succeed; this one is among the calls.
        """
        most = bound_tokens(question.texts, len(question.images)), question.template.max_tokens * body.get("n", 1)
        while (reserved := self._budget.reserve(*most)) is None:
            await asyncio.sleep(BUDGET_POLL_SECONDS)
        began, cost = time.perf_counter(), 0.0

        def note(outcome: CallOutcome, error: str = "") -> JudgeCall:
            seconds = time.perf_counter() - began
            return JudgeCall(order, outcome, cost=cost, seconds=seconds, error=self._word(error))

        try:
            async with asyncio.timeout(self._judge.settings.timeout_seconds):
                content = await self._send(body)
            self._has_replied = True
            reply = read_reply(content, question.template)
            usage = reply.prompt_tokens, reply.completion_tokens
            # Who does not say how many tokens it took may have taken the most.
            cost = reserved if usage == (0, 0) else self._budget.compute_cost(*usage)
            call = replace(
                note(reply.outcome, reply.error), prompt_tokens=usage[0], completion_tokens=usage[1],
                probabilities=reply.probabilities,
            )  # fmt: skip
            return _Try(call, reply.replies)
        except (TimeoutError, openai.APITimeoutError):
            cost = reserved  # it may be charged for
            error = f"no whole answer in {self._judge.settings.timeout_seconds:g} s"
            return _Try(note(CallOutcome.TIMED_OUT, error), wait=0.0)
        except openai.APIStatusError as e:
            self._has_replied = True
            return self._read_status(e, note, calls)
        except openai.APIConnectionError as e:
            return _Try(note(CallOutcome.FAILED, f"{e} {e.__cause__ or ''}"), wait=0.0)
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

    def _read_status(self, e: openai.APIStatusError, note: Callable[..., JudgeCall], calls: list[JudgeCall]) -> _Try:
        """Return what an error of the endpoint means for a request, or raise CannotJudge where it means all."""
        status, said = e.status_code, f"{e.status_code} {_read_message(e)}"
        call = note(CallOutcome.FAILED, said)
        if status in (401, 403):
            # What it says of the key stays out: it may repeat a part of it.
            call = replace(call, error=f"{status} the key was not accepted")
            self._give_up(call, calls, f"a key that it accepts ({status})", self._say_where_key_is())
        if status == 402 or "insufficient_quota" in said:
            self._give_up(call, calls, f"an account with credit ({call.error})", "add credit, or take another endpoint")
        if status == 404:
            fix = f"check the address, which often ends in /v1, and the model {self._judge.model!r}"
            self._give_up(call, calls, f"this model at this address ({call.error})", fix)
        if status in (400, 422):
            if refused := [name for name in REFUSABLE if name not in self._refused and _names(said, name)]:
                # `top_logprobs` is nothing without `logprobs`.
                self._refused |= {refused[0]} | ({"logprobs", "top_logprobs"} if "logprobs" in refused[0] else set())
                return _Try(call, wait=1e-3)
            if says_refusal(said):
                return _Try(replace(call, outcome=CallOutcome.REFUSED))
            return _Try(call)
        if status in (408, 409, 429) or status >= 500:
            wait = read_retry_after(e.response.headers)
            if wait > LONGEST_RETRY_AFTER_SECONDS:
                self._give_up(call, calls, f"to wait less than {wait:,.0f} s", "run the judge again after that time")
            if wait:
                self._wait_until = max(self._wait_until, self._loop.time() + wait)  # the other requests wait as well
            return _Try(call, wait=wait)
        return _Try(call)

    def _give_up(self, call: JudgeCall, calls: list[JudgeCall], expected: str, fix: str) -> None:
        calls.append(call)
        raise CannotJudge(f"endpoint {self._judge.address}: expected {expected}. Fix: {fix}") from None

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
