"""The API for other programs: one method an operation, typed, with the errors of the package.

    with Client("https://rate.example.org", token) as api:
        for task in api.lease():
            api.submit(task, "ranked", [["A"], ["B"]], strength=2)

Requests that may safely be sent twice are retried where the connection breaks or the store does not answer: reading,
leasing, adding (ids are hashes of content) and answering (an idempotency key makes an answer count once). Operations of
the scope `manage` are not in here.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rlhf_hitl.errors import BadInput, Conflict, NotFound, RlhfHitlError
from rlhf_hitl.files import atomic_file
from rlhf_hitl.types import (
    DEFAULT_PROJECT,
    Answer,
    Comparison,
    Completion,
    GoldFeedback,
    LaneState,
    Messages,
    Prompt,
    Qualification,
    QualificationState,
    Receipt,
    Route,
    Score,
    Split,
    Tools,
    Verdict,
    VisibleJudgment,
    parse_messages,
    parse_tools,
)

T = TypeVar("T")

#: Seconds to wait before the second, third, … attempt.
RETRY_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)


class NotAllowed(RlhfHitlError):
    """The token is unknown, has expired or ended, or does not allow this."""


class Unavailable(RlhfHitlError):
    """The server or its store did not answer, even after all retries."""


@dataclass(frozen=True)
class Task:
    """A leased comparison as a rater sees it. In rankings and scores, `keys` (letters) name its completions."""

    id: str
    expires_at: datetime
    project: str
    prompt: Messages
    completions: Mapping[str, Messages]
    guideline_version: str = ""
    tools: Tools = ()

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.completions)


@dataclass(frozen=True)
class LatestJudgment:
    """A rater's newest judgment together with the prompt and the completions they were shown."""

    judgment: VisibleJudgment
    prompt: Messages
    completions: Mapping[str, Messages]


@dataclass(frozen=True)
class QueueState:
    """How many places (one for each wanted judgment) are filled, leased and free, in all and in each lane.

    For a rater, `filled` is what they judged in the last day, `free` what is left for them, and there are no lanes.
    """

    filled: int
    leased: int
    free: int
    lanes: tuple[LaneState, ...]


class Client:
    """A connection to a server, with one API token.

    Args:
        address: the server's, as in `https://rate.example.org`.
        token: made by `rlhf-hitl tokens add`.
        timeout: seconds an answer may take.
        transport: an httpx transport, for programs that bring their own.

    Every method raises BadInput (the server cannot use what was sent), NotFound, Conflict (the store has changed
    meanwhile), NotAllowed or Unavailable.
    """

    def __init__(self, address: str, token: str, *, timeout: float = 60, transport: httpx.BaseTransport | None = None):
        self._http = httpx.Client(
            base_url=f"{address.rstrip('/')}/api/v1",
            headers={"authorization": f"Bearer {token}"},
            timeout=timeout,
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Input

    def add_prompts(self, prompts: Iterable[Mapping[str, Any]]) -> list[str]:
        """Add prompts of the form `{"messages", "tools", "tags", "split"}`; returns their ids."""
        return self._post("/prompts", {"prompts": list(prompts)})["ids"]

    def add_completions(self, completions: Iterable[Mapping[str, Any]]) -> list[str]:
        """Add completions of the form `{"prompt_id", "messages", "policy", "sampling"}`; returns their ids."""
        return self._post("/completions", {"completions": list(completions)})["ids"]

    def add_comparisons(
        self, comparisons: Iterable[Mapping[str, Any]], *, project: str = DEFAULT_PROJECT, batch: str = ""
    ) -> list[str]:
        """Add comparisons `{"prompt_id", "completion_ids", "overlap", "route"}` to the queue; returns their ids."""
        body = {"comparisons": list(comparisons), "project": project, "batch": batch}
        return self._post("/comparisons", body)["ids"]

    def load_image(self, id: str) -> bytes:
        """Return an image of a comparison, by the id that its message names, as PNG."""
        return self._send("GET", f"/images/{id}").content

    def import_rows(self, rows: Path | Iterable[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """Import a JSONL file, or rows, of any format `rlhf-hitl import` knows: all of them or, on an error, none.

        Args:
            options: `project`, `batch`, `overlap`, `queued`.

        Returns:
            How many `prompts`, `completions`, `comparisons`, `judgments`, `ratings`, `images` and `raters` were new;
            how many `rows` were read, and of these `repeated_rows`, `repeated_votes`, `identical_sides` and
            `bad_lines`; `splits_kept`, the prompt families that stayed in the split they were in; and two
            dictionaries, name → number: `unread`, the columns and keys that are not read, and `noted`, what was
            decided.
        """

        def encode_lines() -> Iterator[bytes]:
            if isinstance(rows, Path):
                with rows.open("rb") as f:
                    yield from f
            else:
                yield from ((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)

        headers = {"content-type": "application/x-ndjson"}
        try:  # without retries: an iterable cannot be read again
            response = self._http.post("/import", content=encode_lines(), headers=headers, params=options)
        except httpx.TransportError as e:
            raise _make_unavailable_error(self._http.base_url, e) from e
        return self._raise_for_problem(response).json()

    def comparisons(self, **filters: Any) -> Iterator[Comparison]:
        """Iterate over all comparisons, page by page. `filters` may hold `project`, `split`, `route`, `judged`."""
        return map(_parse_comparison, self._iterate_items("/comparisons", filters))

    # Prediction

    def predict(
        self, comparison_ids: Sequence[str] = (), texts: Sequence[Mapping[str, Any]] = (), model: str | None = None
    ) -> list[Score]:
        """Return scores of comparisons of the store, then of texts `{"prompt", "completions"}`, which are not kept.

        The scores of texts have an empty `comparison_id`, and name completions by position: "0", "1", ….
        """
        body = {"comparison_ids": list(comparison_ids), "texts": list(texts), "reward_model_id": model}
        response = self._post("/predictions", body)
        return [_parse_score(score, response["reward_model_id"]) for score in response["scores"]]

    # Task

    def lease(
        self,
        count: int = 1,
        *,
        project: str | None = None,
        batch: str | None = None,
        language: str | None = None,
        tags: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> list[Task]:
        """Lease the next comparisons, those leased already first; returns an empty list where nothing is left."""
        body = {"count": count, "project": project, "batch": batch, "language": language, "tags": dict(tags or {})}
        return [_parse_task(lease) for lease in self._post("/leases", body | {"seconds": seconds})["leases"]]

    def renew(self, task: Task, seconds: float | None = None) -> datetime:
        """Extend a lease; returns when it expires."""
        return datetime.fromisoformat(self._post(f"/leases/{task.id}/renew", {"seconds": seconds})["expires_at"])

    def release(self, task: Task) -> None:
        """End a lease without a judgment."""
        self._send("DELETE", f"/leases/{task.id}")

    def queue(self) -> QueueState:
        """Return how many places of the queue are filled, leased and free."""
        state = self._send("GET", "/queue").json()
        lanes = tuple(_build(LaneState, lane) for lane in state["lanes"])
        return _build(QueueState, state, lanes=lanes)

    # Feedback

    def submit(self, task: Task, verdict: str, ranking: Sequence[Sequence[str]] = (), **more: Any) -> Receipt:
        """Submit a judgment of a task. When this returns, the judgment is on the server's disk.

        Args:
            ranking: groups of the task's keys, best first.
            more: `strength`, `scores` (axis → key → 1 to 5), `rationale`, `rewrite`, `reason` (of a flag or a skip),
                `active_seconds`, `idempotency_key` (the task's id).
        """
        return self._post_answer("/judgments", {"lease_id": task.id}, verdict, ranking, more)

    def correct(self, judgment_id: str, verdict: str, ranking: Sequence[Sequence[str]] = (), **more: Any) -> Receipt:
        """Correct one of your own judgments; `ranking` names completions by the keys that were shown."""
        return self._post_answer(f"/judgments/{judgment_id}/corrections", {}, verdict, ranking, more)

    def judgments(self, **filters: Any) -> Iterator[VisibleJudgment]:
        """Iterate over judgments in the order they arrived. `filters` may hold `after`, `project`, `current`."""
        return map(_parse_judgment, self._iterate_items("/judgments", filters))

    def last(self) -> LatestJudgment:
        """Return your newest judgment with what was shown, so that it can be corrected."""
        last = self._send("GET", "/judgments/last").json()
        completions = _parse_shown(last["completions"])
        return LatestJudgment(_parse_judgment(last["judgment"]), _parse_chat(last["prompt"]), completions)

    def snapshot(self, out: Path, **options: Any) -> None:
        """Download a dataset snapshot to a file. `options` may hold `format`, `project`, `min_votes`."""
        try:
            with (
                self._http.stream("GET", "/snapshot", params=options) as response,
                atomic_file(out) as draft,
                draft.open("wb") as f,
            ):
                if response.is_error:
                    response.read()
                for chunk in self._raise_for_problem(response).iter_bytes():
                    f.write(chunk)
        except httpx.TransportError as e:
            raise _make_unavailable_error(self._http.base_url, e) from e

    def _post_answer(self, path: str, body: dict[str, Any], verdict: str, ranking: Sequence, more: Mapping) -> Receipt:
        body |= {"verdict": Verdict(verdict).value, "ranking": [list(group) for group in ranking], **more}
        receipt = self._post(path, body)
        told, standing = receipt.get("gold"), receipt.get("qualification")
        return Receipt(
            receipt["id"],
            receipt["outcome"],
            told and GoldFeedback(told["agreed"], Answer.from_plain(told), told["explanation"]),
            standing and _parse_qualification(standing),
        )

    def _iterate_items(self, path: str, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Iterate over the items of a listing, requesting a page at a time."""
        params = {k: v for k, v in filters.items() if v is not None}
        while True:
            page = self._send("GET", path, params=params).json()
            yield from page["items"]
            if page["next"] is None:
                return
            params["after"] = page["next"]

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._send("POST", path, json=body).json()

    def _send(self, method: str, path: str, **request_options: Any) -> httpx.Response:
        """Send a request that may safely be sent twice, and retry it while there is no answer."""
        for pause in (*RETRY_PAUSES, None):
            try:
                response = self._http.request(method, path, **request_options)
            except httpx.TransportError as e:
                if pause is None:
                    raise _make_unavailable_error(self._http.base_url, e) from e
            else:
                if response.status_code not in (502, 503, 504) or pause is None:
                    return self._raise_for_problem(response)
            time.sleep(pause or 0)
        raise AssertionError("unreachable")

    def _raise_for_problem(self, response: httpx.Response) -> httpx.Response:
        """Return the response, or raise the error of this package that its problem document describes."""
        if not response.is_error:
            return response
        try:
            detail = str(response.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = f"HTTP {response.status_code}"
        value, _, expectation = detail.partition(": expected ")
        expected, _, fix = expectation.partition(". Fix: ")
        match response.status_code:
            case 404:
                raise NotFound(value, expected=expected or "something that exists", fix=fix or "look it up")
            case 409:
                raise Conflict(detail)
            case 401 | 403:
                raise NotAllowed(detail)
            case status if status >= 500:
                raise Unavailable(detail)
        raise BadInput(value, expected=expected or "what the API takes", fix=fix or "see /api/v1/openapi.json")


def _parse_task(lease: Mapping[str, Any]) -> Task:
    return Task(
        lease["id"],
        datetime.fromisoformat(lease["expires_at"]),
        lease["project"],
        _parse_chat(lease["prompt"]),
        _parse_shown(lease["completions"]),
        lease.get("guideline_version", ""),
        parse_tools(lease.get("tools")),
    )


def _parse_qualification(standing: Mapping[str, Any]) -> Qualification:
    expires_at = standing["expires_at"] and datetime.fromisoformat(standing["expires_at"])
    return _build(Qualification, standing, state=QualificationState(standing["state"]), expires_at=expires_at)


def _parse_chat(messages: Iterable[Mapping[str, Any]]) -> Messages:
    return parse_messages(messages, Counter())  # a newer server may send keys that this client does not know


def _parse_shown(completions: Iterable[Mapping[str, Any]]) -> dict[str, Messages]:
    return {completion["key"]: _parse_chat(completion["messages"]) for completion in completions}


def _parse_judgment(judgment: Mapping[str, Any]) -> VisibleJudgment:
    order, route = judgment.get("order_shown"), judgment.get("route")
    return _build(
        VisibleJudgment,
        judgment,
        answer=Answer.from_plain(judgment),
        order_shown=None if order is None else tuple(order),
        route=None if route is None else Route(route),
        created_at=datetime.fromisoformat(judgment["created_at"]),
    )


def _parse_comparison(comparison: Mapping[str, Any]) -> Comparison:
    prompt = Prompt(
        comparison["prompt_id"],
        _parse_chat(comparison["prompt"]),
        Split(comparison["split"]),
        comparison["tags"],
        parse_tools(comparison.get("tools")),
    )
    completions = tuple(
        Completion(c["id"], prompt.id, _parse_chat(c["messages"]), c["policy"], c["sampling"])
        for c in comparison["completions"]
    )
    return _build(Comparison, comparison, prompt=prompt, completions=completions, route=Route(comparison["route"]))


def _parse_score(score: Mapping[str, Any], reward_model_id: str) -> Score:
    return _build(Score, score, comparison_id=score["comparison_id"] or "", reward_model_id=reward_model_id)


def _build(cls: type[T], values: Mapping[str, Any], **parsed: Any) -> T:
    """Build a dataclass from those values that are fields of it. Others are ignored: a newer server may send more."""
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: v for k, v in values.items() if k in names} | parsed)


def _make_unavailable_error(address: httpx.URL, e: Exception) -> Unavailable:
    return Unavailable(f"{address}: expected a server that answers, got {type(e).__name__}. Fix: check the address")
