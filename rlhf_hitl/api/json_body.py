"""A JSON body, from the network to a checked value: who sent it is known before it is parsed, and parsing never holds
up other requests.

A body that fits in `SMALL_BYTES` is read at once, and parsed in the thread that checks access and runs the handler. A
larger one is read only after the access check, up to the operation's own limit, and large ones are parsed in a thread
one after another: a thread that parses megabytes holds Python's lock for as long as that takes.
"""

from __future__ import annotations

import email.message
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from rlhf_hitl.wording import say_count

SMALL_BYTES = 64 * 2**10
LARGE_AT_ONCE = CapacityLimiter(1)
#: Errors of a body that are described in a response; of all others it says how many there are.
MAX_ERRORS = 19

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class BodyLimits:
    """How large the JSON body of an operation may be.

    Attributes:
        max_values: strings, numbers, lists and objects in it. Each may be wrong, and an error takes more memory and
            time than the value.
    """

    max_bytes: int
    max_values: int


async def read_body(request: Request, max_bytes: int, check_access: Callable[[], Awaitable[None]]) -> bytes:
    """Read a body. `check_access` is called before more than SMALL_BYTES of it are taken.

    Raises:
        HTTPException: 413, for a body of more than `max_bytes`, or what `check_access` raises. What was not read is
            not waited for: the connection is to be closed.
        ClientDisconnect: the client is gone.
    """
    try:
        return await _read_body(request, max_bytes, check_access)
    except HTTPException as e:
        raise HTTPException(e.status_code, e.detail, {**(e.headers or {}), "connection": "close"}) from None


async def _read_body(request: Request, max_bytes: int, check_access: Callable[[], Awaitable[None]]) -> bytes:
    announced = request.headers.get("content-length", "")
    is_checked = announced.isdecimal() and int(announced) > SMALL_BYTES
    if is_checked:
        await check_access()
        _refuse_too_large(int(announced), max_bytes)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > SMALL_BYTES and not is_checked:
            await check_access()
            is_checked = True
        _refuse_too_large(size, max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _refuse_too_large(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise HTTPException(413, f"body: expected at most {max_bytes / 2**20:g} MB here. Fix: send it in parts")


async def parse_large_body(parse: Callable[[], Model]) -> Model:
    """Call `parse` in a thread, one after another."""
    return await run_sync(parse, limiter=LARGE_AT_ONCE)


def parse_body(model: type[Model], raw: bytes, content_type: str, max_values: int) -> Model:
    """Return the checked value of a JSON body.

    Raises:
        HTTPException: 400, for a body that is no text or nested too deeply.
        RequestValidationError: no JSON, or not what `model` expects.
    """
    if not raw or not _is_json(content_type):
        raise _refuse("body", "expected JSON, sent as application/json")
    if count_values(raw) > max_values:
        raise _refuse("body", f"expected at most {max_values:,} values")
    try:
        value = json.loads(raw)
    except json.JSONDecodeError as e:
        raise _refuse(f"body.{e.pos}", f"JSON decode error: {e.msg}") from None
    except (ValueError, RecursionError):  # bytes that are no text, numbers of thousands of digits, deep nesting
        raise HTTPException(400, "body: expected JSON in UTF-8. Fix: see what is sent") from None
    try:
        return model.model_validate(value)
    except ValidationError as e:
        errors = e.errors(include_url=False, include_context=False, include_input=False)
        described: list[dict[str, Any]] = [{**x, "loc": ("body", *x["loc"])} for x in errors[:MAX_ERRORS]]
        if more := len(errors) - len(described):
            left_out = say_count(more, "more error is not listed", "more errors are not listed")
            described.append({"loc": ("body",), "msg": left_out})
        raise RequestValidationError(described) from None


def count_values(raw: bytes) -> int:
    """Return how many values JSON text holds, without parsing it: its commas, and what opens a list or an object.

    `json.loads` holds Python's lock until it is done, so that nothing else runs meanwhile, and it takes a second for a
    megabyte of `[],[],`. NumPy does not hold the lock.
    """
    text = np.frombuffer(raw, np.uint8)
    marks = (text == ord(",")) | (text == ord("[")) | (text == ord("{"))
    # A quote is escaped by an odd number of backslashes before it. Marks after an odd number of quotes are in a string.
    places = np.arange(len(text), dtype=np.int32)
    last_other = np.maximum.accumulate(np.where(text == ord("\\"), np.int32(-1), places))
    backslashes = np.concatenate([[0], places[:-1] - last_other[:-1]])
    quotes = (text == ord('"')) & (backslashes % 2 == 0)
    in_string = np.logical_xor.accumulate(quotes)
    return 1 + int(np.count_nonzero(marks & ~in_string))


def _is_json(content_type: str) -> bool:
    message = email.message.Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


def _refuse(at: str, problem: str) -> RequestValidationError:
    return RequestValidationError([{"loc": tuple(at.split(".")), "msg": problem}])
