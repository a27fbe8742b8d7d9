# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which requests a list is to show, as the query of a GET asks for them; every mistake named."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from orthanc_plugin.fields import bad_field
from orthanc_plugin.http import parse_json
from orthanc_plugin.queue import values
from orthanc_plugin.queue.places import Place
from orthanc_plugin.queue.values import AnalysisRequest

MAX_LIMIT = 1000
_DEFAULT_LIMIT = 100
_PARAMETERS = {"status", "series", "study", "model", "since", "limit", "cursor", "order", "full"}


@dataclass(frozen=True)
class Filter:
    """Which requests a list shows; None leaves a member out of account.

    `since` is the earliest creation (seconds since the epoch), `passed` the last request of the page before.
    """

    statuses: frozenset[str] | None
    series: str | None
    study: str | None
    model: str | None
    since: float | None
    limit: int
    passed: Place | None
    newest_first: bool
    full: bool


def parse_filter(query: Mapping[str, str]) -> Filter:
    """Return the filter that a query asks for.

    Raises
    ------
    ApiError
        400 naming the parameter that is unknown or has a bad value.
    """
    for name in query:
        if name not in _PARAMETERS:
            raise bad_field(name[:100], f"one of the parameters {', '.join(sorted(_PARAMETERS))}")
    return Filter(
        statuses=_statuses(query.get("status")),
        series=query.get("series"),
        study=query.get("study"),
        model=query.get("model"),
        since=_since(query.get("since")),
        limit=_limit(query.get("limit")),
        passed=_passed(query.get("cursor")),
        newest_first=_newest_first(query.get("order", "oldest")),
        full=_full(query.get("full", "0")),
    )


def _statuses(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    wanted = frozenset(text.split(","))
    if not wanted <= set(values.STATUSES):
        raise bad_field("status", f"one or several (a,b) of {', '.join(values.STATUSES)}")
    return wanted


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise bad_field("since", "a time such as 2026-11-22T16:54:03.123Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_LIMIT:
        raise bad_field("limit", f"a whole number from 1 to {MAX_LIMIT}")
    return int(text[:9])


def _full(text: str) -> bool:
    if text not in {"0", "1"}:
        raise bad_field("full", "0 or 1")
    return text == "1"


def _newest_first(text: str) -> bool:
    if text not in {"oldest", "newest"}:
        raise bad_field("order", "oldest or newest, whichever is to come first")
    return text == "newest"


def _passed(text: str | None) -> Place | None:
    if text is None:
        return None
    try:
        created, request_id = parse_json(base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii"))
        place = float(created), str(request_id)
    except (ValueError, TypeError, OverflowError, binascii.Error):
        place = math.nan, ""
    if not math.isfinite(place[0]):
        raise bad_field("cursor", "the `next` of an earlier answer")
    return place


def cursor_after(request: AnalysisRequest) -> str:
    """Return the `cursor` that leads past a request."""
    text = json.dumps([request.created, request.request_id])
    return base64.urlsafe_b64encode(text.encode("ascii")).decode("ascii")
