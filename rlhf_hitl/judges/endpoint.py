"""A judge behind an OpenAI-compatible endpoint (`rlhf_hitl.endpoints`).

Log-probabilities of the answer's letter are asked for, and used where the endpoint gives them. Where it gives none, the
question is drawn several times if the settings say so, else the plain answer counts.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from rlhf_hitl.endpoints.budget import Budget, bound_tokens
from rlhf_hitl.endpoints.client import EndpointCall, EndpointClient
from rlhf_hitl.endpoints.keys import Key
from rlhf_hitl.judges.asking import Opinion, find_rationale, weigh_letters
from rlhf_hitl.judges.replies import Replies, Reply, read_reply
from rlhf_hitl.judges.templates import Question
from rlhf_hitl.types.judges import CallOutcome, Judge, JudgeCall

#: OpenAI gives the 20 likeliest tokens at most.
LIKELIEST_TOKENS = 20


class Endpoint:
    """Asks a model behind an endpoint.

    Args:
        load_image: returns the PNG of an image by its id.
    """

    def __init__(self, judge: Judge, key: Key, budget: Budget, load_image: Callable[[str], bytes] | None = None):
        self.takes_images = judge.settings.takes_images
        self._judge, self._load_image = judge, load_image
        self._gives_logprobs = True  # until it was asked
        self._client = EndpointClient(judge.address, judge.model, key, budget, judge.settings.timeout_seconds)

    def ask(self, question: Question, order_shown: tuple[str, str], calls: list[JudgeCall]) -> Opinion | None:
        """Ask one question: see `Asker`."""
        return self._client.run(self._ask(question, order_shown, calls))

    def close(self) -> None:
        """Break off what runs, and end the thread."""
        self._client.close()

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
        return self._client.remove_key(find_rationale(question.template, reply.text, reply.start))

    async def _request(
        self, question: Question, order: tuple[str, str], calls: list[JudgeCall], parameters: dict[str, Any]
    ) -> tuple[Reply, ...]:
        """Return the readable replies to one request; none: the last call says why."""

        def note(call: EndpointCall, replies: Replies | None) -> None:
            probabilities = None if replies is None else replies.probabilities
            counted = call.prompt_tokens, call.completion_tokens, call.cost, call.seconds, call.error
            calls.append(JudgeCall(order, call.outcome, probabilities, *counted))

        replies = await self._client.request(
            lambda: self._make_body(question, parameters),
            bound_tokens(question.texts, len(question.images)),
            lambda content: read_reply(content, question.template),
            note,
        )
        return () if replies is None else replies.replies

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
        return body

    def _encode_image(self, id: str, png: bytes | None) -> str:
        if png is None:
            assert self._load_image is not None
            png = self._load_image(id)
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"
