# SPDX-License-Identifier: AGPL-3.0-or-later
"""All state of one series as bytes and back (`schema` 1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

from orthanc_plugin.queue.series_state import SCHEMA, SeriesState
from orthanc_plugin.queue.values import (
    FAILED,
    KINDS,
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
    canonical,
    replaced,
)

_YEAR_10000 = 253_402_300_800.0

Value = TypeVar("Value")


class DamagedError(Exception):
    """Bytes that are no state of a series; caught where they are set aside."""


class NewerError(Exception):
    """Bytes of a newer schema that this version cannot read; they are left alone."""


_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode

RECORD_HEAD = b'{"schema":'
"""What the bytes of a full result begin with."""


def encode_record(result: Mapping[str, Any]) -> bytes:
    """Return the bytes that stand for a full result."""
    return _encode({"schema": SCHEMA, "result": result}).encode("ascii")


def encode_archive(requests: tuple[AnalysisRequest, ...]) -> bytes:
    """Return the bytes that stand for requests which have left the state of their series."""
    return f'{{"schema":{SCHEMA},"requests":{_texts(requests)}}}'.encode()


def encode_state(state: SeriesState) -> bytes:
    """Return the bytes that stand for a state."""
    head = f'"schema":{SCHEMA},"revision":{state.revision},"next_number":{state.next_number}'
    return f'{{{head},"folded":{state.folded},"requests":{_texts(state.requests)}}}'.encode()


def _texts(requests: tuple[AnalysisRequest, ...]) -> str:
    return "[" + ",".join(request.json_text for request in requests) + "]"


_PLAIN: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}


def _types_of(annotation: str) -> tuple[type, ...]:
    """Return what a member with this annotation may be."""
    name = annotation.removesuffix(" | None")
    if name.startswith("tuple["):
        types: tuple[type, ...] = (tuple,)
    else:
        types = _PLAIN.get(name) or tuple(kind for kind in KINDS if kind.__name__ == name)
    return types if name == annotation else (*types, type(None))


_MEMBERS: Mapping[type, tuple[tuple[str, tuple[type, ...]], ...]] = {
    kind: tuple((field.name, _types_of(str(field.type))) for field in fields(kind)) for kind in KINDS
}
_TIMES: Mapping[type, tuple[str, ...]] = {
    kind: tuple(name for name, types in members if float in types) for kind, members in _MEMBERS.items()
}
"""Every float member is a time."""


def _build(kind: type[Value], value: Any, parts: Mapping[str, Callable[[Any], Any]]) -> Value:
    """Return a value object; members that a newer schema added are passed over."""
    if not isinstance(value, dict):
        raise DamagedError(f"{kind.__name__} is no object")
    members: dict[str, Any] = {}
    for name, types in _MEMBERS[kind]:
        if name in value:
            member = value[name]
            if name in parts and member is not None:
                member = parts[name](member)
            if type(member) not in types:
                raise DamagedError(f"{name} of {kind.__name__} is of another type")
            members[name] = member
    if not all(0 <= members[name] < _YEAR_10000 for name in _TIMES[kind] if members.get(name) is not None):
        raise DamagedError(f"a time of {kind.__name__} is out of range")
    try:
        return kind(**members)
    except TypeError as error:
        raise DamagedError(str(error)) from error


def _many(part: Callable[[Any], Value]) -> Callable[[Any], tuple[Value, ...]]:
    def build(value: Any) -> tuple[Value, ...]:
        if not isinstance(value, list):
            raise DamagedError("a list was expected")
        return tuple(part(item) for item in value)

    return build


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DamagedError("a text was expected")
    return value


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
    "flags": _many(_text),
    "history": _many(lambda item: _build(Event, item, {})),
}


def _request(value: Any) -> AnalysisRequest:
    request = _build(AnalysisRequest, value, _REQUEST_PARTS)
    if request.status not in STATUSES:
        raise DamagedError(f"{request.status!r} is no status")
    if not request.history:
        raise DamagedError("a request without a history")
    if request.status in {PROCESSING, PUBLISHING} and not request.grants:
        raise DamagedError("nobody works on a request that is being worked on")
    _check_shown(request.parameters)
    if request.summary is not None:
        _check_shown(request.summary)
    return request


def _check_shown(text: str) -> None:
    """Refuse what every list would stumble over: one damaged series must not take all others along."""
    try:
        canonical(_json_object(text.encode()))
    except (ValueError, RecursionError) as error:  # NaN, Infinity
        raise DamagedError(f"no JSON: {error}") from error


def decode_archive(series_id: str, content: bytes) -> tuple[tuple[AnalysisRequest, ...], int]:
    """Return the requests that the bytes stand for, and the schema that they were written with.

    Raises
    ------
    DamagedError
        Where they are not what `encode_archive` returns.
    NewerError
        Where a newer version wrote what this one cannot read.
    """
    value = _json_object(content)
    schema = _whole(value, "schema")
    with _left_alone_where_newer(schema):
        return _requests_of(series_id, value), schema


def decode_state(series_id: str, content: bytes) -> SeriesState:
    """Return the state that the bytes stand for.

    Raises
    ------
    DamagedError
        Where they stand for none.
    NewerError
        Where a newer version wrote what this one cannot read.
    """
    value = _json_object(content)
    schema = _whole(value, "schema")
    with _left_alone_where_newer(schema):
        next_number, revision, folded = (
            _whole(value, name) for name in ("next_number", "revision", "folded")
        )
        return SeriesState(series_id, next_number, revision, _requests_of(series_id, value), folded, schema)


@contextmanager
def _left_alone_where_newer(schema: int) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        if schema <= SCHEMA:
            raise
        raise NewerError(f"schema {schema}: {error}") from error


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8"))
        if b"\\u" in content:  # only an escape can stand for half of a surrogate pair, which has no encoding
            canonical(value).encode()
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DamagedError("no JSON object")
    return value


def _whole(value: dict[str, Any], name: str) -> int:
    number = value.get(name)
    if not isinstance(number, int):
        raise DamagedError(f"the number {name} is missing")
    return number


def _requests_of(series_id: str, value: dict[str, Any]) -> tuple[AnalysisRequest, ...]:
    requests = _many(_request)(value.get("requests"))
    if any(request.series != series_id for request in requests):
        raise DamagedError("requests of another series")
    return requests
