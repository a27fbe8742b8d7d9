# SPDX-License-Identifier: Apache-2.0
"""Submitting an analysis as a person, and following it to its end."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.backoff import Backoff
from worker.client import PluginClient
from worker.contract import OPEN_STATES
from worker.errors import BusyError, ForeignAnswerError, RefusedError, SubmitError, UnreachableError
from worker.progress import ProgressView
from worker.stages import Position, position_in

_FOLLOW_S = 25.0
_ID_DIGITS = 32
_LOOKED_THROUGH = 1000
"""So many of the latest requests are searched for the beginning of an id: one page of the list."""
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class Target:
    """What is to be analysed: one of Orthanc's ids, DICOM UIDs, or a cohort (see `series_of`, `find_of`)."""

    series: str | None = None
    study: str | None = None
    instance: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    cohort: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class Submission:
    """Body of ``POST /pathology/analyze``."""

    target: Target
    model: str | None = None
    model_version: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    priority: int | None = None
    force: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the body; what is not set is left out, so that the server's defaults hold."""
        body: dict[str, Any] = self.target.as_json()
        optional = {
            "model": self.model,
            "model_version": self.model_version,
            "parameters": dict(self.parameters) or None,
            "priority": self.priority,
            "force": self.force or None,
        }
        body.update({name: value for name, value in optional.items() if value is not None})
        return body


def series_of(text: str) -> dict[str, list[str]]:
    """Return the cohort of the series whose Orthanc ids a text names, one a line; ``#`` begins a remark.

    Raises
    ------
    SubmitError
        If it names none.
    """
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    series = [line for line in lines if line]
    if not series:
        raise SubmitError("The cohort is empty: give Orthanc ids of series, one a line.")
    return {"series": series}


def find_of(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the cohort of the series whose DICOM tags have the values given as ``Keyword=value``.

    Raises
    ------
    SubmitError
        If a text is no such pair.
    """
    query: dict[str, str] = {}
    for text in texts:
        keyword, equals, value = text.partition("=")
        if not equals or not keyword or not value:
            raise SubmitError(f"--find {text}: give a DICOM keyword and a value, as in StudyDate=20260101-.")
        query[keyword] = value
    return {"find": query}


def parse_parameters(texts: Sequence[str]) -> dict[str, Any]:
    """Read parameters given as one JSON object or as ``name=value``; values are JSON where they can be.

    Raises
    ------
    SubmitError
        If a text is neither.
    """
    parameters: dict[str, Any] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            parameters.update(_json_object(text))
            continue
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SubmitError(f"--parameters {text}: give a JSON object, or name=value.")
        if _DECIMAL_COMMA.fullmatch(value):
            point = value.replace(",", ".")
            raise SubmitError(f"--parameters {text}: write the number with a point, {name}={point}.")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SubmitError(f"--parameters is no JSON object: {error}.") from error
    if not isinstance(value, dict):
        raise SubmitError("--parameters is no JSON object.")
    return value


def submit(client: PluginClient, submission: Submission) -> dict[str, Any]:
    """Submit, and return the server's answer.

    Raises
    ------
    SubmitError
        If Orthanc has no such resource, or nothing in it can be analysed; the sentences name what and why.
    ServerError
        If it was refused otherwise, or no usable answer came.
    """
    try:
        return client.submit(submission.as_json())
    except RefusedError as error:
        if error.code == "unknown_resource":
            raise SubmitError(_not_there(submission.target)) from error
        if skipped := skipped_lines(error.details):
            raise SubmitError("\n".join(["None of these series can be analysed.", *skipped])) from error
        raise


def _not_there(target: Target) -> str:
    for kind in ("series", "study", "instance"):
        if named := getattr(target, kind):
            where = "copy it from Orthanc Explorer's address, behind uuid="
            return f"Orthanc has no {kind} with the id {named}: {where}."
    if target.cohort is not None:
        return "Orthanc has no such series: check the keywords and their values."
    return f"Orthanc has no series with the SeriesInstanceUID {target.series_instance_uid}: check the UID."


def whole_id(client: PluginClient, text: str) -> str:
    """Return the id of the request that a person means by its beginning, such as the log shows.

    Raises
    ------
    SubmitError
        If none of the latest requests begins so, or several do.
    """
    if len(text) >= _ID_DIGITS:
        return text
    latest = client.list_requests({"limit": str(_LOOKED_THROUGH), "order": "newest"}).get("requests", [])
    found = [str(one["request_id"]) for one in latest if str(one["request_id"]).startswith(text)]
    if not found:
        raise SubmitError(
            f"None of the latest requests has an id that begins with {text}: give the whole id."
        )
    if len(found) > 1:
        raise SubmitError(f"Several requests begin with {text}, give more of it: {', '.join(found[:5])}.")
    return found[0]


def skipped_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return a line for each series that a study or a cohort has and that cannot be analysed."""
    skipped = answer.get("skipped") or []
    return [f"Series {item.get('series')} was skipped: {item.get('error')}" for item in skipped]


def submitted_requests(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the requests of an answer to a submission: several for a study, one otherwise."""
    several = answer.get("requests")
    return list(several) if several else [answer["request"]]


def follow(
    client: PluginClient,
    request: Mapping[str, Any],
    view: ProgressView,
    *,
    timeout_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Follow a request until it ends, held by the server between changes.

    Parameters
    ----------
    client
        Acts as the person.
    request
        The request as the submission answered it.
    view
        Shows the progress.
    timeout_s
        Seconds to follow at most, or None.
    clock, sleep
        Monotonic seconds, and waiting.

    Raises
    ------
    SubmitError
        If it has not ended in time.
    """
    request_id, current = str(request["request_id"]), dict(request)
    give_up_at = None if timeout_s is None else clock() + timeout_s
    backoff, failures = Backoff(base_s=1.0, cap_s=15.0), 0
    while current["status"] in OPEN_STATES:
        view.show(position_of(current))
        if give_up_at is not None and clock() > give_up_at:
            raise SubmitError(
                f"Request {request_id} is still {current['status']} and goes on: "
                f"see `pathology-worker status {request_id}`."
            )
        asked_at = clock()
        hold_s = _FOLLOW_S if give_up_at is None else max(0.0, min(_FOLLOW_S, give_up_at - asked_at))
        try:
            fresh = client.get_request(request_id, wait_s=hold_s, version=current.get("version"))
        except (UnreachableError, ForeignAnswerError, BusyError):
            view.show(Position("waiting for Orthanc to answer again", _progress(current)))
            sleep(backoff.delay(failures))
            failures += 1
            continue
        failures = 0
        if fresh.get("version") == current.get("version") and clock() - asked_at < 1.0:
            # All the server's places for waiting are taken: it answers at once instead.
            sleep(backoff.delay(1, 0.5))
        current = fresh
    # The answer of a submission that repeats a finished one may lack the result.
    return current if "result" in current else client.get_request(request_id)


def position_of(request: Mapping[str, Any]) -> Position:
    """Return how far a request is, as the server tells."""
    match str(request["status"]):
        case "pending":
            return Position(waiting_words(request))
        case "publishing":
            return position_in("publish", 1.0)
    return Position(str(request.get("stage") or "open"), _progress(request), str(request.get("detail") or ""))


def waiting_words(request: Mapping[str, Any]) -> str:
    """Return what a pending request waits for."""
    if request.get("waits_for") == "slide":
        return "waiting for the rest of the slide"
    if request.get("waits_for") == "retry":
        return "waiting for the next attempt"
    return "waiting for a worker"


def _progress(request: Mapping[str, Any]) -> float:
    value = request.get("progress")
    return float(value) if isinstance(value, int | float) else 0.0
