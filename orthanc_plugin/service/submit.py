# SPDX-License-Identifier: AGPL-3.0-or-later
"""A person asks for an analysis: one request is recorded for each slide that is meant, once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.queue import values
from orthanc_plugin.queue.lifecycle import counts_as_repeat, covers, same_wish, submitted
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.transition import wrong_state
from orthanc_plugin.queue.values import AnalysisRequest, canonical
from orthanc_plugin.settings import Settings
from orthanc_plugin.slides.eligibility import check_eligible, fingerprint
from orthanc_plugin.storage.store import with_request

from .announce import announced, has_one_file
from .changes import look_after, note_arrival
from .core import Core, unavailable
from .targets import Target, resolve
from .transact import follow_change

_MAX_PARAMETERS = 4096
_MOST_OPEN = 20
_MOST_UNREADABLE = 3
"""Slides of a study or cohort; beyond that it is Orthanc that fails, and no slide of its."""


@dataclass(frozen=True)
class Wish:
    """What is wanted of a slide; `parameters` is canonical JSON text.

    With `once` any earlier request for the same content and model counts, however it ended: a rule does not
    insist where a person has cancelled or withdrawn.
    """

    model: str | None = None
    model_version: str | None = None
    parameters: str = "{}"
    priority: int = 0
    force: bool = False
    once: bool = False


@dataclass(frozen=True)
class _New:
    """A request that no earlier one stands for, not written yet, and how the slide is stored."""

    request: AnalysisRequest
    has_one_file: bool


@dataclass(frozen=True)
class Submitted:
    """A request that stands for the wish, and whether it is new."""

    request: AnalysisRequest
    created: bool


@dataclass(frozen=True)
class Skipped:
    """A series of a study that was not submitted, and why."""

    series: str
    error: ApiError


def parameters_text(parameters: dict[str, Any]) -> str:
    """Return parameters as canonical text.

    Raises
    ------
    ApiError
        413 where they are longer than 4 KB.
    """
    text = canonical(parameters)
    if len(text.encode("utf-8")) > _MAX_PARAMETERS:
        raise ApiError(413, "body_too_large", f"parameters may have at most {_MAX_PARAMETERS} bytes.")
    return text


def submit(core: Core, target: Target, wish: Wish, user: str) -> tuple[list[Submitted], list[Skipped]]:
    """Record what a person wants of one slide, or of every slide of a study or a cohort.

    Raises
    ------
    ApiError
        404 unknown resource, 409 ambiguous UIDs, 422 nothing that can be analysed or an unknown model,
        413 too many requests on the series, 503 where Orthanc fails.
    """
    wish = _permitted(core.settings, wish)
    try:
        series_ids = resolve(core.gateway, target)
        if not target.is_many:
            found = _earlier_or_new(core, series_ids[0], wish, user)
            if isinstance(found, Submitted):
                return [found], []
            with _announced(core, [found]):
                return [_record(core, found.request, wish)], []
        return _submit_all(core, series_ids, wish, user)
    except StorageError as error:
        raise unavailable(error) from error


def _permitted(settings: Settings, wish: Wish) -> Wish:
    """Return the wish, with the site's default model where it names none; refuse what is not permitted."""
    if settings.models is not None and wish.model is None:
        default = next((model for model in settings.models if model.enabled and model.is_default), None)
        return wish if default is None else replace(wish, model=default.name)
    check_permitted(settings, wish.model, wish.model_version)
    return wish


def check_permitted(settings: Settings, name: str | None, version: str | None) -> None:
    """Refuse a model that is named and that the site does not permit.

    Raises
    ------
    ApiError
        422 `unknown_model`.
    """
    if settings.models is None or name is None:
        return
    usable = [model for model in settings.models if model.enabled]
    if not any(
        model.name == name and (version is None or model.version in {None, version}) for model in usable
    ):
        names = ", ".join(sorted({model.name for model in usable})) or "none"
        raise ApiError(422, "unknown_model", f"This site does not permit that model; it permits: {names}.")


def check_still_wanted(core: Core, request: AnalysisRequest) -> None:
    """Refuse to take up a request that has ended where another one stands for the same analysis by now.

    Raises
    ------
    ApiError
        409 `wrong_state`.
    """
    state = core.store.load(request.series)
    others = [old for old in _same(core, state, request, once=False) if old.request_id != request.request_id]
    if others:
        remedy = f"Request {others[-1].request_id} stands for the same analysis."
        raise wrong_state(request, "retried", remedy)


def _submit_all(
    core: Core, series_ids: tuple[str, ...], wish: Wish, user: str
) -> tuple[list[Submitted], list[Skipped]]:
    wanted: list[Submitted | _New] = []
    done: list[Submitted] = []
    skipped: list[Skipped] = []
    for series_id in series_ids:
        with _skipping(skipped, series_id, most_unavailable=_MOST_UNREADABLE):
            wanted.append(_earlier_or_new(core, series_id, wish, user))
    # One write for all: the list is as long as what waits, and each of them finds itself listed.
    with _announced(core, [found for found in wanted if isinstance(found, _New)]):
        for found in wanted:
            with _skipping(skipped, found.request.series):
                done.append(_record(core, found.request, wish) if isinstance(found, _New) else found)
    if not done:
        for item in skipped:
            if item.error.status == 503:
                raise item.error
        raise ApiError(
            422,
            "nothing_to_analyse",
            "None of these series can be analysed; `skipped` says why for each.",
            details={"skipped": [skipped_member(item) for item in skipped]},
        )
    return done, skipped


@contextmanager
def _skipping(skipped: list[Skipped], series_id: str, *, most_unavailable: int = 0) -> Iterator[None]:
    """Note why a series cannot be submitted; the others still can, unless it is Orthanc that fails.

    Where it has lost a file of a slide it fails as well, at each try: so many of those are passed over.
    """
    try:
        yield
    except (ApiError, StorageError) as error:
        refusal = error if isinstance(error, ApiError) else unavailable(error)
        if refusal.status == 503 and sum(item.error.status == 503 for item in skipped) >= most_unavailable:
            raise
        skipped.append(Skipped(series_id, refusal))


def skipped_member(item: Skipped) -> dict[str, str]:
    """Return a skipped series as the answer shows it."""
    return {"series": item.series, "code": item.error.code, "error": item.error.message}


def _announced(core: Core, found: list[_New]) -> AbstractContextManager[None]:
    requests = [submitted(new.request) for new in found]
    copied = [request for request, new in zip(requests, found) if new.has_one_file]
    return announced(core, requests, copied)


def _record(core: Core, request: AnalysisRequest, wish: Wish) -> Submitted:
    """Write a new request that was announced, unless an earlier one stands for it by now.

    It counts as created now, not when it was checked: in a large cohort that may be a minute ago, and whoever
    follows the list by time would miss it.
    """
    now = core.clock.now()
    request = submitted(replace(request, created=now, updated=now))
    outcome: list[Submitted] = []

    def on_state(state: SeriesState) -> SeriesState:
        same = _same(core, state, request, once=wish.once)
        changed, submission = _add(state, request, same, force=wish.force)
        outcome.append(submission)
        return changed

    core.listed.add([request.series])  # of a large cohort it may have been taken off again
    try:
        core.store.transact(request.series, on_state, must_fit=True)
    finally:
        core.copies.release([request.request_id])
    submission = outcome[-1]
    if submission.created:
        follow_change(core, None, submission.request)
    return submission


def _same(core: Core, state: SeriesState, request: AnalysisRequest, *, once: bool) -> list[AnalysisRequest]:
    """Return the earlier requests that stand for a new one."""
    archived = core.index.archived(state) if state.folded else []
    earlier = (*archived, *state.requests)
    if once:
        return [old for old in earlier if _same_model_and_content(old, request)]
    return [old for old in earlier if same_wish(old, request) and counts_as_repeat(old)]


def _same_model_and_content(old: AnalysisRequest, request: AnalysisRequest) -> bool:
    return request.model in {old.model, old.bound_model.name} and covers(old, request.fingerprint)


def _add(
    state: SeriesState, request: AnalysisRequest, same: list[AnalysisRequest], *, force: bool
) -> tuple[SeriesState, Submitted]:
    if same and not force:
        return state, Submitted(same[-1], created=False)
    if sum(old.is_open for old in state.requests) >= _MOST_OPEN:
        raise ApiError(
            413,
            "too_many_requests_on_series",
            f"This series has {_MOST_OPEN} open requests already. Wait, or cancel some.",
        )
    if same:
        request = replace(request, predecessor=same[-1].request_id)
    return with_request(state, request), Submitted(request, created=True)


def _earlier_or_new(core: Core, series_id: str, wish: Wish, user: str) -> Submitted | _New:
    """Return the request that stands for a wish already, or a new one; nothing is written."""
    look_after(core, series_id)
    new = _new_request(core, series_id, wish, user)
    same = _same(core, core.store.load(series_id), new.request, once=wish.once)
    return Submitted(same[-1], created=False) if same and not wish.force else new


def _new_request(core: Core, series_id: str, wish: Wish, user: str) -> _New:
    series = core.gateway.series(series_id)
    if series is None:
        raise ApiError(404, "unknown_resource", "Orthanc has no such series (any more).")
    instances = core.gateway.instances(series_id)
    check_eligible(series, instances, core.index.is_output(series.series_instance_uid))
    note_arrival(core, series)
    now = core.clock.now()
    request = AnalysisRequest(
        request_id=uuid.uuid4().hex,
        series=series_id,
        study=series.study_id,
        series_instance_uid=series.series_instance_uid,
        study_instance_uid=series.study_instance_uid,
        model=wish.model,
        model_version=wish.model_version,
        parameters=wish.parameters,
        priority=wish.priority,
        fingerprint=fingerprint(instances),
        created=now,
        created_by=user,
        updated=now,
        max_attempts=core.settings.max_attempts,
        status=values.PENDING,
    )
    return _New(request, has_one_file(series))
