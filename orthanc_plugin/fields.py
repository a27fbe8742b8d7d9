# SPDX-License-Identifier: AGPL-3.0-or-later
"""Members of a JSON body, each checked with a sentence that names it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .errors import ApiError

Body = Mapping[str, Any]

_TOKEN = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def bad_field(name: str, wish: str) -> ApiError:
    """Return the 400 that names a member and what it should be."""
    return ApiError(400, "bad_request", f"{name} must be {wish}.", details={"field": name})


def text(body: Body, name: str, *, longest: int = 200) -> str:
    """Return a text that must be there, without control characters."""
    value = body.get(name)
    if not isinstance(value, str) or not value or len(value) > longest or _CONTROL.search(value):
        raise bad_field(name, f"a text of 1 to {longest} characters")
    return value


def optional_text(body: Body, name: str, *, longest: int = 200) -> str | None:
    """Return a text, or None where it is absent or null."""
    return None if body.get(name) is None else text(body, name, longest=longest)


def free_text(body: Body, name: str, *, longest: int = 2000) -> str:
    """Return a text that may be absent, long and of several lines."""
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > longest:
        raise bad_field(name, f"a text of at most {longest} characters")
    return value


def name_of(body: Body, name: str) -> str:
    """Return a name made of letters, digits and ``. _ : @ -``."""
    value = body.get(name)
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise bad_field(name, "1 to 100 letters, digits or . _ : @ - (first a letter or digit)")
    return value


def token(body: Body) -> str:
    """Return the lease token."""
    value = body.get("token")
    if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
        raise bad_field("token", "32 lower-case hexadecimal digits, made afresh by the worker for each claim")
    return value


def sha256(body: Body, name: str) -> str:
    """Return a SHA-256 in hexadecimal digits."""
    value = body.get(name)
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise bad_field(name, "a SHA-256 as 64 lower-case hexadecimal digits")
    return value


def whole(body: Body, name: str, *, low: int, high: int, default: int | None = None) -> int:
    """Return a whole number within its limits."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad_field(name, f"a whole number from {low} to {high}")
    return value


def number(body: Body, name: str, *, low: float, high: float, default: float) -> float:
    """Return a number within its limits."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise bad_field(name, f"a number from {low:g} to {high:g}")
    return float(value)


def flag(body: Body, name: str, *, default: bool = False) -> bool:
    """Return a truth value."""
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise bad_field(name, "true or false")
    return value


def members(body: Body, name: str) -> dict[str, Any]:
    """Return an object that may be absent."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_field(name, "a JSON object")
    return value


def objects(body: Body, name: str, *, most: int) -> list[dict[str, Any]]:
    """Return a list of objects that may be absent."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most or not all(isinstance(item, dict) for item in value):
        raise bad_field(name, f"a list of at most {most} JSON objects")
    return value


def known_only(body: Body, names: set[str]) -> None:
    """Refuse a member that no route knows, so that a typo is not passed over."""
    for name in body:
        if name not in names:
            raise ApiError(
                400,
                "bad_request",
                f"{name[:100]!r} is not known here; known are {', '.join(sorted(names))}.",
                details={"field": name[:100]},
            )
