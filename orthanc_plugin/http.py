# SPDX-License-Identifier: AGPL-3.0-or-later
"""HTTP requests and answers as plain values: what the routes see, whoever serves them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from .errors import ApiError

JSON_TYPE = "application/json"
_SLASHES = re.compile(r"/{2,}")
_DEEPEST = 32
"""Levels of nesting that a client's JSON may have. Orthanc answers on threads with a stack of 100 kB, where
Python's decoder, which would follow a thousand, ends the server."""
_BRACKET = re.compile(r"[\[\]{}]")
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


@dataclass(frozen=True)
class Request:
    """One HTTP request, after Orthanc has checked the password.

    Attributes
    ----------
    method
        ``GET``, ``POST``, ``PUT`` or ``DELETE``; Orthanc answers the others itself.
    path
        Path without the query, as Orthanc hands it out (already decoded and normalised).
    query
        Query of a GET; Orthanc hides it from plugins on the other methods.
    headers
        Header names in lower case.
    body
        The whole body; empty where there is none.
    user
        Name that Orthanc accepted (never the password).
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    user: str = ""


@dataclass(frozen=True)
class Response:
    """One HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


def single_slashes(path: str) -> str:
    """Return a path in which one slash stands for several in a row, as they do to Orthanc."""
    return _SLASHES.sub("/", path) if "//" in path else path


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


_decode = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode
# Answers are put together anew, from what was parsed at most: there is no circle to look for.
_encode = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode
_encode_characters = json.JSONEncoder(ensure_ascii=False).encode


def parse_json(text: str) -> Any:
    """Return what a client's JSON says.

    Raises
    ------
    ValueError
        Where the text is not JSON (NaN and Infinity are not), or is nested too deep.
    """
    # Counted first: with fewer brackets it cannot be nested that deep.
    if text.count("{") + text.count("[") > _DEEPEST and _depth(text) > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
    return _decode(text)


def _depth(text: str) -> int:
    """Return how deep JSON is nested; of other text, at least as deep as a decoder would follow it."""
    outside_of_strings = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    return max(accumulate(_STEP[bracket] for bracket in _BRACKET.findall(outside_of_strings)), default=0)


def _check_storable(value: dict[str, Any], text: str) -> None:
    """Raise `ValueError` for what Python reads as JSON and cannot write as UTF-8 JSON again."""
    if "\\u" in text:  # only an escape can stand for half of a surrogate pair, which has no encoding
        _encode_characters(value).encode("utf-8")


def is_form(headers: Mapping[str, str]) -> bool:
    """Tell whether a body is a form with files: Orthanc hands over each, and answers 200 by itself."""
    return headers.get("content-type", "").lower().lstrip().startswith("multipart/form-data")


def parse_object(request: Request, *, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object in the body.

    Raises
    ------
    ApiError
        415 where the type is not JSON, 413 where the body is too large, 400 where it is no JSON object
        (NaN and Infinity are no JSON), or one that could not be stored.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != JSON_TYPE:
        raise ApiError(415, "wrong_content_type", "Send the body with Content-Type: application/json.")
    if len(request.body) > max_bytes:
        raise ApiError(413, "body_too_large", f"The body may have at most {max_bytes} bytes.")
    try:
        text = request.body.decode("utf-8")
        value = parse_json(text)
        if not isinstance(value, dict):
            raise ApiError(400, "bad_json", "The body must be a JSON object.")
        _check_storable(value, text)
    except ValueError as error:
        raise ApiError(400, "bad_json", f"The body is not valid JSON: {error}.") from error
    return value


def json_response(
    status: int, value: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """Return `value` as a JSON answer."""
    body = _encode(value).encode("utf-8")
    return Response(status, body, JSON_TYPE, dict(headers or {}))


def error_response(error: ApiError) -> Response:
    """Return the one shape that every error has."""
    value = {"success": False, "code": error.code, "error": error.message, **error.details}
    return json_response(error.status, value, error.headers)
