# SPDX-License-Identifier: AGPL-3.0-or-later
"""The values a request is made of. They never change: a transition returns a new one (see `lifecycle`).

Times are seconds since the epoch, UTC. Free-form JSON (parameters, summary) is kept as canonical text, so
that every value here can be compared and shared between threads.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from json.encoder import encode_basestring
from operator import attrgetter
from typing import Any, TypeVar

PENDING = "pending"
PROCESSING = "processing"
PUBLISHING = "publishing"
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"
WITHDRAWN = "withdrawn"

OPEN = frozenset({PENDING, PROCESSING, PUBLISHING})
STATUSES = (PENDING, PROCESSING, PUBLISHING, COMPLETED, FAILED, CANCELLED, WITHDRAWN)

SOURCE_REPLACED = "source_replaced"
SLIDE_CHANGED = "slide_changed"
UNAPPROVED_MODEL = "unapproved_model"
DICOM_RESULTS_REFUSED = "dicom_results_refused"
RESULT_UNREADABLE = "result_unreadable"
FLAGS = (UNAPPROVED_MODEL, SOURCE_REPLACED, SLIDE_CHANGED, DICOM_RESULTS_REFUSED, RESULT_UNREADABLE)

# What became of a grant, which may also be `FAILED` or `SOURCE_REPLACED`.
EXPIRED = "expired"
UNCONFIRMED = "unconfirmed"
HANDED_BACK = "handed_back"
SERIES_CHANGED = "series_changed"
DELIVERED = "delivered"
ENDED_BY_PERSON = "ended_by_person"
TAKEN_OVER = "taken_over"
OUTCOMES = (
    DELIVERED,
    FAILED,
    EXPIRED,
    UNCONFIRMED,
    HANDED_BACK,
    TAKEN_OVER,
    SERIES_CHANGED,
    SOURCE_REPLACED,
    ENDED_BY_PERSON,
)


_TEXT = "_json_text"


class Stored:
    """A value that is stored as a JSON object; members that have their default are left out."""

    @property
    def json_text(self) -> str:
        """The value as it is stored; kept, since a transition changes few of the values within a state.

        Kept by hand: `functools.cached_property` takes a lock until Python 3.12.
        """
        members = self.__dict__
        kept: str | None = members.get(_TEXT)
        if kept is None:
            texts = [
                key + _TEXT_OF.get(type(member), _encode)(member)
                for name, key, default in _MEMBERS[type(self)]
                if (member := members[name]) != default
            ]
            kept = members[_TEXT] = "{" + ",".join(texts) + "}"
        return kept


Value = TypeVar("Value")


def replaced(value: Value, **members: Any) -> Value:
    """Return a frozen dataclass with some members changed; `dataclasses.replace` takes three times as long.

    That one passes each of a request's thirty members through ``__init__`` and its frozen setter.

    Raises
    ------
    TypeError
        Where it has no such member.
    """
    kind = type(value)
    other = object.__new__(kind)
    held = other.__dict__
    held.update(value.__dict__)
    held.pop(_TEXT, None)
    known = len(held)
    held.update(members)
    if len(held) != known:
        raise TypeError(f"{kind.__name__} has no {', '.join(members)}")
    return other


@dataclass(frozen=True)
class Model(Stored):
    """A model as a worker offers it."""

    name: str
    version: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Failure(Stored):
    """Why an attempt brought no result; `retryable` means that another attempt may."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class Artifact(Stored):
    """Bytes of a result, kept at the series under a number; `size` in bytes."""

    name: str
    number: int
    size: int
    sha256: str
    content_type: str


@dataclass(frozen=True)
class Output(Stored):
    """A DICOM series that belongs to a result; `series` is Orthanc's id once it is stored, else ``""``."""

    modality: str
    series_instance_uid: str
    sop_instance_uid: str
    series: str = ""


@dataclass(frozen=True)
class Event(Stored):
    """One line of a request's history."""

    at: float
    event: str
    by: str
    detail: str = ""


@dataclass(frozen=True)
class Grant(Stored):
    """One lease that was given: to whom, on what, and what became of it.

    `outcome` is None while the lease may still bring a result, and ``failed`` where its worker has brought an
    `error`. Only the token's SHA-256 is kept; `body_sha256` is that of the completion that ended this grant.
    With `prefetch` its worker is still at another slide: an idle worker may take the request over. With
    `tokenless` it is an older one, which has no token and sends no heartbeats.
    """

    fence: int
    worker_id: str
    user: str
    token_sha256: str
    model: Model
    fingerprint: str
    granted: float
    confirmed: bool = False
    prefetch: bool = False
    tokenless: bool = False
    outcome: str | None = None
    body_sha256: str | None = None
    error: Failure | None = None


@dataclass(frozen=True)
class Review(Stored):
    """What a person thinks of a result."""

    verdict: str
    comment: str
    by: str
    at: float


@dataclass(frozen=True)
class AnalysisRequest(Stored):
    """One request for the analysis of one series.

    Attributes
    ----------
    model, model_version
        What the person asked for; what ran stands in the last of `grants`.
    fence
        Number of grants so far; the highest one is the only one that may bring a result.
    attempts
        Number of grants that a heartbeat or a completion confirmed, or that a restart found.
    not_before
        Earliest time of the next grant, or None.
    series_changes
        How often the request was given again because the slide had changed.
    artifacts
        Attachments reserved under the current fence; those of the result once completed.
    record
        The number under which the full result lies (see `service.record`).
    summary
        The few members of the result that lists show, as JSON text.
    """

    request_id: str
    series: str
    study: str
    series_instance_uid: str
    study_instance_uid: str
    model: str | None
    model_version: str | None
    parameters: str
    priority: int
    fingerprint: str
    created: float
    created_by: str
    updated: float
    max_attempts: int
    status: str = PENDING
    fence: int = 0
    attempts: int = 0
    not_before: float | None = None
    cancel_requested: bool = False
    series_changes: int = 0
    error: Failure | None = None
    grants: tuple[Grant, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    record: Artifact | None = None
    outputs: tuple[Output, ...] = ()
    summary: str | None = None
    review: Review | None = None
    predecessor: str | None = None
    flags: tuple[str, ...] = ()
    history: tuple[Event, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether work is still to be done."""
        return self.status in OPEN

    @property
    def grant(self) -> Grant | None:
        """The latest grant, or None before the first."""
        return self.grants[-1] if self.grants else None

    @property
    def bound_model(self) -> Model:
        """The model that runs or ran, else the one asked for (`name` is ``""`` where none was)."""
        if self.grants and self.status not in {PENDING, CANCELLED}:
            return self.grants[-1].model
        return Model(self.model or "", self.model_version)


KINDS = (AnalysisRequest, Artifact, Event, Failure, Grant, Model, Output, Review)
# Name, name as a JSON key, default.
_MEMBERS: Mapping[type, tuple[tuple[str, str, Any], ...]] = {
    kind: tuple((field.name, f'"{field.name}":', field.default) for field in fields(kind)) for kind in KINDS
}


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
# What is made canonical was parsed, or put together from what was: there is no circle to look for.
_encode_sorted = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False, sort_keys=True
).encode


def _texts(items: tuple[Any, ...]) -> str:
    return "[" + ",".join([_TEXT_OF.get(type(item), _encode)(item) for item in items]) + "]"


def _finite(number: float) -> str:
    return repr(number) if math.isfinite(number) else _encode(number)


_TEXT_OF: Mapping[type, Callable[[Any], str]] = {
    str: encode_basestring,
    bool: lambda value: "true" if value else "false",
    int: repr,
    float: _finite,
    tuple: _texts,
    type(None): lambda _: "null",
    **dict.fromkeys(_MEMBERS, attrgetter("json_text")),
}
"""What `_encode` returns, faster for what a request is made of: every transition writes it."""


def canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values."""
    return _encode_sorted(value)


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def token_digest(token: str) -> str:
    """Return what is kept of a lease token."""
    return sha256_hex(token.encode("utf-8"))
