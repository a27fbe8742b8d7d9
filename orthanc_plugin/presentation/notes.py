# SPDX-License-Identifier: AGPL-3.0-or-later
"""Why a request waits: whether any worker is there to do it, and whether Orthanc lets it be given to one."""

from __future__ import annotations

from dataclasses import dataclass

from orthanc_plugin.fleet.workers import Workers, permits
from orthanc_plugin.queue import values
from orthanc_plugin.queue.lifecycle import accepts
from orthanc_plugin.queue.values import AnalysisRequest, Model
from orthanc_plugin.settings import Settings

NO_WORKER = "no_worker"
ALL_DRAINED = "all_drained"
MODEL_NOT_OFFERED = "model_not_offered"
NO_DEFAULT_MODEL = "no_default_model"
STORAGE_UNAVAILABLE = "storage_unavailable"
CODES = (NO_WORKER, ALL_DRAINED, MODEL_NOT_OFFERED, NO_DEFAULT_MODEL, STORAGE_UNAVAILABLE)
_MOST_NAMED = 10


@dataclass(frozen=True)
class Note:
    """A sentence about a waiting request, its code, and the names of the models that are offered instead."""

    code: str
    message: str
    offered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Offers:
    """What the living workers offer and the site permits; `defaults` run where a request names no model.

    `is_all_known` is False while a living worker may offer more than is known of it: an older one says
    nothing of its models, and one that was at a slide when Orthanc started is known by its lease alone.
    """

    is_anybody_alive: bool
    takes_anybody_work: bool
    is_all_known: bool
    models: tuple[Model, ...]
    defaults: tuple[Model, ...]


def offers_of(workers: Workers, settings: Settings) -> Offers:
    """Return what the living workers that take work offer together."""
    taking = workers.alive()
    offered = [
        (model, model.name == worker.default_model)
        for worker in taking
        for model in worker.models
        if permits(settings, model)
    ]
    is_polled = settings.allow_tokenless and workers.is_polled()
    return Offers(
        is_anybody_alive=workers.alive_count() > 0,
        takes_anybody_work=bool(taking),
        is_all_known=not is_polled and all(worker.is_offer_known for worker in taking),
        models=tuple(model for model, _ in offered),
        defaults=tuple(model for model, is_default in offered if is_default),
    )


def notes_on(request: AnalysisRequest, offers: Offers) -> tuple[Note, ...]:
    """Return what a person should know about a request that waits; nothing of one that does not."""
    if request.status != values.PENDING or not offers.is_all_known:
        return ()
    if not offers.is_anybody_alive:
        return (Note(NO_WORKER, "No worker is alive now; the request waits until one is."),)
    if not offers.takes_anybody_work:
        return (Note(ALL_DRAINED, "Every worker that is alive is drained; the request waits for another."),)
    candidates = offers.defaults if request.model is None else offers.models
    if any(accepts(request, model) for model in candidates):
        return ()
    return (_not_offered(request, offers),)


def note_on_setback(sentence: str) -> Note:
    """Return what a person should know about a request that Orthanc's failure kept from a worker."""
    message = f"It could not be given to a worker, and is tried again by itself: {sentence}"
    return Note(STORAGE_UNAVAILABLE, message)


def _not_offered(request: AnalysisRequest, offers: Offers) -> Note:
    names = tuple(sorted({model.name for model in offers.models})[:_MOST_NAMED])
    named = f" Offered are: {', '.join(names)}." if names else ""
    if request.model is None:
        message = "The request names no model, and no worker that is alive has a default one for it."
        return Note(NO_DEFAULT_MODEL, f"{message}{named}", names)
    message = "No worker that is alive offers this model; the request waits for one."
    return Note(MODEL_NOT_OFFERED, f"{message}{named}", names)
