"""Policies behind an OpenAI-compatible endpoint: vLLM's server, hosted models, and others (`rlhf_hitl.endpoints`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_hitl.endpoints.budget import Budget, BudgetReached, bound_tokens
from rlhf_hitl.endpoints.client import EndpointCall, EndpointClient
from rlhf_hitl.endpoints.errors import CannotAsk
from rlhf_hitl.endpoints.keys import read_key
from rlhf_hitl.endpoints.responses import clean_text, read_choices, read_usage
from rlhf_hitl.errors import BadInput, RlhfHitlError
from rlhf_hitl.policy.completion_jobs import CompletionJob
from rlhf_hitl.policy.draws import Draw, DrawJournal, Finish, sum_calls
from rlhf_hitl.policy.endpoint_settings import EndpointSettings
from rlhf_hitl.policy.stop_strings import cut_at_stop
from rlhf_hitl.reward.chat_template import make_images_error
from rlhf_hitl.types import Prompt, parse_messages
from rlhf_hitl.types.judges import CallOutcome
from rlhf_hitl.types.messages import list_images
from rlhf_hitl.wording import say_count

#: Prompts in a row without an answer, after which an endpoint is taken for down. One prompt, asked often, may be to
#: blame itself.
MOST_FAILURES_IN_A_ROW = 5
#: Answers without text, to so many prompts where there are as many, after which an endpoint that has sent no text yet
#: is asked no more: each would be asked for again, and paid for.
MOST_EMPTY_AT_FIRST = 5
MOST_NAME_LETTERS = 200


class EndpointDown(RlhfHitlError):
    """An endpoint does not answer any more. What it has answered is kept."""


@dataclass(frozen=True)
class _Answer:
    """What a response says: see `Response` of the client."""

    outcome: CallOutcome
    error: str
    prompt_tokens: int
    completion_tokens: int
    message: Mapping[str, Any]
    finish: Finish
    served_model: str


class EndpointDrawer:
    """Draws answers by asking an endpoint, several at a time.

    Args:
        journal: keeps what each request took, so that a budget holds for a command that is given again.
        takes_silence: go on where the first answers are all empty, since nothing is filtered.
    """

    window = 1024

    def __init__(self, settings: EndpointSettings, journal: DrawJournal, *, takes_silence: bool = False):
        self.name, self._settings, self._journal = settings.name, settings, journal
        self._takes_silence = takes_silence
        self._has_answered = not journal.is_empty
        self._has_said_something, self._empty, self._empty_prompts = False, 0, set[str]()
        key = read_key(settings.api_key_env, settings.api_key_file)
        spent = float(sum_calls(journal.calls)["cost"])
        fix = "give a higher --budget: the same command goes on where this one stopped, and stops at once with this one"
        budget = Budget(settings.budget, settings.price_in, settings.price_out, spent, fix)
        self._client = EndpointClient(settings.address, settings.model, key, budget, settings.timeout_seconds)

    def read(self, prompt: Prompt) -> list[int]:
        """Return no tokens: an endpoint is given messages. See `Drawer`."""
        if next(list_images(prompt.messages), None) is not None:
            raise make_images_error(prompt.id, "images are not sent to a policy's endpoint")
        return []

    def draw(self, jobs: Sequence[CompletionJob], known: Set[str]) -> Iterator[tuple[CompletionJob, Draw | None]]:
        """Yield answers as they come.

        Raises:
            EndpointDown: it answers no more, or has sent no text yet. What was under way is waited for, and yielded.
            BudgetReached, CannotAsk: as of the client; likewise.
        """
        waiting, stopped = [job for job in reversed(jobs) if job.key not in known], None
        if not self._has_said_something:
            kept = (self._journal.get(job.key) for job in jobs if job.key in known)
            self._has_said_something = any(map(_says_something, kept))
        asked, failed = {job.prompt.id for job in waiting}, set[str]()
        running: dict[Future[tuple[Draw | None, str]], CompletionJob] = {}
        with ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="policy endpoint") as pool:
            while running or (waiting and stopped is None):
                while waiting and stopped is None and len(running) < self._settings.concurrency:
                    job = waiting.pop()
                    running[pool.submit(self._ask, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    try:
                        draw, error = future.result()
                    except (BudgetReached, CannotAsk) as e:
                        stopped = stopped or e
                        continue
                    self._has_answered |= draw is not None
                    failed = failed | {job.prompt.id} if draw is None else set()
                    is_down = len(failed) >= MOST_FAILURES_IN_A_ROW or (failed == asked and not self._has_answered)
                    if is_down and stopped is None:
                        stopped = EndpointDown(
                            f"endpoint {self._settings.address}: expected an answer, and "
                            f"{say_count(len(failed), 'prompt')} in a row had none ({error}). Fix: when it answers "
                            "again, give the same command again: what was answered is kept, and nothing is asked twice"
                        )
                    if stopped is None and draw is not None and self._is_silent(job, draw, asked):
                        stopped = EndpointDown(
                            f"endpoint {self._settings.address}: expected text, and the first "
                            f"{say_count(self._empty, 'answer')}, to {say_count(len(self._empty_prompts), 'prompt')}, "
                            f"had none (the last one ended with {draw.finish!r}). Fix: look at what the model answers: "
                            "its chat template, and --max-new-tokens where it thinks first. The same command asks for "
                            "the rest; --keep-all keeps empty answers"
                        )
                    yield job, draw
        if stopped is not None:
            raise stopped

    def _is_silent(self, job: CompletionJob, draw: Draw, asked: set[str]) -> bool:
        """Count an answer, and return whether the endpoint has sent nothing but empty ones, and enough of them."""
        if draw.finish == "refused" or self._takes_silence or self._has_said_something:
            return False
        self._has_said_something = _says_something(draw)
        if self._has_said_something:
            return False
        self._empty += 1
        self._empty_prompts.add(job.prompt.id)
        is_enough = len(self._empty_prompts) >= MOST_EMPTY_AT_FIRST or self._empty_prompts >= asked
        return is_enough and self._empty >= MOST_EMPTY_AT_FIRST

    def _ask(self, job: CompletionJob) -> tuple[Draw | None, str]:
        """Return the answer to one request, and why there is none. An answer is kept at once, whatever else happens."""
        calls: list[EndpointCall] = []
        body = self._make_body(job)
        texts = [m.read_all_text() for m in job.prompt.messages] + [str(body.get("tools", ""))]
        read = make_reader(job.sampling.stop)
        try:
            answer: _Answer | None = self._client.run(
                self._client.request(lambda: dict(body), bound_tokens(texts), read, lambda call, _: calls.append(call))
            )
        finally:
            for call in calls:
                self._journal.add_call(asdict(call) | {"outcome": call.outcome.value})
        draw = self._make_draw(answer, calls, body)
        if draw is not None:
            self._journal.add(job.key, draw)
        return draw, calls[-1].error

    def _make_draw(self, answer: _Answer | None, calls: Sequence[EndpointCall], body: Mapping[str, Any]) -> Draw | None:
        """Return what is kept of an answer and of what it took; None where there is none."""
        last = calls[-1]
        if answer is None and last.outcome is not CallOutcome.REFUSED:
            return None
        more: dict[str, Any] = {"endpoint": self._settings.address, "cost": sum(call.cost for call in calls)}
        if not_taken := sorted(self._client.refused & body.keys() - {"max_tokens"}):
            more["not_taken"] = not_taken
        if answer is None:
            return Draw({"role": "assistant", "content": ""}, "refused", 0, more | {"error": last.error})
        more |= {"error": answer.error} if answer.error else {}
        if answer.served_model not in ("", self._settings.model):
            more["served_model"] = answer.served_model
        message = {k: self._client.remove_key(v) if isinstance(v, str) else v for k, v in answer.message.items()}
        return Draw(message, answer.finish, answer.completion_tokens, more)

    def _make_body(self, job: CompletionJob) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [m.to_plain() for m in job.prompt.messages],
            "max_tokens": job.row.max_new_tokens,
            "temperature": job.row.temperature,
            "top_p": job.row.top_p,
            "seed": job.row.seed % 2**31,
        }
        body |= {"stop": list(job.sampling.stop)} if job.sampling.stop else {}
        return body | ({"tools": [tool.to_plain() for tool in job.prompt.tools]} if job.prompt.tools else {})

    def release(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        self._client.close()


def _says_something(draw: Draw) -> bool:
    message = draw.read_message()
    return bool(message.text.strip() or message.tool_calls)


def make_reader(stop: Sequence[str]) -> Callable[[Mapping[str, Any]], _Answer]:
    """Return a function that reads a chat completion; it raises ValueError where there is none."""

    def read(content: Mapping[str, Any]) -> _Answer:
        choice, usage = read_choices(content)[0], read_usage(content)
        found = choice.get("message")
        if not isinstance(found, Mapping):
            raise ValueError("a choice without a message")
        raw, refusal, reasoning = (found.get(name) for name in ("content", "refusal", "reasoning_content"))
        raw = raw if isinstance(raw, str) else ""
        text, was_cut = cut_at_stop(clean_text(raw), stop)
        message: dict[str, Any] = {"role": "assistant", "content": text.strip()}
        if isinstance(reasoning, str) and reasoning:
            message["reasoning_content"] = clean_text(reasoning)
        if found.get("tool_calls"):
            message["tool_calls"] = found["tool_calls"]
        check_message(message)
        reason = choice.get("finish_reason")
        finish: Finish = "length" if reason == "length" else "eos"
        # vLLM names the stop string that it found; others do not tell it from the end.
        finish = "stop" if was_cut or isinstance(choice.get("stop_reason"), str) else finish
        outcome = CallOutcome.REFUSED if reason == "content_filter" or refusal else CallOutcome.ANSWERED
        finish = "refused" if outcome is CallOutcome.REFUSED else finish
        served = content.get("model")
        served = clean_text(served)[:MOST_NAME_LETTERS] if isinstance(served, str) else ""
        return _Answer(outcome, str(refusal or ""), *usage, message, finish, served)

    return read


def check_message(message: Mapping[str, Any]) -> None:
    """Raise ValueError where what an endpoint has sent is no message."""
    try:
        parse_messages([message])
    except BadInput as e:
        raise ValueError(str(e)) from e
