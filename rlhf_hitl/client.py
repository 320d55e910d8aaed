"""The API for other programs: one method an operation, typed, with the errors of the package.

    with Client("https://rate.example.org", token) as api:
        for task in api.lease():
            api.submit(task, "ranked", [["A"], ["B"]], strength=2)

What may be sent twice without harm is tried again when the line breaks or the store does not answer: reading, leasing,
adding (ids are hashes of content) and answering (with a key, an answer counts once). What is managed is not in here.
"""

from __future__ import annotations

import json
import time
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
    LaneState,
    Messages,
    Prompt,
    Reason,
    Receipt,
    Route,
    Score,
    Split,
    Verdict,
    parse_messages,
)

T = TypeVar("T")

#: Seconds before the second, third, … try.
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)


class NotAllowed(RlhfHitlError):
    """The token is unknown, over, or may not do this."""


class Unavailable(RlhfHitlError):
    """The server did not answer, or its store did not, however often it was asked."""


@dataclass(frozen=True)
class Task:
    """A comparison that is held: what a rater sees of it. `keys` name its completions in a ranking and in scores."""

    id: str
    expires_at: datetime
    project: str
    prompt: Messages
    completions: Mapping[str, Messages]
    guideline_version: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.completions)


@dataclass(frozen=True)
class JudgmentSeen:
    """A judgment as the token's owner may see it.

    A lead or an evaluator sees everything, and rankings name completions by id. A rater sees their own, with the
    letters they were shown; what they may not know is None. `cursor` is what one reads on `after`.
    """

    id: str
    cursor: int
    answer: Answer
    created_at: datetime
    supersedes: str | None
    surplus: bool
    comparison_id: str | None = None
    rater_id: str | None = None
    order_shown: tuple[str, ...] | None = None
    route: Route | None = None
    reward_model_id: str | None = None
    guideline_version: str | None = None
    interface_version: str | None = None
    source: str | None = None
    simulated: bool | None = None


@dataclass(frozen=True)
class Last:
    """One's newest judgment with what it was of."""

    judgment: JudgmentSeen
    prompt: Messages
    completions: Mapping[str, Messages]


@dataclass(frozen=True)
class QueueState:
    """Places `filled`, `leased` and `free`, one for each judgment wanted; a rater is told what they did in a day and
    what is left for them, and of no lane."""

    filled: int
    leased: int
    free: int
    lanes: tuple[LaneState, ...]


class Client:
    """A connection to a server, for one token.

    Args:
        address: where the server is, as in `https://rate.example.org`.
        token: made by `rlhf-hitl tokens add`.
        timeout: seconds an answer may take.
        transport: how requests travel, for programs that bring their own.

    Every method raises BadInput (the server cannot use what was sent), NotFound, Conflict (the store has moved on),
    NotAllowed or Unavailable.
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
        """Add `{"messages", "tags", "split"}`; returns their ids."""
        return self._post("/prompts", {"prompts": list(prompts)})["ids"]

    def add_completions(self, completions: Iterable[Mapping[str, Any]]) -> list[str]:
        """Add `{"prompt_id", "messages", "policy", "sampling"}`; returns their ids."""
        return self._post("/completions", {"completions": list(completions)})["ids"]

    def add_comparisons(
        self, comparisons: Iterable[Mapping[str, Any]], *, project: str = DEFAULT_PROJECT, batch: str = ""
    ) -> list[str]:
        """Put `{"prompt_id", "completion_ids", "overlap", "route"}` in line; returns their ids."""
        body = {"comparisons": list(comparisons), "project": project, "batch": batch}
        return self._post("/comparisons", body)["ids"]

    def import_rows(self, rows: Path | Iterable[Mapping[str, Any]], **options: Any) -> dict[str, int]:
        """Stream a JSONL file, or rows, of any format `rlhf-hitl import` knows. All of it is taken, or nothing.

        Args:
            options: `project`, `batch`, `overlap`, `queued`.

        Returns:
            How much of everything was new.
        """

        def lines() -> Iterator[bytes]:
            if isinstance(rows, Path):
                with rows.open("rb") as f:
                    yield from f
            else:
                yield from ((json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows)

        headers = {"content-type": "application/x-ndjson"}
        try:  # once only: an iterable cannot be read again
            answer = self._http.post("/import", content=lines(), headers=headers, params=options)
        except httpx.TransportError as e:
            raise _unavailable(self._http.base_url, e) from e
        return self._checked(answer).json()

    def comparisons(self, **where: Any) -> Iterator[Comparison]:
        """Every comparison, page by page. `where`: `project`, `split`, `route`, `judged`."""
        return map(_comparison, self._pages("/comparisons", where))

    # Prediction

    def predict(
        self, comparison_ids: Sequence[str] = (), texts: Sequence[Mapping[str, Any]] = (), model: str | None = None
    ) -> list[Score]:
        """Scores of comparisons of the store, then of `{"prompt", "completions"}` that are not kept.

        The latter have no `comparison_id` (it is empty), and their completions are called by position: "0", "1", ….
        """
        body = {"comparison_ids": list(comparison_ids), "texts": list(texts), "reward_model_id": model}
        said = self._post("/predictions", body)
        return [_score(one, said["reward_model_id"]) for one in said["scores"]]

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
        """The next comparisons, those held already first; empty where nothing is left."""
        body = {"count": count, "project": project, "batch": batch, "language": language, "tags": dict(tags or {})}
        return [_task(one) for one in self._post("/leases", body | {"seconds": seconds})["leases"]]

    def renew(self, task: Task, seconds: float | None = None) -> datetime:
        """Hold a comparison longer; returns until when."""
        return datetime.fromisoformat(self._post(f"/leases/{task.id}/renew", {"seconds": seconds})["expires_at"])

    def release(self, task: Task) -> None:
        """Give a comparison back unjudged."""
        self._send("DELETE", f"/leases/{task.id}")

    def queue(self) -> QueueState:
        """How the queue stands."""
        said = self._send("GET", "/queue").json()
        lanes = tuple(_fields(LaneState, lane) for lane in said["lanes"])
        return _fields(QueueState, said, lanes=lanes)

    # Feedback

    def submit(self, task: Task, verdict: str, ranking: Sequence[Sequence[str]] = (), **more: Any) -> Receipt:
        """Answer a task. When this returns, the judgment is on the server's disk.

        Args:
            ranking: groups of the task's keys, best first.
            more: `strength`, `scores` (axis → key → 1 to 5), `rationale`, `rewrite`, `reason` (of a flag or a skip),
                `active_seconds`, `idempotency_key` (the task's id).
        """
        return self._receipt("/judgments", {"lease_id": task.id}, verdict, ranking, more)

    def correct(self, judgment_id: str, verdict: str, ranking: Sequence[Sequence[str]] = (), **more: Any) -> Receipt:
        """Supersede a judgment of one's own; `ranking` in the keys it was shown with."""
        return self._receipt(f"/judgments/{judgment_id}/corrections", {}, verdict, ranking, more)

    def judgments(self, **where: Any) -> Iterator[JudgmentSeen]:
        """Judgments in the order they came, page by page. `where`: `after`, `project`, `current`."""
        return map(_judgment, self._pages("/judgments", where))

    def last(self) -> Last:
        """One's newest judgment with what it was of, to be corrected."""
        said = self._send("GET", "/judgments/last").json()
        return Last(_judgment(said["judgment"]), parse_messages(said["prompt"]), _shown(said["completions"]))

    def snapshot(self, out: Path, **options: Any) -> None:
        """Write a dataset snapshot to a file. `options`: `format`, `project`, `min_votes`."""
        try:
            with (
                atomic_file(out) as draft,
                self._http.stream("GET", "/snapshot", params=options) as answer,
                draft.open("wb") as f,
            ):
                if answer.is_error:
                    answer.read()
                for chunk in self._checked(answer).iter_bytes():
                    f.write(chunk)
        except httpx.TransportError as e:
            raise _unavailable(self._http.base_url, e) from e

    def _receipt(self, path: str, body: dict[str, Any], verdict: str, ranking: Sequence, more: Mapping) -> Receipt:
        body |= {"verdict": Verdict(verdict).value, "ranking": [list(group) for group in ranking], **more}
        answer = self._post(path, body)
        return Receipt(answer["id"], answer["outcome"])

    def _pages(self, path: str, where: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        params = {k: v for k, v in where.items() if v is not None}
        while True:
            page = self._send("GET", path, params=params).json()
            yield from page["items"]
            if page["next"] is None:
                return
            params["after"] = page["next"]

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._send("POST", path, json=body).json()

    def _send(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Send what may be sent twice, until it is answered."""
        for pause in (*PAUSES, None):
            try:
                answer = self._http.request(method, path, **how)
            except httpx.TransportError as e:
                if pause is None:
                    raise _unavailable(self._http.base_url, e) from e
            else:
                if answer.status_code not in (502, 503, 504) or pause is None:
                    return self._checked(answer)
            time.sleep(pause or 0)
        raise AssertionError("unreachable")

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if not answer.is_error:
            return answer
        try:
            said = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):
            said = f"HTTP {answer.status_code}"
        value, _, rest = said.partition(": expected ")
        expected, _, fix = rest.partition(". Fix: ")
        match answer.status_code:
            case 404:
                raise NotFound(value, expected=expected or "something that is there", fix=fix or "look it up")
            case 409:
                raise Conflict(said)
            case 401 | 403:
                raise NotAllowed(said)
            case status if status >= 500:
                raise Unavailable(said)
        raise BadInput(value, expected=expected or "what the API takes", fix=fix or "see /api/v1/openapi.json")


def _task(said: Mapping[str, Any]) -> Task:
    expires = datetime.fromisoformat(said["expires_at"])
    shown, version = _shown(said["completions"]), said.get("guideline_version", "")
    return Task(said["id"], expires, said["project"], parse_messages(said["prompt"]), shown, version)


def _shown(said: Iterable[Mapping[str, Any]]) -> dict[str, Messages]:
    return {one["key"]: parse_messages(one["messages"]) for one in said}


def _judgment(said: Mapping[str, Any]) -> JudgmentSeen:
    read = {
        "verdict": Verdict(said["verdict"]),
        "ranking": tuple(tuple(group) for group in said["ranking"]),
        "reason": Reason(reason) if (reason := said.get("reason")) is not None else None,
        "order_shown": tuple(order) if (order := said.get("order_shown")) is not None else None,
        "route": Route(route) if (route := said.get("route")) is not None else None,
        "created_at": datetime.fromisoformat(said["created_at"]),
    }
    return _fields(JudgmentSeen, {**said, **read}, answer=_fields(Answer, {**said, **read}))


def _comparison(said: Mapping[str, Any]) -> Comparison:
    prompt = Prompt(said["prompt_id"], parse_messages(said["prompt"]), Split(said["split"]), said["tags"])
    completions = tuple(
        Completion(one["id"], prompt.id, parse_messages(one["messages"]), one["policy"], one["sampling"])
        for one in said["completions"]
    )
    return _fields(Comparison, said, prompt=prompt, completions=completions, route=Route(said["route"]))


def _score(said: Mapping[str, Any], reward_model_id: str) -> Score:
    return _fields(Score, said, comparison_id=said["comparison_id"] or "", reward_model_id=reward_model_id)


def _fields(noun: type[T], said: Mapping[str, Any], **read: Any) -> T:
    """A noun of those fields of a body it knows: a newer server may say more."""
    known = {f.name for f in fields(noun)}  # type: ignore[arg-type]
    return noun(**{k: v for k, v in said.items() if k in known} | read)


def _unavailable(where: httpx.URL, e: Exception) -> Unavailable:
    return Unavailable(f"{where}: expected a server that answers, got {type(e).__name__}. Fix: check the address")
