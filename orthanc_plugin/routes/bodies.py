# SPDX-License-Identifier: AGPL-3.0-or-later
"""What clients send, as the values that the uses of the queue take; every mistake named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orthanc_plugin import API_VERSION, fields
from orthanc_plugin.errors import ApiError
from orthanc_plugin.fleet.counters import counters_of
from orthanc_plugin.http import Request
from orthanc_plugin.queue.held_leases import Live
from orthanc_plugin.queue.values import Failure, Model, token_digest
from orthanc_plugin.service.claim import Claim
from orthanc_plugin.service.complete import Named, Result
from orthanc_plugin.service.report import Heartbeat, LeaseProof
from orthanc_plugin.service.submit import Wish, parameters_text
from orthanc_plugin.service.targets import MAX_SERIES_OF_COHORT, Cohort, Target
from orthanc_plugin.service.tokenless import Older

MAX_BODY = 64 * 1024
"""Bytes; but of a completion, which has a limit of its own."""
_MAX_WAIT_S = 30.0
_MAX_TOP_PATCHES = 100
_MAX_TAGS = 20
_MAX_MESSAGE = 500


def wait_of_query(request: Request) -> float:
    """Return the seconds that a GET may be held open, bounded.

    Raises
    ------
    ApiError
        400 naming the parameter.
    """
    text = request.query.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise fields.bad_field("wait", "a number of seconds from 0 to 3600")
    return min(seconds, _MAX_WAIT_S)


def target_of(body: Mapping[str, Any]) -> Target:
    """Return what a submit points at.

    Raises
    ------
    ApiError
        400 naming the member.
    """
    names = ("series", "study", "instance", "series_instance_uid", "cohort")
    if sum(body.get(name) is not None for name in names) != 1:
        raise ApiError(
            400, "bad_request", "Give exactly one of series, study, instance, series_instance_uid, cohort."
        )
    return Target(
        series=fields.optional_text(body, "series", longest=64),
        study=fields.optional_text(body, "study", longest=64),
        instance=fields.optional_text(body, "instance", longest=64),
        series_instance_uid=fields.optional_text(body, "series_instance_uid", longest=64),
        study_instance_uid=fields.optional_text(body, "study_instance_uid", longest=64),
        cohort=None if body.get("cohort") is None else _cohort(fields.members(body, "cohort")),
    )


def _cohort(cohort: Mapping[str, Any]) -> Cohort:
    fields.known_only(cohort, {"series", "find"})
    series, find = cohort.get("series"), cohort.get("find")
    if (series is None) == (find is None):
        raise fields.bad_field("cohort", "an object with either series or find")
    if find is None:
        if not isinstance(series, list) or not 1 <= len(series) <= MAX_SERIES_OF_COHORT:
            raise fields.bad_field("cohort.series", f"a list of 1 to {MAX_SERIES_OF_COHORT} Orthanc ids")
        return Cohort(series=tuple(fields.text({"series": item}, "series", longest=64) for item in series))
    if not isinstance(find, dict) or not 1 <= len(find) <= _MAX_TAGS:
        raise fields.bad_field("cohort.find", f"an object of 1 to {_MAX_TAGS} keywords of DICOM tags")
    for name in find:
        if not _is_tag(name):
            wanted = f"keywords of DICOM tags such as StudyDate, which {name[:64]!r} is not"
            raise fields.bad_field("cohort.find", wanted)
    return Cohort(find=tuple((name, fields.text(find, name, longest=1000)) for name in find))


def _is_tag(name: str) -> bool:
    return re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", name) is not None


def wish_of(body: Mapping[str, Any]) -> Wish:
    """Return what a submit wants of a slide.

    Raises
    ------
    ApiError
        400 naming the member; 413 where the parameters are too long.
    """
    return Wish(
        model=fields.optional_text(body, "model", longest=100),
        model_version=fields.optional_text(body, "model_version", longest=100),
        parameters=parameters_text(fields.members(body, "parameters")),
        priority=fields.whole(body, "priority", low=-100, high=100, default=0),
        force=fields.flag(body, "force"),
    )


def claim_of(body: Mapping[str, Any], user: str) -> Claim:
    """Return what a worker offers.

    Raises
    ------
    ApiError
        400 naming the member; 409 ``upgrade_worker`` where it speaks another version of the interface.
    """
    api = fields.whole(body, "api", low=0, high=1_000_000, default=API_VERSION)
    if api != API_VERSION:
        raise ApiError(
            409,
            "upgrade_worker",
            f"This plugin speaks version {API_VERSION} of the interface and the worker version {api}. "
            "Install the matching worker.",
        )
    return Claim(
        worker_id=fields.name_of(body, "worker_id"),
        user=user,
        token_sha256=token_digest(fields.token(body)),
        models=tuple(_model(item) for item in fields.objects(body, "models", most=100)),
        default_model=fields.optional_text(body, "default_model", longest=100),
        software=fields.optional_text(body, "software") or "",
        device=fields.optional_text(body, "device") or "",
        wait_s=min(fields.number(body, "wait", low=0, high=3600, default=0), _MAX_WAIT_S),
        prefetch=fields.flag(body, "prefetch"),
        leaving=fields.flag(body, "leaving"),
        process=fields.optional_text(body, "process", longest=64),
        counters=counters_of(body),
    )


def _model(item: Mapping[str, Any]) -> Model:
    return Model(
        name=fields.text(item, "name", longest=100),
        version=fields.optional_text(item, "version", longest=100),
        sha256=None if item.get("sha256") is None else fields.sha256(item, "sha256"),
    )


def proof_of(body: Mapping[str, Any]) -> LeaseProof:
    """Return the lease that a body speaks under.

    Raises
    ------
    ApiError
        400 naming the member.
    """
    return LeaseProof(
        worker_id=fields.name_of(body, "worker_id"),
        token_sha256=token_digest(fields.token(body)),
        fence=fields.whole(body, "fence", low=1, high=2**31),
    )


def proof_of_headers(headers: Mapping[str, str]) -> LeaseProof:
    """Return the lease that an artifact comes under; Orthanc hides the query of a PUT.

    Raises
    ------
    ApiError
        400 naming the header.
    """
    fence = headers.get("x-pathology-fence", "")
    if not fence.isascii() or not fence.isdigit() or len(fence) > 10:
        raise fields.bad_field("X-Pathology-Fence", "the fence of the lease")
    token = fields.token({"token": headers.get("x-pathology-token")})
    return LeaseProof(worker_id="", token_sha256=token_digest(token), fence=int(fence))


def heartbeat_of(body: Mapping[str, Any]) -> Heartbeat:
    """Return what a worker says of its work and of itself.

    Raises
    ------
    ApiError
        400 naming the member.
    """
    progress = None
    if body.get("progress") is not None:
        progress = fields.number(body, "progress", low=0, high=1, default=0)
    live = Live(
        stage=fields.optional_text(body, "stage", longest=50),
        progress=progress,
        detail=fields.optional_text(body, "detail"),
    )
    return Heartbeat(
        live=live,
        prefetch=fields.flag(body, "prefetch"),
        counters=counters_of(body),
    )


def older_of(body: Mapping[str, Any], user: str) -> Older:
    """Return who an older worker is: the name that it sends, else its user.

    Raises
    ------
    ApiError
        400 where the name is bad.
    """
    is_named = body.get("worker_id") is not None
    return Older(fields.name_of(body, "worker_id") if is_named else user, user, is_named)


def older_outcome_of(body: Mapping[str, Any]) -> Mapping[str, Any] | Failure:
    """Return an older worker's result, or why there is none (a text; a person decides whether to try again).

    Raises
    ------
    ApiError
        400 naming the member.
    """
    if ("result" in body) == ("error" in body):
        raise ApiError(400, "bad_request", "Give either result or error.")
    if "result" in body:
        return _result(fields.members(body, "result"))
    message = fields.free_text(body, "error")[:_MAX_MESSAGE]
    return Failure("worker_failed", message or "The worker gave no reason.", retryable=False)


def outcome_of(body: Mapping[str, Any]) -> Result | Failure:
    """Return a completion's result, or why there is none.

    Raises
    ------
    ApiError
        400 naming the member.
    """
    if ("result" in body) == ("error" in body):
        raise ApiError(400, "bad_request", "Give either result (with fingerprint and artifacts) or error.")
    if "error" in body:
        error = fields.members(body, "error")
        return Failure(
            code=fields.name_of(error, "code"),
            message=fields.free_text(error, "message")[:_MAX_MESSAGE],
            retryable=fields.flag(error, "retryable"),
        )
    named = tuple(
        Named(
            name=fields.text(item, "name"),
            size=fields.whole(item, "size", low=0, high=2**31),
            sha256=fields.sha256(item, "sha256"),
        )
        for item in fields.objects(body, "artifacts", most=200)
    )
    if len({item.name for item in named}) < len(named):
        raise fields.bad_field("artifacts", "a list that names each file once")
    return Result(fields.sha256(body, "fingerprint"), named, _result(fields.members(body, "result")))


def _result(result: Mapping[str, Any]) -> Mapping[str, Any]:
    if not result:
        raise fields.bad_field("result", "a JSON object with the prediction")
    fields.optional_text(result, "predicted_class")
    probabilities = fields.members(result, "probabilities")
    for name in probabilities:
        fields.number(probabilities, name, low=0, high=1, default=0)
    fields.objects(result, "top_patches", most=_MAX_TOP_PATCHES)
    return result
