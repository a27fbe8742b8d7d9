# SPDX-License-Identifier: AGPL-3.0-or-later
"""All state of one series as bytes and back (`schema` 1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .values import (
    FAILED,
    PROCESSING,
    PUBLISHING,
    STATUSES,
    AnalysisRequest,
    Artifact,
    Event,
    Failure,
    Grant,
    Model,
    Output,
    Review,
    replaced,
)

SCHEMA = 1
_YEAR_10000 = 253_402_300_800.0

Value = TypeVar("Value")


class DamagedError(Exception):
    """Bytes that are no state of a series; caught where they are set aside."""


@dataclass(frozen=True)
class SeriesState:
    """Everything the plugin knows of one series.

    Attributes
    ----------
    revision
        Grows with every write, so that two values of one series are never equal.
    next_number
        The next number of an attachment or record; none is used twice, so that late bytes hit nothing.
    requests
        Open requests and the latest finished ones, oldest first.
    folded
        How many older ones lie in the archive attachment.
    schema
        The schema the value was written with; one newer than `SCHEMA` is read, never rewritten.
    """

    series_id: str
    next_number: int
    revision: int = 0
    requests: tuple[AnalysisRequest, ...] = ()
    folded: int = 0
    schema: int = SCHEMA

    def find(self, request_id: str) -> AnalysisRequest | None:
        """Return one of the requests, or None."""
        for request in self.requests:
            if request.request_id == request_id:
                return request
        return None


RECORD_HEAD = b'{"schema":'
"""What the bytes of a full result begin with."""


def encode_record(result: Mapping[str, Any]) -> bytes:
    """Return the bytes that stand for a full result."""
    return json.dumps({"schema": SCHEMA, "result": result}, separators=(",", ":")).encode("ascii")


def encode_archive(requests: tuple[AnalysisRequest, ...]) -> bytes:
    """Return the bytes that stand for requests which have left the state of their series."""
    return f'{{"schema":{SCHEMA},"requests":{_texts(requests)}}}'.encode()


def encode_state(state: SeriesState) -> bytes:
    """Return the bytes that stand for a state."""
    head = f'"schema":{SCHEMA},"revision":{state.revision},"next_number":{state.next_number}'
    return f'{{{head},"folded":{state.folded},"requests":{_texts(state.requests)}}}'.encode()


def _texts(requests: tuple[AnalysisRequest, ...]) -> str:
    return "[" + ",".join(request.json_text for request in requests) + "]"


_NAMES: Mapping[type, frozenset[str]] = {
    kind: frozenset(field.name for field in fields(kind))
    for kind in (AnalysisRequest, Artifact, Event, Failure, Grant, Model, Output, Review)
}


def _build(kind: type[Value], value: Any, parts: Mapping[str, Callable[[Any], Any]]) -> Value:
    """Return a value object; members that a newer schema added are passed over."""
    if not isinstance(value, dict):
        raise DamagedError(f"{kind.__name__} is no object")
    known = {name: value[name] for name in _NAMES[kind] if name in value}
    for name, part in parts.items():
        if known.get(name) is not None:
            known[name] = part(known[name])
    try:
        return kind(**known)
    except TypeError as error:
        raise DamagedError(str(error)) from error


def _many(part: Callable[[Any], Value]) -> Callable[[Any], tuple[Value, ...]]:
    def build(value: Any) -> tuple[Value, ...]:
        if not isinstance(value, list):
            raise DamagedError("a list was expected")
        return tuple(part(item) for item in value)

    return build


def _grant(value: Any) -> Grant:
    grant = _build(
        Grant,
        value,
        {"model": lambda item: _build(Model, item, {}), "error": lambda item: _build(Failure, item, {})},
    )
    # Earlier versions stored the code of the failure, which may be the name of another outcome.
    return grant if grant.error is None else replaced(grant, outcome=FAILED)


_REQUEST_PARTS: Mapping[str, Callable[[Any], Any]] = {
    "error": lambda item: _build(Failure, item, {}),
    "grants": _many(_grant),
    "artifacts": _many(lambda item: _build(Artifact, item, {})),
    "record": lambda item: _build(Artifact, item, {}),
    "outputs": _many(lambda item: _build(Output, item, {})),
    "review": lambda item: _build(Review, item, {}),
    "flags": tuple,
    "history": _many(lambda item: _build(Event, item, {})),
}
_TEXTS = ("request_id", "series", "fingerprint", "parameters", "status")
_NUMBERS = ("created", "updated", "fence", "attempts", "max_attempts", "priority")


def _request(value: Any) -> AnalysisRequest:
    request = _build(AnalysisRequest, value, _REQUEST_PARTS)
    if not all(isinstance(getattr(request, name), str) for name in _TEXTS):
        raise DamagedError("a text is missing in a request")
    if not all(isinstance(getattr(request, name), (int, float)) for name in _NUMBERS):
        raise DamagedError("a number is missing in a request")
    if request.status not in STATUSES:
        raise DamagedError(f"{request.status!r} is no status")
    _check_shown(request)
    return request


def _check_shown(request: AnalysisRequest) -> None:
    """Refuse what every list would stumble over: one damaged series must not take all others along."""
    if request.status in {PROCESSING, PUBLISHING} and not request.grants:
        raise DamagedError("nobody works on a request that is being worked on")
    for text in filter(None, (request.parameters, request.summary)):
        _json_object(text.encode("utf-8", "replace"))
    moments: list[Any] = [request.created, request.updated, *(event.at for event in request.history)]
    moments += [grant.granted for grant in request.grants]
    moments += [] if request.not_before is None else [request.not_before]
    if not all(isinstance(at, (int, float)) and 0 <= at < _YEAR_10000 for at in moments):
        raise DamagedError("a time is none")


def decode_archive(content: bytes) -> tuple[AnalysisRequest, ...]:
    """Return the requests that the bytes stand for.

    Raises
    ------
    DamagedError
        Where they are not what `encode_archive` returns.
    """
    return _many(_request)(_json_object(content).get("requests"))


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DamagedError("no JSON object")
    return value


def decode_state(series_id: str, content: bytes) -> SeriesState:
    """Return the state that the bytes stand for.

    Raises
    ------
    DamagedError
        Where they stand for none.
    """
    value = _json_object(content)
    numbers = [value.get(name) for name in ("next_number", "revision", "folded", "schema")]
    if not all(isinstance(number, int) for number in numbers):
        raise DamagedError("a number is missing")
    requests = _many(_request)(value.get("requests"))
    if any(request.series != series_id for request in requests):
        raise DamagedError("the state of another series")
    next_number, revision, folded, schema = numbers
    return SeriesState(series_id, next_number, revision, requests, folded, schema)  # type: ignore[arg-type]
